import random
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from methods.steps import collect, current, make_group, make_step, run_update

from edge_grpo.base.records import Segment, Strategy
from edge_grpo.base.tensors import Scored
from edge_grpo.functional.advantages import group_normalized
from edge_grpo.functional.shaping import entropy_driven_advantage, relative_entropy
from edge_grpo.methods._edge import EntropyAdvantage, Guidance
from edge_grpo.methods.edge_grpo import Correction, EdgeGrpo
from edge_grpo.methods.grpo import Grpo
from edge_grpo.methods.grpo_matched import GrpoMatched

ANSWER, NONE = Strategy.ANSWER, Strategy.NONE


def injected_right(batch: Scored) -> torch.Tensor:
    injected = (batch.segment == int(Segment.INJECTED)) & batch.mask
    return injected & (batch.correct & batch.scorable)[:, None]


def test_supervision_matched_control_is_grpo_plus_likelihood() -> None:
    """Its policy-gradient part is exactly GRPO on the rollouts as first sampled."""
    batch = make_step()
    method = GrpoMatched()
    signal = method.signal(batch)
    own = ~batch.corrected
    sampled = replace(batch, scorable=batch.scorable & own)
    plain = Grpo().signal(sampled)
    assert torch.equal(signal.row_advantages, plain.row_advantages)
    logprobs, entropy = current(batch)
    every = [torch.arange(len(batch.group))]
    _, gradient, _ = run_update(method, batch, signal, logprobs, entropy, every)
    _, wanted, _ = run_update(Grpo(), sampled, plain, logprobs, entropy, every)
    assert torch.allclose(gradient[own], wanted[own])
    assert (gradient[batch.corrected] != 0).sum() == injected_right(batch)[batch.corrected].sum()


def test_the_control_trains_first_rollouts_alongside_corrected_ones() -> None:
    method = GrpoMatched()
    group = make_group([True, False, True], strategies=[NONE, NONE, ANSWER])
    (arranged,) = method.arrange([group])
    assert [row.strategy for row in arranged.rows] == [NONE, NONE, NONE, ANSWER]
    assert [row.grade.correct for row in arranged.rows] == [True, False, False, True]
    assert arranged.rows[2].first is None
    assert EdgeGrpo().arrange([group]) == [group]


def test_the_control_draws_the_same_injections_and_no_reflections() -> None:
    groups = [make_group([False] * 8)] * 5
    mine = GrpoMatched().plan(groups, random.Random(3))
    edges = EdgeGrpo().plan(groups, random.Random(3))
    assert mine == [repair for repair in edges if repair.strategy is not Strategy.REFLECT]


@given(st.lists(st.booleans(), min_size=2, max_size=8), st.integers(0, 10**6))
def test_the_balanced_control_injects_exactly_what_its_treatment_does(right: list[bool], seed: int) -> None:
    group, balanced = make_group(right), {"amount": "balanced"}
    treated = collect(EdgeGrpo(correction=Correction(**balanced)), group, seed, reflection=0.3)
    method = GrpoMatched(correction=Guidance(**balanced))
    (control,) = method.arrange([collect(method, group, seed, reflection=0.3)])
    injected = [row for row in treated.rows if row.strategy in (ANSWER, Strategy.REFERENCE)]
    assert list(control.rows[len(right) :]) == injected
    assert list(control.rows[: len(right)]) == list(group.rows)


def test_useful_groups_of_the_control_are_those_first_sampled() -> None:
    group = make_group([False, True], strategies=[NONE, ANSWER])
    assert EdgeGrpo().useful(group)
    assert not GrpoMatched().useful(group)


def test_injected_text_is_learned_by_a_mean_over_its_own_rows() -> None:
    batch = make_step()
    method = GrpoMatched(correction=Guidance(likelihood_weight=0.7))
    logprobs, entropy = current(batch)
    _, gradient, _ = run_update(method, batch, method.signal(batch), logprobs, entropy, [torch.arange(12)])
    chosen = injected_right(batch)
    rows, lengths = chosen.any(-1).sum(), chosen.sum(-1, keepdim=True).expand_as(chosen)
    assert rows > 0
    assert torch.allclose(gradient[chosen], -0.7 / (rows * lengths[chosen]).double())


def test_the_entropy_driven_advantage_is_taken_among_the_rows_first_sampled() -> None:
    batch = make_step()
    assert not GrpoMatched().eda.enabled
    signal = GrpoMatched(eda=EntropyAdvantage()).signal(batch)
    compared = batch.scorable & ~batch.corrected
    raw = group_normalized(batch.reward, batch.group, compared)
    relative = relative_entropy(batch.entropy, batch.mask, batch.group, compared)
    assert torch.equal(signal.row_advantages, entropy_driven_advantage(raw, relative))
