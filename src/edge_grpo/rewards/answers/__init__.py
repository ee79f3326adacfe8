"""Mathematical answers: extracted from a completion, normalized, and compared with the reference."""
