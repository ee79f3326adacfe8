"""Comparisons: which arms there are, the runs behind them, and the pages that they write."""
