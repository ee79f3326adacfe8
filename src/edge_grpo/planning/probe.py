"""A few problems really sampled: how many groups of any size would collapse, how many completions are cut, how fast."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from edge_grpo.config.tree import Config
from edge_grpo.data.problems import load_train_eval
from edge_grpo.evaluation.answers import SAMPLED, answer, training_draws
from edge_grpo.evaluation.pass_rates import Collapse, Rate, expected_collapse, rates
from edge_grpo.rollout.open import open_sampler
from edge_grpo.training.collect import stream

__all__ = ["SIZES", "Foreseen", "Probe", "foreseen", "probe"]

SIZES: Final = (2, 4, 8, 16, 32, 64)
"""The group sizes whose collapse is predicted."""

_TOGETHER: Final = 4  # problems that are sampled between two reports of progress


@dataclass(frozen=True)
class Foreseen:
    """A group size, the shares of groups expected to collapse, and whether that is a bound beyond what was sampled."""

    collapse: Collapse
    extrapolated: bool


@dataclass(frozen=True)
class Probe:
    """What sampling a few training problems showed.

    ``problems`` with ``answers`` scorable answers in all; ``unscorable`` ones are left out. ``pass_rate``: mean share
    of right answers. ``dead``: share of problems whose sampled rewards are all equal; ``never``: none of whose answers
    is right. ``cut``: share of completions that ran into ``rollout.max_new_tokens``. ``length``: mean tokens.
    ``sampling_per_s``: tokens sampled per second here, which counts neither grading nor updates.
    """

    problems: int
    answers: int
    unscorable: int
    pass_rate: float
    dead: float
    never: float
    cut: float
    length: float
    sampling_per_s: float
    sizes: tuple[Foreseen, ...]


def probe(
    config: Config,
    *,
    num_problems: int = 16,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Probe:
    """Sample ``rollout.group_size`` answers to each of a few training problems, as training draws them.

    Args:
        config: the settings; loads the model.
        num_problems: how many, from the start of the first epoch; data with fewer is taken whole.
        say: shows a line about what the model does not support.
        progress: is told of the problems done and of all.
    Raises:
        EdgeGrpoError: as training would.
    """
    draws = training_draws(config, config.rollout.group_size)
    problems = load_train_eval(config.data, num_eval=config.eval.num_problems, seed=config.eval.seed)[0].problems
    with open_sampler(config, say=say) as sampler:
        weights = [problem.weight for problem in problems]
        count = min(num_problems, len(problems))
        drawn = dict.fromkeys(
            islice(stream(range(len(problems)), seed=config.train.seed, start=0, weights=weights), count)
        )
        prompts = sampler.encode([problems[i] for i in drawn], max_new_tokens=draws.max_new_tokens).prompts
        found = []
        progress(0, len(prompts))
        for start in range(0, len(prompts), _TOGETHER):
            found += answer(sampler, "probe", prompts[start : start + _TOGETHER], draws, SAMPLED)
            progress(min(start + _TOGETHER, len(prompts)), len(prompts))
        seconds = sampler.watch.take("sample")["sample"]
    measured = rates(found)
    tokens = sum(each.tokens for each in found)
    return Probe(
        problems=len(prompts),
        answers=sum(rate.answers for rate in measured),
        unscorable=sum(not each.scorable for each in found),
        pass_rate=_mean([rate.value for rate in measured]),
        dead=_mean([float(_is_dead(rate)) for rate in measured]),
        never=_mean([float(rate.right == 0) for rate in measured]),
        cut=_mean([float(not each.finished) for each in found]),
        length=tokens / len(found) if found else math.nan,
        sampling_per_s=tokens / seconds if seconds else math.nan,
        sizes=tuple(foreseen(measured, size) for size in SIZES),
    )


def foreseen(measured: Sequence[Rate], size: int) -> Foreseen:
    r"""The share of groups of ``size`` expected to collapse.

    Up to the number of answers, the unbiased estimate of :func:`edge_grpo.evaluation.pass_rates.expected_collapse`.
    Beyond, as if each problem's rewards kept the frequencies that were seen,

    .. math:: \frac1P \sum_i \sum_v \Big(\frac{n_{iv}}{n_i}\Big)^G,

    which is too high on average (the power is convex), above all where a problem's answers were all alike; but no more
    than for as many answers as there are, because a larger group never collapses more often.

    Example:
        >>> half = Rate("a", {(0.0, False): 2, (1.0, True): 2})
        >>> foreseen([half], 2).collapse.total, foreseen([half], 8).collapse.total
        (0.333..., 0.0)
        >>> rare = Rate("b", {(0.0, False): 3, (1.0, True): 1})
        >>> foreseen([rare, Rate("c", {(0.0, False): 4})], 8).collapse.total
        0.5
    """
    fewest = min((rate.answers for rate in measured), default=0)
    if fewest >= size:
        return Foreseen(expected_collapse(measured, size), extrapolated=False)
    total = wrong = right = 0.0
    for rate in measured:
        by_reward: Counter[float] = Counter()
        for (reward, correct), count in rate.counts.items():
            by_reward[reward] += count
            share = (count / rate.answers) ** size
            right, wrong = (right + share, wrong) if correct else (right, wrong + share)
        total += sum((count / rate.answers) ** size for count in by_reward.values())
    shares = [part / len(measured) if measured else math.nan for part in (total, wrong, right)]
    if fewest >= 2:
        known = expected_collapse(measured, fewest)
        shares = [min(pair) for pair in zip(shares, (known.total, known.all_wrong, known.all_right), strict=True)]
    return Foreseen(Collapse(size, *shares), extrapolated=True)


def _is_dead(rate: Rate) -> bool:
    return len({reward for reward, _ in rate.counts}) == 1


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
