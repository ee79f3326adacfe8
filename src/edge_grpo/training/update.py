"""From batches to new weights: score, shape, and take optimizer updates whose gradients do not depend on batching."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW

from edge_grpo.base.errors import TrainingError
from edge_grpo.base.metrics import Metrics, merge
from edge_grpo.base.records import Scene
from edge_grpo.base.rng import python_random
from edge_grpo.base.tensors import Batch, GroupHidden, LossInputs, Scored, Signal, Totals
from edge_grpo.base.world import World
from edge_grpo.config.sections import TrainSettings
from edge_grpo.methods.base import Method
from edge_grpo.models.policy import Policy
from edge_grpo.models.sharding import full
from edge_grpo.training.batching import (
    group_micro_batches,
    loss_inputs,
    micro_batch_size,
    micro_batches,
    mini_batches,
    scored,
)
from edge_grpo.training.described import describe_gap
from edge_grpo.training.schedule import learning_rate

__all__ = ["Updater", "is_over", "make_optimizer"]


def is_over(train: TrainSettings, step: int, tokens: int) -> bool:
    """Whether a run ends after ``step`` steps and ``tokens`` sampled tokens."""
    return step >= train.steps or 0 < train.max_tokens <= tokens


def make_optimizer(policy: Policy, train: TrainSettings) -> AdamW:
    """AdamW over the trained weights, without weight decay for biases, norms and other vectors."""
    weights = [weight for _, weight in policy.trained()]
    groups = [
        {"params": [w for w in weights if w.dim() > 1], "weight_decay": train.weight_decay},
        {"params": [w for w in weights if w.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = AdamW(groups, lr=train.learning_rate, betas=(train.beta1, train.beta2), fused=True)
    # the fused kernel changes weights unseen, and copies of them in half precision would never be refreshed
    optimizer.register_step_post_hook(lambda *_: increment_version(weights))
    return optimizer


@dataclass(frozen=True)
class _Piece:
    """A micro-batch: its row numbers and its width in tokens; a void one only takes part in a pass of all ranks."""

    rows: Tensor
    width: int
    void: bool = False


class Updater:
    """Turns a step's batch into optimizer updates.

    Its only state is the optimizer's and ``skipped_in_a_row``. ``midway``: some updates of a step have changed it, and
    others are still to come.

    Args:
        policy: the model to train.
        optimizer: over its trained weights.
        method: signal and loss.
        train: the settings.
        temperature: the rollout's; log-probs and entropies are computed at it.
        max_new_tokens: the completion budget, for losses that divide by it.
        world: the ranks; each scores, and computes the gradient of, its share of the rows.
        reuse_sampled: reuse the engine's numbers for rows that were sampled whole (see ``Engine.exact``).
    """

    def __init__(
        self,
        *,
        policy: Policy,
        optimizer: AdamW,
        method: Method,
        train: TrainSettings,
        temperature: float,
        max_new_tokens: int,
        world: World,
        reuse_sampled: bool = False,
    ) -> None:
        self.policy = policy
        self.optimizer = optimizer
        self.method = method
        self.train = train
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.world = world
        self.reuse_sampled = reuse_sampled
        self.skipped_in_a_row = 0
        self.midway = False

    def reused(self, batch: Batch) -> Bool[Tensor, " rows"]:
        """The rows that keep the sampler's log-probs and entropies: some of those that were sampled whole.

        All of them, if the engine is exact; if the step has one update, which takes its own log-probs as those before
        it, those for which the sampler gave both. Both are about the policy as it was: what differs is rounding.
        """
        whole = _sampled(batch)
        if self.reuse_sampled:
            return whole
        one_update = self.train.passes == self.train.mini_batches == 1
        return whole & (batch.sampling_entropy.isfinite() | ~batch.mask).all(-1) & one_update

    @torch.no_grad()
    def score(self, batch: Batch) -> Scored:
        """Score completion tokens under the policy, but for :meth:`reused` rows, and under the reference if needed."""
        batch = _to(batch, self.policy.device)
        whole = self.reused(batch)
        zeros = torch.zeros(batch.mask.shape, device=self.policy.device)
        old = torch.where(whole[:, None] & batch.mask, batch.sampling_logprobs, zeros)
        entropy = torch.where(whole[:, None] & batch.mask, batch.sampling_entropy, zeros)
        pieces = self._pieces(batch, (~whole).nonzero().squeeze(-1))
        found = [torch.zeros_like(old), torch.zeros_like(entropy)]
        for piece in self._own(batch, pieces):
            scores = self.policy.score(*_inputs(batch, piece), temperature=self.temperature)
            for column, values in zip(found, scores, strict=True):
                _put(column, piece, values)
        self.world.add(found)
        old, entropy = (torch.where(whole[:, None], *pair) for pair in zip((old, entropy), found, strict=True))
        return scored(
            batch,
            old_logprobs=old,
            entropy=entropy,
            ref_logprobs=self._score_reference(batch) if self.method.needs.reference else None,
            token_scores=self._token_scores(batch) if self.method.needs.token_scores else None,
        )

    def _score_reference(self, batch: Batch) -> Tensor:
        reference = torch.zeros(batch.mask.shape, device=self.policy.device)
        rows = torch.arange(len(batch.group), device=batch.group.device)
        for piece in self._own(batch, self._pieces(batch, rows)):
            scores = self.policy.score_reference(*_inputs(batch, piece), temperature=self.temperature)
            _put(reference, piece, scores)
        self.world.add([reference])
        return reference

    def _token_scores(self, batch: Batch) -> Tensor:
        """The method's token scores, computed from the hidden states of one group at a time."""
        scores = torch.zeros(batch.mask.shape, device=self.policy.device)
        head_weight = self.policy.head_weight(temperature=self.temperature)
        lengths, size = batch.attention.sum(-1), self.train.micro_batch_rows
        groups = [(batch.group == name).nonzero().squeeze(-1) for name in batch.group.unique()]
        passes = [-(-len(rows) // size) for rows in groups]
        for rows in groups[self.world.rank :: self.world.size]:
            width = int(lengths[rows].max())
            pieces = [_Piece(part, width) for part in rows.split(size)]
            hidden = torch.cat([self.policy.hidden_states(*_inputs(batch, piece)) for piece in pieces])
            ids, _, mask, _ = _inputs(batch, _Piece(rows, width))
            own = GroupHidden(
                hidden=hidden,
                token_ids=ids[mask],
                row=mask.nonzero()[:, 0],
                correct=batch.correct[rows],
                scorable=batch.scorable[rows],
                head_weight=head_weight,
            )
            part = torch.zeros(mask.shape, device=scores.device)
            part[mask] = self.method.token_scores(own).to(part.dtype)
            scores[rows, :width] = part
        counts = [sum(passes[rank :: self.world.size]) for rank in range(self.world.size)]
        for _ in range(max(counts) - counts[self.world.rank]):
            self.policy.hidden_states(*_inputs(batch, _void(batch)))
        self.world.add([scores])
        return scores

    def signal(self, batch: Scored) -> Signal:
        """The method's signal, computed without gradient."""
        with torch.no_grad():
            return self.method.signal(batch)

    def step(self, batch: Scored, signal: Signal, *, step: int, tokens: int = 0) -> Metrics:
        """All updates of a step.

        Args:
            batch: the scored rollouts.
            signal: the method's.
            step: counted from 0; determines the learning rate and the order of mini-batches.
            tokens: sampled before this step; they also determine the rate if ``train.max_tokens`` is set.
        Raises:
            TrainingError: gradients were not finite too many times in a row.
        """
        rate = learning_rate(step, self.train, tokens=tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        metrics: Metrics = {"learning_rate": (rate, 1.0)}
        own = torch.full_like(batch.old_logprobs, torch.nan)
        first = True
        for number in range(self.train.passes):
            for rows in self._mini_batches(batch, step, number):
                metrics = merge(metrics, self._update(batch, signal, rows, step, first=first, own=own))
                first = False
        self.midway = False
        return metrics if self.reuse_sampled else metrics | self._gap(batch, own)

    def _update(self, batch: Scored, signal: Signal, rows: Tensor, step: int, *, first: bool, own: Tensor) -> Metrics:
        """One optimizer update on some rows.

        Args:
            first: the weights are still those that scored the batch.
            own: the first update enters its log-probs here, those of this rank's rows with a gradient.
        """
        active, idle = self._divided(signal, rows)
        pieces = list(self._own(batch, self._update_pieces(batch, active)))
        others = list(self._own(batch, self._pieces(batch, idle)))
        forward = self.method.needs.forward_totals and not first
        totals = self._totals(batch, signal, pieces + others, forward=forward)
        if totals.rows == 0:
            return {"empty_updates": (1.0, 1.0)}
        self.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        metrics: Metrics = {}
        with self.policy.training():
            for piece in pieces or [_void(batch)]:
                if piece.void:
                    scores = self.policy.score(*_inputs(batch, piece), temperature=self.temperature)
                    (scores.logprobs.sum() * 0.0).backward()
                    continue
                x = self._forward(batch, signal, piece, first=first)
                loss = self.method.loss(x, totals)
                loss.backward()
                if first:
                    _put(own, piece, x.old_logprobs)
                with torch.no_grad():
                    value += float(loss)
                    metrics = merge(metrics, self.method.observe(x, totals))
        with torch.no_grad():
            for piece in others:
                x = self._unmoved(batch, signal, piece) if first else self._forward(batch, signal, piece, first=False)
                metrics = merge(metrics, {} if piece.void else self.method.observe(x, totals))
        found = self.world.gather(lambda: (value, metrics))
        value, metrics = sum(each for each, _ in found), merge(*(each for _, each in found))
        weights = [weight for _, weight in self.policy.trained()]
        if not self.policy.is_sharded:
            self.world.add(self._gradients(weights))
        norm = full(get_total_norm([weight.grad for weight in weights if weight.grad is not None]))
        self.midway = True
        if self.world.any(not bool(torch.isfinite(norm))):
            self._skip(step)
        else:
            clip_grads_with_norm_(weights, self.train.max_grad_norm, norm)
            self.optimizer.step()
            self.skipped_in_a_row = 0
            metrics = merge(metrics, {"grad_norm": (float(norm), 1.0)})
        self.optimizer.zero_grad(set_to_none=True)
        return merge(metrics, {"loss": (value, 1.0), "skipped_updates": (float(self.skipped_in_a_row > 0), 1.0)})

    def _gap(self, batch: Scored, own: Tensor) -> Metrics:
        """:func:`describe_gap`; of :meth:`reused` rows with the log-probs of the first update, ``own`` (NaN = none)."""
        reused = self.reused(batch)[:, None]
        known = reused & ~own.isnan()
        columns = [torch.where(known, own, 0.0), known.to(own.dtype)]
        self.world.add(columns)
        values, counts = columns
        late = torch.where(counts > 0, values, torch.nan)
        return describe_gap(replace(batch, old_logprobs=torch.where(reused, late, batch.old_logprobs)))

    def _gradients(self, weights: list[nn.Parameter]) -> Iterator[Tensor]:
        """The gradients that any rank has, in the same order on all of them."""
        present = self.world.gather(lambda: [weight.grad is not None for weight in weights])
        for weight, *flags in zip(weights, *present, strict=True):
            if any(flags):
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                yield weight.grad

    def _skip(self, step: int) -> None:
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.train.max_skipped_updates:
            raise TrainingError(
                f"step {step + 1}: gradients were not finite in {self.skipped_in_a_row} updates in a row; "
                "lower train.learning_rate, or inspect the last rollouts"
            )

    @torch.no_grad()
    def _totals(self, batch: Scored, signal: Signal, pieces: list[_Piece], *, forward: bool) -> Totals:
        """Sums over the whole update and all ranks, before anything is divided."""
        sums: dict[str, float] = {"rows": 0.0, "tokens": 0.0}
        for piece in pieces:
            if piece.void:
                if forward:
                    self._forward(batch, signal, piece, first=False)
                continue
            x = self._forward(batch, signal, piece, first=False) if forward else self._unmoved(batch, signal, piece)
            own = {"rows": float(x.keep.sum()), "tokens": float(x.mask.sum()), **self.method.totals(x)}
            sums = {name: sums.get(name, 0.0) + amount for name, amount in own.items()}
        sums = self.world.sum(sums)
        extra = {name: amount for name, amount in sums.items() if name not in ("rows", "tokens")}
        return Totals(sums["rows"], sums["tokens"], self.max_new_tokens, extra)

    def _forward(self, batch: Scored, signal: Signal, piece: _Piece, *, first: bool) -> LossInputs:
        """A micro-batch at the current weights; at the first update of a step, these are the ones before it.

        Kernels round by shape, so that in bf16 the ratio of the first update is 1 only if its log-probs are their own
        predecessors.
        """
        scores = self.policy.score(*_inputs(batch, piece), temperature=self.temperature)
        entropy = scores.entropy if self.method.needs.entropy_gradient else scores.entropy.detach()
        x = loss_inputs(batch, signal, piece.rows, piece.width, logprobs=scores.logprobs, entropy=entropy)
        return replace(x, old_logprobs=scores.logprobs.detach()) if first and not self.reuse_sampled else x

    def _unmoved(self, batch: Scored, signal: Signal, piece: _Piece) -> LossInputs:
        """A micro-batch at the weights before the step, from what is known already."""
        old, entropy = (column[piece.rows, : piece.width] for column in (batch.old_logprobs, batch.entropy))
        return loss_inputs(batch, signal, piece.rows, piece.width, logprobs=old, entropy=entropy)

    def _divided(self, signal: Signal, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of an update that have a gradient, and those that only count in totals and metrics."""
        if self.method.needs.every_row or self.method.needs.whole_groups:
            return rows, rows[:0]
        active = (signal.advantages[rows] != 0).any(-1)
        if signal.likelihood is not None:
            active |= (signal.likelihood[rows] != 0).any(-1)
        return rows[active], rows[~active]

    def _mini_batches(self, batch: Batch, step: int, number: int) -> list[Tensor]:
        """The rows of each update of a step's pass."""
        rng = python_random(self.train.seed, "mini-batches", step, number)
        return mini_batches(batch.family, count=self.train.mini_batches, rng=rng)

    def _update_pieces(self, batch: Batch, rows: Tensor) -> Iterator[_Piece]:
        """The micro-batches of an update."""
        return self._pieces(batch, rows, whole_groups=self.method.needs.whole_groups)

    def _own(self, batch: Batch, pieces: Iterable[_Piece]) -> Iterator[_Piece]:
        """This rank's share of some micro-batches; void ones complete it, so that all ranks do equally many passes."""
        listed, world = list(pieces), self.world
        own = listed[world.rank :: world.size]
        missing = -(-len(listed) // world.size) - len(own)
        yield from (*own, *([_void(batch)] * missing))

    def _pieces(self, batch: Batch, rows: Tensor, *, whole_groups: bool = False) -> Iterator[_Piece]:
        """Micro-batches of similar length, at least one per rank if the rows allow."""
        lengths = batch.attention.sum(-1)
        size = micro_batch_size(self.train.micro_batch_rows, len(rows), ranks=self.world.size)
        if whole_groups:
            split = group_micro_batches(rows, lengths, batch.group, size=size)
        else:
            prompt = batch.group if self.policy.scorer.is_packed or batch.scenes else None
            split = micro_batches(rows, lengths, size=size, prompt=prompt)
        for chosen in split:
            yield _Piece(chosen, int(lengths[chosen].max()))


def _sampled(batch: Batch) -> Tensor:
    """Rows whose completion tokens were all sampled as they stand, with log-probs."""
    known = batch.mask & batch.sampling_logprobs.isfinite()
    return (known == batch.mask).all(-1) & ~batch.corrected


def _inputs(batch: Batch, piece: _Piece) -> tuple[Tensor, Tensor, Tensor, list[Scene | None]]:
    """Ids, attention and mask of a micro-batch, cut to its width, and its scenes."""
    ids, attention, mask = (c[piece.rows, : piece.width] for c in (batch.input_ids, batch.attention, batch.mask))
    return ids, attention, mask, [batch.scenes[row] for row in piece.rows.tolist()] if batch.scenes else []


def _void(batch: Batch) -> _Piece:
    """The shortest row, for a pass whose result nobody needs."""
    lengths = batch.attention.sum(-1)
    shortest = lengths.argmin()
    return _Piece(shortest[None], int(lengths[shortest]), void=True)


def _put(column: Tensor, piece: _Piece, values: Tensor) -> None:
    """Enter the values of a micro-batch in a column of the batch."""
    if not piece.void:
        column[piece.rows, : piece.width] = values.to(column.dtype)


def _to(batch: Batch, device: torch.device) -> Batch:
    columns = {field.name: getattr(batch, field.name) for field in fields(batch)}
    moved: dict[str, Any] = {name: own.to(device) for name, own in columns.items() if isinstance(own, Tensor)}
    return replace(batch, **moved)
