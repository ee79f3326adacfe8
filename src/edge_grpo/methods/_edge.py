"""What EDGE-GRPO and its supervision-matched control share: corrections, entropy, likelihood of injected text."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from edge_grpo.base.records import Group, Row, Segment, Strategy
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Totals
from edge_grpo.functional import means, shaping, terms
from edge_grpo.methods import _fields as f
from edge_grpo.methods.base import Needs, Repair, Skip
from edge_grpo.rewards.references import is_plain

__all__ = [
    "EntropyAdvantage",
    "Guidance",
    "count_rows",
    "entropy_driven",
    "imitated",
    "injected_likelihood",
    "needs_of",
    "plan_repairs",
    "policy_rows",
]

# --- settings ---------------------------------------------------------------------------------------------------------


@settings
class Guidance:
    r"""Guided error correction: which wrong rollouts are corrected, how, and the weight of injected text.

    A wrong rollout draws ``reflect`` (append ``reflect_phrase``, let the policy continue), ``answer`` (append
    ``answer_phrase``, in which ``{answer}`` stands for the reference answer) or ``reference`` (the worked solution
    takes its place; ``answer`` where a problem has none, or one that does not grade right) with these probabilities. At
    most ``max_new_tokens`` tokens are added; prompts of ``max_prompt_tokens`` or more are not corrected.

    ``amount``: ``all`` wrong rollouts, ``balanced`` (only as many as bring the group nearest to half right, so that it
    never collapses), or ``none``. ``guard``, for ``all``: one wrong rollout, drawn at random, is left alone, so that no
    group can become all right. ``likelihood_weight``: weight of injected tokens where they are trained by likelihood.

    Source:
        Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848; probabilities, phrases and budgets of the official training
        code, which corrects all of them and has no guard. ``likelihood_weight`` is this project's: about the share of a
        group that is injected.
    """

    amount: Literal["all", "balanced", "none"] = "all"
    reflect: f.Fraction = 0.5
    answer: f.Fraction = 0.25
    reference: f.Fraction = 0.25
    reflect_phrase: str = " Wait! Something is wrong here."
    answer_phrase: str = "\nWait! Something is wrong here. After verification, the correct answer is \\boxed{{answer}}."
    max_new_tokens: f.Count = 256
    max_prompt_tokens: f.Count = 256
    guard: bool = True
    likelihood_weight: f.NonNegative = 0.3

    @model_validator(mode="after")
    def _probabilities_sum_to_one(self) -> "Guidance":
        total = self.reflect + self.answer + self.reference
        if abs(total - 1) > 1e-9:
            raise ValueError(f"reflect + answer + reference is {total:g}; the three probabilities must sum to 1")
        return self


@settings
class EntropyAdvantage:
    """Entropy-driven advantage: divide each advantage by the row's relative entropy, clamped.

    ``over``: the entropy of a row is the mean over its whole ``completion`` or over the tokens that the policy
    ``sampled`` (rows without any keep their advantage). The relative entropy is clamped to ``clamp_low`` and
    ``clamp_high``. ``enabled`` false leaves advantages as they are.

    Source:
        Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848, eq. 6 and 7; the official code has the clamp range in a
        comment.
    """

    enabled: bool = True
    over: Literal["completion", "sampled"] = "completion"
    clamp_low: f.Share = 0.1
    clamp_high: Annotated[float, Field(ge=1)] = 10.0


# --- collection -------------------------------------------------------------------------------------------------------


def needs_of(needs: Needs, guidance: Guidance) -> Needs:
    """A method's needs, with the longest prompt that it corrects."""
    corrects = guidance.amount != "none"
    return replace(needs, max_corrected_prompt=guidance.max_prompt_tokens if corrects else 0)


def plan_repairs(groups: Sequence[Group], rng: random.Random, guidance: Guidance) -> list[Repair | Skip]:
    """Which wrong rollouts to correct and how, and which to skip although they would be: the prompt is too long, or the
    reference holds no plain answer.

    With ``amount="all"`` every wrong row draws its strategy once, in the first call; a repair that the collector had to
    skip is not retried. With ``"balanced"``, further rows follow until half the group is right (reflected rows count by
    their new grade) or no untouched wrong row is left; the collector stops when a whole round was skipped.
    """
    begun = any(row.strategy is not Strategy.NONE for group in groups for row in group.rows)
    if guidance.amount == "none" or (guidance.amount == "all" and begun):
        return []
    long = [_is_long(group, guidance) for group in groups]
    chosen = [
        (g, i)
        for g, group in enumerate(groups)
        for i in (_rows_skipped(group, guidance) if long[g] else _rows_to_correct(group, rng, guidance))
    ]
    return [
        Skip(g, i, "prompt") if long[g] else _repair(groups[g], g, i, _draw(rng, guidance), guidance) for g, i in chosen
    ]


