"""``edge-grpo grade``."""
