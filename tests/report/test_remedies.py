"""Each estimate against a simulation with known pass rates: where its assumption holds, and how it fails where not.

A tolerance is four standard errors of the difference of estimate and simulation.
"""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from edge_grpo.report.diagnosis import Diagnosis, diagnose
from edge_grpo.report.groups import Kind
from edge_grpo.report.remedies import (
    Remedy,
    dynamic_sampling,
    fitted,
    guided_correction,
    larger_groups,
    partial_rewards,
    remedies,
    screening,
)
from edge_grpo.report.sources import Completion, Rollouts

SIZE = 8
COUNT = 3000

Rates = np.ndarray


def sampled(rng: np.random.Generator, rates: Rates, size: int = SIZE) -> Rates:
    """Right answers, prompts x completions."""
    return rng.random((len(rates), size)) < rates[:, None]


def diagnosis(answers: Sequence[Rates]) -> Diagnosis:
    """Of one group per prompt and visit: reward 1 if right, texts as told apart by the answer and its place."""
    rows = [
        Completion(visit, visit * len(own) + i, f"p{i}", float(right), bool(right), 10, 5, text=int(right) + 2 * j)
        for visit, own in enumerate(answers)
        for i, group in enumerate(own)
        for j, right in enumerate(group)
    ]
    return diagnose(Rollouts("simulated", 1, (), (), rows))


def live(answers: Rates) -> Rates:
    return np.asarray(answers.any(1) & ~answers.all(1))


def share(flags: Rates) -> tuple[float, float]:
    """A share and its standard error."""
    mean = float(np.mean(flags))
    return mean, math.sqrt(mean * (1 - mean) / len(flags))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def rates(rng: np.random.Generator) -> Rates:
    return rng.beta(0.4, 0.8, COUNT)


# --- dynamic sampling -----------------------------------------------------------------------------------------------


def draws_until_live(rng: np.random.Generator, rates: Rates, *, again: bool) -> tuple[float, float]:
    """Groups drawn per live one, and the standard error; ``again``: the same prompt each time, not a fresh one."""
    needed = []
    for first in rng.permutation(rates):
        rate, drawn = first, 1
        while not live(sampled(rng, np.array([rate])))[0] and drawn < 200:
            rate, drawn = first if again else rng.choice(rates), drawn + 1
        needed.append(drawn)
    return float(np.mean(needed)), float(np.std(needed) / math.sqrt(len(needed)))


def test_dynamic_sampling_with_fresh_prompts(rng: np.random.Generator, rates: Rates) -> None:
    found = dynamic_sampling(diagnosis([sampled(rng, rates)]))
    simulated, error = draws_until_live(rng, rates, again=False)
    assert found.before is not None
    assert found.completions is not None
    own = math.sqrt((1 - found.before) / COUNT / found.before**3)  # of 1 / share, by the delta method
    assert abs(found.completions / SIZE - simulated) < 4 * math.hypot(error, own)


def test_dynamic_sampling_that_asks_the_same_prompts_again_costs_more(rng: np.random.Generator, rates: Rates) -> None:
    found = dynamic_sampling(diagnosis([sampled(rng, rates)]))
    simulated, error = draws_until_live(rng, rates[:400], again=True)
    assert found.completions is not None
    assert simulated - found.completions / SIZE > 4 * error


# --- larger groups --------------------------------------------------------------------------------------------------


def revived_by_more(rng: np.random.Generator, first: Rates, rates: Rates, factor: int) -> tuple[float, float]:
    """The share of groups live once they are continued to ``factor`` times their size."""
    more = np.concatenate([first, sampled(rng, rates, SIZE * (factor - 1))], axis=1)
    return share(live(more))


