"""Unlikeliness reward: among right answers, the unlikely ones are worth more."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group, Row
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional.advantages import group_normalized
from edge_grpo.functional.filters import comparable
from edge_grpo.functional.losses import clipped_loss
from edge_grpo.functional.ops import row_mean, row_sum, where_mask
from edge_grpo.functional.ranks import unlikeliness_reward
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["Unlikeliness"]


@final
@settings
class Unlikeliness(Method):
    r"""GRPO in which a right answer earns less the likelier it was among the answers of its group.

    .. math::
        -\frac{1}{N} \sum_{i,t} \min(w_{i,t} A_i,\; \operatorname{clip}(w_{i,t}, 1 - \epsilon, 1 + \epsilon) A_i)
        + \beta \operatorname{KL}, \qquad
        A_i = \frac{r'_i - \operatorname{mean}_g r'}{\operatorname{std}_g r' + \epsilon_\sigma}, \qquad
        r'_i = r_i \Big(1 - b \frac{a_i}{n}\Big)

    with rank 0 for the least likely of a group's n answers, right and wrong. ``penalty``: b, the weight of the ranks.
    ``likelihood``: ranks by the ``mean`` or the ``sum`` of a row's log-probs. ``first_rank``: the least likely answer's
    rank, 0 or 1. ``reward_values``: r is 1 or 0 for ``correct`` or not, or the ``run``'s own reward. ``std_eps``: added
    to the deviation.

    ``drop_uniform``: groups of equal rewards are not trained; otherwise ranks alone push an all-right group, however
    small b is. ``wrong_rows``: ``dropped`` is the baseline of supervised learning on right answers; nothing is left to
    compare, so the reward itself is the advantage. ``max_rows``: at most this many rows per group, in sampling order.

    Source:
        He et al. 2025, "Rewarding the Unlikely", arXiv:2506.02355. b, ``std_eps``, two passes, clip 0.2, KL weight 0.1
        (without bias correction, bounded by 10), mean over tokens, filter and ``first_rank`` 0 of the official code;
        summaries of the paper give ``first_rank`` 1. Official code: skips updates with a gradient norm above 20,
        averages KL over tokens.
    """

    kind: Literal["unlikeliness"] = "unlikeliness"
    train_defaults: ClassVar[Mapping[str, Any]] = {"passes": 2}
    clip_low: f.ClipLow = 0.2
    clip_high: f.ClipHigh = 0.2
    delta: f.RatioCap = None
    penalty: f.Fraction = 0.25
    likelihood: Literal["mean", "sum"] = "mean"
    first_rank: Literal[0, 1] = 0
    reward_values: Literal["correct", "run"] = "correct"
    std_eps: f.Positive = 1e-6
    aggregation: f.Aggregation = "tokens"
    drop_uniform: bool = True
    wrong_rows: Literal["compared", "dropped"] = "compared"
    max_rows: f.Count | None = None

    # shared by all policy-gradient methods, documented in _policy_gradient.Modifiers
    ratio_level: f.RatioLevel = "token"
    beta: f.NonNegative = 0.1
    kl_bias_correction: bool = False
    kl_max: f.Positive | None = 10.0
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

    # --- collection ---------------------------------------------------------------------------------------------------

    def value(self, row: Row) -> float:
        """The reward of a row, as configured."""
        return float(row.grade.correct) if self.reward_values == "correct" else row.grade.reward

    def compared(self, group: Group) -> Group:
        """The rows with the rewards that are configured."""
        rows = (replace(row, grade=replace(row.grade, reward=self.value(row))) for row in group.rows)
        return replace(group, rows=tuple(rows))

    def arrange(self, groups: Sequence[Group]) -> list[Group]:
        """The groups and rows that are trained; emptied groups are dropped."""
        chosen = [group for group in groups if self.useful(group) or not self.drop_uniform]
        kept = [(group, self._rows(group)) for group in chosen]
        return [replace(group, rows=rows) for group, rows in kept if rows]

    def _rows(self, group: Group) -> tuple[Row, ...]:
        rows = [row for row in group.rows if self.wrong_rows == "compared" or row.grade.correct]
        return tuple(rows[: self.max_rows])

    # --- training -----------------------------------------------------------------------------------------------------

    def signal(self, batch: Scored) -> Signal:
        """Rewards shaped by rank, then compared within the group."""
        scorable = batch.scorable
        values = batch.correct.to(batch.reward.dtype) if self.reward_values == "correct" else batch.reward
        values = where_mask(values, scorable)
        scores = (row_mean if self.likelihood == "mean" else row_sum)(batch.old_logprobs, batch.mask)
        shaped = unlikeliness_reward(
            values, scores, batch.group, scorable, penalty=self.penalty, first_rank=self.first_rank
        )
        if self.wrong_rows == "dropped":
            return pg.spread(batch, self, raw=values, advantages=shaped, keep=scorable & batch.correct)
        raw = group_normalized(values, batch.group, scorable, eps=self.std_eps, singleton="zero")
        advantages = group_normalized(shaped, batch.group, scorable, eps=self.std_eps, singleton="zero")
        signal = pg.spread(batch, self, raw=raw, advantages=advantages, keep=comparable(batch.group, scorable))
        right = scorable & batch.correct
        negative = (float((right & (advantages < 0)).sum()), float(right.sum()))
        return replace(signal, metrics=signal.metrics | {"unlikeliness/right_but_negative": negative})

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """Clipped surrogate and KL, averaged according to ``aggregation``, minus the entropy bonus."""
        log_w = pg.log_ratio(x, self.ratio_level)
        surrogate = clipped_loss(
            log_w, x.advantages, x.mask, clip_low=self.clip_low, clip_high=self.clip_high, delta=self.delta
        )
        values = pg.off_policy_corrected(surrogate, x, self) + self.beta * pg.reference_kl(x, log_w, self)
        loss = pg.mean_over(self.aggregation, values, x, totals)
        return loss - pg.entropy_bonus(x, totals, self)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift from the old policy and the reference, and the shares of clipped tokens."""
        return pg.observe_clipped(x, self)
