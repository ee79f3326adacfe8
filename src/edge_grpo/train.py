"""The loop: collect, score, shape, update, and write down; stop and go on anywhere without a trace."""

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edge_grpo import checkpoint
from edge_grpo.batching import collate
from edge_grpo.checkpoint import Progress
from edge_grpo.collect import Collected, Collector, Prompted, stream
from edge_grpo.config import Config, changes, config_hash, parse_tree, to_tree, to_yaml
from edge_grpo.data.problems import load_train_eval
from edge_grpo.data.templates import encode_problems
from edge_grpo.display import Display, Silent
from edge_grpo.errors import CheckpointError, DataError
from edge_grpo.evaluate import evaluate, grader
from edge_grpo.interrupt import Interruption, StepDropped
from edge_grpo.methods.base import Method
from edge_grpo.metrics import means, merge
from edge_grpo.policy import Policy, load_policy, stop_token_ids
from edge_grpo.rewards.compose import Rewards
from edge_grpo.rollout.decode import DecodeEngine
from edge_grpo.rollout.engine import Sampling
from edge_grpo.rundir import RunFolder, rollout_rows
from edge_grpo.tensors import Scored, Signal
from edge_grpo.update import Updater, describe_scores, make_optimizer
from edge_grpo.world import World

__all__ = ["Result", "resume", "train"]


@dataclass(frozen=True)
class Result:
    """Where a run's files are, how many steps are done, and the signal that stopped it (0 = it is finished)."""

    folder: Path
    steps: int
    signal: int = 0


def train(config: Config, *, method: Method | None = None, display: Display | None = None) -> Result:
    """Train a model and leave a run folder behind.

    Args:
        config: the settings, from :func:`edge_grpo.config.load_config`.
        method: a method of your own, in place of ``config.method``.
        display: who is told of progress; None = nobody.
    Raises:
        EdgeGrpoError: one of its kinds, with a message for the user.
    """
    tree = _tree(config, method)
    folder = RunFolder.create(config.run.dir, tree, to_yaml(tree), config_hash(tree))
    return _run(config, method or config.method, folder, display or Silent())


