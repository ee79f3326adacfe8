"""Reinforce."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional.filters import comparable
from edge_grpo.functional.losses import clipped_loss
from edge_grpo.functional.rejection import standardized
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods import _rewarded as rewarded
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["Reinforce"]


@final
@settings
class Reinforce(Method):
    r"""The reward itself as advantage, with the clipped ratio.

    .. math::
        -\frac{1}{R} \sum_i \frac{1}{n_i} \sum_t \min(w_{i,t} r_i,\;
        \operatorname{clip}(w_{i,t}, 1 - \epsilon, 1 + \epsilon) r_i), \qquad r_i \in \{-1, 1\}

    ``center`` subtracts the group's mean reward (the ablation's "mean zero") and ``scale`` divides by its standard
    deviation; both together are GRPO. ``delta=3`` is the release's dual clip.
    ``reward_values``: see ``_rewarded``.

    Source:
        Xiong et al. 2025, arXiv:2504.11343, eq. 4 and 5 (the printed eq. 5 has the reward on the clipped branch alone;
        eq. 4 and the code have it on both); clip and four updates per step of its scripts. Official code,
        ``policy_loss=plusplus``: mean over tokens, and a dual clip of 3, which the paper does not mention.
    """

    kind: Literal["reinforce"] = "reinforce"
    train_defaults: ClassVar[Mapping[str, Any]] = {"mini_batches": 4}
    clip_low: f.ClipLow = 0.2
    clip_high: f.ClipHigh = 0.2
    delta: f.RatioCap = None
    center: bool = False
    scale: bool = False
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

    def signal(self, batch: Scored) -> Signal:
        """Each token of a rollout receives the rollout's reward."""
        values = rewarded.rewards_of(batch, self.reward_values)
        advantages = standardized(values, batch.group, batch.scorable, center=self.center, scale=self.scale)
        keep = comparable(batch.group, batch.scorable) if self.center or self.scale else batch.scorable
        return pg.spread(batch, self, raw=values, advantages=advantages, keep=keep)

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
