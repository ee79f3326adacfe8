"""A few tokens sampled by a server and scored by the policy: whether both have one model and mean one log-prob."""

from typing import Final

import torch

from edge_grpo.models.policy import Policy
from edge_grpo.models.saving import probe_rows
from edge_grpo.rollout.engine import Sampling, ServerError
from edge_grpo.rollout.vllm.answers import Row
from edge_grpo.rollout.vllm.client import Answer

__all__ = ["PROBE", "check_scores", "probe_row"]

PROBE: Final = Sampling(16, temperature=0.5)
"""Far enough from temperature 1 to tell log-probs before the temperature from those after it."""

_PROMPT: Final = 12
_SHARE: Final = 0.25


def probe_row(policy: Policy, vocabulary: int) -> Row:
    """A short prompt of ordinary tokens."""
    ids = probe_rows(policy.tokenizer, vocabulary)[0, :_PROMPT].tolist()
    return Row(tuple(ids), seed=1, budget=PROBE.max_new_tokens, prompt=0)


@torch.no_grad()
def check_scores(policy: Policy, row: Row, answer: Answer, *, server: str, dtype: str) -> str:
    """Compare a server's log-probs of its own tokens with the policy's.

    The mean difference may be what rounding explains, as when a saved model is
    checked (:mod:`edge_grpo.models.saving`); a server may compute in bf16.

    Args:
        policy: with the weights that the server was given.
        row: the probe.
        answer: the server's.
        server: its name, for messages.
        dtype: the server's.
    Returns:
        What the user should know about a server of lower precision; empty = nothing.
    Raises:
        ServerError: the log-probs are not those of the policy.
    """
    ids = torch.tensor([row.token_ids + answer.token_ids], device=policy.device)
    mask = torch.arange(ids.shape[1], device=ids.device)[None] >= len(row.token_ids)
    theirs = torch.tensor(answer.logprobs)

    def gap(temperature: float) -> float:
        ours = policy.score(ids, torch.ones_like(mask), mask, temperature=temperature).logprobs[mask]
        return float((ours.float().cpu() - theirs).abs().mean())

    found, raw = gap(PROBE.temperature), gap(1.0)
    own = torch.bfloat16 if policy.autocast else policy.model.dtype
    mine, rough = (_bound(kind, theirs) for kind in (own, torch.bfloat16))
    if found <= mine:
        return ""
    if raw < found / 4:
        raise ServerError(
            f"{server} gives log-probs before the temperature, wanted after it (--logprobs-mode processed_logprobs); "
            "start it with `edge-grpo serve MODEL`"
        )
    if found <= rough:
        return (
            f"{server} computes in {dtype}, the policy in {str(own).removeprefix('torch.')}: log-probs differ by "
            f"{found:.2g} nats per token. Start it with --dtype float32, or set method.sampler_correction"
        )
    raise ServerError(
        f"{server} does not sample from the policy: log-probs differ by {found:.2g} nats per token, where rounding "
        f"explains {rough:.2g}. It serves another model, or did not take over the weights; start it with `edge-grpo "
        "serve MODEL`, where MODEL is that of model.path"
    )


def _bound(dtype: torch.dtype, logprobs: torch.Tensor) -> float:
    return float(_SHARE * torch.finfo(dtype).eps ** 0.5 * max(1.0, float(logprobs.abs().mean())))
