"""The search over settings put to use: `edge-grpo tune` on the built-in arithmetic, by its parts and by their sum.

    .venv/bin/python benchmarks/tune_arithmetic.py      every study (at most an hour), then the tables, printed
    make tune-evidence                                  the same, as a section of docs/results/decomposed_gp.md

A repeat has its own seed of the search and of training, and four studies, two at a time on a core each, with the same
number of trials and the same even ones at first. What each search chose is then asked problems that it was never scored
on. Only the commands that users have are run; what is finished is kept, so a run that was stopped goes on where it was.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from decomposed_gp_page import SAME, signed, table

from edge_grpo.base.interrupt import terminable
from edge_grpo.compare.runs import t_interval
from edge_grpo.data import arithmetic
from edge_grpo.tune.record import Trial, best_of, read

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "configs" / "tune" / "arithmetic.yaml"
STUDIES = ROOT / "runs" / "tune_arithmetic"
REPEATS, TRIALS, FRESH = 5, 16, 240  # FRESH problems a part judge what a search chose
ARMS = {"parts": ("true", 5.0), "sum": ("false", 5.0), "parts, wide": ("true", 1.0), "sum, wide": ("false", 1.0)}
LIMIT_S = 3600.0  # of all studies together
PAIRS = (("parts", "sum"), ("parts, wide", "sum, wide"))


@dataclass(frozen=True)
class Searched:
    """One study: its trials, and what the chosen one gets right of fresh problems."""

    trials: tuple[Trial, ...]
    fresh: float

    def best_after(self, count: int) -> float:
        """The highest score among the first trials; what has not finished counts as 0."""
        return max(one.whole or 0.0 for one in self.trials[:count])


Repeat = Mapping[str, Searched]
"""The studies of one seed, by arm."""


def measure(folder: Path, repeats: int = REPEATS, trials: int = TRIALS) -> list[Repeat]:
    """All studies; what is missing of them is made."""
    found: list[Repeat] = []
    for repeat in range(repeats):
        own = folder / f"repeat-{repeat}"
        for pair in PAIRS:
            studies = {arm: _study(own, arm, repeat, trials) for arm in pair}
            _timed(folder, [words for arm, words in studies.items() if not _is_over(own / _name(arm), trials)])
        for pair in PAIRS:
            missing = [arm for arm in pair if not (own / _name(arm) / "fresh" / "results.json").exists()]
            _timed(folder, [_judgement(own / _name(arm), _suite(folder)) for arm in missing])
        found.append({arm: _searched(own / _name(arm)) for arm in ARMS})
        print(f"repeat {repeat}: " + ", ".join(f"{arm} {one.fresh:.1%}" for arm, one in found[-1].items()), flush=True)
    return found


def seconds(folder: Path) -> float:
    """By the clock, over all calls of :func:`measure` that were not killed outright."""
    return sum(map(float, (folder / "seconds.txt").read_text(encoding="utf-8").split()))


def _study(own: Path, arm: str, repeat: int, trials: int) -> list[str]:
    decomposed, scale = ARMS[arm]
    tree = yaml.safe_load(SPACE.read_text(encoding="utf-8"))
    tree |= {"seed": repeat, "scale": scale, "trials": trials}
    tree["settings"] = [*tree["settings"], f"train.seed={repeat}"]
    own.mkdir(parents=True, exist_ok=True)
    path = own / f"{_name(arm)}.yaml"
    text = yaml.safe_dump(tree, sort_keys=False)
    if _text(path) not in ("", text):
        sys.exit(f"{path}: its studies are of another space; delete {own.parent}, or give another --studies DIR")
    path.write_text(text, encoding="utf-8")
    return ["tune", str(path), "--decomposed", decomposed, "--out", str(own / _name(arm))]


def _is_over(study: Path, trials: int) -> bool:
    """Whether it has all its trials and has written the best one down, which it does last."""
    best = best_of(read(study))
    return best is not None and len(read(study)) == trials and f"trial {best.number}," in _text(study / "best.yaml")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _judgement(study: Path, suite: Path) -> list[str]:
    """What asks the model of the best trial."""
    best = best_of(read(study))
    assert best is not None  # the study would have ended with an error
    model = study / "trials" / f"{best.number:04d}" / "run" / "final"
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
    if not commands:
        return
    began = time.monotonic()
    program = Path(sys.executable).with_name("edge-grpo")
    running = [
        subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        for words in commands
    ]
    try:
        codes = [each.wait() for each in running]
    finally:
        with (folder / "seconds.txt").open("a", encoding="utf-8") as file:  # a second signal may come
            file.write(f"{time.monotonic() - began:.3f}\n")
        for each in running:
            if each.poll() is None:
                each.terminate()
        for each in running:
            each.wait()
    if any(codes):
        sys.exit(f"edge-grpo {' '.join(commands[codes.index(next(filter(None, codes)))])}: ended with {codes}")


def _name(arm: str) -> str:
    return arm.replace(", ", "-")


def section(repeats: Sequence[Repeat], elapsed: float) -> Iterator[str]:
    """What came out, as a section of the page.

    Args:
        repeats: all studies.
        elapsed: seconds by the clock that they took.
    """
    space = yaml.safe_load(SPACE.read_text(encoding="utf-8"))
    initial, problems = space["initial"], space["objective"]["problems"]
    trials = [one for repeat in repeats for study in repeat.values() for one in study.trials]
    count = len(repeats[0]["parts"].trials)
    took = [one.seconds for one in trials]
    counts = Counter(one.state for one in trials)
    states = ", ".join(f"{number} {state}" for state, number in counts.items())
    same, shared = _shared(repeats, initial)
    over = "" if elapsed <= LIMIT_S else " (**more than the hour that was wanted**)"
    *others, last = map(str, space["objective"]["weights"])
    yield f"""
