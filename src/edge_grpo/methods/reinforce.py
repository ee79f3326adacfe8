"""Reinforce."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import Scored, Signal
from edge_grpo.functional.filters import comparable
from edge_grpo.functional.ops import where_mask
from edge_grpo.functional.rejection import standardized
from edge_grpo.methods.policy_gradient import Clipped
from edge_grpo.methods.rejection import Rewarded

__all__ = ["Reinforce"]


@final
@settings
class Reinforce(Rewarded, Clipped):
    r"""The reward itself as advantage, with the clipped ratio.

    .. math::
        -\frac{1}{R} \sum_i \frac{1}{n_i} \sum_t \min(w_{i,t} r_i,\;
        \operatorname{clip}(w_{i,t}, 1 - \epsilon, 1 + \epsilon) r_i), \qquad r_i \in \{-1, 1\}

    ``center`` subtracts the group's mean reward (the ablation's "mean zero") and ``scale`` divides by its standard
    deviation; both together are GRPO. ``delta=3`` is the release's dual clip.

    Source:
        Xiong et al. 2025, arXiv:2504.11343, eq. 4 and 5 (the printed eq. 5 has the reward on the clipped branch alone;
        eq. 4 and the code have it on both); clip and four updates a step of its scripts. Official code,
        ``policy_loss=plusplus``: mean over tokens, and a dual clip of 3, which the paper does not name.
    """

    kind: Literal["reinforce"] = "reinforce"
    train_defaults: ClassVar[Mapping[str, Any]] = {"mini_batches": 4}
    center: bool = False
    scale: bool = False

    def signal(self, batch: Scored) -> Signal:
        """Each token of a rollout receives the rollout's reward."""
        values = where_mask(self.values(batch), batch.scorable)
        advantages = standardized(values, batch.group, batch.scorable, center=self.center, scale=self.scale)
        keep = comparable(batch.group, batch.scorable) if self.center or self.scale else batch.scorable
        return self.spread(batch, raw=values, advantages=advantages, keep=keep, mask=batch.mask)
