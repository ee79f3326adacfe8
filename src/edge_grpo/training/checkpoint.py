"""Atomic checkpoints with checksums: everything a run needs to resume bit for bit. Safetensors and JSON, no pickle."""

import errno
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import AdamW

from edge_grpo.base.digests import sha256
from edge_grpo.base.errors import CheckpointError
from edge_grpo.base.world import World
from edge_grpo.models import slices
from edge_grpo.runs.durable import flush, flush_tree, remove_tree, saving

__all__ = ["SUMS", "RunState", "latest", "load", "prune", "read_state", "save", "steps", "verify"]

SUMS = "SHA256SUMS"
_PROGRESS = "progress.json"
_KINDS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a weight


@dataclass(frozen=True)
class RunState:
    """Where a run stands: steps done, prompts used, tokens sampled, consecutive updates skipped for bad gradients.

    ``num_threads`` and ``num_ranks`` are recorded because sums over threads and ranks depend on them; ``device`` and
    ``computes_in``, the dtype of the passes (empty in older checkpoints), because GPU and CPU, bf16 and float32 differ.
    """

    step: int
    cursor: int
    tokens: int
    skipped_in_a_row: int
    num_threads: int
    device: str
    num_ranks: int = 1
    computes_in: str = ""


def save(
    folder: Path,
    state: RunState,
    trained: Mapping[str, nn.Parameter],
    optimizer: AdamW,
    *,
    keep: int,
    best: int | None = None,
    world: World = World(),  # noqa: B008 - frozen
) -> Path:
    """Write ``folder/step_000012`` atomically, then delete all but the newest ``keep`` and the ``best``.

    ``SHA256SUMS`` next to the files can be checked with ``sha256sum``.

    Args:
        folder: the run's ``checkpoints``, which all ranks see.
        state: where the run stands.
        trained: the trained parameters by name; frozen weights are reloaded from the model folder.
        optimizer: its moments are saved per parameter.
        keep: how many checkpoints to keep.
        best: a step whose checkpoint is kept as well.
        world: the ranks; each writes its slices.
    Raises:
        CheckpointError: the disk is full or not writable.
    """
    final = folder / f"step_{state.step:06d}"
    if world.first(final.is_dir):  # the state after a step is the same whenever it is saved
        verify(final, world)
        return final
    draft = folder / f".draft_{state.step:06d}"

    def begin() -> None:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)

    def add_progress() -> None:
        (draft / _PROGRESS).write_text(json.dumps(asdict(state), indent=2) + "\n")

    def end() -> None:
        (draft / SUMS).write_text("".join(f"{each}  {name}\n" for name, each in zip(names, sums, strict=True)))
        flush_tree(draft)
        draft.rename(final)
        flush(folder)
        flush(folder.parent)

    with saving(final, folder.parent):
        world.first(begin)
        written = slices.write(draft, {"weights": trained, "optimizer": _moments(trained, optimizer)}, world)
        world.first(add_progress)
        names = sorted([_PROGRESS, *written])
        sums = world.share(names, lambda own: [_checksum(draft / name) for name in own])
        world.first(end)
    world.first(lambda: prune(folder, keep=keep, best=best))
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


def computed_in(folder: Path, device: str) -> str:
    """The dtype of the run's passes on this kind of device, or nothing if that is not known.

    Older checkpoints do not say; on a CPU, ``model.dtype=auto`` was float32 then. Nothing is checked: a damaged
    checkpoint is found when it is loaded.
    """
    try:
        state = RunState(**json.loads((_checkpoints(folder)[-1] / _PROGRESS).read_text()))
    except (IndexError, OSError, ValueError, TypeError):
        return ""
    if state.device != device:
        return ""
    return state.computes_in or ("float32" if device == "cpu" else "")


def steps(folder: Path) -> list[int]:
    """The steps after which there is a checkpoint, in order."""
    return [_step(path) for path in _checkpoints(folder)]


def verify(checkpoint: Path, world: World = World()) -> None:  # noqa: B008 - frozen
    """Check every byte of a checkpoint against its checksums.

    Raises:
        CheckpointError: a file is missing or damaged; names the newest older checkpoint that is intact.
    """
    if fault := _fault(checkpoint, world):
        raise _damaged(checkpoint, fault)


