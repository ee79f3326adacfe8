import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from methods.steps import collect, current, make_group, make_step, run_update
from pydantic import ValidationError

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.metrics import means
from edge_grpo.base.records import Grade, Row, Segment, Strategy, Verdict
from edge_grpo.base.tensors import Scored
from edge_grpo.config.tree import load_config
from edge_grpo.functional.advantages import group_normalized
from edge_grpo.functional.shaping import entropy_driven_advantage, relative_entropy
from edge_grpo.methods import Repair, Skip
from edge_grpo.methods.edge_grpo import Correction, EdgeGrpo, EntropyAdvantage
from edge_grpo.methods.grpo import Grpo

REFLECT, ANSWER, REFERENCE, NONE = Strategy.REFLECT, Strategy.ANSWER, Strategy.REFERENCE, Strategy.NONE
FORCED = {"reflect": 1.0, "answer": 0.0, "reference": 0.0}


def edge(**correction: Any) -> EdgeGrpo:
    return EdgeGrpo(correction=Correction(**correction))


# --- correction -----------------------------------------------------------------------------------------------------


def test_texts_and_budgets_of_the_release() -> None:
    group = make_group([False] * 60)
    repairs = edge(guard=False).plan([group], random.Random(0))
    assert [repair.row for repair in repairs] == list(range(60))
    texts = {repair.strategy: repair.text for repair in repairs}
    assert texts == {
        REFLECT: " Wait! Something is wrong here.",
        ANSWER: "\nWait! Something is wrong here. After verification, the correct answer is \\boxed{2}.",
        REFERENCE: "so \\boxed{2}",
    }
    assert {repair.budget for repair in repairs} == {256}


def test_strategies_are_drawn_with_their_probabilities() -> None:
    counts = Counter(r.strategy for r in edge(guard=False).plan([make_group([False] * 4000)], random.Random(1)))
    assert counts[REFLECT] / 4000 == pytest.approx(0.5, abs=0.03)
    assert counts[ANSWER] / 4000 == pytest.approx(0.25, abs=0.03)
    assert counts[REFERENCE] / 4000 == pytest.approx(0.25, abs=0.03)


def test_only_wrong_scorable_rows_of_short_prompts() -> None:
    unscorable = Row(make_group([False]).rows[0].rollout, Grade(Verdict.ERROR, 0.0))
    group = make_group([True, False, False, True])
    group = replace(group, rows=(*group.rows, unscorable))
    long = make_group([True, False], prompt=256)
    repairs = edge(guard=False).plan([long, group], random.Random(0))
    assert repairs[0] == Skip(0, 1, "prompt")
    assert [(repair.group, repair.row) for repair in repairs[1:]] == [(1, 1), (1, 2)]


def test_without_a_solution_the_answer_is_injected() -> None:
    method = edge(guard=False, reflect=0.0, answer=0.0, reference=1.0)
    (repair,) = method.plan([make_group([True, False], solution="")], random.Random(0))
    assert repair.strategy is ANSWER


@pytest.mark.parametrize(
    ("answers", "injected"),
    [
        (("She got 4 more, so 3+4=7.", "7", "8"), "7"),
        (("1234.56005859375", "1234.56"), "1234.56"),
        (("1234.56005859375",), None),
        (("She got 4 more, so 3+4=7.",), None),
    ],
)
def test_the_first_plain_answer_is_injected(answers: tuple[str, ...], injected: str | None) -> None:
    group = make_group([True, False], solution="")
    group = replace(group, problem=replace(group.problem, answers=answers))
    (repair,) = edge(guard=False, reflect=0.0, answer=1.0, reference=0.0).plan([group], random.Random(0))
    if injected is None:
        assert repair == Skip(0, 1, "reference")
    else:
        assert isinstance(repair, Repair)
        assert repair.text.endswith(f"\\boxed{{{injected}}}.")


def test_all_rows_draw_once() -> None:
    groups = [make_group([True, False, False], strategies=[NONE, REFLECT, NONE]), make_group([False, False])]
    assert edge().plan(groups, random.Random(0)) == []


