"""GRPO."""

from typing import Literal, final

from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import Totals
from edge_grpo.functional.means import mean_over_rows
from edge_grpo.methods.family import ClippedFamily

__all__ = ["Grpo"]


@final
@settings
class Grpo(ClippedFamily):
    r"""Group Relative Policy Optimization.

    .. math::
        -\frac{1}{R} \sum_i \frac{1}{n_i} \sum_t \min(w_{i,t} A_i,\;
        \operatorname{clip}(w_{i,t}, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A_i),
        \qquad A_i = \frac{r_i - \operatorname{mean}_g r}{\operatorname{std}_g r + 10^{-4}}

    Source:
        Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, eq. 3. Clip half-widths of 0.2 and a KL weight of 0 as in TRL
        and in the baseline of EDGE-GRPO (the paper: 0.04). TRL 1.16.0, ``loss_type="grpo"``: same.
    """

    kind: Literal["grpo"] = "grpo"

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over rows of the mean over tokens."""
        return mean_over_rows(values, mask, rows=totals.rows)
