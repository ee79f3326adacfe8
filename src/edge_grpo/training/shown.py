"""The pictures that the completions of a run were sampled under, found again from its folder."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Picture
from edge_grpo.config.tree import load_config, read_yaml, updated
from edge_grpo.data.problems import load_train_eval

__all__ = ["pictures_of"]


def pictures_of(run: str | Path) -> Callable[[Mapping[str, Any]], tuple[Picture, ...]]:
    """How to get from a completion of a run to the pictures in its prompt, as the model was shown them.

    Rollouts hold no pictures, only the digest of each, its transform and the seed of its noise; the run's own settings
    say where the data is, and how large pictures are.

    Args:
        run: the run folder.
    Returns:
        a function of a row of :func:`edge_grpo.runs.completions.rollouts`, with one picture for each of its images, for
        :func:`edge_grpo.data.pictures.open_picture`. It raises ``DataError`` if the data has no such picture any more.
    Raises:
        DataError: there is no run, or its data cannot be read.
        ConfigError: its settings cannot be read.
    """
    file = Path(run).expanduser() / "config.yaml"
    if not file.is_file():
        raise DataError(f"{file.parent}: no run (no config.yaml); name a run folder")
    config = load_config(updated(read_yaml(str(file))))
    loaded = load_train_eval(config.data, num_eval=config.eval.num_problems, seed=config.eval.seed)[0]
    known = {picture.digest: picture for problem in loaded.problems for picture in problem.images}

    def shown(row: Mapping[str, Any]) -> tuple[Picture, ...]:
        missing = [each["name"] for each in row["images"] or () if each["digest"] not in known]
        if missing:
            raise DataError(f"{missing[0]}: the data of {file.parent} has no such picture any more; restore it")
        return tuple(
            replace(known[each["digest"]], transform=each["transform"], seed=each["seed"])
            for each in row["images"] or ()
        )

    return shown
