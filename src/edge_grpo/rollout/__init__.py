"""Rollouts: engines that generate tokens, and the sampler that encodes prompts and grades completions."""
