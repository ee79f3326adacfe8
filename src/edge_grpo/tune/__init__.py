"""Gaussian processes that see every part of a score, not only the sum; usable without any language model."""
