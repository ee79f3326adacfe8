r"""A custom reward: the built-in format and accuracy rewards, plus a small bonus for brevity.

To train with it, run this from the repository root:

    edge-grpo train reward.function=examples/own_reward.py:reward

The function is called once per batch, in a process that is killed if it misses its deadline. It returns one entry per
completion: a number, a mapping of parts (whose sum is the reward) plus ``correct``, or None for a completion it cannot
score. A batch that fails is retried row by row. To keep the parts separate, for methods that use them and in the run's
rollouts, list them:

    edge-grpo train reward.function=examples/own_reward.py:reward \
        'reward.function_parts=[format, accuracy, brevity]'
"""

from collections.abc import Mapping

from edge_grpo.base.records import Problem
from edge_grpo.rewards import grade_answer

BRIEF = 2000  # characters


def reward(
    completions: list[str], problems: list[Problem], finished: list[bool]
) -> list[float | Mapping[str, float] | None]:
    """Reward a batch; ``finished`` (optional) says which completions ended within their token budget."""
    entries: list[float | Mapping[str, float] | None] = []
    for text, problem, ended in zip(completions, problems, finished, strict=True):
        formatted, correct = grade_answer(text, problem.answers)
        brevity = 0.1 * max(0.0, 1.0 - len(text) / BRIEF) if ended and formatted else 0.0
        entries.append({"format": formatted, "accuracy": correct, "brevity": brevity, "correct": correct})
    return entries
