"""From a row to vLLM's sampling parameters, and from its answer to a span that may be trained on, or an error."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edge_grpo.base.records import Scene, Segment, Span
from edge_grpo.rollout.engine import Sampling, ServerError
from edge_grpo.rollout.stop_strings import StopStrings
from edge_grpo.rollout.vllm.client import Answer

__all__ = ["Ended", "Row", "ended", "parameters", "truncates"]

_NO_LOGPROB: Final = -9999.0
"""What vLLM sends in place of -inf and NaN."""

Ended = tuple[Span, bool, bool]
"""A span, whether the completion finished, and whether it did so with a stop string."""


@dataclass(frozen=True)
class Row:
    """One completion to sample: the tokens before it, its seed, its budget, and the number of its prompt.

    ``scene`` belongs to a prompt with pictures, whose tokens are among ``token_ids``.
    """

    token_ids: tuple[int, ...]
    seed: int
    budget: int
    prompt: int
    scene: Scene | None = None


def truncates(sampling: Sampling) -> bool:
    """Whether some tokens are never drawn, so that vLLM's log-probs are of another distribution than the policy's."""
    return sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1)


def parameters(row: Row, sampling: Sampling, *, stop_ids: Sequence[int], strings: Sequence[str] = ()) -> dict[str, Any]:
    """VLLM's sampling parameters for one completion of a row.

    Stop strings are sent so that the server need not sample on; :func:`ended` decides where the completion ends.
    """
    wanted: dict[str, Any] = {
        "max_tokens": row.budget,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop_token_ids": list(stop_ids),
        "ignore_eos": True,  # what ends a completion are our stop tokens alone
        "detokenize": bool(strings),
    }
    if sampling.temperature > 0:
        wanted["seed"] = row.seed % 2**63  # vLLM takes 64 bits, of which -1 means no seed
    if not truncates(sampling):
        wanted["logprobs"] = 0  # of the sampled token alone
    if strings:
        wanted |= {"stop": list(strings), "include_stop_str_in_output": True, "skip_special_tokens": False}
    return wanted


def ended(
    answer: Answer,
    row: Row,
    *,
    scored: bool,
    strings_sent: bool,
    stop_ids: Collection[int],
    strings: StopStrings,
    vocabulary: int,
    segment: Segment,
    version: int,
) -> Ended | None:
    """The span of an answer, cut after the token that completes a stop string.

    Args:
        answer: from the server.
        row: what was asked.
        scored: whether log-probs were asked for.
        strings_sent: whether the server was told the stop strings.
        stop_ids: tokens that end a completion.
        strings: stop strings.
        vocabulary: number of tokens that the model has.
        segment: the span's.
        version: number of training steps behind the weights.
    Returns:
        None if the server found a stop string that is not in the decoded text, and stopped too early.
    Raises:
        ServerError: the answer cannot be a completion of the row.
    """
    ids, logprobs = answer.token_ids, answer.logprobs
    if not ids:
        raise _wrong(row, "without a token", f"ended by {answer.reason!r}")
    if len(ids) > row.budget:
        raise _wrong(row, f"of {len(ids)} tokens", f"at most {row.budget} were wanted")
    if unknown := [token for token in ids if not 0 <= token < vocabulary]:
        raise _wrong(row, f"with token {unknown[0]}", f"the model has {vocabulary}; it serves another model")
    if scored and len(logprobs) != len(ids):
        raise _wrong(row, f"of {len(ids)} tokens with {len(logprobs)} log-probs", "one per token was wanted")
    if bad := [value for value in logprobs if not _NO_LOGPROB < value <= 1e-3]:
        raise _wrong(row, f"with a log-prob of {bad[0]:g}", "its weights or its arithmetic are not finite")
    stopped = next((place for place, token in enumerate(ids, 1) if token in stop_ids), 0)
    by_text = strings.ends_at(ids[: stopped - 1] if stopped else ids)
    length = by_text or stopped or len(ids)
    if stopped and not by_text and stopped < len(ids):
        raise _wrong(row, f"with stop token {ids[stopped - 1]} inside", "it ends a completion")
    if not (by_text or stopped):
        if answer.reason == "stop" and strings_sent:
            return None
        if answer.reason != "length" or length < row.budget:
            raise _wrong(row, f"of {length} tokens ended by {answer.reason!r}", f"{row.budget} were allowed")
    span = Span(ids[:length], segment, logprobs[:length], version=version)
    return span, bool(by_text or stopped), bool(by_text)


def _wrong(row: Row, got: str, why: str) -> ServerError:
    return ServerError(
        f"a rollout server answered a prompt of {len(row.token_ids)} tokens with a completion {got} ({why}); it is not "
        "used. Start the server again with `edge-grpo serve MODEL`"
    )
