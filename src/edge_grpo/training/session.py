"""The state of a run while it trains: policy, optimizer and data position, and what one step does with them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edge_grpo.base.errors import TrainingError
from edge_grpo.base.metrics import Metrics, merge
from edge_grpo.base.patience import if_it_lasts
from edge_grpo.base.records import Group, Prompt
from edge_grpo.base.stopwatch import Stopwatch
from edge_grpo.base.tensors import Scored, Signal
from edge_grpo.base.world import World
from edge_grpo.config.tree import Config
from edge_grpo.evaluation import heldout
from edge_grpo.evaluation.answers import heldout_draws
from edge_grpo.methods.base import Method
from edge_grpo.models.loading import load_shared_policy, replica_of
from edge_grpo.models.policy import Policy
from edge_grpo.models.replica import Replica
from edge_grpo.models.sharding import local
from edge_grpo.rollout.engine import Engine
from edge_grpo.rollout.open import open_sampler
from edge_grpo.rollout.sampler import Sampler
from edge_grpo.runs.completions import data_columns
from edge_grpo.training.batching import batch_of
from edge_grpo.training.checkpoint import RunState
from edge_grpo.training.collect import Collected
from edge_grpo.training.described import describe_scores
from edge_grpo.training.memory import bounded_by
from edge_grpo.training.source import Source, open_source
from edge_grpo.training.update import Updater, is_over, make_optimizer

__all__ = ["Lesson", "Session", "open_session"]


@dataclass(frozen=True)
class Lesson:
    """What one step trains on: the arranged groups, their scores, and the method's signal."""

    groups: Sequence[Group]
    batch: Scored
    signal: Signal


class Session:
    """A run in memory. ``collect`` and ``prepare`` change nothing; ``learn`` takes the step.

    ``step`` counts the steps done, ``cursor`` the prompts or pairs used up, ``tokens`` what was sampled.

    Args:
        config: the settings.
        method: the training method.
        policy: the model.
        sampler: samples and grades with the policy's weights.
        source: gives the groups of a step.
        held_out: problems to evaluate on; none = nothing is evaluated.
        replica: the policy with all weights on rank 0.
    """

    def __init__(
        self,
        config: Config,
        method: Method,
        *,
        policy: Policy,
        sampler: Sampler,
        source: Source,
        held_out: Sequence[Prompt] = (),
        replica: Replica | None = None,
    ) -> None:
        self.config, self.method, self.policy = config, method, policy
        self.sampler, self.source, self.held_out = sampler, source, held_out
        self.replica = replica or Replica(policy, sampler.world, lambda: policy)
        self.optimizer = make_optimizer(policy, config.train)
        self.updater = Updater(
            policy=policy,
            optimizer=self.optimizer,
            method=method,
            train=config.train,
            temperature=config.rollout.temperature,
            max_new_tokens=config.rollout.max_new_tokens,
            world=sampler.world,
            reuse_sampled=sampler.exact,
        )
        self.step = self.cursor = self.tokens = 0

    @property
    def world(self) -> World:
        """The ranks that train together; each has a session of its own, and all take the same steps."""
        return self.sampler.world

    @property
    def watch(self) -> Stopwatch:
        """Counts the seconds of a step's phases; the sampler shares it."""
        return self.sampler.watch

    @cached_property
    def columns(self) -> dict[str, str]:
        """The further columns of the data and their kinds, the same for every step's rollouts."""
        return data_columns(self.source.metas)

    # --- one step -----------------------------------------------------------------------------------------------------

    @bounded_by("rollout.max_rows", "sampling")
    def collect(self) -> Collected:
        """The groups of the next step."""
        return self.source.groups(self.step, self.cursor)

    @bounded_by("train.micro_batch_rows", "scoring completions")
    def prepare(self, collected: Collected) -> Lesson | None:
        """Arrange, score and shape the groups; None if dynamic sampling left none.

        Raises:
            TrainingError: the model's log-probs, or the method's advantages, are not finite.
        """
        with self.watch.phase("score"):
            groups = self.method.arrange(collected.groups)
            if not groups:
                return None
            batch = batch_of(groups, self.sampler)
            scored = self.updater.score(batch)
            counted = scored.mask & scored.scorable[:, None]
            _check_finite("the policy's log-probs", scored.old_logprobs, counted)
            _check_finite("the policy's entropies", scored.entropy, counted)
            _check_finite("the reference's log-probs", scored.ref_logprobs, counted)
            signal = self.updater.signal(scored)
            _check_finite("the method's advantages", signal.advantages, signal.mask & signal.keep[:, None])
        return Lesson(groups, scored, signal)

    @bounded_by("train.micro_batch_rows", "updating the weights")
    def learn(self, collected: Collected, lesson: Lesson | None) -> Metrics:
        """Take the step: update the weights, hand them to the sampler, and move on in the data.

        Raises:
            TrainingError: gradients were not finite too many times in a row.
        """
        metrics = collected.metrics | {"empty_steps": (float(lesson is None), 1.0)}
        if lesson is not None:
            with self.watch.phase("update"):
                updated = self.updater.step(lesson.batch, lesson.signal, step=self.step, tokens=self.tokens)
            metrics = merge(metrics, describe_scores(lesson.batch), lesson.signal.metrics, updated)
        self.step += 1
        self.cursor += collected.num_prompts
        self.tokens += int(metrics["tokens"][0])
        if lesson is not None:
            with self.watch.phase("update"):
                self.sampler.sync(self.policy, self.step)
        return metrics

    @property
    def is_over(self) -> bool:
        """Whether the run has reached its last step or token."""
        return is_over(self.config.train, self.step, self.tokens)

    @property
    def intact(self) -> bool:
        """Whether weights, moments and counts are those after the last whole step."""
        return not self.updater.midway

    # --- evaluation ---------------------------------------------------------------------------------------------------

    @property
    def evaluation_is_due(self) -> bool:
        """Whether to evaluate on the held-out problems now; never if there are none."""
        settings = self.config.eval
        if not self.held_out:
            return False
        if self.step == 0:
            return settings.at_start
        return bool(settings.every and self.step % settings.every == 0) or (settings.at_end and self.is_over)

    @bounded_by("rollout.max_rows", "evaluating")
    def evaluate(self) -> dict[str, float]:
        """Metrics on the held-out problems with the current weights, and the seconds they took."""
        with self.watch.phase("eval"):
            row = heldout.figures(heldout.evaluate(self.sampler, self.held_out, heldout_draws(self.config)))
        return {**row, "time/eval_s": self.watch.take("eval")["eval"]}

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> RunState:
        """Where the run stands, for a checkpoint.

        Raises:
            TrainingError: a weight is not finite.
        """
        found = [name for name, weight in self.policy.trained() if not bool(local(weight).isfinite().all())]
        broken = sorted({name for own in self.world.gather(lambda: found) for name in own})
        if broken:
            raise TrainingError(
                f"after step {self.step} the weights are not finite ({broken[0]} and {len(broken) - 1} more); no "
                "checkpoint is written. Start a new run with a lower train.learning_rate"
            )
        return RunState(
            step=self.step,
            cursor=self.cursor,
            tokens=self.tokens,
            skipped_in_a_row=self.updater.skipped_in_a_row,
            num_threads=torch.get_num_threads(),
            device=self.policy.device.type,
            num_ranks=self.world.size,
            computes_in=self.policy.computes_in,
        )

    def take_over(self, state: RunState) -> None:
        """Continue from ``state``, whose weights and moments are already loaded; the sampler is synced."""
        if state.num_ranks == self.world.size:
            torch.set_num_threads(state.num_threads)
        self.step, self.cursor, self.tokens = state.step, state.cursor, state.tokens
        self.updater.skipped_in_a_row = state.skipped_in_a_row
        self.sampler.sync(self.policy, state.step)


