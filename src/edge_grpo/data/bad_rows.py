"""The error of one unusable row."""

__all__ = ["BadRowError"]


class BadRowError(Exception):
    """What is wrong with one row, and the setting that helps if one is known; the reader adds the row's location."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy
