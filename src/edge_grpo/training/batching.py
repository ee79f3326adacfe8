"""Groups -> one padded batch -> mini-batches of whole groups -> micro-batches that cannot change the gradient."""

import random
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.base.records import Group, Rollout, Row, Segment, Strategy
from edge_grpo.base.tensors import Batch, LossInputs, Scored, Signal
from edge_grpo.rollout.sampler import Sampler

__all__ = [
    "batch_of",
    "collate",
    "group_micro_batches",
    "loss_inputs",
    "micro_batch_size",
    "micro_batches",
    "mini_batches",
    "relations",
    "scored",
]


def collate(groups: Sequence[Group], *, parts: Sequence[str], weights: Sequence[float], pad_id: int) -> Batch:
    """Pad the rows of all groups on the right; rows keep their order, group by group.

    Args:
        groups: the groups to train on.
        parts: names of the reward parts, the columns of ``reward_parts`` (NaN where a part is missing).
        weights: the weight of each part.
        pad_id: any valid token id; padding is masked everywhere.
    """
    rows = [row for group in groups for row in group.rows]
    width = max(len(row.rollout.prompt_ids) + len(row.rollout.completion_ids) for row in rows)
    nan = float("nan")

    def pad(values: list[Any], filler: Any) -> list[Any]:
        return values + [filler] * (width - len(values))

    segments = [[Segment.PROMPT] * len(row.rollout.prompt_ids) + list(row.rollout.segments) for row in rows]
    ids = [pad([*row.rollout.prompt_ids, *row.rollout.completion_ids], pad_id) for row in rows]
    recorded = [_recorded(row.rollout) for row in rows]
    scenes = tuple(row.rollout.scene for row in rows)
    logprobs, entropies = ([pad(columns[i], nan) for columns in recorded] for i in range(2))
    segment = torch.tensor([pad([int(s) for s in line], 0) for line in segments])
    lengths = torch.tensor([len(line) for line in segments])
    return Batch(
        input_ids=torch.tensor(ids),
        attention=torch.arange(width)[None] < lengths[:, None],
        mask=segment > 0,
        segment=segment,
        group=torch.tensor([index for index, group in enumerate(groups) for _ in group.rows]),
        **relations(groups),
        reward=torch.tensor([row.grade.reward for row in rows], dtype=torch.float32),
        reward_parts=torch.tensor(
            [[row.grade.parts.get(name, nan) for name in parts] for row in rows], dtype=torch.float32
        ).reshape(len(rows), len(parts)),
        reward_weights=torch.tensor(list(weights), dtype=torch.float32),
        correct=_flags(row.grade.correct for row in rows),
        scorable=_flags(row.grade.scorable for row in rows),
        finished=_flags(row.rollout.finished for row in rows),
        corrected=_flags(_corrected(row) for row in rows),
        sampling_logprobs=torch.tensor(logprobs),
        sampling_entropy=torch.tensor(entropies),
        scenes=scenes if any(scenes) else (),
    )


def batch_of(groups: Sequence[Group], sampler: Sampler) -> Batch:
    """:func:`collate` for groups that a sampler made, with the parts of its rewards."""
    grader = sampler.grader
    return collate(groups, parts=grader.part_names, weights=grader.part_weights, pad_id=sampler.stop_id)


