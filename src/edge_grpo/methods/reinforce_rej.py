"""Reinforce-Rej."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional.losses import clipped_loss
from edge_grpo.functional.rejection import standardized, uniform_groups
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods import _rewarded as rewarded
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["ReinforceRej"]


@final
@settings
class ReinforceRej(Method):
    r"""Reinforce on the prompts that are neither all right nor all wrong.

    .. math::
        -\frac{1}{|K|} \sum_{i \in K} \frac{1}{n_i} \sum_t \min(w_{i,t} r_i,\;
        \operatorname{clip}(w_{i,t}, 1 - \epsilon, 1 + \epsilon) r_i), \qquad
        K = \{i : \min_{g(i)} r < \max_{g(i)} r\}

    ``remove``: groups that are ``all_right``, ``all_wrong`` or ``both`` are rejected. ``center`` and ``scale`` subtract
    the group's mean reward and divide by its standard deviation; a kept group of equal rewards is not divided.
    ``delta=3`` is the release's dual clip. ``rejected`` and ``reward_values``: see ``_rewarded``.

    Source:
        Xiong et al. 2025, arXiv:2504.11343, eq. 4 and 5 and the ablation; clip and four updates per step of its
        scripts. Official code, ``adv_estimator=reinforce_rej``: as here with ``rejected="zero_advantage"``,
        ``aggregation="tokens"`` and ``delta=3``. With its rewards of 1 and 0 a wrong answer of a mixed prompt has
        advantage 0, and the method is RAFT++ on mixed prompts.
    """

    kind: Literal["reinforce_rej"] = "reinforce_rej"
    train_defaults: ClassVar[Mapping[str, Any]] = {"mini_batches": 4}
    clip_low: f.ClipLow = 0.2
    clip_high: f.ClipHigh = 0.2
    delta: f.RatioCap = None
    remove: Literal["both", "all_right", "all_wrong"] = "both"
    center: bool = False
    scale: bool = False
    rejected: rewarded.Rejected = "dropped"
    reward_values: rewarded.RewardValues = "signed"
    aggregation: f.Aggregation = "rows"

    # shared by all policy-gradient methods, documented in _policy_gradient.Modifiers
    ratio_level: f.RatioLevel = "token"
    beta: f.NonNegative = 0.0
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

    def useful(self, group: Group) -> bool:
        """Whether the group is kept."""
        grades = [row.grade for row in group.rows if row.grade.scorable]
        if len({rewarded.grade_value(grade, self.reward_values) for grade in grades}) > 1:
            return True
        return bool(grades) and self.remove == ("all_wrong" if all(g.correct for g in grades) else "all_right")

    def signal(self, batch: Scored) -> Signal:
        """Each token of a rollout whose group is not rejected receives the rollout's reward."""
        values = rewarded.rewards_of(batch, self.reward_values)
        advantages = standardized(values, batch.group, batch.scorable, center=self.center, scale=self.scale)
        right, wrong = self.remove != "all_wrong", self.remove != "all_right"
        uniform = uniform_groups(values, batch.correct, batch.group, batch.scorable, right=right, wrong=wrong)
        return rewarded.accepted_signal(
            batch, self, values=values, advantages=advantages, accepted=~uniform, rejected=self.rejected
        )

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
