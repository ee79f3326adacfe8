"""Rollouts from vLLM servers that ``edge-grpo serve`` starts: the engine, its HTTP client, and the way of weights."""
