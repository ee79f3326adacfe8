"""SAPO."""

from typing import Literal, final

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Totals
from edge_grpo.functional.losses import sapo_loss
from edge_grpo.functional.means import mean_over_rows
from edge_grpo.methods.family import Family

__all__ = ["Sapo"]


@final
@settings
class Sapo(Family):
    r"""A sigmoid gate in place of the clip, steeper where the advantage is negative.

    .. math::
        -\frac{1}{R} \sum_i \frac{1}{n_i} \sum_t \frac{4}{\tau_i} \sigma(\tau_i (w_{i,t} - 1)) \, A_i

    Source:
        Gao et al. 2025, Soft Adaptive Policy Optimization, arXiv:2511.20347; temperatures 1.0 and 1.05. TRL 1.16.0,
        ``loss_type="sapo"``: same.
    """

    kind: Literal["sapo"] = "sapo"
    temperature_positive: float = Field(default=1.0, gt=0)
    temperature_negative: float = Field(default=1.05, gt=0)

    def token_losses(self, x: LossInputs, log_ratio: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens"]:
        """The gated surrogate."""
        return sapo_loss(
            log_ratio,
            x.advantages,
            x.mask,
            temperature_positive=self.temperature_positive,
            temperature_negative=self.temperature_negative,
        )

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over rows of the mean over tokens."""
        return mean_over_rows(values, mask, rows=totals.rows)
