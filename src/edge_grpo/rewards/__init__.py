r"""Rewards: find the boxed answer, compare it with the reference, in processes that can be killed.

Importing this package imports neither torch nor sympy.
"""

from edge_grpo.rewards.answers.equality import GradedAnswer, grade_answer
from edge_grpo.rewards.answers.extract import boxed_answer
from edge_grpo.rewards.builtin import Rewards, RewardSettings, verdict_counts
from edge_grpo.rewards.workers.pool import GraderPool

__all__ = ["GradedAnswer", "GraderPool", "RewardSettings", "Rewards", "boxed_answer", "grade_answer", "verdict_counts"]
