"""verl: what it writes with ``trainer.rollout_data_dir`` or ``trainer.validation_data_dir``.

One file per step, ``12.jsonl``, with one object per completion: ``input`` and ``output`` (text without special
tokens), ``gts`` (the reference answer), ``score`` (the sum of the token-level scores), ``step``, and whatever the
reward function returned for every row, such as ``acc``; validation adds ``reward``, equal to ``score``. Groups are not
written, and the rows of a step are reordered to balance its ranks, so a group is all rows of a step with one input.

Source: verl-project/verl, verl/trainer/ppo/ray_trainer.py (commit d163ff3): ``_dump_generations``,
``_log_rollout_data``, ``_validate``. Older ones lack ``gts``.
"""

from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["KNOWN", "is_verl"]

KNOWN: Final[Mapping[str, Sequence[str]]] = {
    "reward": ("score",),
    "group": ("uid",),  # which some forks add
    "prompt": ("input",),
    "step": ("step",),
    "completion": ("output",),
}


def is_verl(names: Sequence[str]) -> bool:
    """Whether a file with these columns is verl's."""
    return {"input", "output", "score"} <= set(names)
