"""Atomic checkpoints with checksums: everything a run needs to resume bit for bit. Safetensors and JSON, no pickle."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW

from edge_grpo.base.errors import CheckpointError
from edge_grpo.runs.durable import flush, flush_tree, remove_tree, saving

__all__ = ["SUMS", "RunState", "latest", "load", "prune", "read_state", "save", "steps", "verify"]

SUMS = "SHA256SUMS"
_FILES = ("optimizer.safetensors", "progress.json", "weights.safetensors")


@dataclass(frozen=True)
class RunState:
    """Where a run stands: steps done, prompts used, tokens sampled, consecutive updates skipped for bad gradients.

    ``num_threads`` is recorded because sums over threads depend on it; ``device`` because GPU and CPU differ.
    """

    step: int
    cursor: int
    tokens: int
    skipped_in_a_row: int
    num_threads: int
    device: str


def save(
    folder: Path,
    state: RunState,
    trained: Mapping[str, nn.Parameter],
    optimizer: AdamW,
    *,
    keep: int,
    best: int | None = None,
) -> Path:
    """Write ``folder/step_000012`` atomically, then delete all but the newest ``keep`` and the ``best``.

    ``SHA256SUMS`` next to the files can be checked with ``sha256sum``.

    Args:
        folder: the run's ``checkpoints``.
        state: where the run stands.
        trained: the trained parameters by name; frozen weights are reloaded from the model folder.
        optimizer: its moments are saved per parameter.
        keep: how many checkpoints to keep.
        best: a step whose checkpoint is kept as well.
    Raises:
        CheckpointError: the disk is full or not writable.
    """
    final = folder / f"step_{state.step:06d}"
    if final.is_dir():  # the state after a step is the same whenever it is saved
        verify(final)
        return final
    draft = folder / f".draft_{state.step:06d}"
    with saving(final, folder.parent):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        weights = {name: weight.detach().contiguous() for name, weight in trained.items()}
        save_file(weights, draft / "weights.safetensors")
        save_file(_moments(trained, optimizer), draft / "optimizer.safetensors")
        (draft / "progress.json").write_text(json.dumps(asdict(state), indent=2) + "\n")
        (draft / SUMS).write_text(_sums(draft))
        flush_tree(draft)
        draft.rename(final)
        flush(folder)
        flush(folder.parent)
    prune(folder, keep=keep, best=best)
    return final


def prune(folder: Path, *, keep: int, best: int | None = None) -> None:
    """Delete all but the newest ``keep`` checkpoints and the one after step ``best``, and what a killed process left
    half written or half deleted.

    Raises:
        CheckpointError: the disk is not writable.
    """
    with saving(folder, folder.parent):
        for old in _checkpoints(folder)[:-keep]:
            if _step(old) != best:
                remove_tree(old)
        for left in (*folder.glob(".draft_*"), *folder.glob(".old_*")):
            shutil.rmtree(left)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, intact or not; None if there is none.

    Raises:
        CheckpointError: the path is not a folder.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; put the run's checkpoints back, or remove it")
    found = _checkpoints(folder)
    return found[-1] if found else None


def steps(folder: Path) -> list[int]:
    """The steps after which there is a checkpoint, in order."""
    return [_step(path) for path in _checkpoints(folder)]


def verify(checkpoint: Path) -> None:
    """Check every byte of a checkpoint against its checksums.

    Raises:
        CheckpointError: a file is missing or damaged; names the newest older checkpoint that is intact.
    """
    if fault := _fault(checkpoint):
        raise _damaged(checkpoint, fault)


def load(checkpoint: Path, trained: Mapping[str, nn.Parameter], optimizer: AdamW) -> RunState:
    """Restore weights and moments bit for bit; every byte is checked first.

    Raises:
        CheckpointError: a file is missing or damaged, or does not belong to this model.
    """
    state = read_state(checkpoint)
    try:
        weights = load_file(checkpoint / "weights.safetensors")
        moments = load_file(checkpoint / "optimizer.safetensors")
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(checkpoint, str(error)) from error
    if {name: tuple(weight.shape) for name, weight in weights.items()} != {
        name: tuple(weight.shape) for name, weight in trained.items()
    }:
        raise CheckpointError(
            f"{checkpoint}: its weights do not fit the model of this run; was model.path changed on disk?"
        )
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(weights[name])
            own = {
                key: moments[f"{name}:{key}"].to(weight.device if key != "step" else "cpu")
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}:{key}" in moments
            }
            if own:
                optimizer.state[weight] = own
    return state


def read_state(checkpoint: Path) -> RunState:
    """Where the run stood; every byte of the checkpoint is checked first.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    verify(checkpoint)
    try:
        return RunState(**json.loads((checkpoint / "progress.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(checkpoint, str(error)) from error


def _checkpoints(folder: Path) -> list[Path]:
    """Everything named like a checkpoint, the newest last."""
    found = {path: re.fullmatch(r"step_(\d+)", path.name) for path in folder.glob("step_*")}
    return sorted((path for path, name in found.items() if name), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))


def _sums(checkpoint: Path) -> str:
    """The checksums of a checkpoint's files, as ``sha256sum`` writes them."""
    lines = []
    for name in _FILES:
        with (checkpoint / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def _fault(checkpoint: Path) -> str:
    """What is wrong with a checkpoint's bytes; empty if it is intact."""
    try:
        written = (checkpoint / SUMS).read_bytes()
        found = _sums(checkpoint).encode()
    except OSError as error:
        return f"{Path(error.filename or checkpoint).name}: {error.strerror}"
    if written == found:
        return ""
    pairs = zip(_FILES, found.split(b"\n"), strict=False)
    wrong = [name for name, line in pairs if line not in written.split(b"\n")]
    return f"{' and '.join(wrong) or SUMS}: does not match {SUMS}"


def _damaged(checkpoint: Path, fault: str) -> CheckpointError:
    folder = checkpoint.parent
    older = [path for path in _checkpoints(folder) if path != checkpoint]
    good = next((path for path in reversed(older) if not _fault(path)), None)
    if good is None:
        return CheckpointError(
            f"{checkpoint}: damaged ({fault}), and no other checkpoint is intact; delete {folder} to restart the run"
        )
    newer = older[older.index(good) + 1 :]
    doomed = " and ".join(map(str, [checkpoint, *newer]))
    return CheckpointError(f"{checkpoint}: damaged ({fault}); delete {doomed} to resume from {good.name}")


def _moments(trained: Mapping[str, nn.Parameter], optimizer: AdamW) -> dict[str, Tensor]:
    return {
        f"{name}:{key}": value.detach().contiguous()
        for name, weight in trained.items()
        for key, value in optimizer.state.get(weight, {}).items()
    }
