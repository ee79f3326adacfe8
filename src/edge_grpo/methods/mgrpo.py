"""MGRPO: the policy revises its own answers in a second turn, and both turns are trained with GRPO."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.base.text import lone_surrogate
from edge_grpo.data.prompts import REVISION_PHRASES
from edge_grpo.functional import filters
from edge_grpo.functional.losses import clipped_loss
from edge_grpo.functional.means import mean_over_rows
from edge_grpo.functional.ops import group_max, where_mask
from edge_grpo.functional.relative import relative_reward, standardized_reward
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.base import Ask, Method, Needs, TopUp

__all__ = ["Mgrpo"]

LAYERS = (1, 2)


def _checked_phrase(phrase: str) -> str:
    """The phrase, unless it is empty or no tokenizer accepts it."""
    if wrong := lone_surrogate(phrase) or ("" if phrase.strip() else "wanted some text"):
        raise ValueError(wrong)
    return phrase


@final
@settings
class Mgrpo(Method):
    r"""Multi-Layer GRPO: answers, and revisions of each answer, each layer with a GRPO term of its own.

    .. math::
        L_1 + \lambda_2 L_2, \qquad L_k = -\frac{1}{R_k} \sum_{i \in \text{layer } k} \frac{1}{n_i} \sum_t
        \min(w_{i,t} A_i,\; \operatorname{clip}(w_{i,t}, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A_i)

    with :math:`R_k` the kept rows of the layer in the update. A revision sees question, answer and a phrase drawn from
    ``phrases``, which reveals nothing about the answer; only the revision is trained, never the answer copied into its
    prompt.

    ``revisions``: how many per answer, all with one phrase. ``lambda2``: weight of the second layer. ``l2_grouping``:
    revisions are compared with those of the same answer (``per_response``) or of the question. ``l2_filter``, applied
    to computed advantages: nothing is dropped (``none``); the revisions of an answer are dropped if none is right
    (``group_any_success``); wrong revisions are masked too (``sample_success``, which learns from successes alone).
    ``std``, ``std_eps``: what a centred reward is divided by.

    Source:
        Ding et al. 2025, MGRPO, arXiv:2506.04746; no official code was found and its full text was not available: the
        objective is that of the abstract and of secondary sources. This project's documented choices: grouping by
        answer, the filter, lambda2 1, one optimizer step for both layers (sampled by one policy), number of revisions,
        phrases, and a plain k3 KL. GRPO's clip of 0.2 and KL weight 0.
    """

    kind: Literal["mgrpo"] = "mgrpo"
    clip_low: f.ClipLow = 0.2
    clip_high: f.ClipHigh = 0.2
    delta: f.RatioCap = None
    revisions: f.Count = 4
    phrases: tuple[Annotated[str, AfterValidator(_checked_phrase)], ...] = Field(default=REVISION_PHRASES, min_length=1)
    lambda2: f.NonNegative = 1.0
    l2_grouping: Literal["per_response", "per_question"] = "per_response"
    l2_filter: Literal["none", "group_any_success", "sample_success"] = "group_any_success"
    std: Literal["sample", "population", "none"] = "sample"
    std_eps: f.NonNegative = 1e-6

    # shared by all policy-gradient methods, documented in _policy_gradient.Modifiers
    ratio_level: f.RatioLevel = "token"
    beta: f.NonNegative = 0.0
    kl_bias_correction: bool = False
    kl_max: f.Positive | None = None
    off_policy_threshold: f.NonNegative | None = None
    entropy_quantile: f.Share = 1.0
    entropy_coef: f.NonNegative = 0.0
    sampler_correction: f.SamplerCorrection = "none"
    sampler_clip_max: f.Positive = 3.0
    mask_unfinished: bool = False
    top_up: TopUp = TopUp()

    @property
    def needs(self) -> Needs:
        """What the modifiers need."""
        return pg.needs_of(self)

    @model_validator(mode="after")
    def _revisions_can_be_compared(self) -> "Mgrpo":
        if self.revisions < 2 and self.l2_grouping == "per_response":
            raise ValueError("revisions is 1: want at least 2, or l2_grouping=per_question")
        return self

    # --- collection ---------------------------------------------------------------------------------------------------

    def plan(self, groups: Sequence[Group], rng: random.Random) -> list[Ask]:
        """Revisions of every answer that could be graded, all requested in the first call."""
        if any(group.layer == 2 for group in groups):
            return []
        return [
            Ask(index, row, rng.choice(self.phrases), self.revisions)
            for index, group in enumerate(groups)
            for row, answer in enumerate(group.rows)
            if answer.grade.scorable
        ]

    # --- training -----------------------------------------------------------------------------------------------------

    def signal(self, batch: Scored) -> Signal:
        """Each layer's rewards relative to its own groups, then filtered."""
        first, second = ((batch.layer == layer) & batch.scorable for layer in LAYERS)
        pool = batch.group if self.l2_grouping == "per_response" else batch.family
        raw = where_mask(self.standing(batch.reward, batch.group, first), first)
        raw = raw + where_mask(self.standing(batch.reward, pool, second), second)
        keep = filters.comparable(batch.group, first) | (filters.comparable(pool, second) & self.passing(batch))
        mask = batch.mask
        if self.l2_filter == "sample_success":
            mask = mask & ((batch.layer == 1) | batch.correct)[:, None]
        signal = pg.spread(batch, self, raw=raw, advantages=raw, keep=keep, mask=mask)
        return replace(signal, metrics={**signal.metrics, **_transitions(batch, where_mask(raw, keep))})

    def standing(
        self, reward: Float[Tensor, " rows"], group: Int[Tensor, " rows"], counted: Bool[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """Reward relative to the counted rows of the group, scaled as configured."""
        if self.std == "none":
            return relative_reward(reward, group, counted)
        return standardized_reward(reward, group, counted, eps=self.std_eps, ddof=1 if self.std == "sample" else 0)

    def passing(self, batch: Scored) -> Bool[Tensor, " rows"]:
        """Revisions of answers that the filter lets through."""
        if self.l2_filter == "none":
            return torch.ones_like(batch.correct)
        return group_max(batch.correct.to(batch.reward.dtype), batch.group, batch.scorable) > 0

    def totals(self, x: LossInputs) -> dict[str, float]:
        """Everything that the loss divides by, for each layer."""
        sums: dict[str, float] = {}
        for layer in LAYERS:
            own = _layer(x, layer)
            counts = {"rows": float(own.keep.sum()), "tokens": float(own.mask.sum()), **super().totals(own)}
            sums |= {f"{name}/{layer}": amount for name, amount in counts.items()}
        return sums

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """The terms of both layers."""
        return self.layer_loss(x, totals, 1) + self.lambda2 * self.layer_loss(x, totals, 2)

    def layer_loss(self, x: LossInputs, totals: Totals, layer: int) -> Float[Tensor, ""]:
        """One layer: clipped surrogate and KL, mean over rows of the mean over tokens, minus the entropy bonus."""
        x, totals = _layer(x, layer), _layer_totals(totals, layer)
        log_w = pg.log_ratio(x, self.ratio_level)
        surrogate = clipped_loss(
            log_w, x.advantages, x.mask, clip_low=self.clip_low, clip_high=self.clip_high, delta=self.delta
        )
        values = pg.off_policy_corrected(surrogate, x, self) + self.beta * pg.reference_kl(x, log_w, self)
        loss = mean_over_rows(values, x.mask, rows=totals.rows)
        return loss - pg.entropy_bonus(x, totals, self)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift from the old policy and the reference, and the shares of clipped tokens."""
        return pg.observe_clipped(x, self)


def _layer(x: LossInputs, layer: int) -> LossInputs:
    """The rows of one layer; the others lose their mask."""
    rows = x.layer == layer
    return replace(x, mask=x.mask & rows[:, None], acting=x.acting & rows[:, None], keep=x.keep & rows)


def _layer_totals(totals: Totals, layer: int) -> Totals:
    """The totals of one layer."""
    mine = {name.removesuffix(f"/{layer}"): n for name, n in totals.extra.items() if name.endswith(f"/{layer}")}
    return Totals(mine["rows"], mine["tokens"], totals.max_new_tokens, mine)


def _transitions(batch: Scored, advantages: Float[Tensor, " rows"]) -> Metrics:
    """Accuracy of answers and of their revisions, what became of right and wrong answers, and where the signal is."""
    first, second = ((batch.layer == layer) & batch.scorable for layer in LAYERS)
    pairs = second & (batch.parent >= 0) & batch.scorable[batch.parent.clamp(min=0)]
    before, after = batch.correct[batch.parent.clamp(min=0)][pairs], batch.correct[pairs]
    count = float(pairs.sum())

    def share(flags: Tensor) -> tuple[float, float]:
        return float(flags.sum()), count

    _, family = batch.family.unique(return_inverse=True)
    families = int(family.max()) + 1

    def has_signal(rows: Tensor) -> Tensor:
        return torch.bincount(family[rows & (advantages != 0)], minlength=families) > 0

    return {
        "mgrpo/acc_t1": (float(batch.correct[first].sum()), float(first.sum())),
        "mgrpo/acc_t1_pairs": share(before),
        "mgrpo/acc_t2": share(after),
        "mgrpo/delta": (float(after.sum()) - float(before.sum()), count),
        "mgrpo/wrong_to_right": share(~before & after),
        "mgrpo/right_to_wrong": share(before & ~after),
        "mgrpo/only_layer_2": (float((has_signal(second) & ~has_signal(first)).sum()), float(families)),
    }
