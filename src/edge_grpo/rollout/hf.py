"""The in-process engine: a decode loop over any Hugging Face causal language model."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.base.errors import EngineError, TrainingError
from edge_grpo.base.records import Rollout, Segment, Span
from edge_grpo.base.rng import uniforms
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.cache import Context, Decoding, check_batched, pick
from edge_grpo.rollout.draw import draw
from edge_grpo.rollout.engine import Continuation, Request, Sampling, Start, start_of
from edge_grpo.rollout.slots import Slots
from edge_grpo.rollout.stop_strings import StopStrings

__all__ = ["DecodeEngine"]

_UNIFORMS_AT_ONCE = 64
_REFILLS = 4  # places are taken over once a quarter of them is free, so that prompts are prefilled together


@dataclass(frozen=True)
class _Row:
    """One completion being decoded: the index of its prompt, its seed and its token budget."""

    prompt: int
    seed: int
    budget: int


_Decoded = tuple[Span, bool, bool]
"""What was sampled, whether it ended with a stop token or string, and whether with a string."""


class _Living:
    """What is drawn for the rows that are being decoded, each in a slot of its own until it ends.

    ``number``, ``slot``, ``step`` and ``budget`` describe the living rows, in the order of the context's.

    Args:
        rows: all that are decoded sooner or later.
        size: how many slots there are.
        device: where the policy is.
    """

    def __init__(self, rows: Sequence[_Row], size: int, device: torch.device) -> None:
        self._rows, self._device = rows, device
        most = max(row.budget for row in rows)
        self._tokens = torch.zeros((size, most), dtype=torch.long, device=device)
        self._logprobs, self._entropies = (torch.zeros((size, most), device=device) for _ in range(2))
        self._free = list(range(size))
        self._begun, self._time = list[int](), 0
        self._noise = torch.zeros((0, _UNIFORMS_AT_ONCE), dtype=torch.float64, device=device)
        self.number: list[int] = []
        self.slot, self.step, self.budget = (torch.zeros(0, dtype=torch.long, device=device) for _ in range(3))

    @property
    def num_free(self) -> int:
        """How many rows could be admitted."""
        return len(self._free)

    def admit(self, numbers: Sequence[int]) -> None:
        """Give rows a slot each."""
        taken, self._free = self._free[: len(numbers)], self._free[len(numbers) :]
        self.number += numbers
        self._begun += [self._time] * len(numbers)
        budgets = [self._rows[number].budget for number in numbers]
        new = torch.tensor([taken, [0] * len(numbers), budgets], device=self._device)
        columns = zip((self.slot, self.step, self.budget), new, strict=True)
        self.slot, self.step, self.budget = (torch.cat(pair) for pair in columns)
        self._noise = torch.cat([self._noise, self._noise.new_zeros((len(numbers), _UNIFORMS_AT_ONCE))])

    def noise(self) -> Float[Tensor, " living"]:
        """The next uniform number of each living row's own stream."""
        age = [self._time - begun for begun in self._begun]
        if due := [place for place, steps in enumerate(age) if steps % _UNIFORMS_AT_ONCE == 0]:
            streams = [uniforms(self._rows[self.number[i]].seed, age[i], _UNIFORMS_AT_ONCE) for i in due]
            self._noise[torch.tensor(due, device=self._device)] = torch.from_numpy(np.stack(streams)).to(self._noise)
        return self._noise.gather(-1, (self.step % _UNIFORMS_AT_ONCE)[:, None]).squeeze(-1)

    def put(self, tokens: Tensor, logprobs: Tensor, entropies: Tensor) -> None:
        """Record a token of each living row."""
        for column, values in ((self._tokens, tokens), (self._logprobs, logprobs), (self._entropies, entropies)):
            column[self.slot, self.step] = values
        self.step = self.step + 1
        self._time += 1

    def tails(self, living: Sequence[int], length: int) -> list[list[int]]:
        """The last tokens of some living rows."""
        ends = zip(self.slot[living].tolist(), self.step[living].tolist(), strict=True)
        return [self._tokens[slot, max(0, end - length) : end].tolist() for slot, end in ends]

    def release(self, ended: Bool[Tensor, " living"], segment: Segment) -> Iterator[tuple[int, Span]]:
        """Yield the numbers and spans of the rows that have ended, and free their slots."""
        gone = ended.nonzero().squeeze(-1)
        ends = zip(gone.tolist(), self.slot[gone].tolist(), self.step[gone].tolist(), strict=True)
        for place, slot, end in ends:
            columns = (self._tokens, self._logprobs, self._entropies)
            tokens, logprobs, entropies = (tuple(column[slot, :end].tolist()) for column in columns)
            self._free.append(slot)
            yield self.number[place], Span(tokens, segment, logprobs, entropies)
        self._free.sort()
        going = (~ended).nonzero().squeeze(-1)
        kept = going.tolist()
        self.number, self._begun = [self.number[i] for i in kept], [self._begun[i] for i in kept]
        self.slot, self.step, self.budget, self._noise = (
            column[going] for column in (self.slot, self.step, self.budget, self._noise)
        )