## In use: tuning the built-in arithmetic

`edge-grpo tune` on `configs/tune/arithmetic.yaml`, by `benchmarks/tune_arithmetic.py`: learning rate, clip range and
correction; a trial is told to end after {space["trial_s"]:g} s. {len(repeats)} repeats, each with its own seed of the
search and of training, and with four studies of {count} trials, of which the first {initial} are the same evenly spread
ones. {len(trials)} trials: {states}; training and answering took {statistics.median(took):.0f} s (median),
{max(took):.0f} s at most, the start of the process not counted. {elapsed / 60:.0f} minutes in all{over}, two studies at
a time, a thread each. What two studies both tried at first got the same scores in {same} of {shared} cases.

The score is the share of {problems} held-out problems each with {", ".join(others)} and {last} operands that is right,
their mean. *Best of n*: the highest score among the first n trials. *Chosen*: the mean over trials {initial + 1} to
{count}, those that the search chose; what has not finished counts as 0. *Fresh*: what the best trial's model gets right
of {FRESH} other problems a part. Differences are those of percentages, from the parts minus from the sum, so above 0
the parts help; intervals are Student's, 95 %, over the {len(repeats)} repeats, uncorrected for being several."""
    found = (
        [f"{ARMS[pair[0]][1]:g}", what, *_paired(values)]
        for pair in PAIRS
        for what, values in _measures(repeats, pair, count, initial).items()
    )
    head = ["beta divided by", "what", "from the parts", "from the sum", "difference", "better", "equal", "worse"]
    yield from table(head, found)
    yield "\nFresh, repeat by repeat (wide: beta divided by 1):"
    rows = [[str(number), *(f"{repeat[arm].fresh:.1%}" for arm in ARMS)] for number, repeat in enumerate(repeats)]
    yield from table(["repeat", *ARMS], rows)


def _shared(repeats: Sequence[Repeat], initial: int) -> tuple[int, int]:
    """How often an evenly spread trial came out as in the first study, and of how many times."""
    pairs = [
        (study.trials[place].parts, repeat["parts"].trials[place].parts)
        for repeat in repeats
        for arm, study in repeat.items()
        if arm != "parts"
        for place in range(initial)
        if study.trials[place].parts
    ]
    return sum(one == two for one, two in pairs), len(pairs)


def _measures(repeats: Sequence[Repeat], pair: Sequence[str], count: int, initial: int) -> dict[str, list[list[float]]]:
    """What is compared: for each arm of the pair a value a repeat."""

    def chosen(study: Searched) -> float:
        return statistics.mean(one.whole or 0.0 for one in study.trials[initial:])

    after = sorted({*range(initial + 2, count, 4), count})
    found = {f"best of {n}": [[one[arm].best_after(n) for one in repeats] for arm in pair] for n in after}
    found["chosen"] = [[chosen(one[arm]) for one in repeats] for arm in pair]
    found["fresh"] = [[one[arm].fresh for one in repeats] for arm in pair]
    return found


def gains(repeats: Sequence[Repeat]) -> dict[tuple[str, float | None], list[float]]:
    """Paired differences between the arms, by what was compared and the divisor of beta."""
    count, initial = len(repeats[0]["parts"].trials), yaml.safe_load(SPACE.read_text(encoding="utf-8"))["initial"]
    return {
        (f"arithmetic, {what}", ARMS[pair[0]][1]): [a - b for a, b in zip(*values, strict=True)]
        for pair in PAIRS
        for what, values in _measures(repeats, pair, count, initial).items()
    }


def _paired(values: Sequence[Sequence[float]]) -> list[str]:
    """The cells of a comparison: both means, their difference with its interval, and in how many repeats."""
    fine, coarse = ([100 * one for one in arm] for arm in values)
    gains = [a - b for a, b in zip(fine, coarse, strict=True)]
    mean, low, high = (signed(one, 1) for one in t_interval(gains))
    signs = [sum(gain > SAME for gain in gains), sum(abs(gain) <= SAME for gain in gains), 0]
    signs[2] = len(gains) - sum(signs)
    means = (f"{statistics.mean(arm):.1f} %" for arm in (fine, coarse))
    return [*means, f"{mean} ({low} to {high})", *map(str, signs)]


def main() -> None:
    """Measure, and print the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=Path, default=STUDIES)
    parser.add_argument("--repeats", type=int, default=REPEATS, choices=range(2, 11), metavar="2..10")
    parser.add_argument("--trials", type=int, default=TRIALS)
    arguments = parser.parse_args()
    with terminable():
        repeats = measure(arguments.studies, arguments.repeats, arguments.trials)
    print("\n".join(section(repeats, seconds(arguments.studies))))


if __name__ == "__main__":
    main()
