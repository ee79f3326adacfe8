"""Evaluation: stored answers, scores with intervals, paired comparisons, pass rates."""
