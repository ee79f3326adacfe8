"""RAFT++."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs
from edge_grpo.functional import losses
from edge_grpo.methods.rejection import Positives

__all__ = ["RaftPp"]


@final
@settings
class RaftPp(Positives):
    r"""RAFT with the clipped ratio, which makes several updates a step sound.

    .. math::
        -\frac{1}{|K|} \sum_{i \in K} \frac{1}{n_i} \sum_t r_i \min(w_{i,t}, 1 + \epsilon_{high}),
        \qquad K = \{i : r_i > 0\}

    No advantage is negative, so the clip has no lower side and no dual one. ``clip_high`` of 0.28 (clip-higher) keeps
    more entropy; a very large one is the ratio without a clip, which the paper finds to be worse than plain RAFT.

    Source:
        Xiong et al. 2025, arXiv:2504.11343, eq. 6; clip and four updates a step of its scripts. Official code,
        ``adv_estimator=raft`` and ``policy_loss=plusplus``: as here with ``rejected="zero_advantage"`` and
        ``aggregation="tokens"``.
    """

    kind: Literal["raft_pp"] = "raft_pp"
    train_defaults: ClassVar[Mapping[str, Any]] = {"mini_batches": 4}
    clip_high: float = Field(default=0.2, ge=0)

    def token_losses(self, x: LossInputs, log_ratio: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens"]:
        """The surrogate, clipped above."""
        return losses.clipped_loss(log_ratio, x.advantages, x.mask, clip_low=1.0, clip_high=self.clip_high)

    def observe(self, x: LossInputs) -> Metrics:
        """Adds the share of tokens whose ratio left the clip range."""
        high = losses.clipped_high(self.log_ratio(x), x.advantages, clip_high=self.clip_high) & x.mask
        return {**super().observe(x), "clip/high": (float(high.sum()), float(x.mask.sum()))}
