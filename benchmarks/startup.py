"""How long the command line takes: until it answers, and until `train` has sampled a token, beside `import torch`.

    make bench-startup

Seconds, and user and system time of each process and its children; the cases alternate, so that a busy machine slows
all of them. Medians, and their ratio to `import torch`. Goal: help imports no torch, and the others but `train` take at
most 1.3 times as many CPU-seconds. The last case is `edge-grpo train` on the bundled model with answers of one token
and no evaluation before the first step. Its seconds end when the engine returns its first batch; it is then told to
end, and its CPU-seconds include that.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import Figures, command_line, machine, over, print_figures, shown, table

KEYS = ("startup", "startup_s", "startup_cpu_s", "startup_over_import_torch")
EDGE_GRPO = ("-m", "edge_grpo")
TORCH, TRAIN = "import torch", "edge-grpo train, first token"
ENDED_BY_SIGTERM = 143


@dataclass(frozen=True)
class Case:
    """Arguments of Python, the expected exit code, and the file that gets the clock's reading, if one does."""

    arguments: tuple[str, ...]
    code: int = 0
    clock: Path | None = None


@dataclass(frozen=True)
class Spent:
    """Seconds of a process until it ended or had sampled, and user and system time with its children."""

    seconds: float
    cpu: float


CASES = {
    TORCH: Case(("-c", "import torch")),
    "edge-grpo --help": Case((*EDGE_GRPO, "--help")),
    "edge-grpo show-config": Case((*EDGE_GRPO, "show-config")),
    "edge-grpo train train.stepz=3": Case((*EDGE_GRPO, "train", "train.stepz=3"), 2),
}


def first_token(folder: Path) -> Case:
    """`edge-grpo train` until it has sampled."""
    settings = {
        "rollout.max_new_tokens": "1",
        "rollout.prompts_per_step": "1",
        "rollout.group_size": "2",
        "eval.at_start": "false",
        "run.dir": str(folder / "run"),
    }
    clock = folder / "clock"
    script = str(Path(__file__).with_name("first_token.py"))
    words = (script, str(clock), "train", *(f"{name}={value}" for name, value in settings.items()))
    return Case(words, ENDED_BY_SIGTERM, clock)


def spent(case: Case) -> Spent:
    """Run a case once."""
    before, began = os.times(), time.monotonic()
    done = subprocess.run([sys.executable, *case.arguments], capture_output=True, check=False)
    ended, after = time.monotonic(), os.times()
    if done.returncode != case.code:
        words = " ".join(case.arguments)
        raise SystemExit(f"python {words}: exit code {done.returncode}, wanted {case.code}\n{done.stderr!r}")
    if case.clock:
        ended = float(case.clock.read_text(encoding="utf-8"))
    used = after.children_user + after.children_system
    return Spent(ended - began, used - before.children_user - before.children_system)


def report(found: Mapping[str, Sequence[Spent]]) -> list[list[str]]:
    """A row per case: seconds, CPU-seconds, and both over those of `import torch`."""
    rows = []
    for name, own in found.items():
        cells = []
        for part in ("seconds", "cpu"):
            values, torch = ([getattr(each, part) for each in some] for some in (own, found[TORCH]))
            cells += [shown(values), shown(over(values, torch))]
        rows.append([name, *cells])
    return rows


def measure(*, quick: bool = False, repetitions: int | None = None) -> Figures:
    """Seconds and CPU-seconds until `train` has sampled a token, and seconds over those of `import torch`."""
    found: dict[str, list[Spent]] = {name: [] for name in (*CASES, TRAIN)}
    for _ in range(repetitions or (2 if quick else 5)):
        for name, own in found.items():
            with tempfile.TemporaryDirectory() as folder:
                own.append(spent(CASES.get(name) or first_token(Path(folder))))
    print(table(["", "seconds", "of torch's", "CPU-seconds", "of torch's"], report(found)), flush=True)
    seconds = [each.seconds for each in found[TRAIN]]
    ratio = over(seconds, [each.seconds for each in found[TORCH]])
    cpu = statistics.median(each.cpu for each in found[TRAIN])
    return dict(zip(KEYS, (ratio, statistics.median(seconds), cpu, ratio), strict=True))


def main() -> None:
    """Print a table, and the figures as JSON."""
    parser = command_line(__doc__)
    parser.add_argument("--repetitions", type=int, help="how often each case runs (default: 5)")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    print_figures(measure(quick=arguments.quick, repetitions=arguments.repetitions))


if __name__ == "__main__":
    main()
