"""Groups to batches and back to micro-batches."""

import math
import random
from dataclasses import replace

import pytest
import torch
from support import PROBLEM, row

from edge_grpo.base.records import Grade, Group, Rollout, Row, Segment, Span, Strategy, Verdict
from edge_grpo.base.tensors import Batch, Signal
from edge_grpo.training.batching import collate, group_micro_batches, loss_inputs, micro_batches, mini_batches, scored


def corrected() -> Row:
    spans = (
        Span((5, 6), Segment.WRONG_PREFIX, (-1.0, -2.0), (0.1, 0.2)),
        Span((7, 8), Segment.INJECTED),
        Span((9,), Segment.CONTINUED, (-3.0,), (0.3,)),
    )
    wrong = row(1.0)
    return Row(
        Rollout((1, 2, 3), spans, True),
        Grade(Verdict.CORRECT, 2.0, {"format": 1.0, "accuracy": 1.0}),
        Strategy.REFLECT,
        first=(wrong.rollout, wrong.grade),
    )


def make() -> Batch:
    error = row(0.0, verdict=Verdict.ERROR, tokens=1)
    groups = [Group(PROBLEM, (corrected(), row(1.0))), Group(PROBLEM, (row(2.0, tokens=5), error))]
    return collate(groups, parts=("format", "accuracy"), weights=(1.0, 0.5), pad_id=99)


def test_every_token_knows_what_it_is() -> None:
    batch = make()
    assert batch.input_ids[0].tolist() == [1, 2, 3, 5, 6, 7, 8, 9, 99]
    assert batch.segment[0].tolist() == [0, 0, 0, 4, 4, 2, 2, 3, 0]
    assert batch.mask[0].tolist() == [False] * 3 + [True] * 5 + [False]
    assert batch.attention[0].tolist() == [True] * 8 + [False]
    logprobs = batch.sampling_logprobs[0].tolist()
    assert logprobs[3:5] == [-1.0, -2.0]
    assert logprobs[7] == -3.0
    assert all(math.isnan(logprobs[i]) for i in (0, 1, 2, 5, 6, 8))


def test_every_row_knows_what_it_is() -> None:
    batch = make()
    assert batch.group.tolist() == [0, 0, 1, 1]
    assert batch.reward.tolist() == [2.0, 1.0, 2.0, 0.0]
    assert batch.correct.tolist() == [True, False, True, False]
    assert batch.scorable.tolist() == [True, True, True, False]
    assert batch.corrected.tolist() == [True, False, False, False]
    assert batch.reward_parts[0].tolist() == [1.0, 1.0]
    assert math.isnan(batch.reward_parts[1, 0])
    assert batch.reward_weights.tolist() == [1.0, 0.5]


def test_mini_batches_are_whole_groups_and_cover_all() -> None:
    group = torch.tensor([3, 1, 3, 2, 1, 2, 0])
    parts = mini_batches(group, count=3, rng=random.Random(0))
    assert sorted(torch.cat(parts).tolist()) == list(range(7))
    for part in parts:
        names = set(group[part].tolist())
        assert all(index in part.tolist() for index in range(7) if group[index].item() in names)
    assert len(mini_batches(group, count=9, rng=random.Random(0))) == 4
    (whole,) = mini_batches(group, count=1, rng=random.Random(0))
    assert whole.tolist() == list(range(7))


def test_micro_batches_put_like_lengths_together_longest_first() -> None:
    lengths = torch.tensor([5, 9, 2, 7, 3])
    parts = micro_batches(torch.tensor([0, 1, 2, 3, 4]), lengths, size=2)
    assert [part.tolist() for part in parts] == [[1, 3], [0, 4], [2]]
    assert micro_batches(torch.tensor([], dtype=torch.long), lengths, size=2) == []


def test_loss_inputs_cut_and_clear_dropped_rows() -> None:
    batch = make()
    zeros = torch.zeros(batch.mask.shape)
    full = scored(batch, old_logprobs=zeros, entropy=zeros, ref_logprobs=None)
    keep = torch.tensor([True, False, True, True])
    signal = Signal(zeros + 2, batch.mask, keep, torch.zeros(4), torch.zeros(4), likelihood=zeros + 0.3)
    x = loss_inputs(full, signal, torch.tensor([2, 1]), 7, logprobs=zeros[:2, :7], entropy=zeros[:2, :7])
    assert x.mask.shape == (2, 7)
    assert x.mask[0].any()
    assert not x.mask[1].any()
    assert x.likelihood is not None
    assert x.likelihood.max(-1).values.tolist() == pytest.approx([0.3, 0.0])
    assert x.group.tolist() == [1, 0]
    assert x.ref_logprobs is None


def test_families_and_parents_are_rows_of_the_batch() -> None:
    two = (row(1.0), row(2.0))
    groups = [
        Group(PROBLEM, two, family=7),
        Group(PROBLEM, two),
        Group(PROBLEM, two, family=7, layer=2, parent=1),
        Group(PROBLEM, two, family=8, variant=1),
        Group(PROBLEM, (replace(two[0], source=1),), family=8),
        Group(PROBLEM, two, family=9, layer=2, parent=0),
    ]
    batch = collate(groups, parts=("accuracy",), weights=(1.0,), pad_id=0)
    assert batch.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 5]
    assert batch.family.tolist() == [0, 0, 1, 1, 0, 0, 2, 2, 2, 3, 3]
    assert batch.layer.tolist() == [1, 1, 1, 1, 2, 2, 1, 1, 1, 2, 2]
    assert batch.parent.tolist() == [-1] * 4 + [1, 1] + [-1] * 5  # the last one's answer is not in the batch
    assert batch.variant.tolist() == [0] * 6 + [1, 1, 0, 0, 0]
    assert batch.source.tolist() == [0] * 8 + [1, 0, 0]


def test_whole_groups_stay_together() -> None:
    group = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    lengths = torch.tensor([3, 9, 2, 5, 4, 7, 7, 1])
    parts = group_micro_batches(torch.tensor([7, 6, 5, 4, 3, 2, 1, 0]), lengths, group, size=2)
    assert [sorted(part.tolist()) for part in parts] == [[0, 1, 2], [5, 6], [3, 4], [7]]
    (whole,) = group_micro_batches(torch.arange(8), lengths, group, size=8)
    assert sorted(whole.tolist()) == list(range(8))
    assert group_micro_batches(torch.tensor([], dtype=torch.long), lengths, group, size=2) == []