def test_amount_none_never_corrects() -> None:
    assert edge(amount="none").plan([make_group([False] * 8)], random.Random(0)) == []


def test_force_reflection_reflects_on_every_wrong_row() -> None:
    repairs = edge(guard=False, **FORCED).plan([make_group([True, False, False])], random.Random(0))
    assert [(repair.row, repair.strategy) for repair in repairs] == [(1, REFLECT), (2, REFLECT)]


def test_the_plan_depends_on_its_random_generator_alone() -> None:
    groups = [make_group([True, False, False, False])] * 3
    plans = [edge().plan(groups, random.Random(seed)) for seed in (4, 4, 5)]
    assert plans[0] == plans[1] != plans[2]


@given(st.lists(st.booleans(), min_size=2, max_size=8), st.integers(0, 10**6), st.sampled_from(["all", "balanced"]))
def test_correction_never_collapses_a_mixed_group(right: list[bool], seed: int, amount: str) -> None:
    group = make_group(right)
    after = collect(edge(amount=amount), group, seed, reflection=0.5)
    assert not all(row.grade.correct for row in after.rows) or all(right)
    assert group.collapsed or not after.collapsed


@given(st.lists(st.booleans(), min_size=2, max_size=8), st.integers(0, 10**6))
def test_balanced_ends_nearest_to_half_right(right: list[bool], seed: int) -> None:
    after = collect(edge(amount="balanced"), make_group(right), seed, reflection=0.5)
    injected = (ANSWER, REFERENCE)  # count as right, whatever their grade
    now = sum(row.grade.correct or row.strategy in injected for row in after.rows)
    half = len(right) // 2
    left = [row for row in after.rows if row.strategy is NONE and not row.grade.correct]
    assert now == max(sum(right), half) or (now < half and not left)


# Share of collapsed groups of eight, before and after correcting all wrong rows (5 % of reflections succeed), when rows
# are right independently with probability p: s^8 + (1 - s)^8 with s = p + (1 - p)(0.5 * 0.05 + 0.4925).
BINOMIAL = {0.02: (0.85, 0.01), 0.10: (0.44, 0.01), 0.25: (0.10, 0.03), 0.50: (0.01, 0.11), 0.75: (0.10, 0.35)}


@pytest.mark.parametrize("p", BINOMIAL)
def test_collapse_of_the_release_in_the_binomial_model(p: float) -> None:
    rng = random.Random(int(100 * p))
    groups = [make_group([rng.random() < p for _ in range(8)]) for _ in range(200)]
    before = sum(group.collapsed for group in groups) / 200
    released, guarded, balanced = (
        sum(collect(method, group, seed).collapsed for seed, group in enumerate(groups)) / 200
        for method in (edge(guard=False), edge(), edge(amount="balanced"))
    )
    assert before == pytest.approx(BINOMIAL[p][0], abs=0.06)
    assert released == pytest.approx(BINOMIAL[p][1], abs=0.05)
    assert guarded <= before
    assert balanced <= before


# --- advantages and injected text -----------------------------------------------------------------------------------


def test_advantages_are_divided_by_relative_entropy() -> None:
    batch = make_step()
    signal = edge(wrong_prefix="credited").signal(batch)
    raw = group_normalized(batch.reward, batch.group, batch.scorable)
    relative = relative_entropy(batch.entropy, batch.mask, batch.group, batch.scorable)
    assert torch.equal(signal.raw_advantages, raw)
    assert torch.equal(signal.row_advantages, entropy_driven_advantage(raw, relative))
    metrics = means(signal.metrics)
    assert metrics["advantage/variance"] != metrics["advantage/variance_before"]


def test_without_eda_and_injected_rows_it_is_grpo() -> None:
    batch = make_step()
    batch = replace(batch, segment=batch.mask * int(Segment.SAMPLED), corrected=torch.zeros_like(batch.corrected))
    mine, theirs = EdgeGrpo(eda=EntropyAdvantage(enabled=False)).signal(batch), Grpo().signal(batch)
    assert torch.equal(mine.advantages, theirs.advantages)
    scores = current(batch)
    every = [torch.arange(len(batch.group))]
    assert torch.equal(
        run_update(EdgeGrpo(eda=EntropyAdvantage(enabled=False)), batch, mine, *scores, every)[1],
        run_update(Grpo(), batch, theirs, *scores, every)[1],
    )