def _is_long(group: Group, guidance: Guidance) -> bool:
    return len(group.rows[0].rollout.prompt_ids) >= guidance.max_prompt_tokens


def _rows_to_correct(group: Group, rng: random.Random, guidance: Guidance) -> list[int]:
    wrong = _wrong_rows(group)
    if guidance.amount == "balanced":
        return sorted(rng.sample(wrong, _num_missing(group, wrong)))
    spared = rng.choice(wrong) if wrong and guidance.guard else None
    return [i for i in wrong if i != spared]


def _rows_skipped(group: Group, guidance: Guidance) -> list[int]:
    """As many rows as would be corrected; nothing is drawn."""
    wrong = _wrong_rows(group)
    if guidance.amount == "balanced":
        return wrong[: _num_missing(group, wrong)]
    return wrong[1:] if guidance.guard else wrong


def _wrong_rows(group: Group) -> list[int]:
    return [i for i, row in enumerate(group.rows) if _is_wrong(row) and row.strategy is Strategy.NONE]


def _num_missing(group: Group, wrong: Sequence[int]) -> int:
    """Wrong rows to correct until half of the group is right."""
    scorable = [row for row in group.rows if row.grade.scorable]
    missing = len(scorable) // 2 - sum(_counts_as_right(row) for row in scorable)
    return min(max(missing, 0), len(wrong))


def _draw(rng: random.Random, guidance: Guidance) -> Strategy:
    number = rng.random()
    if number < guidance.reflect:
        return Strategy.REFLECT
    return Strategy.ANSWER if number < guidance.reflect + guidance.answer else Strategy.REFERENCE


def _repair(group: Group, index: int, row: int, strategy: Strategy, guidance: Guidance) -> Repair | Skip:
    budget, reference = guidance.max_new_tokens, next(filter(is_plain, group.problem.answers), "")
    if strategy is Strategy.REFLECT:
        return Repair(index, row, strategy, guidance.reflect_phrase, budget)
    answer = guidance.answer_phrase.replace("{answer}", reference) if reference else ""
    if strategy is Strategy.REFERENCE and group.problem.solution:
        return Repair(index, row, strategy, group.problem.solution, budget, fallback=answer)
    return Repair(index, row, Strategy.ANSWER, answer, budget) if answer else Skip(index, row, "reference")


def _is_wrong(row: Row) -> bool:
    return row.grade.scorable and not row.grade.correct


def _counts_as_right(row: Row) -> bool:
    return row.grade.correct or row.strategy in (Strategy.ANSWER, Strategy.REFERENCE)


# --- training ---------------------------------------------------------------------------------------------------------


def entropy_driven(
    batch: Scored, raw: Float[Tensor, " rows"], compared: Bool[Tensor, " rows"], eda: EntropyAdvantage
) -> Float[Tensor, " rows"]:
    """The advantages over the rows' relative entropy, if enabled."""
    if not eda.enabled:
        return raw
    sampled = batch.segment != int(Segment.INJECTED)
    mask = batch.mask & sampled if eda.over == "sampled" else batch.mask
    relative = shaping.relative_entropy(batch.entropy, mask, batch.group, compared)
    return shaping.entropy_driven_advantage(raw, relative, clamp_low=eda.clamp_low, clamp_high=eda.clamp_high)


def imitated(batch: Scored, weight: float) -> Float[Tensor, "rows tokens"]:
    """``weight`` on the injected tokens of rows that ended up right."""
    injected = batch.segment == int(Segment.INJECTED)
    chosen = batch.mask & injected & (batch.correct & batch.scorable)[:, None]
    return weight * chosen.to(batch.entropy.dtype)


def count_rows(x: LossInputs) -> dict[str, float]:
    """Rows with a policy-gradient term and rows with a likelihood term, for ``totals``, where the two differ."""
    if x.likelihood is None:
        return {}
    return {
        "policy_rows": float(x.mask.any(-1).sum()),
        "likelihood_rows": float((x.likelihood > 0).any(-1).sum()),
    }


def policy_rows(totals: Totals) -> float:
    """Rows with a policy-gradient term."""
    return totals.extra.get("policy_rows", totals.rows)


def injected_likelihood(x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
    """Weighted -log p of injected text, mean over its rows of the mean over tokens; 0 where there is no such term."""
    if x.likelihood is None:
        return x.logprobs.new_zeros(())
    chosen = x.likelihood > 0
    values = terms.likelihood_loss(x.logprobs, x.likelihood, chosen)
    return means.mean_over_rows(values, chosen, rows=totals.extra["likelihood_rows"])
