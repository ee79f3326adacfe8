r"""A reward of your own: format and accuracy as built in, plus a little for being brief.

Train with it, from the folder that holds this file's folder:

    edge-grpo train reward.function=examples/own_reward.py:reward

The function is called once a batch, in a process that is killed when it is late. It returns one entry a completion:
a number, a mapping of parts (their sum is the reward) with ``correct`` beside them, or None for a completion that it
cannot score. A batch that fails is repeated row by row. To keep the parts apart, for methods that look at each and in
the rollouts that a run writes, name them:

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
    """Reward a batch; ``finished`` (optional) says which completions ended before their budget did."""
    entries: list[float | Mapping[str, float] | None] = []
    for text, problem, ended in zip(completions, problems, finished, strict=True):
        formatted, correct = grade_answer(text, problem.answers)
        brevity = 0.1 * max(0.0, 1.0 - len(text) / BRIEF) if ended and formatted else 0.0
        entries.append({"format": formatted, "accuracy": correct, "brevity": brevity, "correct": correct})
    return entries
