"""The images in the prompts of a run, small enough for a page."""

from collections.abc import Mapping
from typing import Any, Final

from edge_grpo.base.errors import DataError, EdgeGrpoError
from edge_grpo.report.browser import Pictures, no_pictures
from edge_grpo.report.run import Run
from edge_grpo.runs.completions import rollouts

__all__ = ["pictures_in"]

_MOST_BYTES: Final = 800_000  # of each run
_PIXELS: Final = 160 * 160


def pictures_in(run: Run) -> tuple[Pictures, str]:
    """How to find the images in the prompts of a run, scaled down, and why they cannot be found if they cannot.

    Args:
        run: its data is read again, if there are images in its prompts.
    """
    if not any(row for row in rollouts(run.path, columns=("images",))["images"].to_pylist()):
        return no_pictures, ""
    from edge_grpo.data.pictures import data_url  # noqa: PLC0415 - imports numpy
    from edge_grpo.training.shown import pictures_of  # noqa: PLC0415 - imports torch

    try:
        find = pictures_of(run.path)
    except EdgeGrpoError as error:
        return no_pictures, f"{run.name}: pictures are not shown: {error}"
    made: dict[str, str] = {}

    def pictures(row: Mapping[str, Any]) -> list[str]:
        found = []
        try:
            for one in find(row):
                key = f"{one.digest} {one.transform} {one.seed}"
                if key not in made and sum(map(len, made.values())) < _MOST_BYTES:
                    made[key] = data_url(one, most_pixels=_PIXELS)
                found.append(made.get(key, ""))
        except DataError:
            return []
        return [url for url in found if url]

    return pictures, ""