class DecodeEngine:
    """Samples with the policy's own weights in this process.

    Each prompt is prefilled once for all its completions; rows leave the batch when they finish, and others that wait
    take their places; each row's draws come from its own stream of uniform numbers, so they do not depend on the batch
    (the logits do, by about 1e-7). ``decoding`` says how the model's family is decoded; it is found out by trying on a
    few tokens.

    Args:
        policy: the policy; its weights are shared, not copied.
        stop_ids: tokens that end a completion and are part of it.
        stop_texts: strings that end a completion once its decoded text contains one.
        pad_id: any valid token id, for the masked left padding of prompts.
        max_rows: how many rows are decoded at once.
        say: shows a line about how prompts with images are decoded.
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
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.policy, self._say = policy, say
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
        starts = [Start(request.prompt_ids, request.scene) for request in requests]
        spans = self._decode(starts, rows, sampling, Segment.SAMPLED)
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
        starts = [Start(start.prompt_ids + start.completion_ids, start.scene) for start, _ in started]
        spans = self._decode(starts, rows, sampling, Segment.CONTINUED)
        return [
            Rollout(start.prompt_ids, (*start.spans, span), *ending)
            for (start, _), (span, *ending) in zip(started, spans, strict=True)
        ]

    def _decode(
        self, starts: Sequence[Start], rows: list[_Row], sampling: Sampling, segment: Segment
    ) -> list[_Decoded]:
        """Decode all rows; for each, its span, whether it stopped, and whether by text."""
        if not all(starts[row.prompt].token_ids for row in rows):
            raise EngineError("an empty prompt cannot be continued; give the template at least one token")
        lengths = [len(starts[row.prompt].token_ids) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: (lengths[i], i))
        results: dict[int, _Decoded] = {}
        way = self._with_pictures if any(start.scene for start in starts) else self.decoding
        for chosen in self._batches(way, order, lengths):
            with self.policy.precision(), torch.inference_mode():
                for place, decoded in self._decode_batch(way, starts, [rows[i] for i in chosen], sampling, segment):
                    results[chosen[place]] = decoded
        return [results[i] for i in range(len(rows))]

    @cached_property
    def _with_pictures(self) -> Decoding:
        """How prompts with pictures are decoded."""
        assert self.policy.vision is not None, "it encoded them"
        trials = [Start(ids, scene) for ids, scene in self.policy.vision.trials()]
        check_batched(self.policy, trials, self.pad_id)
        way = pick(self.policy, self.pad_id, trials)
        if way.note:
            self._say(f"images: {way.note}")
        return way

    def _batches(self, way: Decoding, order: Sequence[int], lengths: Sequence[int]) -> Iterator[Sequence[int]]:
        """Rows that share a batch: all, where places are taken over; of one length where padding would be seen."""
        same = (lambda _: 0) if way.padded else lengths.__getitem__
        size = len(order) if way.refilled else self.max_rows
        for _, group in groupby(order, key=same):
            rows = list(group)
            for start in range(0, len(rows), size):
                yield rows[start : start + size]

    def _decode_batch(
        self, way: Decoding, starts: Sequence[Start], rows: list[_Row], sampling: Sampling, segment: Segment
    ) -> Iterator[tuple[int, _Decoded]]:
        """Decode rows, ``max_rows`` at a time; yields each one's number when it has ended."""
        device, waiting = self.policy.device, deque(range(len(rows)))
        living = _Living(rows, min(self.max_rows, len(rows)), device)
        stop = torch.tensor(self.stop_ids, device=device)
        may_complete = torch.tensor(self.stop_strings.candidates, dtype=torch.long, device=device)
        context: Context | None = None
        while waiting or living.number:
            if waiting and living.num_free >= min(len(waiting), -(-self.max_rows // _REFILLS)):
                new = [waiting.popleft() for _ in range(min(living.num_free, len(waiting)))]
                own = [starts[rows[number].prompt] for number in new]
                if context is None:
                    context = way.start(self.policy, own, self.pad_id)
                else:
                    assert isinstance(context, Slots), "in others, all rows begin together"
                    context.admit([start.token_ids for start in own])
                living.admit(new)
            assert context is not None
            token, logprob, entropy = draw(context.logits, living.noise(), sampling)
            living.put(token, logprob, entropy)
            stopped = (token[:, None] == stop).any(-1)
            ended = stopped | (living.step == living.budget)
            to_read = torch.isin(token, may_complete) & ~stopped if len(may_complete) else torch.zeros_like(stopped)
            any_ended, any_to_read, sound = torch.stack([ended.any(), to_read.any(), logprob.isfinite().all()]).tolist()
            if not sound:
                raise TrainingError(
                    "the model's log-probs are not finite (NaN or inf). If they were finite at the start, begin a new "
                    "run with a lower train.learning_rate; the last checkpoint is untouched"
                )
            by_text = torch.zeros_like(stopped)
            if any_to_read:
                tails = living.tails(to_read.nonzero().squeeze(-1).tolist(), self.stop_strings.window)
                by_text[to_read] = torch.tensor(self.stop_strings.completed(tails), device=device)
                any_ended = any_ended or bool(by_text.any())
            if any_ended:
                ended |= by_text
                how = zip((stopped | by_text)[ended].tolist(), by_text[ended].tolist(), strict=True)
                for (number, span), ending in zip(list(living.release(ended, segment)), how, strict=True):
                    yield number, (span, *ending)
                going = (~ended).nonzero().squeeze(-1)
                token = token[going]
                context.select(going)
            if living.number:
                context.extend(token)
