r"""Reward functions as written for TRL and for verl, used here unchanged.

To train with them, run one of these from the repository root:

    edge-grpo train reward.function=examples/trl_reward.py:accuracy_reward reward.function_style=trl
    edge-grpo train reward.function=examples/trl_reward.py:compute_score reward.function_style=verl

The first is called once per batch, with prompts, completions and the data's columns as keyword arguments; the second
once per completion.
"""

from typing import Any

from edge_grpo.rewards import grade_answer


def accuracy_reward(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """TRL's signature: a point for a readable answer, and one for the right one."""
    rewards = []
    for completion, right in zip(completions, answer, strict=True):
        text = completion if isinstance(completion, str) else completion[0]["content"]
        formatted, correct = grade_answer(text, [right])
        rewards.append(float(formatted) + float(correct))
    return rewards


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> dict[str, float]:
    """Verl's signature: ``score`` is the reward, ``acc`` says whether the answer is right."""
    del data_source, extra_info  # this reward needs neither
    formatted, correct = grade_answer(solution_str, [ground_truth])
    return {"score": float(formatted) + float(correct), "acc": float(correct)}
