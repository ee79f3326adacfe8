"""``edge-grpo tune``."""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edge_grpo.disk import write_whole

__all__ = ["tune"]

_MARK = {"failed": "failed", "late": "too late", "stopped": "stopped early"}


class YesNo(StrEnum):
    """A flag that is written out."""

    true = "true"
    false = "false"


def tune(
    space: Annotated[str, typer.Argument(metavar="SPACE.yaml", help="What is searched; docs/tuning.md describes it.")],
    jobs: Annotated[int, typer.Option(min=1, help="Trials side by side, one thread each.")] = 1,
    trials: Annotated[int, typer.Option(min=0, help="In place of the file's; 0: the file's.")] = 0,
    decomposed: Annotated[
        YesNo, typer.Option(help="false: learn from the weighted sum of the scores alone.")
    ] = YesNo.true,
    out: Annotated[str, typer.Option(metavar="DIR", help="The study's folder; else one under runs/tune.")] = "",
) -> None:
    """Search training settings by the scores of all parts: trials, a table, a page, and the best configuration.

    Cut off and started again, the same command goes on: what is finished is kept, a trial that was running goes on from
    its checkpoint. Ctrl-C ends running trials in order.
    """
    from edge_grpo.tune.kernels import require  # noqa: PLC0415 - torch is slow to import
    from edge_grpo.tune.page import page  # noqa: PLC0415
    from edge_grpo.tune.space import load_space  # noqa: PLC0415
    from edge_grpo.tune.study import BEST, Study  # noqa: PLC0415
    from edge_grpo.tune.suggest import suggest  # noqa: PLC0415

    require()
    wanted = load_space(space)
    wanted = replace(wanted, trials=trials) if trials else wanted
    study = Study(wanted, decomposed=decomposed is YesNo.true, folder=out, name=Path(space).stem)
    console = Console()

    def write_page(known: Sequence[Any]) -> Any:
        then = suggest(wanted, known, number=len(known) + 1, decomposed=study.decomposed)
        write_whole(study.folder / "page.html", page(wanted, known, then, decomposed=study.decomposed, title=space))
        return then

    def tell(known: Sequence[Any], trial: Any) -> None:
        console.print(_line(wanted, known, trial), markup=False, highlight=False, soft_wrap=True)
        write_page(known)

    with study.opened():
        known = study.trials()
        where = f"study: {study.folder}" + (f", {len(known)} trials are over already" if known else "")
        console.print(where, markup=False, highlight=False, soft_wrap=True)
        known = study.run(jobs=jobs, on_trial=tell)
        then = write_page(known)
    console.print(_table(wanted, known))
    console.print(_next_line(then), markup=False, highlight=False, soft_wrap=True)
    best = study.folder / BEST
    console.print(f"page: {study.folder / 'page.html'}   best: {best}", markup=False, highlight=False, soft_wrap=True)