SHAPES = {
    "beta": lambda rng: rng.beta(0.4, 0.8, COUNT),
    "some cannot be solved": lambda rng: np.where(rng.random(COUNT) < 0.6, 0.0, rng.beta(3, 3, COUNT)),
    "two kinds": lambda rng: np.where(rng.random(COUNT) < 0.6, 0.05, rng.beta(3, 2, COUNT)),
}


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_larger_groups_whatever_the_shape_of_pass_rates(rng: np.random.Generator, shape: str, factor: int) -> None:
    rates = SHAPES[shape](rng)
    first = sampled(rng, rates)
    found = larger_groups(diagnosis([first]), factor)
    simulated, error = revived_by_more(rng, first, rates, factor)
    assert found.live is not None
    assert found.before == pytest.approx(live(first).mean())
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.live < found.high
    spread = (found.high - found.low) / 4  # a 95% interval is about four standard errors wide
    assert abs(found.live - simulated) < 4 * math.hypot(error, spread)
    assert spread < 0.05
    assert found.completions == pytest.approx(factor * SIZE / found.live)


def test_the_interval_holds_the_truth_as_often_as_it_says(rng: np.random.Generator) -> None:
    inside = []
    for _ in range(25):
        rates = np.where(rng.random(200) < 0.5, rng.beta(1, 8, 200), rng.beta(4, 2, 200))
        first = sampled(rng, rates)
        found = larger_groups(diagnosis([first]), 2)
        truth = 1 - np.mean((1 - rates) ** (2 * SIZE) + rates ** (2 * SIZE))
        assert found.low is not None
        assert found.high is not None
        inside.append(found.low <= truth <= found.high)
    assert np.mean(inside) > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 25)


def test_larger_groups_promise_too_little_where_small_groups_hide_small_rates(rng: np.random.Generator) -> None:
    rates = SHAPES["two kinds"](rng)
    first = sampled(rng, rates, 4)
    found = larger_groups(diagnosis([first]), 4)
    simulated, error = share(live(np.concatenate([first, sampled(rng, rates, 12)], axis=1)))
    assert found.live is not None
    assert simulated - found.live > 4 * error


def test_the_prior_is_found(rng: np.random.Generator) -> None:
    rates = np.where(rng.random(20_000) < 0.7, 0.1, 0.8)
    right = sampled(rng, rates, 16).sum(1)
    prior = fitted(tuple((k, 16) for k in range(17)), tuple(np.bincount(right, minlength=17).tolist()))
    shares = prior.shares[0]
    assert shares.sum() == pytest.approx(1)
    assert shares[prior.rates < 0.4].sum() == pytest.approx(0.7, abs=0.015)
    assert shares[(prior.rates > 0.7) & (prior.rates < 0.9)].sum() == pytest.approx(0.3, abs=0.015)


# --- corrections, partial rewards -----------------------------------------------------------------------------------


def corrected(rng: np.random.Generator, answers: Rates, usable: float) -> Rates:
    """One answer of a group that is all wrong becomes right, where the group has a usable reference."""
    given = answers.copy()
    given[~answers.any(1) & (rng.random(len(answers)) < usable), 0] = True
    return given


def test_guided_correction_is_exact_if_every_reference_is_usable(rng: np.random.Generator, rates: Rates) -> None:
    answers = sampled(rng, rates)
    found = guided_correction(diagnosis([answers]))
    assert found.live == pytest.approx(live(corrected(rng, answers, 1.0)).mean())


def test_guided_correction_is_an_upper_bound_otherwise(rng: np.random.Generator, rates: Rates) -> None:
    answers = sampled(rng, rates)
    found = guided_correction(diagnosis([answers]))
    simulated, error = share(live(corrected(rng, answers, 0.7)))
    assert found.live is not None
    assert found.live - simulated > 4 * error
    assert found.reading == "upper bound"


def degrees(rng: np.random.Generator, answers: Rates, levels: int) -> Rates:
    """Whether a reward with so many degrees for wrong answers tells two answers of a group apart."""
    rewards = np.where(answers, levels, rng.integers(0, levels, answers.shape))
    return np.asarray(rewards.max(1) > rewards.min(1))