@contextmanager
def open_session(
    config: Config,
    method: Method | None = None,
    *,
    engine: Engine | None = None,
    say: Callable[[str], None] = lambda _: None,
    world: World = World(),  # noqa: B008 - frozen
) -> Iterator[Session]:
    """Load model and data and open the sampler, for a run that has taken no step yet.

    Args:
        config: the settings.
        method: a custom method, in place of ``config.method``.
        engine: a custom engine, in place of ``rollout.engine``; it stays open.
        say: shows a line about skipped data, or what the model does not support.
        world: the ranks that train together.
    """
    method = method or config.method
    with if_it_lasts(lambda: say(f"loading {config.model.path} ...")):
        policy = load_shared_policy(
            config.model, config.distributed, world, reference=method.needs.reference, seed=config.train.seed
        )
    replica = replica_of(policy, world, config.model, seed=config.train.seed)
    with open_sampler(config, policy=policy, engine=engine, say=say, world=world, replica=replica) as sampler:
        source, held_out = world.each(lambda: open_source(config, method, sampler, say))
        yield Session(config, method, policy=policy, sampler=sampler, source=source, held_out=held_out, replica=replica)


def _check_finite(name: str, values: Tensor | None, counted: Tensor) -> None:
    """Stop before NaN or inf in a token that counts reaches the gradient: every such update would be skipped."""
    if values is not None and (bad := int((~values.isfinite() & counted).any(-1).sum())):
        raise TrainingError(
            f"{name} are not finite (NaN or inf) in {bad} of {len(counted)} rows. If they were finite at the start, "
            "begin a new run with a lower train.learning_rate; the last checkpoint is untouched"
        )