def resume(
    path: str | Path, config: Config | None = None, *, method: Method | None = None, display: Display | None = None
) -> Result:
    """Go on with a run from its last checkpoint, or from its start if it has none; bit for bit on a CPU.

    Args:
        path: the run folder.
        config: settings asked for now; only ``train.steps`` may differ from the run's, and only upwards.
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
    refused = {name: pair for name, pair in changes(old, new).items() if name != "run.dir"}
    steps = refused.pop("train.steps", (0, 0))
    if refused:
        named = "; ".join(f"{name} was {was!r}, asked for {asked!r}" for name, (was, asked) in refused.items())
        raise CheckpointError(f"--resume: {named}. Only train.steps may change; start a new run for other settings")
    if steps[1] < steps[0]:
        raise CheckpointError(f"--resume: train.steps was {steps[0]}, asked for {steps[1]}; it may only be raised")
    folder = RunFolder(root, tensorboard=config.run.tensorboard)
    if steps[1] > steps[0]:
        folder.write_config(to_yaml(new), config_hash(new))
    return _run(config, method or config.method, folder, display)


def _tree(config: Config, method: Method | None) -> dict[str, Any]:
    tree = to_tree(config)
    if method is not None:
        own: dict[str, Any] = dataclasses.asdict(method)  # type: ignore[call-overload]
        tree["method"] = {"class": f"{type(method).__module__}.{type(method).__qualname__}", **own}
    return tree


def _run(config: Config, method: Method, folder: RunFolder, display: Display) -> Result:
    """One run from where it stands to its end, or to a signal."""
    newest = checkpoint.latest(folder.checkpoints)
    if newest and folder.final.exists() and int(newest.name.removeprefix("step_")) >= config.train.steps:
        display.say(f"{folder.path} is finished ({config.train.steps} steps); raise train.steps to train on")
        return Result(folder.path, config.train.steps)
    with ExitStack() as stack:
        stack.callback(folder.close)
        stack.callback(display.stop)
        session = _Session(config, method, folder, display, stack.enter_context(Rewards(config.reward)))
        step = session.restore(newest)
        stop = stack.enter_context(Interruption())
        display.start(config.train.steps, step)
        try:
            if step == 0 and config.eval.at_start and not any(folder.rows()):
                with stop.droppable():
                    row = {"step": 0, **session.evaluate()}
                session.write(row)
            while step < config.train.steps:
                with stop.droppable():
                    began = time.monotonic()
                    collected = session.collect(step)
                    batch, signal = session.shape(collected)
                session.take_step(step, collected, batch, signal, began)
                step += 1
                if step % config.train.checkpoint_every == 0 or step == config.train.steps:
                    session.save(step)
        except StepDropped:
            session.save(step)
            display.stop()
            display.say(f"stopped before step {step + 1}; go on with: edge-grpo train --resume {folder.path}")
            return Result(folder.path, step, stop.signal)
        session.finish()
        return Result(folder.path, step)


class _Session:
    """What a run holds while it goes on: the policy, the machinery around it, and the data position."""

    def __init__(self, config: Config, method: Method, folder: RunFolder, display: Display, rewards: Rewards) -> None:
        self.config, self.folder, self.display = config, folder, display
        rollout, seed = config.rollout, config.train.seed
        self.rewards = rewards
        self.policy: Policy = load_policy(config.model, reference=method.uses_reference)
        self.problems, self.held_out = self._load_problems()
        stop_ids = stop_token_ids(self.policy, rollout.stop)
        self.pad_id = stop_ids[0]
        self.engine = DecodeEngine(self.policy, stop_ids=stop_ids, pad_id=self.pad_id, max_rows=rollout.max_rows)
        self.grader = grader(self.policy.tokenizer, rewards)
        self.collector = Collector(
            engine=self.engine,
            grader=self.grader,
            method=method,
            tokenizer=self.policy.tokenizer,
            sampling=Sampling(rollout.max_new_tokens, rollout.temperature, rollout.top_p, rollout.top_k),
            group_size=rollout.group_size,
            stop_id=stop_ids[0],
            seed=seed,
        )
        self.optimizer = make_optimizer(self.policy, config.train)
        self.updater = Updater(
            policy=self.policy,
            optimizer=self.optimizer,
            method=method,
            train=config.train,
            temperature=rollout.temperature,
            max_new_tokens=rollout.max_new_tokens,
            world=World(),
        )
        self.cursor = 0

    def _load_problems(self) -> tuple[list[Prompted], list[Prompted]]:
        data = self.config.data
        loaded = load_train_eval(data, num_eval=self.config.eval.size, seed=self.config.eval.seed)
        sides = []
        for name, side in zip(("training", "held-out"), loaded, strict=True):
            encoded = encode_problems(self.policy.tokenizer, side.problems, data)
            counts = (side.num_skipped, encoded.num_skipped, encoded.num_truncated)
            if any(counts):
                self.display.say(
                    f"{name} data: {counts[0]} bad rows skipped, {counts[1]} over-long prompts skipped, {counts[2]} cut"
                )
            sides.append([Prompted(*pair) for pair in zip(encoded.problems, encoded.prompt_ids, strict=True)])
        if not sides[0]:
            raise DataError("no training problem is left; look at data.max_prompt_tokens and data.bad_rows")
        return sides[0], sides[1]

    def restore(self, newest: Path | None) -> int:
        """Put the run back to its last checkpoint (or its start) and return the number of steps done."""
        if newest is None:
            self.folder.cut_back(None)
            return 0
        progress = checkpoint.load(newest, dict(self.policy.trained()), self.optimizer)
        torch.set_num_threads(progress.num_threads)
        self.cursor, self.updater.skipped_in_a_row = progress.cursor, progress.skipped_in_a_row
        self.folder.cut_back(progress.step)
        self.display.say(f"going on after step {progress.step}")
        return progress.step

    def save(self, step: int) -> None:
        """Write a checkpoint of the state before step ``step`` (counted from 0)."""
        progress = Progress(
            step, self.cursor, self.updater.skipped_in_a_row, torch.get_num_threads(), self.policy.device.type
        )
        keep = self.config.train.keep_checkpoints
        checkpoint.save(self.folder.checkpoints, progress, dict(self.policy.trained()), self.optimizer, keep=keep)

    def collect(self, step: int) -> Collected:
        """Groups for a step; changes nothing."""
        prompts = stream(self.problems, seed=self.config.train.seed, start=self.cursor)
        return self.collector.collect(prompts, step=step, num_groups=self.config.rollout.prompts_per_step)

    def shape(self, collected: Collected) -> tuple[Scored, Signal]:
        """Scores and signal of a step's groups; changes nothing."""
        parts = self.rewards.part_names, self.rewards.part_weights
        batch = collate(collected.groups, parts=parts[0], weights=parts[1], pad_id=self.pad_id)
        scored = self.updater.score(batch)
        return scored, self.updater.shape(scored)

    def take_step(self, step: int, collected: Collected, batch: Scored, signal: Signal, began: float) -> None:
        """Update, evaluate where due, write down."""
        config, sampled_at = self.config, time.monotonic()
        updated = self.updater.step(batch, signal, step=step)
        self.engine.load(())
        self.cursor += collected.num_prompts
        row = means(merge(collected.metrics, describe_scores(batch), signal.metrics, updated))
        ended = time.monotonic()
        row |= {
            "time/step_s": ended - began,
            "time/update_s": ended - sampled_at,
            "time/tokens_per_s": row["tokens"] / (ended - began),
        }
        last = step + 1 == config.train.steps
        if (config.eval.every and (step + 1) % config.eval.every == 0) or (last and config.eval.at_end):
            row |= self.evaluate()
        if config.run.rollouts:
            self._write_rollouts(step + 1, collected, batch, signal)
        self.write({"step": step + 1, **row})

    def evaluate(self) -> dict[str, float]:
        """Figures on the held-out problems with the current weights."""
        began = time.monotonic()
        result = evaluate(
            self.engine, self.grader, self.held_out, self.config.eval, budget=self.config.rollout.max_new_tokens
        )
        return {**result.metrics(), "time/eval_s": time.monotonic() - began}

    def write(self, row: Mapping[str, float]) -> None:
        """A row for the file and for the person."""
        self.folder.write_metrics(row)
        self.display.row(row)

    def finish(self) -> None:
        """Write ``final/``: an ordinary Hugging Face folder, whole or not there."""
        draft = self.folder.path / ".final"
        shutil.rmtree(draft, ignore_errors=True)
        self.policy.save(draft)
        shutil.rmtree(self.folder.final, ignore_errors=True)
        draft.rename(self.folder.final)

    def _write_rollouts(self, step: int, collected: Collected, batch: Scored, signal: Signal) -> None:
        rows = [
            (group.problem.id, number, group.problem.answer, row)
            for number, group in enumerate(collected.groups)
            for row in group.rows
        ]
        texts = self._decode([row.rollout.completion_ids for *_, row in rows])
        firsts = self._decode([row.first[0].completion_ids if row.first else () for *_, row in rows])
        pairs = list(zip(texts, firsts, strict=True))
        self.folder.write_rollouts(step, rollout_rows(step, rows, pairs, batch, signal))

    def _decode(self, ids: Sequence[tuple[int, ...]]) -> list[str]:
        texts: list[str] = self.policy.tokenizer.batch_decode([list(own) for own in ids], skip_special_tokens=True)
        return texts
