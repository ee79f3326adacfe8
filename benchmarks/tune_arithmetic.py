"""`edge-grpo tune` in use on the built-in arithmetic: a search that sees the parts against one that sees their sum.

    .venv/bin/python benchmarks/tune_arithmetic.py      run every study (at most an hour), then print the tables
    make tune-evidence                                  the same, as a section of docs/results/decomposed_gp.md

Each repeat has its own seed for the search and for training, and four studies, two at a time on one core each, with
the same number of trials and the same evenly spread first ones. The best trial of each is then judged on fresh problems
that no trial was scored on. Only user commands are run. Finished work stays on disk, so a run that was stopped resumes.
"""

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from gp.page import SAME, signed, table
from gp.side_by_side import run_side_by_side

from edge_grpo.base.interrupt import terminable
from edge_grpo.data import arithmetic
from edge_grpo.evaluation.intervals import t_interval
from edge_grpo.tune.record import Trial, best_of, read

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "configs" / "tune" / "arithmetic.yaml"
STUDIES = ROOT / "runs" / "tune_arithmetic"
REPEATS, TRIALS, FRESH = 5, 16, 240  # FRESH problems per part judge each search's choice
ARMS = {"parts": ("true", 5.0), "sum": ("false", 5.0), "parts, wide": ("true", 1.0), "sum, wide": ("false", 1.0)}
LIMIT_S = 3600.0  # of all studies together
PAIRS = (("parts", "sum"), ("parts, wide", "sum, wide"))


@dataclass(frozen=True)
class Searched:
    """One study: its trials, and the accuracy of the best one on fresh problems."""

    trials: tuple[Trial, ...]
    fresh: float

    def best_after(self, count: int) -> float:
        """The highest score among the first trials; a trial that did not finish counts as 0."""
        return max(one.whole or 0.0 for one in self.trials[:count])


Repeat = Mapping[str, Searched]
"""The studies of one seed, by arm."""
Run = Callable[[Sequence[Sequence[str]], Path], None]
"""Runs edge-grpo with each of the given argument lists, and appends the seconds to a file."""


def run_edge_grpo(arguments: Sequence[Sequence[str]], clock: Path) -> None:
    """Run the installed command, once per argument list, side by side."""
    program = str(Path(sys.executable).with_name("edge-grpo"))
    run_side_by_side([[program, *words] for words in arguments], clock)


def measure(folder: Path, repeats: int = REPEATS, trials: int = TRIALS, *, run: Run = run_edge_grpo) -> list[Repeat]:
    """All studies; missing ones are run.

    Args:
        folder: where the studies are kept.
        repeats: seeds.
        trials: trials per study.
        run: runs the commands.
    """
    found: list[Repeat] = []
    clock = folder / "seconds.txt"
    for repeat in range(repeats):
        own = folder / f"repeat-{repeat}"
        for pair in PAIRS:
            studies = {arm: _study(own, arm, repeat, trials) for arm in pair}
            if missing := [words for arm, words in studies.items() if not _is_over(own / _name(arm), trials)]:
                run(missing, clock)
        for pair in PAIRS:
            unjudged = [own / _name(arm) for arm in pair if not (own / _name(arm) / "fresh" / "results.json").exists()]
            if unjudged:
                run([_judgement(study, _suite(folder)) for study in unjudged], clock)
        found.append({arm: _searched(own / _name(arm)) for arm in ARMS})
        print(f"repeat {repeat}: " + ", ".join(f"{arm} {one.fresh:.1%}" for arm, one in found[-1].items()), flush=True)
    return found


def seconds(folder: Path) -> float:
    """Wall-clock seconds over all calls of :func:`measure` that were not killed outright."""
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
        sys.exit(f"{path}: its studies searched another space; delete {own.parent} or use another --studies DIR")
    path.write_text(text, encoding="utf-8")
    return ["tune", str(path), "--decomposed", decomposed, "--out", str(own / _name(arm))]


def _is_over(study: Path, trials: int) -> bool:
    """Whether the study has all its trials and has recorded the best one, which it does last."""
    best = best_of(read(study))
    return best is not None and len(read(study)) == trials and f"trial {best.number}," in _text(study / "best.yaml")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _judgement(study: Path, suite: Path) -> list[str]:
    """The arguments that evaluate the best trial's model."""
    best = best_of(read(study))
    assert best is not None  # the study would have ended with an error
    model = study / "trials" / f"{best.number:04d}" / "run" / "final"
    return ["eval", "--suite", str(suite), "--model", str(model), "--out", str(study / "fresh")]


def _suite(folder: Path) -> Path:
    """A suite of the fresh problems."""
    suite = folder / "fresh" / "suite.yaml"
    suite.parent.mkdir(parents=True, exist_ok=True)
    for part, lines in _fresh_problems().items():
        (suite.parent / f"{part}.jsonl").write_text(lines, encoding="utf-8")
    suite.write_text(yaml.safe_dump({"benchmarks": {part: f"{part}.jsonl" for part in _fresh_problems()}}))
    return suite


@cache
def _fresh_problems() -> dict[str, str]:
    """JSON lines of held-out problems that no trial was scored on, by part."""
    objective = yaml.safe_load(SPACE.read_text(encoding="utf-8"))["objective"]
    found = {}
    for part in objective["weights"]:
        settings = arithmetic.ArithmeticSettings(operands={int(part): 1.0})
        asked = arithmetic.problems(settings, count=objective["problems"] + FRESH, on_held_out=True)
        lines = [json.dumps({"problem": one.prompt, "answer": one.answers[0]}) + "\n" for one in asked]
        found[str(part)] = "".join(lines[objective["problems"] :])
    return found


