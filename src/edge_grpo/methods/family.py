"""What the methods of the GRPO family share: advantages relative to the group, and their settings."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import Scored, Signal
from edge_grpo.functional import advantages as adv
from edge_grpo.functional import filters
from edge_grpo.methods.policy_gradient import Clipped, PolicyGradient

__all__ = ["ClippedFamily", "Family"]


@settings
class Family(PolicyGradient):
    """Group-relative policy gradient.

    ``scale`` (TRL: ``scale_rewards``): what a centred reward is divided by. ``objectives``
    (``multi_objective_aggregation``): weighted sum of the reward parts first, or GDPO.

    Source:
        Shao et al. 2024, DeepSeekMath, arXiv:2402.03300 (its beta of 0.04 became 0 in later practice); the defaults are
        those of TRL 1.16.0.
    """

    scale: Literal["group", "batch", "none"] = "group"
    objectives: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"

    def row_advantages(self, batch: Scored, scorable: Bool[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """How much better than its group each rollout was; 0 for rows that are not ``scorable``."""
        if self.objectives == "normalize_then_sum":
            parts = torch.where(scorable[:, None], batch.reward_parts, torch.nan)
            return adv.normalized_then_summed(parts, batch.reward_weights, batch.group)
        scaled = {"group": adv.group_normalized, "batch": adv.batch_scaled, "none": adv.group_centered}[self.scale]
        return scaled(batch.reward, batch.group, scorable)

    def signal(self, batch: Scored) -> Signal:
        """Each token of a rollout receives the rollout's advantage."""
        raw = self.row_advantages(batch, batch.scorable)
        keep = filters.comparable(batch.group, batch.scorable)
        return self.spread(batch, raw=raw, advantages=raw, keep=keep, mask=batch.mask)


@settings
class ClippedFamily(Family, Clipped):
    """The part of the family with PPO's clipped ratio."""