def test_entropy_over_sampled_tokens_ignores_injected_ones() -> None:
    batch = make_step()
    method = EdgeGrpo(eda=EntropyAdvantage(over="sampled"))
    injected = batch.segment == int(Segment.INJECTED)
    louder = replace(batch, entropy=torch.where(injected, 50.0, batch.entropy))
    assert torch.equal(method.signal(batch).row_advantages, method.signal(louder).row_advantages)
    assert not torch.equal(EdgeGrpo().signal(batch).row_advantages, EdgeGrpo().signal(louder).row_advantages)


def test_a_row_without_sampled_tokens_keeps_its_advantage() -> None:
    batch = make_step()
    row = int((batch.scorable & (batch.group == 1)).nonzero()[0])
    segment = batch.segment.clone()
    segment[row] = batch.mask[row] * int(Segment.INJECTED)
    signal = EdgeGrpo(eda=EntropyAdvantage(over="sampled")).signal(replace(batch, segment=segment))
    assert signal.row_advantages[row] == signal.raw_advantages[row]


def test_the_wrong_prefix_gets_no_positive_credit() -> None:
    batch = make_step()
    prefix = (batch.segment == int(Segment.WRONG_PREFIX)) & batch.mask
    credited, ours = edge(wrong_prefix="credited").signal(batch).advantages, EdgeGrpo().signal(batch).advantages
    assert (credited[prefix] > 0).any()
    assert (ours[prefix] <= 0).all()
    assert torch.equal(ours[~prefix], credited[~prefix])


def injected_right(batch: Scored) -> torch.Tensor:
    injected = (batch.segment == int(Segment.INJECTED)) & batch.mask
    return injected & (batch.correct & batch.scorable)[:, None]


def test_likelihood_takes_injected_tokens_out_of_the_policy_gradient() -> None:
    batch = make_step()
    signal = edge(injected="likelihood", likelihood_weight=0.7).signal(batch)
    assert torch.equal(signal.mask, batch.mask & (batch.segment != int(Segment.INJECTED)))
    assert signal.likelihood is not None
    assert torch.equal(signal.likelihood, 0.7 * injected_right(batch).double())
    assert EdgeGrpo().signal(batch).likelihood is None


def test_likelihood_is_a_mean_over_its_own_rows() -> None:
    batch = make_step()
    method = edge(injected="likelihood", likelihood_weight=0.7)
    signal = method.signal(batch)
    logprobs, entropy = current(batch)
    every = [torch.arange(len(batch.group))]
    _, gradient, _ = run_update(method, batch, signal, logprobs, entropy, every)
    chosen = injected_right(batch)
    rows, lengths = chosen.any(-1).sum(), chosen.sum(-1, keepdim=True).expand_as(chosen)
    assert rows > 0
    assert torch.allclose(gradient[chosen], -0.7 / (rows * lengths[chosen]).double())


# --- settings -------------------------------------------------------------------------------------------------------


def test_probabilities_must_sum_to_one() -> None:
    with pytest.raises(ValidationError, match="the three probabilities must sum to 1"):
        Correction(reflect=1.0)


def test_settings_of_the_release() -> None:
    method = EdgeGrpo()
    assert (method.clip_low, method.clip_high, method.beta, method.scale) == (0.2, 0.2, 0.0, "group")
    assert (method.eda.clamp_low, method.eda.clamp_high) == (0.1, 10.0)
    assert method.correction.max_new_tokens == method.correction.max_prompt_tokens == 256


def test_the_control_is_named_if_its_old_setting_is_used() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["method=edge_grpo", "method.correction.injected=likelihood_only"])
    (line,) = str(caught.value).splitlines()
    assert line.startswith("method.correction.injected: got 'likelihood_only'; ")
    assert "start a new run with method=grpo_matched" in line
