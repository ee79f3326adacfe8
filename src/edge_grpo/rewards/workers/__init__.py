"""Grading in processes that can be killed at a deadline."""
