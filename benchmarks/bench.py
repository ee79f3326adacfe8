"""Run benchmarks by name, all by default, and print their results as one line of JSON.

    make bench
    make bench ARGS="decode update"
    make bench ARGS=--quick

The first line names the machine. Each benchmark runs in a process of its own, prints its tables, and can also be
started alone (`benchmarks/decode.py`). The last line is one JSON object with all keys; null stands for what was not
asked for or cannot run here, and the lines above say which.
"""

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module

from measuring import Figures, Unavailable, command_line, machine, print_figures

__all__ = ["BENCHMARKS", "collect", "run"]

BENCHMARKS = {
    "trl_step": ("trl_step_ratio", "trl_step_ratio_long", "trl_step_ratio_135m"),
    "decode": ("decode_135m", "decode_135m_vs_generate", "decode_135m_vs_vllm"),
    "update": ("update_135m", "update_135m_float32_share", "update_135m_bf16_share", "update_135m_bf16_over_float32"),
    "overheads": (
        "eda_overhead",
        "eda_overhead_signal",
        "gec_overhead",
        "gec_extra_tokens",
        "gec_extra_trained_tokens",
        "gec_overhead_beyond_tokens",
    ),
    "logits_memory": ("logits_memory", "logits_memory_vs_trl", "logits_time_vs_trl", "logits_memory_growth"),
    "growth": ("growth", "growth_prompt"),
    "startup": ("startup", "startup_s", "startup_cpu_s", "startup_over_import_torch"),
}
"""Modules with a function ``measure``, and the keys that it returns."""


def run(name: str, *, quick: bool) -> Figures | str:
    """What ``measure`` of a benchmark returns, or why it cannot run here."""
    try:
        found: Figures = import_module(name).measure(quick=quick)
    except Unavailable as reason:
        return str(reason)
    return found


def apart(name: str, *, quick: bool) -> Figures | str:
    """:func:`run` in a fresh process, so that no benchmark leaves threads, settings or memory to the next."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, name, quick=quick).result()


def collect(
    names: Sequence[str], *, quick: bool, start: Callable[..., Figures | str] = apart
) -> tuple[Figures, list[str]]:
    """All keys, with the results of the named benchmarks, and the names of those that failed."""
    figures: Figures = {key: None for keys in BENCHMARKS.values() for key in keys}
    failed = []
    for name in names:
        print(f"\n--- {name} ---", flush=True)
        try:
            found = start(name, quick=quick)
            if not isinstance(found, str) and set(found) != set(BENCHMARKS[name]):
                raise SystemExit(f"it measured {sorted(found)}, wanted {sorted(BENCHMARKS[name])}")
        except (Exception, SystemExit, BrokenProcessPool) as error:  # noqa: BLE001 - the others are still worth running
            print(f"{name}: failed ({type(error).__name__}: {error})", flush=True)
            failed.append(name)
            continue
        if isinstance(found, str):
            print(f"{name}: cannot run here: {found}", flush=True)
            continue
        figures |= found
    return figures, failed


def main() -> None:
    """Run the benchmarks, print the results, and exit with 1 if one failed."""
    parser = command_line(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; all by default")
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHMARKS)
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    print(machine(), flush=True)
    figures, failed = collect(names, quick=arguments.quick)
    print()
    if missing := [name for name in BENCHMARKS if name not in names]:
        print(f"not asked for: {', '.join(missing)}")
    print_figures(figures)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
