"""``edge-grpo export``."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_grpo.base.errors import CheckpointError, ConfigError, EngineError
from edge_grpo.cli.progress import waiting

if TYPE_CHECKING:
    from edge_grpo.training.checkpoint import RunState

__all__ = ["export", "write_model"]


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="A new folder for the model.")],
    step: Annotated[int | None, typer.Option(min=0, help="The checkpoint's step; default: the newest.")] = None,
) -> None:
    """Write the model in a run's checkpoint as an ordinary Hugging Face folder, as `final` would be.

    The checkpoint's checksums are verified, and the folder is loaded again and compared before it appears.
    """
    folder, place = Path(run).expanduser(), Path(out).expanduser()
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"export: no run in {run} (no config.yaml); pass a run folder")
    if place.exists():
        raise ConfigError(f"export: {out} exists; name a new folder")
    with waiting(f"writing {out}"):
        state = write_model(folder, place, step)
    print(f"wrote {out}: step {state.step} of {run}, {state.tokens:,} sampled tokens")


def write_model(folder: Path, place: Path, step: int | None = None) -> "RunState":
    """Write the model of a run's checkpoint, with its card, into a new folder; complete or absent.

    Args:
        folder: the run's.
        place: the new one.
        step: the checkpoint's; None = the newest.
    Raises:
        EdgeGrpoError: a subclass, with a message for the user.
    """
    from edge_grpo.config.tree import parse_tree  # noqa: PLC0415 - imports torch
    from edge_grpo.models.loading import check_base, load_policy  # noqa: PLC0415 - model code
    from edge_grpo.models.sources import restore, source_of  # noqa: PLC0415
    from edge_grpo.runs import starts  # noqa: PLC0415
    from edge_grpo.runs.durable import flush, flush_tree  # noqa: PLC0415
    from edge_grpo.runs.folder import RunFolder  # noqa: PLC0415 - imports pyarrow
    from edge_grpo.training.card import write_cards  # noqa: PLC0415
    from edge_grpo.training.checkpoint import read_state  # noqa: PLC0415

    checkpoint = _checkpoint(folder / "checkpoints", step)
    tree = RunFolder.read_config(folder)[0]
    model = parse_tree({"model": tree["model"]}).model
    state = read_state(checkpoint)
    check_base(source_of(replace(model, path=str(checkpoint))))
    policy = load_policy(replace(model, device="cpu" if model.device == "cpu" else "auto"))
    restore(checkpoint, dict(policy.trained()))
    draft = place.with_name(f".{place.name}.edge-grpo-draft")  # a name that nobody else uses: .NAME may be the user's
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        policy.save(draft)
        kind = str(tree["method"].get("kind") or tree["method"].get("class"))
        rows, versions = RunFolder(folder).rows(), starts.versions(folder)
        write_cards(draft, tree, method=kind, step=state.step, tokens=state.tokens, rows=rows, versions=versions)
        flush_tree(draft)
        draft.rename(place)
        flush(place.parent)
    except EngineError as error:
        raise EngineError(f"export: {place} is not written, because {error}") from error
    except OSError as error:
        raise ConfigError(f"export: {place} cannot be written ({error.strerror}); name another folder") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return state


def _checkpoint(folder: Path, step: int | None) -> Path:
    """The checkpoint of a step; None: the newest."""
    found = {int(path.name.removeprefix("step_")): path for path in folder.glob("step_*") if path.name[5:].isdigit()}
    if not found:
        raise CheckpointError(f"export: {folder} holds no checkpoint yet")
    if step is not None and step not in found:
        held = ", ".join(map(str, sorted(found)))
        raise CheckpointError(f"export: no checkpoint of step {step} in {folder}; it holds those of steps {held}")
    return found[max(found) if step is None else step]
