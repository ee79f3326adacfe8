"""The command line that the comparisons share: settings, where runs and page go, how many seeds and jobs."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from safetensors import SafetensorError

from edge_grpo.base.errors import EdgeGrpoError
from edge_grpo.base.interrupt import terminable
from edge_grpo.trackers.console import Display, PlainDisplay

__all__ = ["Options", "run_study"]


@dataclass(frozen=True)
class Options:
    """The options of a comparison.

    Attributes:
        out: the Markdown page to write.
        folder: where the runs are kept.
        seeds: seeds per arm.
        jobs: runs side by side, one thread each.
        overrides: ``key=value`` settings for all arms.
    """

    out: str
    folder: str
    seeds: int
    jobs: int = 2
    overrides: tuple[str, ...] = ()


def run_study(
    study: Callable[[Options, Display], object],
    defaults: Options,
    description: str,
    words: Sequence[str] | None = None,
) -> None:
    """Parse the command line, run the study, and exit: 0 done, 2 for an error in one line, 128 + n for signal n.

    Args:
        study: trains what is missing and writes the page.
        defaults: used for options not given on the command line.
        description: one line for ``--help``.
        words: the command line; by default that of the process.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings for all arms")
    parser.add_argument("--out", metavar="FILE", default=defaults.out, help="the page to write (%(default)s)")
    parser.add_argument("--dir", metavar="DIR", default=defaults.folder, help="where the runs are kept (%(default)s)")
    parser.add_argument("--seeds", type=_count, default=defaults.seeds, help="seeds per arm (%(default)s)")
    parser.add_argument("--jobs", type=_count, default=defaults.jobs, help="runs side by side (%(default)s)")
    given = parser.parse_intermixed_args(words)
    options = replace(
        defaults,
        out=given.out,
        folder=given.dir,
        seeds=given.seeds,
        jobs=given.jobs,
        overrides=tuple(given.settings),
    )
    display, began = PlainDisplay(), time.monotonic()
    try:
        with terminable():
            study(options, display)
    except (EdgeGrpoError, SafetensorError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    display.say(f"wrote {options.out} after {(time.monotonic() - began) / 60:.1f} minutes")


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


_count.__name__ = "count of at least 1"  # argparse: "invalid count of at least 1 value: '0'"
