"""The loop: collect, score, shape, update, and write down; stop and go on anywhere without a trace."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from edge_grpo.base.errors import CheckpointError, ConfigError
from edge_grpo.base.interrupt import Interruption, StepDropped
from edge_grpo.config.tree import Config, changes, config_hash, located, parse_tree, to_tree, to_yaml
from edge_grpo.methods.base import Method
from edge_grpo.rewards.builtin import Rewards
from edge_grpo.runs.durable import saving
from edge_grpo.runs.folder import RunFolder
from edge_grpo.trackers.console import Display, Silent, decoding
from edge_grpo.training import checkpoint
from edge_grpo.training.session import Session, is_final_of
from edge_grpo.training.update import is_over

__all__ = ["Result", "resume", "train"]

_BOUNDS = ("train.steps", "train.max_tokens")  # what ends a run; all that may change on resume


@dataclass(frozen=True)
class Result:
    """Where a run's files are, how many steps are done, and the signal that stopped it (0 = it is finished)."""

    folder: Path
    steps: int
    signal: int = 0


def train(config: Config, *, method: Method | None = None, display: Display | None = None) -> Result:
    """Train a model and leave a run folder behind.

    Args:
        config: the settings, from :func:`edge_grpo.config.tree.load_config`. Local paths are kept as absolute ones.
        method: a method of your own, in place of ``config.method``.
        display: who is told of progress; None = nobody.
    Raises:
        EdgeGrpoError: one of its kinds, with a message for the user.
    """
    if config.data.pairs and config.train.max_tokens:
        raise ConfigError("train.max_tokens: with data.pairs nothing is sampled; leave it 0 and set train.steps")
    tree = _tree(config, method)
    folder = RunFolder.create(config.run.dir, tree, to_yaml(tree), config_hash(tree))
    with closing(folder):
        try:
            return _run(config, method or config.method, folder, display or Silent())
        except BaseException:  # a signal while the model is loaded, too
            folder.discard_unstarted()
            raise


def resume(
    path: str | Path, config: Config | None = None, *, method: Method | None = None, display: Display | None = None
) -> Result:
    """Go on with a run from its last checkpoint, or from its start if it has none; bit for bit on a CPU.

    Args:
        path: the run folder.
        config: settings asked for now; only ``train.steps`` and ``train.max_tokens`` may differ, and only upwards.
        method: the method object, if the run was started with one.
        display: who is told of progress.
    Raises:
        CheckpointError: no run there, its configuration was edited, or another setting was asked for.
    """
    root = Path(path).expanduser()
    display = display or Silent()
    old, digest = RunFolder.read_config(root)
    if config_hash(old) != digest:
        raise CheckpointError(f"{root}/config.yaml was edited after the run began; start a new run with these settings")
    if "class" in old["method"] and method is None:
        raise CheckpointError(
            f"{root} trains a method of your own ({old['method']['class']}); use train.resume(method=...)"
        )
    started = parse_tree({**old, "method": {}} if method else old)
    config = config or started
    new = _tree(config, method)
    known = {
        **_tree(started, None),
        "method": old["method"],
    }  # settings that are newer than the run have their defaults
    refused = {name: pair for name, pair in changes(known, new).items() if name != "run.dir"}
    bounds = {name: refused.pop(name) for name in _BOUNDS if name in refused}
    if refused:
        named = "; ".join(f"{name} was {was!r}, asked for {asked!r}" for name, (was, asked) in refused.items())
        may = " and ".join(_BOUNDS)
        raise CheckpointError(f"--resume: {named}. Only {may} may change; start a new run for other settings")
    for name, (was, asked) in bounds.items():
        if _height(name, asked) < _height(name, was):
            raise CheckpointError(f"--resume: {name} was {was}, asked for {asked}; it may only be raised")
    folder = RunFolder(root, tensorboard=config.run.tensorboard)
    with closing(folder):
        with saving(root, root):
            folder.lock()
            if bounds:
                folder.write_config(to_yaml(new), config_hash(new))
        return _run(config, method or config.method, folder, display)


def _height(name: str, bound: int) -> float:
    """How late a bound ends a run: ``train.max_tokens`` 0 never does."""
    return math.inf if name == "train.max_tokens" and bound == 0 else bound


def _tree(config: Config, method: Method | None) -> dict[str, Any]:
    tree = to_tree(config)
    if method is not None:
        own: dict[str, Any] = TypeAdapter(type(method)).dump_python(method, mode="json")
        tree["method"] = {"class": f"{type(method).__module__}.{type(method).__qualname__}", **own}
    return located(tree)


def _legend(config: Config, *, evaluated: bool) -> Iterator[str]:
    """What the figures of this run mean."""
    pairs = bool(config.data.pairs)
    sampled = f"accuracy: training samples, {decoding(config.rollout.temperature)}"
    held_out = f"held-out: {decoding(config.eval.temperature)}" if evaluated else ""
    yield "; ".join(filter(None, ("pairs: chosen above rejected" if pairs else sampled, held_out)))
    if config.reward.function and (evaluated or not pairs):
        yield "right or wrong: 'correct' of reward.function, else the built-in check of the last \\boxed{}"


def _run(config: Config, method: Method, folder: RunFolder, display: Display) -> Result:
    """One run from where it stands to its end, or to a signal."""
    newest = checkpoint.latest(folder.checkpoints)
    if newest and folder.final.exists():
        done = checkpoint.read_progress(newest)
        if is_over(config.train, done.step, done.tokens) and is_final_of(folder, done):
            reached = (done.step >= config.train.steps, 0 < config.train.max_tokens <= done.tokens)
            bounds = " and ".join(compress(_BOUNDS, reached))
            display.say(f"{folder.path} is finished ({done.step} steps); raise {bounds} to train on")
            return Result(folder.path, done.step)
    if not folder.has_lock:
        display.say(f"{folder.path}: this file system knows no locks; start no second run in this folder")
    with ExitStack() as stack:
        stack.callback(display.stop)
        session = Session(config, method, folder, display, stack.enter_context(Rewards(config.reward)))
        step = session.restore(newest)
        stop = stack.enter_context(Interruption())
        display.start(config.train.steps, step, max_tokens=config.train.max_tokens, tokens=session.tokens)
        for line in _legend(config, evaluated=bool(session.held_out)):
            display.say(line)
        try:
            if step == 0 and session.evaluation_is_due(0) and not any(folder.rows()):
                with stop.droppable():
                    row = {"step": 0, **session.evaluate()}
                session.write(row)
            while not session.is_over(step):
                with stop.droppable():
                    began = time.monotonic()
                    collected = session.collect(step)
                    shaped = session.shape(collected)
                session.take_step(step, collected, shaped, began)
                step += 1
                if step % config.train.checkpoint_every == 0 or session.is_over(step):
                    session.save(step)
        except StepDropped:
            session.save(step)
            display.stop()
            display.say(f"stopped before step {step + 1}; go on with: edge-grpo train --resume {folder.path}")
            return Result(folder.path, step, stop.signal)
        session.finish(step)
        return Result(folder.path, step)
