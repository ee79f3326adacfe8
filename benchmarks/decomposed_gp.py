"""The benefit and the cost of seeing the parts of a sum: writes docs/results/decomposed_gp.md.

    .venv/bin/python benchmarks/decomposed_gp.py            every draw (about a quarter of an hour), the studies of
                                                            tune_arithmetic.py (at most an hour), then the page
    .venv/bin/python benchmarks/decomposed_gp.py --timing   print the seconds of a posterior and stop

Every finished draw is a line of runs/decomposed_gp/draws.jsonl, so a run that was stopped resumes.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import tune_arithmetic
from gp import epidemic, synthetic, weather
from gp.page import SCALES, page, table

from edge_grpo.base.digests import digest
from edge_grpo.base.interrupt import terminable
from edge_grpo.tune import Decomposed, PriorSettings, StationarySettings, beta_finite, confidence_bound, make_part

ROOT = Path(__file__).resolve().parents[1]
DRAWS = ROOT / "runs" / "decomposed_gp" / "draws.jsonl"
PAGE = ROOT / "docs" / "results" / "decomposed_gp.md"
MEASURES: dict[str, Callable[..., dict[str, float]]] = {
    "regression": synthetic.regression,
    "fitted": synthetic.fitted,
    "regret": synthetic.regret,
    "epidemic": lambda _, *rest: epidemic.regret(*rest),
    "weather": weather.regret,
}


@dataclass(frozen=True)
class Job:
    """Draws of one experiment: its name, the case, the divisor of beta (none for regression), and how many."""

    name: str
    case: str
    scale: float | None
    draws: int

    def key(self, draw: int) -> str:
        """The key of one draw."""
        return f"{self.name}/{self.case}/{self.scale}/{draw}"


JOBS = [
    *(Job("regression", case, None, 200) for case in synthetic.CASES),
    *(Job("fitted", case, None, 40) for case in ("heterogeneous", "near", "random5")),
    *(Job("regret", case, s, 40) for case in ("heterogeneous", "near", "identical", "random5") for s in SCALES),
    *(Job("epidemic", "budget", scale, 30) for scale in SCALES),
    *(Job("weather", season, scale, 30) for season in weather.SEASONS for scale in SCALES),
]


def identity() -> str:
    """Digest of the code behind the numbers."""
    modules = [f"gp.{name}" for name in ("draws", "epidemic", "synthetic", "weather")]
    names = ("acquisition", "composition", "fit", "kernels", "loop", "posterior")
    modules += [f"edge_grpo.tune.{name}" for name in names]
    files = [spec.origin for spec in map(find_spec, modules) if spec and spec.origin]
    return digest(b"".join(Path(file).read_bytes() for file in files))


def finished(path: Path) -> dict[str, dict[str, float]]:
    """Values by key; a line truncated by a kill is dropped from the file."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"code": identity()}) + "\n", encoding="utf-8")
    whole = path.read_text(encoding="utf-8")
    whole = whole[: whole.rfind("\n") + 1]
    path.write_text(whole, encoding="utf-8")
    first, *lines = whole.splitlines()
    if json.loads(first) != {"code": identity()}:
        sys.exit(f"{path}: its draws were made by different code; delete it or use another --draws FILE")
    rows = [json.loads(line) for line in lines]
    return {row["key"]: row["values"] for row in rows}


def measure(path: Path, jobs: list[Job]) -> dict[str, dict[str, float]]:
    """All draws; missing ones are made and saved."""
    done = finished(path)
    with path.open("a", encoding="utf-8") as file:
        for job in jobs:
            began, fresh = time.perf_counter(), 0
            for draw in range(job.draws):
                if job.key(draw) in done:
                    continue
                rest = () if job.scale is None else (job.scale,)
                values = MEASURES[job.name](job.case, draw, *rest)
                done[job.key(draw)] = values
                file.write(json.dumps({"key": job.key(draw), "values": values}) + "\n")
                file.flush()
                os.fsync(file.fileno())
                fresh += 1
            print(f"{job.key(job.draws)}: {fresh} draws made in {time.perf_counter() - began:.0f} s", flush=True)
    return done


def timing(repetitions: int = 7, *, observations: int = 500, num_candidates: int = 1000) -> list[str]:
    """Seconds of a posterior of 5 parts with its acquisition, and per part of one among several equal parts."""
    chance = torch.Generator().manual_seed(0)
    sizes = (observations, num_candidates)
    points, candidates = (torch.rand(size, 4, generator=chance, dtype=torch.float64) for size in sizes)
    values = torch.randn(5, observations, generator=chance, dtype=torch.float64)
    kernels = (
        StationarySettings(type="rbf", lengthscale=0.3),
        StationarySettings(type="matern12", lengthscale=0.3),
        StationarySettings(type="matern32", lengthscale=0.3),
        StationarySettings(type="matern52", lengthscale=0.3),
        StationarySettings(type="rq", lengthscale=0.3),
    )
    parts = [make_part(PriorSettings(kernel=kernel), dims=4) for kernel in kernels]

    def next_point() -> int:
        whole = Decomposed(parts, points, values).whole_at(candidates)
        deviation = whole.variance.clamp(min=0).sqrt()
        return int(confidence_bound(whole.mean, deviation, beta_finite(num_candidates, 1, scale=5)).argmax())

    def copies(count: int) -> Callable[[], object]:
        return lambda: Decomposed(parts[:1] * count, points, values[:1].repeat(count, 1)).parts_at(candidates)

    tasks: dict[str, Callable[[], object]] = {"posterior of the whole and acquisition, 5 parts": next_point}
    tasks |= {f"posterior of {n} equal part{'s' * (n > 1)}, per part": copies(n) for n in (1, 2, 5, 10)}
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repetitions + 1):  # the first one warms up
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            found[name].append((time.perf_counter() - began) / (int(name.split()[2]) if "equal" in name else 1))
    kept = {name: own[1:] for name, own in found.items()}
    rows = [[n, *(f"{of(s):.3f}" for of in (statistics.median, min, max))] for n, s in kept.items()]
    return [
        "\n## Time\n",
        f"{observations:,} observations, {num_candidates:,} candidates, 4 dimensions, float64; "
        f"{torch.get_num_threads()} thread(s) of {os.cpu_count()} cores ({platform.machine()}), median of "
        f"{repetitions}, seconds.",
        *table(["task", "median", "minimum", "maximum"], rows),
    ]


def main() -> None:
    """Measure, or time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=Path, default=DRAWS)
    parser.add_argument("--studies", type=Path, default=tune_arithmetic.STUDIES)
    parser.add_argument("--timing", action="store_true")
    arguments = parser.parse_args()
    if arguments.timing:
        print("\n".join(timing()))
        return
    done = measure(arguments.draws, JOBS)
    rows = {(job.name, job.case, job.scale): [done[job.key(draw)] for draw in range(job.draws)] for job in JOBS}
    clock = timing()
    with terminable():
        repeats = tune_arithmetic.measure(arguments.studies)
    used = tune_arithmetic.section(repeats, tune_arithmetic.seconds(arguments.studies))
    PAGE.write_text(page(rows, used, clock, tune_arithmetic.gains(repeats)), encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
