"""BNPO, as TRL names it."""

from typing import Literal, final

from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import Totals
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.methods.family import ClippedFamily

__all__ = ["Bnpo"]


@final
@settings
class Bnpo(ClippedFamily):
    r"""The clipped loss of GRPO, averaged over all tokens of the update.

    .. math::
        -\frac{1}{N} \sum_{i,t} \min(w_{i,t} A_i,\; \operatorname{clip}(w_{i,t}, 1 - \epsilon, 1 + \epsilon) A_i)

    Source:
        TRL 1.16.0, ``loss_type="bnpo"``, which averages over each micro-batch, so that its value changes with the
        micro-batch size; here all tokens of the update count once. With one micro-batch an update both are the same,
        and both are DAPO's loss with equal half-widths. The Beta normalisation of rewards in the paper of that name
        (Xiao et al. 2025, arXiv:2506.02864) is in neither.
    """

    kind: Literal["bnpo"] = "bnpo"

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over all tokens of the update."""
        return mean_over_tokens(values, mask, tokens=totals.tokens)
