"""The search over settings put to use: `edge-grpo tune` on the built-in arithmetic, by its parts and by their sum.

    .venv/bin/python benchmarks/tune_arithmetic.py      every study (at most an hour), then the tables, printed
    make tune-evidence                                  the same, as a section of docs/results/decomposed_gp.md

A repeat has its own seed of the search and of training, and four studies, two at a time on a core each, with the same
number of trials and the same even ones at first. What each search chose is then asked problems that it was never scored
on. Only the commands that users have are run; what is finished is kept, so a run that was stopped goes on where it was.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from scipy.stats import t as student

from edge_grpo.data import arithmetic
from edge_grpo.interrupt import terminable
from edge_grpo.tune.record import Trial, best_of, read

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "configs" / "tune" / "arithmetic.yaml"
STUDIES = ROOT / "runs" / "tune_arithmetic"
REPEATS, TRIALS, FRESH = 5, 16, 240  # FRESH problems a part judge what a search chose
ARMS = {"parts": ("true", 5.0), "sum": ("false", 5.0), "parts, wide": ("true", 1.0), "sum, wide": ("false", 1.0)}
PAIRS = (("parts", "sum"), ("parts, wide", "sum, wide"))
EPS = 1e-12


@dataclass(frozen=True)
class Searched:
    """One study: its trials, and what the chosen one gets right of fresh problems."""

    trials: tuple[Trial, ...]
    fresh: float

    def best_after(self, count: int) -> float:
        """The highest score among the first trials."""
        best = best_of(self.trials[:count])
        return -math.inf if best is None or best.whole is None else best.whole


Repeat = Mapping[str, Searched]
"""The studies of one seed, by arm."""


def measure(folder: Path, repeats: int = REPEATS, trials: int = TRIALS) -> list[Repeat]:
    """All studies; what is missing of them is made."""
    found: list[Repeat] = []
    for repeat in range(repeats):
        own = folder / f"repeat-{repeat}"
        for pair in PAIRS:
            _timed(folder, [_study(own, arm, repeat, trials) for arm in pair])
        chosen = {arm: _chosen(own / _name(arm)) for arm in ARMS}
        for pair in PAIRS:
            _timed(folder, [_judgement(own / _name(arm), chosen[arm], _suite(folder)) for arm in pair])
        found.append({arm: _searched(own / _name(arm)) for arm in ARMS})
        print(f"repeat {repeat}: " + ", ".join(f"{arm} {one.fresh:.1%}" for arm, one in found[-1].items()), flush=True)
    return found


def seconds(folder: Path) -> float:
    """By the clock, over all calls of :func:`measure`."""
    return sum(map(float, (folder / "seconds.txt").read_text(encoding="utf-8").split()))


def _study(own: Path, arm: str, repeat: int, trials: int) -> list[str]:
    decomposed, scale = ARMS[arm]
    tree = yaml.safe_load(SPACE.read_text(encoding="utf-8"))
    tree |= {"seed": repeat, "scale": scale, "trials": trials}
    tree["settings"] = [*tree["settings"], f"train.seed={repeat}"]
    own.mkdir(parents=True, exist_ok=True)
    path = own / f"{_name(arm)}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return ["tune", str(path), "--decomposed", decomposed, "--out", str(own / _name(arm))]


def _chosen(study: Path) -> Path:
    """The model of the best trial."""
    best = best_of(read(study))
    assert best is not None  # the study would have ended with an error
    return study / "trials" / f"{best.number:04d}" / "run" / "final"


def _judgement(study: Path, model: Path, suite: Path) -> list[str]:
    return ["eval", "--suite", str(suite), "--model", str(model), "--out", str(study / "fresh")]


def _suite(folder: Path) -> Path:
    """A suite of held-out problems of which no trial was scored on any."""
    objective = yaml.safe_load(SPACE.read_text(encoding="utf-8"))["objective"]
    benchmarks = {}
    for part in objective["weights"]:
        settings = arithmetic.ArithmeticSettings(operands={int(part): 1.0})
        found = arithmetic.problems(settings, count=objective["problems"] + FRESH, on_held_out=True)
        lines = [json.dumps({"problem": one.prompt, "answer": one.answers[0]}) for one in found]
        path = folder / "fresh" / f"{part}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines[objective["problems"] :]) + "\n", encoding="utf-8")
        benchmarks[str(part)] = path.name
    suite = folder / "fresh" / "suite.yaml"
    suite.write_text(yaml.safe_dump({"benchmarks": benchmarks}), encoding="utf-8")
    return suite


def _searched(study: Path) -> Searched:
    weights = yaml.safe_load(SPACE.read_text(encoding="utf-8"))["objective"]["weights"]
    scores = json.loads((study / "fresh" / "results.json").read_text(encoding="utf-8"))["benchmarks"]
    fresh = sum(weight * scores[str(part)]["scores"]["pass@1/greedy"]["value"] for part, weight in weights.items())
    return Searched(tuple(read(study)), fresh)


def _timed(folder: Path, commands: Sequence[Sequence[str]]) -> None:
    """Run commands side by side, and write down how long it took."""
    began = time.monotonic()
    program = Path(sys.executable).with_name("edge-grpo")
    running = [
        subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        for words in commands
    ]
    try:
        codes = [each.wait() for each in running]
    finally:
        for each in running:
            if each.poll() is None:
                each.terminate()
        for each in running:
            each.wait()
        with (folder / "seconds.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.monotonic() - began:.1f}\n")
    if any(codes):
        sys.exit(f"edge-grpo {' '.join(commands[codes.index(next(filter(None, codes)))])}: ended with {codes}")


def _name(arm: str) -> str:
    return arm.replace(", ", "-")


def section(repeats: Sequence[Repeat], elapsed: float) -> Iterator[str]:
    """What came out, as a section of the page."""
    trials = [one for repeat in repeats for study in repeat.values() for one in study.trials]
    states = ", ".join(
        f"{sum(one.state == state for one in trials)} {state}"
        for state in ("finished", "failed", "late", "stopped")
        if any(one.state == state for one in trials)
    )
    own = sorted(one.seconds for one in trials)
    space = yaml.safe_load(SPACE.read_text(encoding="utf-8"))
    count = len(next(iter(repeats[0].values())).trials)
    yield from ["", "## In use: tuning the built-in arithmetic", ""]
    yield f"`benchmarks/tune_arithmetic.py` runs `edge-grpo tune` on `{SPACE.relative_to(ROOT)}`: {len(repeats)} repeats,"
    yield f"each with its own seed of the search and of training, and four studies of {count} trials, of which the first"
    yield f"{space['initial']} are the same. {len(trials)} trials ({states}), {statistics.median(own):.0f} s a trial in the"
    yield f"middle and {own[-1]:.0f} s at most; {elapsed / 60:.0f} minutes in all on two cores, a study on each."
    same = sum(
        tuple(study.trials[place].parts.items()) == tuple(repeat["parts"].trials[place].parts.items())
        for repeat in repeats
        for study in list(repeat.values())[1:]
        for place in range(space["initial"])
    )
    total = len(repeats) * (len(ARMS) - 1) * space["initial"]
    yield f"Trials that two studies share came out the same, to the last problem, in {same} of {total} cases."
    yield ""
    yield f"Score: share of {space['objective']['problems']} problems right, mean over {_listed(space)} operands. *Average*:"
    yield f"of the trials that the search chose ({space['initial'] + 1} to {count}; one that failed counts as 0). *Fresh*:"
    yield f"what the chosen model gets right of {FRESH} other problems a part. Differences are from the parts minus from the"
    yield "sum, so above 0 the parts help; intervals are Student's, 95 %, over repeats. *Wide* is the theory's beta, the"
    yield "other one is divided by 5."
    yield ""
    yield "| beta | what | from the parts | from the sum | difference | repeats better | equal |"
    yield "|---|---|---|---|---|---|---|"
    for pair, name in zip(PAIRS, ("divided by 5", "wide"), strict=True):
        for what, values in _measures(repeats, pair, count, space["initial"]).items():
            fine, coarse = ([100 * one for one in side] for side in values)
            gains = [a - b for a, b in zip(fine, coarse, strict=True)]
            low, high = _interval(gains)
            better, equal = sum(gain > EPS for gain in gains), sum(abs(gain) <= EPS for gain in gains)
            yield (
                f"| {name} | {what} | {statistics.mean(fine):.1f} % | {statistics.mean(coarse):.1f} % | "
                f"{statistics.mean(gains):+.1f} ({low:+.1f} to {high:+.1f}) | {better} of {len(gains)} | {equal} |"
            )
    yield from ["", "Every repeat, fresh problems:", ""]
    yield f"| repeat | {' | '.join(ARMS)} |"
    yield "|---" * (len(ARMS) + 1) + "|"
    for number, repeat in enumerate(repeats):
        yield f"| {number} | {' | '.join(f'{100 * repeat[arm].fresh:.1f} %' for arm in ARMS)} |"


def _listed(space: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    *others, last = map(str, space["objective"]["weights"])
    return f"{', '.join(others)} and {last}"


def _measures(repeats: Sequence[Repeat], pair: Sequence[str], count: int, initial: int) -> dict[str, list[list[float]]]:
    """What is compared: for each arm of the pair a value a repeat."""
    after = sorted({*range(initial + 2, count, 4), count})

    def average(study: Searched) -> float:
        return statistics.mean(one.whole or 0.0 for one in study.trials[initial:])

    found = {f"best of {n}": [[one[arm].best_after(n) for one in repeats] for arm in pair] for n in after}
    found["average"] = [[average(one[arm]) for one in repeats] for arm in pair]
    found["fresh"] = [[one[arm].fresh for one in repeats] for arm in pair]
    return found


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of a mean."""
    mean, count = statistics.mean(values), len(values)
    half = float(student.ppf(0.975, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    return mean - half, mean + half


def main() -> None:
    """Measure, and print the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=Path, default=STUDIES)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--trials", type=int, default=TRIALS)
    arguments = parser.parse_args()
    with terminable():
        repeats = measure(arguments.studies, arguments.repeats, arguments.trials)
    print("\n".join(section(repeats, seconds(arguments.studies))))


if __name__ == "__main__":
    main()
