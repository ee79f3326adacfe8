"""The error of one unusable row."""

__all__ = ["BadRowError"]


class BadRowError(Exception):
    """What is wrong with one row; the reader adds its location."""
