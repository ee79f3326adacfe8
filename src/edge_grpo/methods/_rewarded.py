"""What RAFT, RAFT++, Reinforce and Reinforce-Rej share: the reward itself as advantage, and rejected rows."""

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.base.records import Grade
from edge_grpo.base.tensors import Scored, Signal
from edge_grpo.functional.ops import group_max, where_mask
from edge_grpo.functional.rejection import signed_reward
from edge_grpo.methods._policy_gradient import Modifiers, spread

__all__ = [
    "Accept",
    "Rejected",
    "RewardValues",
    "accepted_signal",
    "grade_value",
    "is_positive",
    "positive_rows",
    "rewards_of",
]

RewardValues = Literal["signed", "run"]
"""``signed``: 1 for a right answer and -1 for a wrong one; ``run``: the rewards of the ``reward`` section.

Xiong et al. 2025, arXiv:2504.11343, eq. 4 to 6 (``signed``, and mean over rows). Official code: rewards 1 and 0
(``run`` with ``reward.format_weight=0``), mean over tokens, KL without bias correction and bounded by 10, and KL and
entropy weights of 0.001, which the paper does not mention.
"""

Rejected = Literal["dropped", "zero_advantage"]
"""Rejected rows leave every sum and count (the paper), or stay with advantage 0 (the official code).

With advantage 0 they count in the mean, which makes the step smaller, and the KL and entropy terms act on them.
"""

Accept = Literal["best", "positive"]
"""Every rollout with a ``positive`` reward (the official code), or those with the ``best`` of their prompt (the paper).

The two are the same for right and wrong (``reward_values=signed``) and differ for graded rewards.
"""


def rewards_of(batch: Scored, kind: RewardValues) -> Float[Tensor, " rows"]:
    """The reward of each rollout, 0 for rows that are not scorable."""
    values = batch.reward if kind == "run" else signed_reward(batch.correct).to(batch.reward.dtype)
    return where_mask(values, batch.scorable)


def grade_value(grade: Grade, kind: RewardValues) -> float:
    """The same for one graded rollout."""
    return grade.reward if kind == "run" else 2.0 * grade.correct - 1.0


def is_positive(grade: Grade, kind: RewardValues) -> bool:
    """Whether the rollout has a positive reward."""
    return grade.scorable and grade_value(grade, kind) > 0


def positive_rows(batch: Scored, values: Float[Tensor, " rows"], accept: Accept) -> Bool[Tensor, " rows"]:
    """Rows with a positive reward; with ``best``, only those with the highest reward of their group."""
    positive = values > 0
    if accept == "best":
        positive = positive & (values == group_max(values, batch.group, batch.scorable))
    return positive


def accepted_signal(
    batch: Scored,
    method: Modifiers,
    *,
    values: Float[Tensor, " rows"],
    advantages: Float[Tensor, " rows"],
    accepted: Bool[Tensor, " rows"],
    rejected: Rejected,
) -> Signal:
    """The signal in which the tokens of accepted rows have their advantage, and rejected rows none."""
    accepted = accepted & batch.scorable
    keep = accepted if rejected == "dropped" else batch.scorable
    return spread(batch, method, raw=values, advantages=where_mask(advantages, accepted), keep=keep)
