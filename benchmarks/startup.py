"""CPU-seconds until the command line answers, compared with `import torch`.

    .venv/bin/python benchmarks/startup.py

User and system time of each process and its children; the cases alternate, so that a busy machine slows all of them.
Medians, and their ratio to `import torch`. Goal: help imports no torch, the others take at most 1.3 times that long.
"""

import argparse
import os
import statistics
import subprocess
import sys

EDGE_GRPO = ("-m", "edge_grpo")
CASES: dict[str, tuple[tuple[str, ...], int]] = {  # arguments of Python, expected exit code
    "import torch": (("-c", "import torch"), 0),
    "edge-grpo --help": ((*EDGE_GRPO, "--help"), 0),
    "edge-grpo show-config": ((*EDGE_GRPO, "show-config"), 0),
    "edge-grpo train train.stepz=3": ((*EDGE_GRPO, "train", "train.stepz=3"), 2),
}


def cpu_seconds(arguments: tuple[str, ...], code: int) -> float:
    """User and system time of one process with its children, in seconds."""
    before = os.times()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    after = os.times()
    if done.returncode != code:
        raise SystemExit(f"python {' '.join(arguments)}: exit code {done.returncode}, wanted {code}\n{done.stderr!r}")
    used = after.children_user + after.children_system
    return used - before.children_user - before.children_system


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(repetitions):
        for name, (arguments, code) in CASES.items():
            seconds[name].append(cpu_seconds(arguments, code))
    torch = statistics.median(seconds["import torch"])
    print(f"{'':<32} CPU-seconds (lowest - highest)   ratio")
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"{name:<32} {median:11.2f} ({min(found):.2f} - {max(found):.2f}) {median / torch:17.2f}")


if __name__ == "__main__":
    main()
