"""The in-process engine: a decode loop over any Hugging Face causal language model."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.base.errors import EngineError, TrainingError
from edge_grpo.base.records import Rollout, Segment, Span
from edge_grpo.base.rng import uniforms
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.cache import pick
from edge_grpo.rollout.engine import Continuation, Request, Sampling, start_of
from edge_grpo.rollout.stop_strings import StopStrings

__all__ = ["DecodeEngine", "draw"]

_UNIFORMS_AT_ONCE = 64


@dataclass(frozen=True)
class _Row:
    """One completion being decoded: the index of its prompt, its seed and its token budget."""

    prompt: int
    seed: int
    budget: int


@dataclass
class _Drawn:
    """What decoding records: per-token values, each row's length, and whether it ended with a stop token or string."""

    tokens: Int[Tensor, "rows steps"]
    logprobs: Float[Tensor, "rows steps"]
    entropies: Float[Tensor, "rows steps"]
    lengths: Int[Tensor, " rows"]
    stopped: Bool[Tensor, " rows"]
    by_text: Bool[Tensor, " rows"]


class DecodeEngine:
    """Samples with the policy's own weights in this process.

    Each prompt is prefilled once for all its completions; rows leave the batch when they finish; each row's draws come
    from its own stream of uniform numbers, so they do not depend on the batch (the logits do, by about 1e-7).
    ``decoding`` says how the model's family is decoded; it is found out by trying on a few tokens.

    Args:
        policy: the policy; its weights are shared, not copied.
        stop_ids: tokens that end a completion and are part of it.
        stop_texts: strings that end a completion once its decoded text contains one.
        pad_id: any valid token id, for the masked left padding of prompts.
        max_rows: how many rows are decoded at once.
    Raises:
        EngineError: no stop token.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        stop_ids: Iterable[int],
        stop_texts: Sequence[str] = (),
        pad_id: int,
        max_rows: int = 256,
    ) -> None:
        self.policy = policy
        self.stop_ids = tuple(sorted(set(stop_ids)))
        self.stop_strings = StopStrings(policy.tokenizer, stop_texts)
        self.pad_id = pad_id
        self.max_rows = max_rows
        if not self.stop_ids:
            raise EngineError(
                "no stop token: the tokenizer and the model's generation config name none; set rollout.stop"
            )
        with policy.whole():
            self.decoding = pick(policy, pad_id)

    @property
    def exact(self) -> bool:
        """Whether the recorded numbers are those of the policy to float32 rounding: not in bf16."""
        return not self.policy.autocast and self.policy.model.dtype in (torch.float32, torch.float64)

    @property
    def note(self) -> str:
        """What the user should know about how this model is decoded; empty = nothing."""
        return self.decoding.note

    def sync(self, policy: Policy, version: int) -> None:  # noqa: ARG002 - the weights are always the newest
        """Sample from this policy's weights from now on; they are shared, so nothing is copied."""
        self.policy = policy

    def close(self) -> None:
        """Nothing to release."""

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        """One tuple of rollouts per request (see :class:`edge_grpo.rollout.engine.Engine`)."""
        rows = [
            _Row(prompt, seed, sampling.max_new_tokens)
            for prompt, request in enumerate(requests)
            for seed in request.seeds
        ]
        spans = self._decode([request.prompt_ids for request in requests], rows, sampling, Segment.SAMPLED)
        done = iter(zip(spans, rows, strict=True))
        results = []
        for request in requests:
            group = [next(done)[0] for _ in request.seeds]
            results.append(tuple(Rollout(request.prompt_ids, (span,), *ending) for span, *ending in group))
        return results

    def resume(self, continuations: Sequence[Continuation], sampling: Sampling) -> list[Rollout]:
        """Append injected tokens to rollouts and continue sampling (see :class:`edge_grpo.rollout.engine.Engine`).

        Raises:
            EngineError: a budget leaves no room for a sampled token.
        """
        started = [start_of(item) for item in continuations]
        rows = [
            _Row(prompt, item.seed, room)
            for prompt, (item, (_, room)) in enumerate(zip(continuations, started, strict=True))
        ]
        prompts = [start.prompt_ids + start.completion_ids for start, _ in started]
        spans = self._decode(prompts, rows, sampling, Segment.CONTINUED)
        return [
            Rollout(start.prompt_ids, (*start.spans, span), *ending)
            for (start, _), (span, *ending) in zip(started, spans, strict=True)
        ]

    def _decode(
        self, prompts: Sequence[tuple[int, ...]], rows: list[_Row], sampling: Sampling, segment: Segment
    ) -> list[tuple[Span, bool, bool]]:
        """Decode all rows, batched by prompt length; for each, its span, whether it stopped, and whether by text."""
        order = sorted(range(len(rows)), key=lambda i: (len(prompts[rows[i].prompt]), i))
        results: dict[int, tuple[Span, bool, bool]] = {}
        for chosen in self._batches(order, [len(prompts[row.prompt]) for row in rows]):
            with self.policy.precision():
                drawn = self._decode_batch(prompts, [rows[i] for i in chosen], sampling)
            columns = (drawn.tokens.tolist(), drawn.logprobs.tolist(), drawn.entropies.tolist())
            endings = (drawn.lengths.tolist(), drawn.stopped.tolist(), drawn.by_text.tolist())
            for place, (i, length, stopped, by_text) in enumerate(zip(chosen, *endings, strict=True)):
                tokens, logprobs, entropies = (tuple(column[place][:length]) for column in columns)
                results[i] = (Span(tokens, segment, logprobs, entropies), stopped, by_text)
        return [results[i] for i in range(len(rows))]

    def _batches(self, order: Sequence[int], lengths: Sequence[int]) -> Iterator[Sequence[int]]:
        """Rows that are decoded together: at most ``max_rows``, of one length where padding would be seen."""
        same = (lambda _: 0) if self.decoding.padded else lengths.__getitem__
        for _, group in groupby(order, key=same):
            rows = list(group)
            for start in range(0, len(rows), self.max_rows):
                yield rows[start : start + self.max_rows]

    @torch.inference_mode()
    def _decode_batch(self, prompts: Sequence[tuple[int, ...]], rows: list[_Row], sampling: Sampling) -> _Drawn:
        device = self.policy.device
        used = sorted({row.prompt for row in rows})
        if not all(prompts[i] for i in used):
            raise EngineError("an empty prompt cannot be continued; give the template at least one token")
        context = self.decoding.start(self.policy, [prompts[i] for i in used], self.pad_id)
        column = {prompt: place for place, prompt in enumerate(used)}
        place = torch.tensor([column[row.prompt] for row in rows], device=device)
        context.select(place)

        num_rows, most = len(rows), max(row.budget for row in rows)
        drawn = _Drawn(
            torch.full((num_rows, most), self.pad_id, device=device),
            torch.zeros((num_rows, most), device=device),
            torch.zeros((num_rows, most), device=device),
            torch.zeros(num_rows, dtype=torch.long, device=device),
            torch.zeros(num_rows, dtype=torch.bool, device=device),
            torch.zeros(num_rows, dtype=torch.bool, device=device),
        )
        budget = torch.tensor([row.budget for row in rows], device=device)
        stop = torch.tensor(self.stop_ids, device=device)
        may_complete = torch.tensor(self.stop_strings.candidates, dtype=torch.long, device=device)
        alive = torch.arange(num_rows, device=device)
        for step in range(most):
            if step % _UNIFORMS_AT_ONCE == 0:
                streams = [uniforms(rows[i].seed, step, _UNIFORMS_AT_ONCE) for i in alive.tolist()]
                noise = torch.from_numpy(np.stack(streams)).to(device)
            token, logprob, entropy = draw(context.logits, noise[:, step % _UNIFORMS_AT_ONCE], sampling)
            drawn.tokens[alive, step] = token
            drawn.logprobs[alive, step] = logprob
            drawn.entropies[alive, step] = entropy
            stopped = torch.isin(token, stop)
            ended = stopped | (budget[alive] == step + 1)
            to_read = torch.isin(token, may_complete) & ~stopped
            any_ended, any_to_read, sound = torch.stack([ended.any(), to_read.any(), logprob.isfinite().all()]).tolist()
            if not sound:
                raise TrainingError(
                    "the model's log-probs are not finite (NaN or inf). If they were finite at the start, begin a new "
                    "run with a lower train.learning_rate; the last checkpoint is untouched"
                )
            if any_to_read:
                tails = drawn.tokens[alive[to_read], max(0, step + 1 - self.stop_strings.window) : step + 1]
                by_text = to_read.clone()
                by_text[to_read] = torch.tensor(self.stop_strings.completed(tails.tolist()), device=device)
                drawn.by_text[alive] = by_text
                stopped, ended = stopped | by_text, ended | by_text
                any_ended = bool(ended.any())
            if any_ended:
                drawn.lengths[alive[ended]] = step + 1
                drawn.stopped[alive[stopped]] = True
                going = (~ended).nonzero().squeeze(-1)
                if going.numel() == 0:
                    break
                alive, token, noise = alive[going], token[going], noise[going]
                context.select(going)
            context.extend(token)
        return drawn


