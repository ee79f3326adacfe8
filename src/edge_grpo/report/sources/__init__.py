"""Rollouts of this project and of others, read into one record per completion."""

from edge_grpo.report.sources.columns import ROLES, Asked
from edge_grpo.report.sources.folder import read_rollouts
from edge_grpo.report.sources.records import Completion, Found, Rollouts

__all__ = ["ROLES", "Asked", "Completion", "Found", "Rollouts", "read_rollouts"]