def relations(groups: Sequence[Group]) -> dict[str, Int[Tensor, " rows"]]:
    """The question of each row, the variants it is trained and was sampled under, and the row it revises."""
    names = [("own", index) if group.family is None else ("family", group.family) for index, group in enumerate(groups)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    first_row: dict[tuple[Any, int], int] = {}
    count = 0
    for name, group in zip(names, groups, strict=True):
        if group.layer == 1:
            first_row[name, group.variant] = count
        count += len(group.rows)

    def parent(name: Any, group: Group) -> int:
        start = first_row.get((name, group.variant))
        return -1 if group.parent is None or start is None else start + group.parent

    pairs = [(name, group, row) for name, group in zip(names, groups, strict=True) for row in group.rows]
    return {
        "family": torch.tensor([numbers[name] for name, _, _ in pairs]),
        "variant": torch.tensor([group.variant for _, group, _ in pairs]),
        "source": torch.tensor([row.source for _, _, row in pairs]),
        "layer": torch.tensor([group.layer for _, group, _ in pairs]),
        "parent": torch.tensor([parent(name, group) for name, group, _ in pairs]),
    }


def _flags(values: Any) -> Bool[Tensor, " rows"]:
    return torch.tensor(list(values), dtype=torch.bool)


def _corrected(row: Row) -> bool:
    return row.strategy is not Strategy.NONE


def _recorded(rollout: Rollout) -> tuple[list[float], list[float]]:
    """Log-prob and entropy recorded by the engine for each token of a rollout; NaN where none was sampled."""
    logprobs, entropies = ([float("nan")] * len(rollout.prompt_ids) for _ in range(2))
    for span in rollout.spans:
        unknown = (float("nan"),) * len(span.token_ids)
        logprobs += span.logprobs or unknown
        entropies += span.entropies or unknown
    return logprobs, entropies


def scored(
    batch: Batch,
    *,
    old_logprobs: Float[Tensor, "rows tokens"],
    entropy: Float[Tensor, "rows tokens"],
    ref_logprobs: Float[Tensor, "rows tokens"] | None = None,
    token_scores: Float[Tensor, "rows tokens"] | None = None,
) -> Scored:
    """The batch together with the policy's scores."""
    return Scored(
        **{field.name: getattr(batch, field.name) for field in fields(batch)},
        old_logprobs=old_logprobs,
        entropy=entropy,
        ref_logprobs=ref_logprobs,
        token_scores=token_scores,
    )


def mini_batches(family: Int[Tensor, " rows"], *, count: int, rng: random.Random) -> list[Int[Tensor, " chosen"]]:
    """Row numbers of ``count`` mini-batches of whole families, in random order (in the given order if ``count`` is 1).

    Args:
        family: each row's family; without variants or revisions, its group.
        count: number of optimizer updates; fewer if there are fewer families.
        rng: shuffles the families.
    """
    names = family.unique().tolist()
    if count > 1:
        rng.shuffle(names)
    count = min(count, len(names))
    shares = [names[start::count] for start in range(count)]
    return [torch.isin(family, torch.tensor(share, device=family.device)).nonzero().squeeze(-1) for share in shares]


def micro_batch_size(most: int, rows: int, *, ranks: int) -> int:
    """Rows of a micro-batch: ``most`` (``train.micro_batch_rows``), or fewer, so that every rank can have one."""
    return min(most, max(1, -(-rows // ranks)))


def micro_batches(
    rows: Int[Tensor, " chosen"],
    lengths: Int[Tensor, " rows"],
    *,
    size: int,
    prompt: Int[Tensor, " rows"] | None = None,
) -> list[Tensor]:
    """Split the rows of one update into micro-batches of at most ``size`` rows of similar length.

    The largest first, so that a run that does not fit in memory fails at once; the order changes nothing else, because
    losses divide by totals of the whole update. With ``prompt``, rows of equal numbers stay together, whatever their
    lengths, so that a micro-batch has few different prompts.
    """
    ranked = rows[lengths[rows].argsort(descending=True, stable=True)]
    if prompt is not None:
        numbers = prompt[ranked].tolist()
        place = {number: index for index, number in enumerate(dict.fromkeys(numbers))}
        together = torch.tensor([place[number] for number in numbers], dtype=torch.long, device=rows.device)
        ranked = ranked[together.argsort(stable=True)]
    pieces = list(ranked.split(size)) if len(ranked) else []
    return sorted(pieces, key=lambda piece: -int(lengths[piece].sum()))


def group_micro_batches(
    rows: Int[Tensor, " chosen"], lengths: Int[Tensor, " rows"], group: Int[Tensor, " rows"], *, size: int
) -> list[Tensor]:
    """The same without splitting groups: groups of similar length, up to ``size`` rows; a larger group gets its own."""
    longest = {name: int(lengths[rows[group[rows] == name]].max()) for name in group[rows].unique().tolist()}
    pieces: list[list[Tensor]] = []
    room = 0
    for name in sorted(longest, key=lambda name: -longest[name]):
        own = rows[group[rows] == name]
        if len(own) > room:
            pieces.append([])
            room = size
        pieces[-1].append(own)
        room -= len(own)
    return [torch.cat(piece) for piece in pieces]


def loss_inputs(
    batch: Scored,
    signal: Signal,
    rows: Int[Tensor, " chosen"],
    width: int,
    *,
    logprobs: Float[Tensor, "chosen width"],
    entropy: Float[Tensor, "chosen width"],
) -> LossInputs:
    """The columns of some rows, cut to ``width`` tokens, with current log-probs; dropped rows have an empty mask."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[rows, :width] if tensor.dim() > 1 else tensor[rows]

    keep = cut(signal.keep)
    return LossInputs(
        logprobs=logprobs,
        entropy=entropy,
        old_logprobs=cut(batch.old_logprobs),
        sampling_logprobs=cut(batch.sampling_logprobs),
        ref_logprobs=None if batch.ref_logprobs is None else cut(batch.ref_logprobs),
        advantages=cut(signal.advantages),
        likelihood=None if signal.likelihood is None else torch.where(keep[:, None], cut(signal.likelihood), 0.0),
        mask=cut(signal.mask) & keep[:, None],
        acting=cut(signal.mask if signal.acting is None else signal.acting) & keep[:, None],
        segment=cut(batch.segment),
        keep=keep,
        group=cut(batch.group),
        family=cut(batch.family),
        layer=cut(batch.layer),
        reward=cut(batch.reward),
        correct=cut(batch.correct),
    )
