"""``edge-grpo push``: a run's model, with a card made from the run, to the Hugging Face hub."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, runtime_checkable

import typer

from edge_grpo.base.errors import CheckpointError, ConfigError, EngineError
from edge_grpo.base.text import counted, visible
from edge_grpo.cli.export import write_model
from edge_grpo.cli.progress import waiting

__all__ = ["Hub", "Upload", "push", "send", "stage"]

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_GOES: Final = (".json", ".safetensors", ".model", ".txt", ".jinja", ".md")
"""What a model folder is made of; neither code nor pickles, which run code when they are loaded."""

_STAYS: Final = ("progress.json",)


@runtime_checkable
class Hub(Protocol):
    """The part of ``huggingface_hub.HfApi`` that is used."""

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> Any:
        """Create a repository, unless there is one."""

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        """Upload a folder in one commit."""


@dataclass(frozen=True)
class Upload:
    """What is to be uploaded: a folder, the step of its model, its files, and the names of those left out."""

    folder: Path
    step: int
    files: tuple[Path, ...]
    left_out: tuple[str, ...]


def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A model repository; created if need be.")],
    *,
    private: Annotated[bool, typer.Option("--private", help="Create it as a private one.")] = False,
    step: Annotated[int | None, typer.Option(min=0, help="The checkpoint's step; default: the final model.")] = None,
    best: Annotated[bool, typer.Option("--best", help="The checkpoint with the best held-out accuracy.")] = False,
    rollouts: Annotated[bool, typer.Option("--rollouts", help="Also the rollouts, which hold your prompts.")] = False,
    license_name: Annotated[str, typer.Option("--license", metavar="NAME", help="For the card: apache-2.0, ...")] = "",
    dry_run: Annotated[
        str, typer.Option(metavar="FOLDER", help="Write what would be uploaded into this new folder, and list it.")
    ] = "",
) -> None:
    """Upload a run's model to the Hugging Face hub, with a card made from the run.

    The token is that of `hf auth login`, or HF_TOKEN. Data, checkpoints, code and pickles are never uploaded; rollouts
    only with --rollouts.
    """
    folder = Path(run).expanduser()
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"push: no run in {run} (no config.yaml); pass a run folder")
    if not _NAME.fullmatch(repo):
        raise ConfigError(f"push: got '{visible(repo)}', wanted a repository such as me/my-model")
    if best and step is not None:
        raise ConfigError("push: --best and --step: give one of them")
    if dry_run and Path(dry_run).expanduser().exists():
        raise ConfigError(f"push: {dry_run} exists; name a new folder")

    from huggingface_hub import HfApi, get_token  # noqa: PLC0415 - slow to import

    if not dry_run and not get_token():
        raise ConfigError("push: no Hugging Face token; run `hf auth login`, or set the environment variable HF_TOKEN")
    chosen = _best(folder) if best else step
    with _place(dry_run) as place:
        with waiting(f"preparing {repo}"):
            upload = stage(folder, place, chosen, repository=repo, rollouts=rollouts, license_name=license_name)
        _show(upload, repo, dry_run)
        if not dry_run:
            with waiting(f"uploading to {repo}"):
                url = send(HfApi(), upload, repo, private=private)
            print(f"uploaded: {url}")


def stage(
    folder: Path,
    place: Path,
    step: int | None,
    *,
    repository: str = "",
    rollouts: bool = False,
    license_name: str = "",
) -> Upload:
    """Write what is to be uploaded into a new folder.

    Args:
        folder: the run's.
        place: the new one.
        step: the checkpoint's; None = the final model.
        repository: ``OWNER/NAME``, for the card; empty = unknown.
        rollouts: whether ``rollouts/`` is included.
        license_name: the model's, for its card; empty = that of the base model, as far as its card says.
    Raises:
        EdgeGrpoError: a subclass, with a message for the user.
    """
    from edge_grpo.runs import starts  # noqa: PLC0415 - imports pyarrow
    from edge_grpo.runs.folder import RunFolder  # noqa: PLC0415
    from edge_grpo.training.card import write_cards  # noqa: PLC0415

    run = RunFolder(folder)
    if step is None:
        done, tokens = _progress(run.final)
        source = run.final
    else:
        source = place.with_name(f"{place.name}.model")
        state = write_model(folder, source, step)
        done, tokens = state.step, state.tokens
    tree = RunFolder.read_config(folder)[0]
    left_out = _copy(source, place)
    if source != run.final:
        shutil.rmtree(source)
    write_cards(
        place,
        tree,
        method=str(tree["method"].get("kind") or tree["method"].get("class")),
        step=done,
        tokens=tokens,
        rows=run.rows(),
        versions=starts.versions(folder),
        license_name=license_name or _license_of(tree),
        repository=repository,
    )
    if rollouts:
        _copy(folder / "rollouts", place / "rollouts", suffixes=(".parquet",))
    files = tuple(sorted(path for path in place.rglob("*") if path.is_file()))
    return Upload(place, done, files, tuple(left_out))


def send(hub: Hub, upload: Upload, repo: str, *, private: bool) -> str:
    """Create the repository if need be, and upload everything in one commit.

    Returns:
        where the repository is.
    Raises:
        EngineError: the hub refuses, or cannot be reached.
    """
    try:
        url = hub.create_repo(repo, private=private or None, exist_ok=True)
        message = f"Model after step {upload.step}, by edge-grpo"
        hub.upload_folder(repo_id=repo, folder_path=str(upload.folder), commit_message=message)
    except OSError as error:  # what the library raises for a refusal, a lost connection and offline mode
        told = visible(" ".join(str(error).split()))[:300]
        raise EngineError(f"push: {repo} was not uploaded ({type(error).__name__}: {told})") from error
    return str(url)


@contextmanager
def _place(dry_run: str) -> Iterator[Path]:
    """The folder to write: that of a dry run, or one that is deleted at the end."""
    if dry_run:
        yield Path(dry_run).expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="edge-grpo-push-") as folder:
        yield Path(folder) / "model"


def _copy(source: Path, place: Path, suffixes: Sequence[str] = _GOES) -> list[str]:
    """Copy the files of a folder that may go; returns the names of the others."""
    left_out = []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_symlink() or (path.is_file() and (path.suffix not in suffixes or path.name in _STAYS)):
            left_out += [] if path.name in _STAYS else [name.as_posix()]
        elif path.is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / name)
    return left_out


def _progress(final: Path) -> tuple[int, int]:
    """The steps and tokens of the final model."""
    try:
        found = json.loads((final / "progress.json").read_text("utf-8"))
        return int(found["step"]), int(found["tokens"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"push: {final.parent} has no final model yet; finish the run with `edge-grpo train --resume "
            f"{final.parent}`, or push a checkpoint with --step"
        ) from None


def _best(folder: Path) -> int:
    """The step, of those with a checkpoint, that has the best held-out accuracy; the first of equals."""
    from edge_grpo.runs.folder import RunFolder  # noqa: PLC0415 - imports pyarrow
    from edge_grpo.training.checkpoint import steps  # noqa: PLC0415 - model code

    kept = {*steps(folder / "checkpoints")}
    rows = [row for row in RunFolder(folder).rows() if row["step"] in kept and row.get("eval/accuracy") is not None]
    if not rows:
        raise CheckpointError(f"push: --best: no checkpoint of {folder} was evaluated; train with train.keep_best=true")
    return int(max(rows, key=lambda row: (row["eval/accuracy"], -row["step"]))["step"])


def _license_of(tree: Mapping[str, Any]) -> str:
    """The license in the base model's own card, if its folder has one; that of this package for the bundled models."""
    import yaml  # noqa: PLC0415

    from edge_grpo.config.sections import BUNDLES  # noqa: PLC0415 - imports pydantic

    base = str(tree["model"]["path"])
    if base in BUNDLES:
        return "apache-2.0"
    try:
        head = (Path(base) / "README.md").read_text("utf-8").split("---\n")
        found = yaml.safe_load(head[1]) if len(head) > 2 and not head[0].strip() else {}
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    told = found.get("license") if isinstance(found, Mapping) else ""
    return told if isinstance(told, str) else ""


def _show(upload: Upload, repo: str, dry_run: str) -> None:
    """List the files with their sizes, and what stays."""
    total = sum(path.stat().st_size for path in upload.files)
    doing = f"would be uploaded to {repo} (written to {dry_run})" if dry_run else f"go to {repo}"
    print(f"step {upload.step}: {counted(len(upload.files), 'file')}, {total:,} bytes, {doing}")
    for path in upload.files:
        print(f"  {path.stat().st_size:>14,}  {path.relative_to(upload.folder).as_posix()}")
    if upload.left_out:
        print(f"left out, neither weights nor text of the model: {visible(', '.join(upload.left_out))}")
    card = (upload.folder / "README.md").read_text("utf-8").split("---\n")[1]
    if "license:" not in card:
        print("the card names no license: the base model's is not known here; --license NAME names it")
