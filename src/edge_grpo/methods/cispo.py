"""CISPO."""

from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional.losses import cispo_loss, clipped_high
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["Cispo"]


@final
@settings
class Cispo(Method):
    r"""Policy gradient with a capped ratio as a weight: every token keeps a gradient.

    .. math:: -\frac{1}{N} \sum_{i,t} \operatorname{sg}(\min(w_{i,t}, C)) \, A_i \log \pi_{i,t}

    ``cap``: C, the largest weight.

    Source:
        MiniMax 2025, MiniMax-M1, arXiv:2506.13585, eq. 4 and 5; the cap of 5 is that of ScaleRL, arXiv:2510.13786,
        since the paper gives none. TRL 1.16.0, ``loss_type="cispo"``, ``epsilon_high=5.0``: same.
    """

    kind: Literal["cispo"] = "cispo"
    cap: f.Positive = 5.0
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
        """Log-likelihood weighted by the capped ratio, and KL, mean over all tokens, minus the entropy bonus."""
        log_w = pg.log_ratio(x, self.ratio_level)
        surrogate = cispo_loss(x.logprobs, log_w, x.advantages, x.mask, cap=self.cap)
        values = pg.off_policy_corrected(surrogate, x, self) + self.beta * pg.reference_kl(x, log_w, self)
        loss = mean_over_tokens(values, x.mask, tokens=totals.tokens)
        return loss - pg.entropy_bonus(x, totals, self)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift from the old policy and the reference, and the share of tokens with a capped ratio."""
        log_w = pg.log_ratio(x, self.ratio_level)
        high = clipped_high(log_w, x.advantages, clip_high=self.cap - 1) & x.mask
        return pg.observe_drift(x, log_w, self) | {"clip/high": (float(high.sum()), float(x.mask.sum()))}
