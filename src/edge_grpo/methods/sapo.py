"""SAPO."""

from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional.losses import sapo_loss
from edge_grpo.functional.means import mean_over_rows
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["Sapo"]


@final
@settings
class Sapo(Method):
    r"""A sigmoid gate in place of the clip, steeper where the advantage is negative.

    .. math::
        -\frac{1}{R} \sum_i \frac{1}{n_i} \sum_t \frac{4}{\tau_i} \sigma(\tau_i (w_{i,t} - 1)) \, A_i

    ``temperature_positive`` and ``temperature_negative``: tau where the advantage is positive or negative.

    Source:
        Gao et al. 2025, Soft Adaptive Policy Optimization, arXiv:2511.20347; temperatures 1.0 and 1.05. TRL 1.16.0,
        ``loss_type="sapo"``: same.
    """

    kind: Literal["sapo"] = "sapo"
    temperature_positive: f.Positive = 1.0
    temperature_negative: f.Positive = 1.05
    scale: f.Scale = "group"
    objectives: f.Objectives = "sum_then_normalize"

    # shared by all policy-gradient methods, documented in _policy_gradient.Modifiers
    ratio_level: f.RatioLevel = "token"
    beta: f.NonNegative = 0.0
    kl_bias_correction: bool = True
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

    def signal(self, batch: Scored) -> Signal:
        """Each token of a rollout receives the rollout's advantage."""
        return pg.group_signal(batch, self)

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """Gated surrogate and KL, mean over rows of the mean over tokens, minus the entropy bonus."""
        log_w = pg.log_ratio(x, self.ratio_level)
        surrogate = sapo_loss(
            log_w,
            x.advantages,
            x.mask,
            temperature_positive=self.temperature_positive,
            temperature_negative=self.temperature_negative,
        )
        values = pg.off_policy_corrected(surrogate, x, self) + self.beta * pg.reference_kl(x, log_w, self)
        loss = mean_over_rows(values, x.mask, rows=totals.rows)
        return loss - pg.entropy_bonus(x, totals, self)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift from the old policy and the reference."""
        return pg.observe_drift(x, pg.log_ratio(x, self.ratio_level), self)
