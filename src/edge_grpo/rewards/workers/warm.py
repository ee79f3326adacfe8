"""Imported once by the template, so that every worker it forks has the grader loaded and warm.

The first comparisons of a process are slow (parser tables, sympy's caches), so they happen here.
"""

from edge_grpo.rewards import custom
from edge_grpo.rewards.answers.equality import same_as_any

__all__ = ["custom"]

for _answer, _gold in (
    (r"\{2, 1\}", r"\{1, 2\}"),
    (r"\frac{\sqrt{2}}{2} + 0.5", r"\pi"),
    (r"(x+1)^2", r"x^2+2x"),
    (r"(1, 2] \cup [3, \infty)", "x > 3"),
    (r"\int_0^1 2x\,dx", "2"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}"),
):
    same_as_any(_answer, (_gold,))
