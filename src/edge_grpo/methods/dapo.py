"""DAPO."""

from typing import Literal, final

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import Totals
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.methods.base import TopUp
from edge_grpo.methods.family import ClippedFamily

__all__ = ["Dapo"]


@final
@settings
class Dapo(ClippedFamily):
    r"""GRPO with a wider clip above, a mean over tokens, and prompts drawn again while groups are collapsed.

    .. math::
        -\frac{1}{N} \sum_{i,t} \min(w_{i,t} A_i,\;
        \operatorname{clip}(w_{i,t}, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A_i),
        \qquad 0 < |\{i \in g : o_i \text{ right}\}| < G

    Source:
        Yu et al. 2025, DAPO, arXiv:2503.14476, eq. 8 to 12; half-widths of section 4.1, no KL term (section 2.3). The
        paper sets no bound on dynamic sampling; 10 rounds are the bound of verl's DAPO recipe. A group counts as useful
        when its rewards differ. ``mask_unfinished`` is the paper's overlong filtering; its soft punishment of overlong
        answers is a reward, not part of the method here. TRL 1.16.0, ``loss_type="dapo"``: same loss, no dynamic
        sampling.
    """

    kind: Literal["dapo"] = "dapo"
    clip_high: float = Field(default=0.28, ge=0)
    top_up: TopUp = Field(default_factory=lambda: TopUp(max_rounds=10, fill=False))

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over all tokens of the update."""
        return mean_over_tokens(values, mask, tokens=totals.tokens)
