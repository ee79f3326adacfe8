"""GSPO."""

from typing import Literal, final

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import Totals
from edge_grpo.functional.means import mean_over_rows
from edge_grpo.methods.family import ClippedFamily

__all__ = ["Gspo"]


@final
@settings
class Gspo(ClippedFamily):
    r"""GRPO with one ratio a row, the geometric mean of its tokens' ratios.

    .. math::
        -\frac{1}{R} \sum_i \min(s_i A_i,\; \operatorname{clip}(s_i, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A_i),
        \qquad s_i = \Big(\prod_t w_{i,t}\Big)^{1/n_i}

    The clip range is that narrow because a mean over tokens moves little. It matters only where a step makes several
    updates: at the first one every ratio is 1 and the loss is GRPO's.

    Source:
        Zheng et al. 2025, GSPO, arXiv:2507.18071, eq. 5 to 7 and section 5.1 (3e-4, 4e-4). TRL 1.16.0,
        ``importance_sampling_level="sequence"`` with ``loss_type="grpo"``: same.
    """

    kind: Literal["gspo"] = "gspo"
    ratio_level: Literal["token", "sequence"] = "sequence"
    clip_low: float = Field(default=3e-4, ge=0, le=1)
    clip_high: float = Field(default=4e-4, ge=0)

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over rows of the mean over tokens."""
        return mean_over_rows(values, mask, rows=totals.rows)
