"""Comparisons of training runs: the arms, the runs behind them, and the pages they write."""
