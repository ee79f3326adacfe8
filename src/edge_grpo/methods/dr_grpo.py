"""Dr. GRPO."""

from typing import Literal, final

from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import Totals
from edge_grpo.functional.means import mean_over_budget
from edge_grpo.methods.family import ClippedFamily

__all__ = ["DrGrpo"]


@final
@settings
class DrGrpo(ClippedFamily):
    r"""GRPO done right: no division by the length of a row or by the deviation of a group.

    .. math::
        -\frac{1}{R L} \sum_{i,t} \min(w_{i,t} A_i,\; \operatorname{clip}(w_{i,t}, 1 - \epsilon, 1 + \epsilon) A_i),
        \qquad A_i = r_i - \operatorname{mean}_g r

    Source:
        Liu et al. 2025, Dr. GRPO, arXiv:2503.20783, section 3.2; no KL term as there. TRL 1.16.0,
        ``loss_type="dr_grpo"`` with ``scale_rewards="none"``: same.
    """

    kind: Literal["dr_grpo"] = "dr_grpo"
    scale: Literal["group", "batch", "none"] = "none"

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Sum over tokens, divided by rows times the completion budget."""
        return mean_over_budget(values, mask, rows=totals.rows, max_new_tokens=totals.max_new_tokens)