def _searched(study: Path) -> Searched:
    weights = yaml.safe_load(SPACE.read_text(encoding="utf-8"))["objective"]["weights"]
    scores = json.loads((study / "fresh" / "results.json").read_text(encoding="utf-8"))["benchmarks"]
    fresh = sum(weight * scores[str(part)]["scores"]["pass@1/greedy"]["value"] for part, weight in weights.items())
    return Searched(tuple(read(study)), fresh)


def _name(arm: str) -> str:
    return arm.replace(", ", "-")


def section(repeats: Sequence[Repeat], elapsed: float) -> Iterator[str]:
    """The section of the page about these studies.

    Args:
        repeats: all studies.
        elapsed: their wall-clock seconds.
    """
    space = yaml.safe_load(SPACE.read_text(encoding="utf-8"))
    initial, problems = space["initial"], space["objective"]["problems"]
    trials = [one for repeat in repeats for study in repeat.values() for one in study.trials]
    count = len(repeats[0]["parts"].trials)
    took = [one.seconds for one in trials]
    counts = Counter(one.state for one in trials)
    states = ", ".join(f"{number} {state}" for state, number in counts.items())
    same, shared = _shared(repeats, initial)
    over = "" if elapsed <= LIMIT_S else " (**over the budget of one hour**)"
    *others, last = map(str, space["objective"]["weights"])
    yield f"""
## In use: tuning the built-in arithmetic

`edge-grpo tune` on `configs/tune/arithmetic.yaml`, run by `benchmarks/tune_arithmetic.py`: learning rate, clip range
and correction; a trial is stopped after {space["trial_s"]:g} s. {len(repeats)} repeats, each with its own seed for the
search and for training and with four studies of {count} trials, whose first {initial} are evenly spread and the same in
all four. {len(trials)} trials: {states}; training and evaluation took {statistics.median(took):.0f} s (median),
{max(took):.0f} s at most, not counting process startup. {elapsed / 60:.0f} minutes in total{over}, two studies at
a time, one thread each. Evenly spread trials shared by two studies scored the same in {same} of {shared} cases.

The score is the mean accuracy on {problems} held-out problems each with {", ".join(others)} and {last} operands.
*Best of n*: the highest score among the first n trials. *Chosen*: the mean over trials {initial + 1} to {count}, those
that the search chose; a trial that did not finish counts as 0. *Fresh*: the accuracy of the best trial's model on
{FRESH} other problems per part. Differences are in percentage points, parts minus sum, so above 0 the parts help;
intervals are Student's, 95 %, over the {len(repeats)} repeats, not corrected for multiple comparisons."""
    found = (
        [f"{ARMS[pair[0]][1]:g}", what, *_paired(values)]
        for pair in PAIRS
        for what, values in _measures(repeats, pair, count, initial).items()
    )
    head = ["beta divided by", "measure", "with the parts", "with the sum", "difference", "better", "equal", "worse"]
    yield from table(head, found)
    yield "\nFresh, repeat by repeat (wide: beta divided by 1):"
    rows = [[str(number), *(f"{repeat[arm].fresh:.1%}" for arm in ARMS)] for number, repeat in enumerate(repeats)]
    yield from table(["repeat", *ARMS], rows)


def _shared(repeats: Sequence[Repeat], initial: int) -> tuple[int, int]:
    """How many evenly spread trials scored as in the first study, and out of how many."""
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
    """The compared measures: for each arm of the pair, one value per repeat."""

    def chosen(study: Searched) -> float:
        return statistics.mean(one.whole or 0.0 for one in study.trials[initial:])

    after = sorted({*range(initial + 2, count, 4), count})
    found = {f"best of {n}": [[one[arm].best_after(n) for one in repeats] for arm in pair] for n in after}
    found["chosen"] = [[chosen(one[arm]) for one in repeats] for arm in pair]
    found["fresh"] = [[one[arm].fresh for one in repeats] for arm in pair]
    return found


def gains(repeats: Sequence[Repeat]) -> dict[tuple[str, float | None], list[float]]:
    """Paired differences between the arms, by measure and divisor of beta."""
    count, initial = len(repeats[0]["parts"].trials), yaml.safe_load(SPACE.read_text(encoding="utf-8"))["initial"]
    return {
        (f"arithmetic, {what}", ARMS[pair[0]][1]): [a - b for a, b in zip(*values, strict=True)]
        for pair in PAIRS
        for what, values in _measures(repeats, pair, count, initial).items()
    }


def _paired(values: Sequence[Sequence[float]]) -> list[str]:
    """Table cells of a comparison: both means, their difference with its interval, and counts of repeats."""
    fine, coarse = ([100 * one for one in arm] for arm in values)
    gains = [a - b for a, b in zip(fine, coarse, strict=True)]
    mean, low, high = (signed(one, 1) for one in t_interval(gains))
    signs = [sum(gain > SAME for gain in gains), sum(abs(gain) <= SAME for gain in gains), 0]
    signs[2] = len(gains) - sum(signs)
    means = (f"{statistics.mean(arm):.1f} %" for arm in (fine, coarse))
    return [*means, f"{mean} ({low} to {high})", *map(str, signs)]


def main() -> None:
    """Measure and print the section."""
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