def test_partial_rewards_reach_the_bound_with_many_degrees_only(rng: np.random.Generator, rates: Rates) -> None:
    answers = sampled(rng, rates)
    found = partial_rewards(diagnosis([answers]))
    assert found.live is not None
    assert found.live == pytest.approx(degrees(rng, answers, 10**6).mean())
    simulated, error = share(degrees(rng, answers, 2))
    assert found.live > simulated
    assert (1 - 2 ** (1 - SIZE)) * found.live < simulated + 4 * error


def test_partial_rewards_cannot_tell_equal_texts_apart() -> None:
    rows = [Completion(1, i // 2, f"p{i // 2}", 0.0, False, 1, 1, text=max(i, 1)) for i in range(4)]
    found = partial_rewards(diagnose(Rollouts("made up", 1, (), (), rows)))
    assert found.revived == 1


# --- screening ------------------------------------------------------------------------------------------------------


def visits(rng: np.random.Generator, rates: Sequence[Rates]) -> tuple[Diagnosis, list[Rates]]:
    answers = [sampled(rng, own) for own in rates]
    return diagnosis(answers), answers


def test_screening_holds_for_the_next_visit_of_the_same_policy(rng: np.random.Generator, rates: Rates) -> None:
    found, answers = visits(rng, [rates] * 2)
    kept = live(answers[0])
    simulated, error = share(live(sampled(rng, rates[kept])))
    one = screening(found)
    assert one.live is not None
    assert abs(one.live - simulated) < 4 * math.sqrt(2) * error
    assert one.before == pytest.approx(live(answers[1]).mean())
    assert one.live > one.before + 4 * error


def test_screening_fails_once_the_policy_has_moved(rng: np.random.Generator, rates: Rates) -> None:
    found, answers = visits(rng, [rates] * 2)
    kept = live(answers[0])
    simulated, error = share(live(sampled(rng, rates[kept] ** 0.1)))  # most of them are too easy by now
    one = screening(found)
    assert one.live is not None
    assert one.live - simulated > 4 * error


def test_the_last_visit_does_not_choose() -> None:
    mixed, dead = [True, False], [False, False]
    answers = [np.array([dead, mixed, mixed, dead]), np.array([mixed, dead, mixed, dead])]
    found = screening(diagnosis(answers))
    assert (found.before, found.live, found.completions) == (1 / 2, 1 / 2, 4.0)


# --- what cannot be said --------------------------------------------------------------------------------------------


def one_step(*groups: Sequence[float], right: bool = True, text: int | None = 1) -> list[Remedy]:
    rows = [
        Completion(1, number, f"p{number}", reward, reward > 0 if right else None, 1, 1, text)
        for number, rewards in enumerate(groups)
        for reward in rewards
    ]
    return remedies(diagnose(Rollouts("made up", 1, (), (), rows)))


def test_reasons_why_nothing_is_estimated() -> None:
    no_live = one_step([0.0, 0.0], [0.0, 0.0])
    assert "no group is live" in no_live[0].missing
    assert "no prompt was seen twice" in no_live[5].missing
    unknown = one_step([0.1, 0.1], [0.2, 0.3], right=False, text=None)
    assert all("--correct COLUMN" in one.missing for one in (*unknown[1:3], unknown[3]))
    assert "--completion COLUMN" in unknown[4].missing
    assert [one.live for one in unknown[1:]] == [None] * 5


def test_all_dead_groups_stay_dead_under_a_prior_that_knows_nothing_else() -> None:
    found = one_step(*[[0.0] * 8] * 50)
    assert found[1].live == pytest.approx(0, abs=0.01)


def test_groups_of_thousands_are_no_trouble() -> None:
    found = one_step([0.0] * 5000, [0.0] * 4999 + [1.0])
    assert found[1].live == pytest.approx(0.5, abs=0.3)


def test_groups_that_are_equal_though_mixed_are_not_revived_by_size() -> None:
    rows = [Completion(1, i // 2, f"p{i}", 1.0, bool(i % 2), 1, 1, i) for i in range(4)]
    found = diagnose(Rollouts("made up", 1, (), (), rows))
    assert found.overall.kinds[Kind.EQUAL] == 2
    assert larger_groups(found, 2).revived == 0