def draw(
    logits: Float[Tensor, "rows vocabulary"], noise: Float[Tensor, " rows"], sampling: Sampling
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    r"""Draw one token per row by inverting the cumulative distribution at a given uniform number.

    .. math:: \text{token} = \min \{ v : \textstyle\sum_{w \le v} q_w > u \sum_w q_w \}

    where q is the softmax of logits / temperature, zero outside top-k and top-p.

    Args:
        logits: raw, at the last position.
        noise: uniform in [0, 1), one per row; unused at temperature 0, which takes the most likely token.
        sampling: temperature, top-p and top-k.
    Returns:
        token ids; their log-probability and the distribution's entropy in nats, both of softmax(logits / temperature)
        before top-p and top-k (as ``policy.score`` computes them); at temperature 0 those of softmax(logits).
    """
    scaled = logits.float() / (sampling.temperature or 1.0)
    logprobs = torch.log_softmax(scaled, dim=-1)
    probs = logprobs.exp()
    entropy = -(probs * logprobs.nan_to_num(neginf=0.0)).sum(-1)
    if sampling.temperature == 0:
        token = logprobs.argmax(-1)
    else:
        cumulative = _truncate(probs, sampling).cumsum(-1, dtype=torch.float64)
        threshold = noise[:, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
        # A product rounded up to the total mass would land past the last token with nonzero mass.
        last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous()).squeeze(-1)
        token = torch.minimum(token, last).clamp(max=probs.shape[-1] - 1)  # NaN would land past the vocabulary
    return token, logprobs.gather(-1, token[:, None]).squeeze(-1), entropy


def _truncate(probs: Float[Tensor, "rows vocabulary"], sampling: Sampling) -> Float[Tensor, "rows vocabulary"]:
    """Zero outside the ``top_k`` most likely tokens and outside the smallest set of mass ``top_p``."""
    top_k = min(sampling.top_k, probs.shape[-1])
    if top_k == 0 and sampling.top_p >= 1:
        return probs
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    keep = (ranked.cumsum(-1) - ranked) < sampling.top_p
    if top_k:
        keep[:, top_k:] = False
    keep[:, 0] = True
    return torch.zeros_like(probs).scatter(-1, order, ranked * keep)
