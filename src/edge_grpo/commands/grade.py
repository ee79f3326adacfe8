"""``edge-grpo grade``: grade the completions of a file as training does."""

__all__ = ["grade"]


def grade() -> None:
    """Grade the completions of a JSONL file as training does, and count the verdicts."""
