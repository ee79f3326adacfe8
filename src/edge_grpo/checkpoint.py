"""Atomic checkpoints of all that a run needs to go on bit for bit. Safetensors and JSON only, no pickle."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW

from edge_grpo.errors import CheckpointError

__all__ = ["Progress", "latest", "load", "read_progress", "save"]


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done, prompts used up, tokens sampled, updates skipped for bad gradients in a row.

    ``num_threads`` is recorded because sums over threads depend on it; ``device`` because GPU and CPU differ.
    """

    step: int
    cursor: int
    tokens: int
    skipped_in_a_row: int
    num_threads: int
    device: str


def save(folder: Path, progress: Progress, trained: Mapping[str, nn.Parameter], optimizer: AdamW, *, keep: int) -> Path:
    """Write ``folder/step_000012`` so that it is either whole or not there, then delete all but the newest ``keep``.

    Args:
        folder: the run's ``checkpoints``.
        progress: where the run stands.
        trained: the trained parameters by name; frozen weights come from the model's own folder again.
        optimizer: whose moments are saved per parameter.
        keep: how many checkpoints to keep.
    Raises:
        CheckpointError: the disk is full or not writable.
    """
    final = folder / f"step_{progress.step:06d}"
    if final.exists():  # the state before a step is the same whenever it is saved
        return final
    draft = folder / f".draft_{progress.step:06d}"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save_file(
            {name: weight.detach().contiguous() for name, weight in trained.items()}, draft / "weights.safetensors"
        )
        save_file(_moments(trained, optimizer), draft / "optimizer.safetensors")
        (draft / "progress.json").write_text(json.dumps(asdict(progress), indent=2) + "\n")
        for path in draft.iterdir():
            _flush(path)
        draft.rename(final)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{final}: the checkpoint could not be written ({error}); the run goes no further"
        ) from error
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old)
    return final


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = sorted(folder.glob("step_*"))
    return found[-1] if found else None


def load(checkpoint: Path, trained: Mapping[str, nn.Parameter], optimizer: AdamW) -> Progress:
    """Put weights and moments back in place, bit for bit.

    Raises:
        CheckpointError: a file is missing or damaged, or does not belong to this model.
    """
    try:
        weights = load_file(checkpoint / "weights.safetensors")
        moments = load_file(checkpoint / "optimizer.safetensors")
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(checkpoint, error) from error
    progress = read_progress(checkpoint)
    if {name: tuple(weight.shape) for name, weight in weights.items()} != {
        name: tuple(weight.shape) for name, weight in trained.items()
    }:
        raise CheckpointError(
            f"{checkpoint}: its weights do not fit the model of this run; was model.path changed on disk?"
        )
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(weights[name])
            state = {
                key: moments[f"{name}:{key}"].to(weight.device if key != "step" else "cpu")
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}:{key}" in moments
            }
            if state:
                optimizer.state[weight] = state
    return progress


def read_progress(checkpoint: Path) -> Progress:
    """Where the run stood.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return Progress(**json.loads((checkpoint / "progress.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(checkpoint, error) from error


def _damaged(checkpoint: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{checkpoint}: damaged ({error}); delete the folder to go on from the one before")


def _moments(trained: Mapping[str, nn.Parameter], optimizer: AdamW) -> dict[str, Tensor]:
    return {
        f"{name}:{key}": value.detach().contiguous()
        for name, weight in trained.items()
        for key, value in optimizer.state.get(weight, {}).items()
    }


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
