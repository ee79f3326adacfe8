"""The learning rate over the course of a run."""

import math

from edge_grpo.config.sections import TrainSettings

__all__ = ["decay", "learning_rate", "warm_up"]


def warm_up(step: int, warmup_steps: int) -> float:
    r"""The warm-up factor of the learning rate at a step, counted from 0.

    .. math:: \min(1, (s + 1) / w)
    """
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def decay(progress: float, schedule: str, final: float) -> float:
    r"""The decay factor of the learning rate.

    .. math:: f + (1 - f)\,d(x), \qquad d(x) = 1,\; 1 - x \text{ or } (1 + \cos \pi x) / 2

    Args:
        progress: x, the share of the run that is done.
        schedule: ``constant``, ``linear`` or ``cosine``.
        final: f, the factor at the end.
    """
    down = {"constant": 1.0, "linear": 1.0 - progress, "cosine": (1.0 + math.cos(math.pi * progress)) / 2}[schedule]
    return final + (1.0 - final) * down


def learning_rate(step: int, train: TrainSettings, *, tokens: int = 0) -> float:
    r"""The learning rate of a step (counted from 0) that starts after ``tokens`` sampled tokens.

    .. math:: \eta_s = \eta \cdot \min(1, (s + 1) / w) \cdot (f + (1 - f)\,d(x)), \qquad
        x = \max\{(s - w) / (S - w),\; n / N\}

    with w warm-up steps, S steps in total, n of N tokens if these are bounded, and f the final factor.

    Example:
        >>> [learning_rate(s, TrainSettings(steps=4, learning_rate=1.0)) for s in range(4)]
        [1.0, 0.75, 0.5, 0.25]
    """
    progress = max(0, step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
    if train.max_tokens:
        progress = max(progress, min(1.0, tokens / train.max_tokens))
    falling = decay(progress, train.schedule, train.final_learning_rate)
    return train.learning_rate * warm_up(step, train.warmup_steps) * falling
