"""Run folders, and files that outlive a process; :func:`rollouts` reads the completions of a run."""

from edge_grpo.runs.completions import rollouts

__all__ = ["rollouts"]
