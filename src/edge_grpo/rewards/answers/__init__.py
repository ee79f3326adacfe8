"""Mathematical answers: found in a completion, normalized, and compared with the reference."""
