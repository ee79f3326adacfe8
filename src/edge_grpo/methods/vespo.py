"""VESPO."""

from typing import Literal, final

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Totals
from edge_grpo.functional.losses import vespo_loss, vespo_weight
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.methods.family import Family

__all__ = ["Vespo"]


@final
@settings
class Vespo(Family):
    r"""Policy gradient weighted with a gamma-shaped function of a whole row's ratio.

    .. math::
        -\frac{1}{N} \sum_{i,t} \operatorname{sg}(\phi_i) \, A_i \log \pi_{i,t}, \qquad
        \phi = W^{k} e^{\lambda (1 - W)}, \quad W = \prod_t w_{i,t}

    A sampler correction enters the row's ratio, not the loss, and is by token only.

    Source:
        Variational sEquence-level Soft Policy Optimization, 2026, arXiv:2602.10693; (k, lambda) = (2, 3) for positive
        and (3, 2) for negative advantages. TRL 1.16.0, ``loss_type="vespo"``: same.
    """

    kind: Literal["vespo"] = "vespo"
    ratio_level: Literal["token"] = "token"
    sampler_correction: Literal["none", "token_truncate", "token_mask"] = "none"
    k_positive: float = Field(default=2.0, ge=0)
    lambda_positive: float = Field(default=3.0, ge=0)
    k_negative: float = Field(default=3.0, ge=0)
    lambda_negative: float = Field(default=2.0, ge=0)

    def token_losses(self, x: LossInputs, log_ratio: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens"]:
        """The log-likelihood, weighted with the advantage and the row's weight."""
        weight = vespo_weight(
            log_ratio,
            x.advantages,
            x.mask,
            None if self.sampler_correction == "none" else self.sampler_weights(x).log(),
            k_positive=self.k_positive,
            lambda_positive=self.lambda_positive,
            k_negative=self.k_negative,
            lambda_negative=self.lambda_negative,
        )
        return vespo_loss(x.logprobs, weight, x.advantages, x.mask)

    def corrected_for_sampler(
        self, x: LossInputs, values: Float[Tensor, "rows tokens"]
    ) -> Float[Tensor, "rows tokens"]:
        """Nothing more: the correction is in the row's ratio already."""
        return values

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over all tokens of the update."""
        return mean_over_tokens(values, mask, tokens=totals.tokens)
