"""What a run holds while it goes on: the policy, the machinery around it, and the data position."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from edge_grpo.base.errors import ConfigError, DataError, TrainingError
from edge_grpo.base.metrics import means, merge
from edge_grpo.base.records import Group
from edge_grpo.base.tensors import Scored, Signal
from edge_grpo.config.tree import Config
from edge_grpo.data.pairs import encode_pairs, load_pairs
from edge_grpo.data.problems import load_train_eval
from edge_grpo.data.prompts import check_count, encode_problems, encode_variants
from edge_grpo.evaluation.heldout import evaluate, grader
from edge_grpo.methods.base import Method
from edge_grpo.models.loading import check_fit, context_length, load_policy, stop_token_ids
from edge_grpo.models.policy import Policy
from edge_grpo.rewards.builtin import Rewards
from edge_grpo.rollout.engine import Sampling
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.sampler import Prompted
from edge_grpo.runs.durable import flush, flush_tree, remove_tree, saving
from edge_grpo.runs.folder import RunFolder, rollout_rows
from edge_grpo.trackers.console import Display
from edge_grpo.training import checkpoint
from edge_grpo.training.batching import collate
from edge_grpo.training.checkpoint import Progress
from edge_grpo.training.collect import Collected, Collector, stream
from edge_grpo.training.distributed import World
from edge_grpo.training.source import StoredPairs
from edge_grpo.training.update import Updater, describe_scores, is_over, make_optimizer

__all__ = ["Session", "Shaped", "is_final_of"]

T = TypeVar("T")


@dataclass(frozen=True)
class Shaped:
    """The groups that are trained, their scores, and what the method makes of them."""

    groups: Sequence[Group]
    batch: Scored
    signal: Signal


class Session:
    """What a run holds while it goes on: the policy, the machinery around it, and the data position."""

    def __init__(self, config: Config, method: Method, folder: RunFolder, display: Display, rewards: Rewards) -> None:
        self.config, self.method, self.folder, self.display = config, method, folder, display
        rollout, seed = config.rollout, config.train.seed
        self.rewards = rewards
        self.policy: Policy = load_policy(config.model, reference=method.needs.reference, seed=seed)
        stop_ids = stop_token_ids(self.policy, rollout.stop)
        self.pad_id = self.stop_id = stop_ids[0]
        self.engine = DecodeEngine(self.policy, stop_ids=stop_ids, pad_id=self.pad_id, max_rows=rollout.max_rows)
        self.grader = grader(self.policy.tokenizer, rewards)
        self.held_out: list[Prompted] = []
        self.num_items = 0  # problems or pairs to train on
        self.collect = self._stored_pairs() if config.data.pairs else self._sampled_groups()
        self.optimizer = make_optimizer(self.policy, config.train)
        self.updater = Updater(
            policy=self.policy,
            optimizer=self.optimizer,
            method=method,
            train=config.train,
            temperature=rollout.temperature,
            max_new_tokens=rollout.max_new_tokens,
            world=World(),
            reuse_sampled=self.engine.exact,
        )
        self.cursor = self.tokens = 0

    def _sampled_groups(self) -> Callable[[int], Collected]:
        """What makes the groups of a step out of problems; changes nothing."""
        config, rollout = self.config, self.config.rollout
        problems, self.held_out = self._load_problems()
        if not problems:
            raise DataError("no training problem is left; look at data.max_prompt_tokens and data.bad_rows")
        if self.method.needs.variants > 1:
            problems = [replace(each, variant_ids=self._variants(each)) for each in problems]
        self.num_items = len(problems)
        prompts = [ids for item in (*problems, *self.held_out) for ids in (item.prompt_ids, *item.variant_ids)]
        check_fit(self.policy, prompts, rollout.max_new_tokens)
        collector = Collector(
            engine=self.engine,
            grader=self.grader,
            method=self.method,
            tokenizer=self.policy.tokenizer,
            sampling=Sampling(rollout.max_new_tokens, rollout.temperature, rollout.top_p, rollout.top_k),
            group_size=rollout.group_size,
            stop_id=self.stop_id,
            seed=config.train.seed,
            data=config.data,
            context=context_length(self.policy),
        )
        num_groups = rollout.prompts_per_step
        return lambda step: collector.collect(self._from_here(problems), step=step, num_groups=num_groups)

    def _stored_pairs(self) -> Callable[[int], Collected]:
        """What makes the groups of a step out of stored pairs; problems, if there are any, serve evaluation alone."""
        data, budget = self.config.data, self.config.rollout.max_new_tokens
        if not self.method.needs.stored_pairs:
            raise ConfigError("data.pairs: this method learns from its own samples; leave it empty, or set method=rpo")
        loaded = load_pairs(data.pairs, data.pair_fields, split=data.pairs_split, bad_rows=data.bad_rows)
        encoded = encode_pairs(self.policy.tokenizer, loaded.pairs, data, stop_id=self.stop_id, max_new_tokens=budget)
        self._tell("pairs", loaded.num_skipped, encoded.num_skipped, encoded.num_truncated)
        if data.path or data.eval_path:
            self.held_out = self._load_problems()[1]
        else:
            self.display.say("no data.eval_path: nothing is evaluated; watch rewards/accuracies and rewards/margins")
        self.num_items = len(encoded.pairs)
        prompts = [*(pair.prompt_ids for pair in encoded.pairs), *(item.prompt_ids for item in self.held_out)]
        check_fit(self.policy, prompts, budget)
        source, num_groups = StoredPairs(stop_id=self.stop_id), self.config.rollout.prompts_per_step
        return lambda _: source.collect(self._from_here(encoded.pairs), num_groups=num_groups)

    def _from_here(self, items: Sequence[T]) -> Iterator[T]:
        return stream(items, seed=self.config.train.seed, start=self.cursor)

    def _load_problems(self) -> tuple[list[Prompted], list[Prompted]]:
        data, held_out = self.config.data, self.config.eval
        num_eval = held_out.size if held_out.every or held_out.at_start or held_out.at_end else 0
        loaded = load_train_eval(data, num_eval=num_eval, seed=held_out.seed)
        sides = []
        for name, side in zip(("training data", "held-out data"), loaded, strict=True):
            encoded = encode_problems(self.policy.tokenizer, side.problems, data)
            self._tell(name, side.num_skipped, encoded.num_skipped, encoded.num_truncated)
            sides.append([Prompted(*pair) for pair in zip(encoded.problems, encoded.prompt_ids, strict=True)])
        return sides[0], sides[1]

    def _tell(self, name: str, bad: int, over_long: int, cut: int) -> None:
        if bad or over_long or cut:
            self.display.say(f"{name}: {bad} bad rows skipped, {over_long} over-long prompts skipped, {cut} cut")

    def _variants(self, item: Prompted) -> tuple[tuple[int, ...], ...]:
        """Tokens of a problem's other wordings, of which there must be enough."""
        check_count(item.problem, self.method.needs.variants)
        return encode_variants(self.policy.tokenizer, item.problem, self.config.data)

    def restore(self, newest: Path | None) -> int:
        """Put the run back to its last checkpoint (or its start) and return the number of steps done."""
        if newest is None:
            self.folder.cut_back(None)
            return 0
        progress = checkpoint.load(newest, dict(self.policy.trained()), self.optimizer)
        torch.set_num_threads(progress.num_threads)
        if progress.device != self.policy.device.type:
            self.display.say(
                f"the run began on {progress.device} and goes on on {self.policy.device.type}: not bit-exact"
            )
        checkpoint.prune(self.folder.checkpoints, keep=self.config.train.keep_checkpoints)
        self.cursor, self.tokens = progress.cursor, progress.tokens
        self.updater.skipped_in_a_row = progress.skipped_in_a_row
        if missing := self.folder.cut_back(progress.step):
            self.display.say(f"metrics.jsonl has no row of the steps {', '.join(map(str, missing))}")
        self.display.say(f"going on after step {progress.step}")
        return progress.step

    def save(self, step: int) -> None:
        """Write a checkpoint of the state before step ``step`` (counted from 0).

        Raises:
            TrainingError: a weight is not finite.
            CheckpointError: the disk is full or not writable, or the run's lock was deleted.
        """
        broken = [name for name, weight in self.policy.trained() if not bool(weight.isfinite().all())]
        if broken:
            raise TrainingError(
                f"after step {step} the weights are not finite ({broken[0]} and {len(broken) - 1} more); no checkpoint "
                "is made of them. Start a new run with a lower train.learning_rate"
            )
        self.folder.check_lock()
        progress = Progress(
            step=step,
            cursor=self.cursor,
            tokens=self.tokens,
            skipped_in_a_row=self.updater.skipped_in_a_row,
            num_threads=torch.get_num_threads(),
            device=self.policy.device.type,
        )
        keep = self.config.train.keep_checkpoints
        checkpoint.save(self.folder.checkpoints, progress, dict(self.policy.trained()), self.optimizer, keep=keep)

    def is_over(self, step: int) -> bool:
        """Whether nothing is left to train after ``step`` steps."""
        return is_over(self.config.train, step, self.tokens)

    def shape(self, collected: Collected) -> Shaped | None:
        """What a step's groups teach; None if dynamic sampling left no group. Changes nothing.

        Raises:
            TrainingError: the model's log-probs, or the method's advantages, are not finite.
        """
        groups = self.method.arrange(collected.groups)
        if not groups:
            return None
        parts = self.rewards.part_names, self.rewards.part_weights
        batch = collate(groups, parts=parts[0], weights=parts[1], pad_id=self.pad_id)
        scored = self.updater.score(batch)
        signal = self.updater.shape(scored)
        _check_finite(scored, signal)
        return Shaped(groups, scored, signal)

    def take_step(self, step: int, collected: Collected, shaped: Shaped | None, began: float) -> None:
        """Update, evaluate where due, write down."""
        config, sampled_at = self.config, time.monotonic()
        self.cursor += collected.num_prompts
        metrics = collected.metrics | {"empty_steps": (float(shaped is None), 1.0)}
        if shaped is not None:
            updated = self.updater.step(shaped.batch, shaped.signal, step=step, tokens=self.tokens)
            self.engine.load(())
            metrics = merge(metrics, describe_scores(shaped.batch), shaped.signal.metrics, updated)
        row = means(metrics)
        self.tokens += int(row["tokens"])
        ended = time.monotonic()
        row |= {
            "time/step_s": ended - began,
            "time/update_s": ended - sampled_at,
            "time/tokens_per_s": row["tokens"] / (ended - began),
        }
        if self.evaluation_is_due(step + 1):
            row |= self.evaluate()
        if config.run.rollouts and shaped is not None:
            self._write_rollouts(step + 1, shaped)
        self.write({"step": step + 1, **row})

    def evaluation_is_due(self, step: int) -> bool:
        """Whether held-out problems are answered after ``step`` steps; never where there are none."""
        settings = self.config.eval
        if not self.held_out:
            return False
        if step == 0:
            return settings.at_start
        return bool(settings.every and step % settings.every == 0) or (settings.at_end and self.is_over(step))

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

    def finish(self, step: int) -> None:
        """Write ``final/`` after ``step`` steps: an ordinary Hugging Face folder, whole or not there.

        Raises:
            CheckpointError: the disk is full or not writable, or the run's lock was deleted.
        """
        self.folder.check_lock()
        final, draft = self.folder.final, self.folder.path / ".final"
        with saving(final, self.folder.path):
            shutil.rmtree(draft, ignore_errors=True)
            self.policy.save(draft)
            (draft / "progress.json").write_text(json.dumps({"step": step, "tokens": self.tokens}) + "\n")
            flush_tree(draft)
            remove_tree(final)  # of fewer steps, where a finished run was made longer
            draft.rename(final)
            flush(final.parent)

    def _write_rollouts(self, step: int, shaped: Shaped) -> None:
        rows = [(group.problem, number, row) for number, group in enumerate(shaped.groups) for row in group.rows]
        texts = self._decode([row.rollout.completion_ids for *_, row in rows])
        firsts = self._decode([row.first[0].completion_ids if row.first else () for *_, row in rows])
        pairs = list(zip(texts, firsts, strict=True))
        self.folder.write_rollouts(step, rollout_rows(step, rows, pairs, shaped.batch, shaped.signal))

    def _decode(self, ids: Sequence[tuple[int, ...]]) -> list[str]:
        texts: list[str] = self.policy.tokenizer.batch_decode([list(own) for own in ids], skip_special_tokens=True)
        return texts


def is_final_of(folder: RunFolder, progress: Progress) -> bool:
    """Whether ``final/`` holds the weights of this checkpoint, not those from before the run was made longer."""
    try:
        found = json.loads((folder.final / "progress.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(found == {"step": progress.step, "tokens": progress.tokens})


def _check_finite(scored: Scored, signal: Signal) -> None:
    """Stop before NaN or inf of a whole row spreads to the update and is skipped as a bad gradient, again and again."""
    trained = signal.keep[:, None] & signal.mask
    columns = {
        "the policy's log-probs": scored.old_logprobs,
        "the policy's entropies": scored.entropy,
        "the reference's log-probs": scored.ref_logprobs,
        "the method's advantages": signal.advantages,
    }
    for name, values in columns.items():
        if values is not None and (bad := int((~values.isfinite() & trained).any(-1).sum())):
            raise TrainingError(
                f"{name} are not finite (NaN or inf) in {bad} of {len(trained)} rows. If the model was whole at the "
                "start, begin a new run with a lower train.learning_rate; the last checkpoint is as it was"
            )
