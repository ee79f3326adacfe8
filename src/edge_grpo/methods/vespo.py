"""VESPO."""

from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional.losses import vespo_loss, vespo_weight
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["Vespo"]


@final
@settings
class Vespo(Method):
    r"""Policy gradient weighted by a gamma-shaped function of a whole row's ratio.

    .. math::
        -\frac{1}{N} \sum_{i,t} \operatorname{sg}(\phi_i) \, A_i \log \pi_{i,t}, \qquad
        \phi = W^{k} e^{\lambda (1 - W)}, \quad W = \prod_t w_{i,t}

    ``k_positive`` and ``lambda_positive``: k and lambda where the advantage is positive; ``k_negative`` and
    ``lambda_negative`` where it is negative. A sampler correction enters the row's ratio, not the loss, and is per
    token only.

    Source:
        Variational sEquence-level Soft Policy Optimization, 2026, arXiv:2602.10693; (k, lambda) = (2, 3) for positive
        and (3, 2) for negative advantages. TRL 1.16.0, ``loss_type="vespo"``: same.
    """

    kind: Literal["vespo"] = "vespo"
    k_positive: f.NonNegative = 2.0
    lambda_positive: f.NonNegative = 3.0
    k_negative: f.NonNegative = 3.0
    lambda_negative: f.NonNegative = 2.0
    scale: f.Scale = "group"
    objectives: f.Objectives = "sum_then_normalize"

    # shared by all policy-gradient methods, documented in _policy_gradient.Modifiers
    ratio_level: Literal["token"] = "token"
    beta: f.NonNegative = 0.0
    kl_bias_correction: bool = True
    kl_max: f.Positive | None = None
    off_policy_threshold: f.NonNegative | None = None
    entropy_quantile: f.Share = 1.0
    entropy_coef: f.NonNegative = 0.0
    sampler_correction: Literal["none", "token_truncate", "token_mask"] = "none"
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
        """Log-likelihood weighted by the row's weight, and KL, mean over all tokens, minus the entropy bonus."""
        log_w = pg.log_ratio(x, self.ratio_level)
        phi = vespo_weight(
            log_w,
            x.advantages,
            x.mask,
            None if self.sampler_correction == "none" else pg.sampler_weights(x, self).log(),
            k_positive=self.k_positive,
            lambda_positive=self.lambda_positive,
            k_negative=self.k_negative,
            lambda_negative=self.lambda_negative,
        )
        surrogate = pg.near_policy(vespo_loss(x.logprobs, phi, x.advantages, x.mask), x, self.off_policy_threshold)
        values = surrogate + self.beta * pg.reference_kl(x, log_w, self)
        loss = mean_over_tokens(values, x.mask, tokens=totals.tokens)
        return loss - pg.entropy_bonus(x, totals, self)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift from the old policy and the reference."""
        return pg.observe_drift(x, pg.log_ratio(x, self.ratio_level), self)
