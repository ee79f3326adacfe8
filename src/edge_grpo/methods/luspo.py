"""LUSPO."""

from typing import Literal, final

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import Totals
from edge_grpo.functional.means import mean_of_row_sums
from edge_grpo.methods.family import ClippedFamily

__all__ = ["Luspo"]


@final
@settings
class Luspo(ClippedFamily):
    r"""GSPO with each row weighed by its length, so that long rows are not diluted.

    .. math::
        -\frac{1}{R} \sum_i n_i \min(s_i A_i,\; \operatorname{clip}(s_i, 1 - \epsilon, 1 + \epsilon) A_i),
        \qquad s_i = \Big(\prod_t w_{i,t}\Big)^{1/n_i}

    Source:
        Length-Unbiased Sequence Policy Optimization, 2026, arXiv:2602.05261. TRL 1.16.0, ``loss_type="luspo"`` with
        ``importance_sampling_level="sequence"``: same. The half-widths are GSPO's (arXiv:2507.18071, section 5.1),
        because the ratio is.
    """

    kind: Literal["luspo"] = "luspo"
    ratio_level: Literal["token", "sequence"] = "sequence"
    clip_low: float = Field(default=3e-4, ge=0, le=1)
    clip_high: float = Field(default=4e-4, ge=0)

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over rows of the sum over tokens."""
        return mean_of_row_sums(values, mask, rows=totals.rows)
