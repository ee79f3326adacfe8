"""One trial in its own process: train with its settings, evaluate every part, and leave the scores in its folder.

``python -m edge_grpo.tune.trial FOLDER`` reads ``trial.json`` and writes ``result.json``. It shuts down cleanly when
its parent dies, which closes its standard input. Evaluation depends only on the fixed settings, so all trials are
evaluated alike.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import torch

from edge_grpo.base.errors import ConfigError, EdgeGrpoError
from edge_grpo.base.interrupt import terminable
from edge_grpo.config.tree import Config, load_config
from edge_grpo.data import arithmetic
from edge_grpo.evaluation.answers import draws_of
from edge_grpo.evaluation.scores import scores_of
from edge_grpo.evaluation.store import answer_all, encode
from edge_grpo.evaluation.suite import Benchmark, load_suite
from edge_grpo.rollout.open import open_sampler
from edge_grpo.runs.durable import remove_tree, take_lock, write_whole
from edge_grpo.training import loop
from edge_grpo.tune.space import Objective, shown

__all__ = ["LOG", "RESULT", "RUN", "TASK", "benchmarks_of", "main", "run"]

TASK, RESULT, RUN, LOG = "trial.json", "result.json", "run", "trial.log"
_ANSWERS = "answers"


def benchmarks_of(objective: Objective, config: Config) -> tuple[Benchmark, ...]:
    """The benchmarks behind the parts of the objective.

    Raises:
        ConfigError: a part is not a benchmark of the suite, or not a number of operands with that many expressions.
        DataError: a benchmark's data cannot be found.
    """
    if objective.suite:
        found = {each.name: each for each in load_suite(objective.suite, config.data, data_dir=objective.data_dir)}
        missing = [name for name in objective.parts if name not in found]
        if missing:
            raise ConfigError(
                f"objective.weights: {', '.join(missing)} not in {objective.suite}, which has {', '.join(found)}"
            )
        return tuple(found[name] for name in objective.parts)
    return tuple(_arithmetic(name, objective.problems, config) for name in objective.parts)


def _arithmetic(name: str, count: int, config: Config) -> Benchmark:
    if not name.isdecimal() or int(name) < 2:
        raise ConfigError(
            f"objective.weights: got '{name}', wanted a number of operands in the built-in arithmetic (2 or more); "
            "for benchmarks, set objective.suite"
        )
    own = replace(config.data.arithmetic, operands={int(name): 1.0})
    try:
        return Benchmark(name, "", tuple(arithmetic.problems(own, count=count, on_held_out=True)))
    except ConfigError as error:
        raise ConfigError(f"objective: {count} problems with {name} operands: {error}") from None


def run(folder: Path) -> int:
    """Train or resume, evaluate, and write the scores. Returns the signal that stopped training, or 0.

    Raises:
        EdgeGrpoError: the settings do not work.
    """
    began = time.monotonic()
    task = json.loads((folder / TASK).read_text(encoding="utf-8"))
    base, place = task["base"] or None, folder.absolute() / RUN
    config = load_config(base, [*task["words"], f"run.dir={shown(str(place))}"])
    fixed, objective = load_config(base, task["eval_words"]), Objective(**task["objective"])
    if not ((place / "final").exists() and (place / "checkpoints").exists()):
        remove_tree(folder / _ANSWERS)  # they belong to a model that will be retrained
    result = loop.resume(place, config) if (place / "config.yaml").exists() else loop.train(config)
    if result.signal:
        return result.signal
    model = replace(fixed.model, path=str(result.folder / "final"))
    parts = _parts(replace(fixed, model=model), objective, folder)
    write_whole(folder / RESULT, json.dumps({"parts": parts, "seconds": time.monotonic() - began}) + "\n")
    return 0


def _parts(config: Config, objective: Objective, folder: Path) -> dict[str, float]:
    """The score of each part, as `edge-grpo eval` computes it."""
    draws = replace(draws_of(config, objective.samples), greedy=not objective.samples)
    with open_sampler(config) as sampler:
        asked = [encode(sampler, each, draws) for each in benchmarks_of(objective, config)]
        answers = answer_all(sampler, config, draws, asked, folder / _ANSWERS)
    names = [each.name for each in asked]
    return _chosen(scores_of(answers, names)["benchmarks"], names, objective.metric)


def _chosen(scores: Mapping[str, Any], names: Sequence[str], metric: str) -> dict[str, float]:
    missing = [name for name in names if metric not in scores[name]["scores"]]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: no {metric}, because the grader failed on every answer")
    return {name: float(scores[name]["scores"][metric]["value"]) for name in names}


def _watch() -> None:
    """Shut down cleanly when the other end of standard input is closed, even by a kill."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _sole(folder: Path) -> IO[str]:
    """The lock on a trial, once an orphaned earlier process has finished its step and let it go."""
    told = False
    while True:
        try:
            return take_lock(folder / ".lock")[0]
        except BlockingIOError:
            if not told:
                sys.stderr.write("waiting for an earlier process of this trial to finish its step\n")
                sys.stderr.flush()
            told = True
            time.sleep(0.1)


def main(words: Sequence[str]) -> int:
    """Run a trial; returns the exit code: 0, 2 after an error in one line, or 128 + the number of a signal."""
    folder = Path(words[0])
    torch.set_num_threads(1)
    threading.Thread(target=_watch, daemon=True).start()
    with ExitStack() as stack:
        stack.enter_context(terminable())
        stack.enter_context(_sole(folder))
        try:
            stopped = run(folder)
        except (EdgeGrpoError, OSError) as error:
            sys.stderr.write(" ".join(str(error).split()) + "\n")
            return 2
    return 128 + stopped if stopped else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
