"""Rollouts from vLLM servers, which ``edge-grpo serve`` starts."""
