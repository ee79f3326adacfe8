"""CISPO."""

from typing import Literal, final

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Totals
from edge_grpo.functional import losses
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.methods.family import Family

__all__ = ["Cispo"]


@final
@settings
class Cispo(Family):
    r"""Policy gradient with a capped ratio as a weight: every token keeps a gradient.

    .. math:: -\frac{1}{N} \sum_{i,t} \operatorname{sg}(\min(w_{i,t}, C)) \, A_i \log \pi_{i,t}

    Source:
        MiniMax 2025, MiniMax-M1, arXiv:2506.13585, eq. 4 and 5; the cap of 5 is that of ScaleRL, arXiv:2510.13786,
        since the paper gives none. TRL 1.16.0, ``loss_type="cispo"``, ``epsilon_high=5.0``: same.
    """

    kind: Literal["cispo"] = "cispo"
    cap: float = Field(default=5.0, gt=0)

    def token_losses(self, x: LossInputs, log_ratio: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens"]:
        """The log-likelihood, weighted with the advantage and the capped ratio."""
        return losses.cispo_loss(x.logprobs, log_ratio, x.advantages, x.mask, cap=self.cap)

    def observe(self, x: LossInputs) -> Metrics:
        """Adds the share of tokens whose ratio is capped and whose advantage is positive."""
        high = losses.clipped_high(self.log_ratio(x), x.advantages, clip_high=self.cap - 1) & x.mask
        return {**super().observe(x), "clip/high": (float(high.sum()), float(x.mask.sum()))}

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over all tokens of the update."""
        return mean_over_tokens(values, mask, tokens=totals.tokens)