def load(
    checkpoint: Path,
    trained: Mapping[str, nn.Parameter],
    optimizer: AdamW,
    world: World = World(),  # noqa: B008 - frozen
) -> RunState:
    """Restore weights and moments bit for bit; every byte is checked first.

    Args:
        checkpoint: written by any number of ranks.
        trained: the trained parameters by name.
        optimizer: over them.
        world: the ranks; each restores its slices.
    Raises:
        CheckpointError: a file is missing or damaged, or does not belong to this model.
    """
    state = read_state(checkpoint, world)
    try:
        held = slices.shapes(checkpoint)
        slices.fit(checkpoint, trained, {name: shape for name, shape in held.items() if ":" not in name})
        moments = {
            f"{name}:{kind}": _unread(weight, kind)
            for name, weight in trained.items()
            for kind in _KINDS
            if f"{name}:{kind}" in held
        }
        slices.read(checkpoint, {**trained, **moments}, world)
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(checkpoint, str(error)) from error
    for name, weight in trained.items():
        if own := {kind: moments[f"{name}:{kind}"] for kind in _KINDS if f"{name}:{kind}" in moments}:
            optimizer.state[weight] = own
    return state


def _unread(weight: nn.Parameter, kind: str) -> Tensor:
    """What a moment is read into; the fused AdamW has the number of steps on the weight's device, undivided."""
    return torch.zeros((), device=weight.device) if kind == "step" else torch.zeros_like(weight.detach())


def read_state(checkpoint: Path, world: World = World()) -> RunState:  # noqa: B008 - frozen
    """Where the run stood; every byte of the checkpoint is checked first.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    verify(checkpoint, world)
    try:
        return RunState(**json.loads((checkpoint / _PROGRESS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(checkpoint, str(error)) from error


def _checkpoints(folder: Path) -> list[Path]:
    """Everything named like a checkpoint, the newest last."""
    found = {path: re.fullmatch(r"step_(\d+)", path.name) for path in folder.glob("step_*")}
    return sorted((path for path, name in found.items() if name), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))


def _fault(checkpoint: Path, world: World) -> str:
    """What is wrong with a checkpoint's bytes; empty if it is intact."""
    fault, wanted, present = world.first(lambda: _listed(checkpoint))
    if fault:
        return fault
    found = world.share(list(wanted), lambda own: [sha256(checkpoint / name) for name in own])
    wrong = [name for name, digest in zip(wanted, found, strict=True) if digest != wanted[name]]
    missing = [name for name in wrong if name not in present]
    if missing:
        return f"{' and '.join(missing)}: missing"
    return f"{' and '.join(wrong)}: does not match {SUMS}" if wrong else ""


def _listed(checkpoint: Path) -> tuple[str, dict[str, str], set[str]]:
    """What is wrong with the list of checksums, the checksums by file, and the files that are there."""
    try:
        *lines, last = (checkpoint / SUMS).read_text(encoding="utf-8").split("\n")
        wanted = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        present = {each.name for each in checkpoint.iterdir()} - {SUMS}
    except OSError as error:
        return f"{SUMS}: {error.strerror}", {}, set()
    except ValueError:
        return f"{SUMS}: not a list of checksums", {}, set()
    unlisted = sorted(present - wanted.keys())
    fault = f"{SUMS}: does not list {' and '.join(unlisted)}" if unlisted else ""
    return f"{SUMS}: cut off" if last else fault, wanted, present


def _checksum(file: Path) -> str:
    if found := sha256(file):
        return found
    raise OSError(errno.EIO, f"{file.name} cannot be read back")


def _damaged(checkpoint: Path, fault: str) -> CheckpointError:
    folder = checkpoint.parent
    older = [path for path in _checkpoints(folder) if path != checkpoint]
    good = next((path for path in reversed(older) if not _fault(path, World())), None)
    if good is None:
        return CheckpointError(
            f"{checkpoint}: damaged ({fault}), and no other checkpoint is intact; delete {folder} to restart the run"
        )
    newer = older[older.index(good) + 1 :]
    doomed = " and ".join(map(str, [checkpoint, *newer]))
    return CheckpointError(f"{checkpoint}: damaged ({fault}); delete {doomed} to resume from {good.name}")


def _moments(trained: Mapping[str, nn.Parameter], optimizer: AdamW) -> dict[str, Tensor]:
    return {
        f"{name}:{key}": value
        for name, weight in trained.items()
        for key, value in optimizer.state.get(weight, {}).items()
    }
