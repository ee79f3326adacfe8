"""OpenRLHF: training writes no rollouts; its batch inference with a reward model does.

``python -m openrlhf.cli.batch_inference --eval_task rm --output_path FILE`` writes one object per completion:
``input``, ``output`` and ``reward``. With ``--best_of_n N`` in the step before (``--eval_task generate_vllm``), an
input has N outputs, in passes over all inputs, so a group is all rows with one input. Training logs one sample a step,
to W&B or TensorBoard, which says nothing about groups.

Source: OpenRLHF/OpenRLHF, openrlhf/cli/batch_inference.py (commit cf2c76d): ``batch_generate_vllm``,
``batch_rm_inference``; openrlhf/trainer/ppo_utils/loggers.py (commit 82c060e).
"""

from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["KNOWN", "is_openrlhf"]

KNOWN: Final[Mapping[str, Sequence[str]]] = {"reward": ("reward",), "prompt": ("input",), "completion": ("output",)}


def is_openrlhf(names: Sequence[str]) -> bool:
    """Whether a file with these columns is OpenRLHF's."""
    return {"input", "output", "reward"} <= set(names)
