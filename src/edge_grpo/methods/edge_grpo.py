"""EDGE-GRPO: guided error correction makes the rewards of a group differ, entropy-driven advantages weigh them."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, final

from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from edge_grpo.base.records import Group, Row, Segment, Strategy
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional import filters, means, shaping, terms
from edge_grpo.methods.base import Repair
from edge_grpo.methods.family import ClippedFamily

__all__ = ["Correction", "EdgeGrpo", "EntropyAdvantage"]


@settings
class Correction:
    r"""Guided error correction: what is done to wrong rollouts, and how the injected text is learnt from.

    A wrong rollout draws ``reflect`` (append ``reflect_phrase``, let the policy continue), ``answer`` (append
    ``answer_phrase``, in which ``{answer}`` stands for the reference answer) or ``reference`` (the worked solution
    takes its place; ``answer`` where a problem has none) with these probabilities. At most ``max_new_tokens`` tokens
    are added; prompts of ``max_prompt_tokens`` or more are not corrected.

    ``amount``: ``all`` wrong rollouts, ``balanced`` (only as many as bring the group nearest to half right, so that it
    never collapses), or ``none``. ``guard``, for ``all``: one wrong rollout, drawn at random, stays as it is, so that
    no group can become all right.

    ``injected``: tokens that nobody sampled are trained as if ``on_policy``; or by ``likelihood``, out of the
    policy-gradient term and weighed with ``likelihood_weight``, in rows that ended right; or ``likelihood_only``: the
    policy-gradient term sees the rollouts and rewards as first sampled, and corrected rows join as likelihood rows
    beside them (the control with equal supervision: GRPO plus supervised learning of the same injections; drawn
    reflections, which inject no supervision, are not carried out). ``wrong_prefix``: the wrong attempt in front of an
    injection gets the row's advantage if ``credited``, but nothing positive if ``no_positive_credit``.

    Source:
        Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848; probabilities, phrases and budgets of the official training
        code, which corrects all, has no guard, trains injected tokens as if on-policy and credits the wrong attempt.
        ``likelihood_weight`` is this project's: about the share of a group that is injected.
    """

    amount: Literal["all", "balanced", "none"] = "all"
    reflect: float = Field(default=0.5, ge=0, le=1)
    answer: float = Field(default=0.25, ge=0, le=1)
    reference: float = Field(default=0.25, ge=0, le=1)
    reflect_phrase: str = " Wait! Something is wrong here."
    answer_phrase: str = "\nWait! Something is wrong here. After verification, the correct answer is \\boxed{{answer}}."
    max_new_tokens: int = Field(default=256, ge=1)
    max_prompt_tokens: int = Field(default=256, ge=1)
    guard: bool = True
    injected: Literal["on_policy", "likelihood", "likelihood_only"] = "on_policy"
    likelihood_weight: float = Field(default=0.3, ge=0)
    wrong_prefix: Literal["no_positive_credit", "credited"] = "no_positive_credit"

    @model_validator(mode="after")
    def _probabilities_sum_to_one(self) -> "Correction":
        total = self.reflect + self.answer + self.reference
        if abs(total - 1) > 1e-9:
            raise ValueError(f"reflect + answer + reference is {total:g}; the three probabilities must sum to 1")
        return self


@settings
class EntropyAdvantage:
    """Entropy-driven advantage: divide each advantage by the row's relative entropy, clamped.

    ``over``: the entropy of a row is the mean over its whole ``completion`` or over the tokens that the policy
    ``sampled`` (rows without any keep their advantage).

    Source:
        Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848, eq. 6 and 7; the clamp range stands in the official code as a
        comment.
    """

    enabled: bool = True
    over: Literal["completion", "sampled"] = "completion"
    clamp_low: float = Field(default=0.1, gt=0, le=1)
    clamp_high: float = Field(default=10.0, ge=1)


@final
@settings
class EdgeGrpo(ClippedFamily):
    r"""Entropy-driven GRPO with guided error correction.

    .. math::
        -\frac{1}{R} \sum_i \frac{1}{n_i} \sum_t \min(w_{i,t} \hat A_i,\;
        \operatorname{clip}(w_{i,t}, 1 - \epsilon, 1 + \epsilon) \hat A_i), \qquad
        \hat A_i = A_i \,\Big/\, \operatorname{clamp}\!\Big(\frac{P_i}{\operatorname{mean}_g P}, 0.1, 10\Big)

    with :math:`A_i` the group-normalised reward after correction and :math:`P_i` the mean token entropy of the row.
    Force-reflection is ``correction.reflect=1`` (``answer`` and ``reference`` 0); correction alone
    ``eda.enabled=false``; entropy-driven advantage alone ``correction.amount=none``.

    Source:
        Zhang et al. 2025, EDGE-GRPO, arXiv:2507.21848, eq. 3, 6 and 7. Settings of the official training script (clip
        0.2, beta 0). The release averages entropy over padding and over the micro-batch, differentiates through the
        division and does not clamp it.
    """

    kind: Literal["edge_grpo"] = "edge_grpo"
    correction: Correction = Field(default_factory=Correction)
    eda: EntropyAdvantage = Field(default_factory=EntropyAdvantage)

    # --- collection ---------------------------------------------------------------------------------------------------

    def plan(self, groups: Sequence[Group], rng: random.Random) -> list[Repair]:
        """Which wrong rollouts to correct and how.

        With ``amount="all"`` every wrong row draws its strategy once, in the first call; a repair that the collector
        had to skip is not tried again. With ``"balanced"`` further rows follow until half the group is right, a
        reflected one counting as its new grade says, or no untouched wrong row is left; the collector ends it when a
        whole round was skipped.
        """
        begun = any(row.strategy is not Strategy.NONE for group in groups for row in group.rows)
        if self.correction.amount == "none" or (self.correction.amount == "all" and begun):
            return []
        chosen = [(g, i) for g, group in enumerate(groups) for i in self._rows_to_correct(group, rng)]
        repairs = [self._repair(groups[g], g, i, self._draw(rng)) for g, i in chosen]
        if self.correction.injected == "likelihood_only":
            return [repair for repair in repairs if repair.strategy is not Strategy.REFLECT]
        return repairs

    def _rows_to_correct(self, group: Group, rng: random.Random) -> list[int]:
        if len(group.rows[0].rollout.prompt_ids) >= self.correction.max_prompt_tokens:
            return []
        scorable = [row for row in group.rows if row.grade.scorable]
        wrong = [i for i, row in enumerate(group.rows) if _is_wrong(row) and row.strategy is Strategy.NONE]
        if self.correction.amount == "balanced":
            missing = len(scorable) // 2 - sum(_counts_as_right(row) for row in scorable)
            return sorted(rng.sample(wrong, min(max(missing, 0), len(wrong))))
        spared = rng.choice(wrong) if wrong and self.correction.guard else None
        return [i for i in wrong if i != spared]

    def _draw(self, rng: random.Random) -> Strategy:
        number = rng.random()
        if number < self.correction.reflect:
            return Strategy.REFLECT
        return Strategy.ANSWER if number < self.correction.reflect + self.correction.answer else Strategy.REFERENCE

    def _repair(self, group: Group, index: int, row: int, strategy: Strategy) -> Repair:
        if strategy is Strategy.REFERENCE and not group.problem.solution:
            strategy = Strategy.ANSWER
        text = {
            Strategy.REFLECT: self.correction.reflect_phrase,
            Strategy.ANSWER: self.correction.answer_phrase.replace("{answer}", group.problem.answer),
            Strategy.REFERENCE: group.problem.solution,
        }[strategy]
        return Repair(index, row, strategy, text, self.correction.max_new_tokens)

    def arrange(self, groups: Sequence[Group]) -> list[Group]:
        """With ``likelihood_only``, corrected rows become two: as first sampled and, behind the group, as corrected."""
        if self.correction.injected != "likelihood_only":
            return list(groups)
        return [
            replace(group, rows=(*map(_as_sampled, group.rows), *(row for row in group.rows if row.first)))
            for group in groups
        ]

    def useful(self, group: Group) -> bool:
        """Whether the rewards that the policy-gradient term sees differ."""
        return not (group.collapsed_before if self.correction.injected == "likelihood_only" else group.collapsed)

    # --- training -----------------------------------------------------------------------------------------------------

    def signal(self, batch: Scored) -> Signal:
        """Group-normalised rewards over the rows' relative entropy, with injected text treated as the settings say."""
        injected = batch.segment == int(Segment.INJECTED)
        on_policy = self.correction.injected == "on_policy"
        beside = batch.corrected & (self.correction.injected == "likelihood_only")
        compared = batch.scorable & ~beside
        raw = self.row_advantages(batch, compared)
        signal = self.spread(
            batch,
            raw=raw,
            advantages=self.entropy_driven(batch, raw, compared),
            keep=filters.comparable(batch.group, compared) | (batch.scorable & beside),
            mask=batch.mask if on_policy else batch.mask & ~injected & ~beside[:, None],
        )
        if self.correction.wrong_prefix == "no_positive_credit":
            prefix = batch.segment == int(Segment.WRONG_PREFIX)
            signal = replace(signal, advantages=shaping.no_positive_credit(signal.advantages, prefix))
        if on_policy:
            return signal
        imitated = batch.mask & injected & (batch.correct & batch.scorable)[:, None]
        return replace(signal, likelihood=self.correction.likelihood_weight * imitated.to(batch.entropy.dtype))

    def entropy_driven(
        self, batch: Scored, raw: Float[Tensor, " rows"], keep: Bool[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """The advantages over the rows' relative entropy, if enabled."""
        if not self.eda.enabled:
            return raw
        sampled = batch.segment != int(Segment.INJECTED)
        mask = batch.mask & sampled if self.eda.over == "sampled" else batch.mask
        relative = shaping.relative_entropy(batch.entropy, mask, batch.group, keep)
        return shaping.entropy_driven_advantage(
            raw, relative, clamp_low=self.eda.clamp_low, clamp_high=self.eda.clamp_high
        )

    def totals(self, x: LossInputs) -> dict[str, float]:
        """Rows with a policy-gradient term and rows with a likelihood term, where the two differ."""
        if x.likelihood is None:
            return super().totals(x)
        return {
            **super().totals(x),
            "policy_rows": float(x.mask.any(-1).sum()),
            "likelihood_rows": float((x.likelihood > 0).any(-1).sum()),
        }

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over rows of the mean over tokens."""
        return means.mean_over_rows(values, mask, rows=totals.extra.get("policy_rows", totals.rows))

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """The clipped loss, plus the likelihood of injected text where that is asked for."""
        loss = super().loss(x, totals)
        if x.likelihood is None:
            return loss
        chosen = x.likelihood > 0
        values = terms.likelihood_loss(x.logprobs, x.likelihood, chosen)
        return loss + means.mean_over_rows(values, chosen, rows=totals.extra["likelihood_rows"])


def _is_wrong(row: Row) -> bool:
    return row.grade.scorable and not row.grade.correct


def _counts_as_right(row: Row) -> bool:
    return row.grade.correct or row.strategy in (Strategy.ANSWER, Strategy.REFERENCE)


def _as_sampled(row: Row) -> Row:
    return Row(*row.first) if row.first else row
