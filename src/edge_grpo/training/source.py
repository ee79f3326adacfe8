"""Where the groups of a step come from: sampled from problems, or stored as preference pairs."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.records import Prompt
from edge_grpo.base.text import counted
from edge_grpo.config.tree import Config
from edge_grpo.data.pairs import EncodedPair, encode_pairs, load_pairs, pair_group
from edge_grpo.data.problems import load_train_eval, told
from edge_grpo.data.turns import idle_arguments
from edge_grpo.methods.base import Method, Needs
from edge_grpo.rewards.builtin import Rewards
from edge_grpo.rewards.preflight import check_references
from edge_grpo.rollout.engine import Sampling
from edge_grpo.rollout.sampler import Sampler
from edge_grpo.training.collect import Collected, Collector, stream, take

__all__ = ["SampledGroups", "Source", "StoredPairs", "open_source"]

Say = Callable[[str], None]
TRAINING = "training data"


@runtime_checkable
class Source(Protocol):
    """Provides the groups of a step; stateless, so the same step at the same position gives the same groups."""

    @property
    def num_items(self) -> int:
        """Problems or pairs to train on."""
        ...

    @property
    def metas(self) -> Iterable[Mapping[str, object]]:
        """The further columns of every data row."""
        ...

    def groups(self, step: int, cursor: int) -> Collected:
        """The groups of a step, from position ``cursor`` of the data."""
        ...

    def content(self) -> Iterator[tuple[object, object]]:
        """Each problem or pair as read, with the token ids made of it."""
        ...


@dataclass(frozen=True)
class SampledGroups:
    """Groups sampled from problems, corrected and topped up as the method asks."""

    collector: Collector
    prompts: Sequence[Prompt]
    num_groups: int

    @property
    def num_items(self) -> int:
        """Problems to train on."""
        return len(self.prompts)

    @property
    def metas(self) -> Iterable[Mapping[str, object]]:
        """The problems' further columns."""
        return (prompt.problem.meta for prompt in self.prompts)

    def groups(self, step: int, cursor: int) -> Collected:
        """Sample ``num_groups`` families."""
        weights = [prompt.problem.weight for prompt in self.prompts]
        items = stream(self.prompts, seed=self.collector.seed, start=cursor, weights=weights)
        return self.collector.collect(items, step=step, num_groups=self.num_groups)

    def content(self) -> Iterator[tuple[object, object]]:
        """Each problem, with the token ids of its prompt and its variants."""
        return ((each.problem, (each.prompt_ids, each.variant_ids)) for each in self.prompts)


@dataclass(frozen=True)
class StoredPairs:
    """Groups of two stored answers, the chosen one right and the rejected one wrong; nothing is sampled."""

    pairs: Sequence[EncodedPair]
    num_groups: int
    stop_id: int
    seed: int

    @property
    def num_items(self) -> int:
        """Pairs to train on."""
        return len(self.pairs)

    @property
    def metas(self) -> Iterable[Mapping[str, object]]:
        """None: pairs keep no further columns."""
        return ()

    def groups(self, step: int, cursor: int) -> Collected:  # noqa: ARG002 - pairs do not depend on it
        """The next ``num_groups`` pairs."""
        taken = take(stream(self.pairs, seed=self.seed, start=cursor), self.num_groups)
        groups = tuple(pair_group(pair, stop_id=self.stop_id) for pair in taken)
        return Collected(groups, self.num_groups, {"tokens": (0.0, 1.0)})

    def content(self) -> Iterator[tuple[object, object]]:
        """Each pair, with the token ids of its prompt and its answers."""
        return ((each.pair, (each.prompt_ids, each.chosen_ids, each.rejected_ids)) for each in self.pairs)


def open_source(config: Config, method: Method, sampler: Sampler, say: Say) -> tuple[Source, tuple[Prompt, ...]]:
    """The source of a run, and its held-out problems (none if nothing is ever evaluated).

    Args:
        config: the settings.
        method: asked for variants, corrections and whether it learns from stored pairs.
        sampler: the run's.
        say: shows a line about skipped data and idle template arguments.
    Raises:
        DataError: a file, row or field is missing or unusable, or nothing is left to train on.
        ConfigError: the method does not learn from stored pairs, or the model cannot hold the data.
    """
    for line in idle_arguments(sampler.tokenizer, config.data):
        say(line)
    open_own = _open_pairs if config.data.pairs else _open_problems
    return open_own(config, method, sampler, say)


def _open_problems(config: Config, method: Method, sampler: Sampler, say: Say) -> tuple[Source, tuple[Prompt, ...]]:
    prompts, held_out = _load_problems(config, sampler, say, method.needs)
    if not prompts:
        raise DataError("no training problems are left; check data.max_prompt_tokens and data.bad_rows")
    _report_uncorrected(say, prompts, method.needs.max_corrected_prompt)
    if any(prompt.problem.weight != 1 for prompt in prompts):
        say(_mixture([prompt.problem.weight for prompt in prompts]))
    rollout = config.rollout
    collector = Collector(
        sampler,
        method,
        sampling=Sampling.of(rollout),
        group_size=rollout.group_size,
        seed=config.train.seed,
    )
    return SampledGroups(collector, prompts, rollout.prompts_per_step), held_out


def _open_pairs(config: Config, method: Method, sampler: Sampler, say: Say) -> tuple[Source, tuple[Prompt, ...]]:
    """Stored pairs; problems, if any, are only evaluated on."""
    data, budget = config.data, config.rollout.max_new_tokens
    if not method.needs.stored_pairs:
        raise ConfigError("data.pairs: this method learns from its own samples; leave it empty, or set method=rpo")
    loaded = load_pairs(
        data.pairs, data.pair_fields, subset=data.pairs_subset, split=data.pairs_split, bad_rows=data.bad_rows
    )
    encoded = encode_pairs(sampler.tokenizer, loaded.pairs, data, stop_id=sampler.stop_id, max_new_tokens=budget)
    _report_skipped(say, "pairs", loaded.num_skipped, encoded.num_skipped, encoded.num_truncated)
    held_out: tuple[Prompt, ...] = ()
    if data.path or data.eval_path:
        held_out = _load_problems(config, sampler, say)[1]
    else:
        say("no data.eval_path: nothing is evaluated; watch rewards/accuracies and rewards/margins")
    sampler.check_fit([pair.prompt_ids for pair in encoded.pairs], budget)
    return StoredPairs(encoded.pairs, config.rollout.prompts_per_step, sampler.stop_id, config.train.seed), held_out


def _load_problems(
    config: Config,
    sampler: Sampler,
    say: Say,
    needs: Needs = Needs(),  # noqa: B008 - frozen
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Problems to train on and held-out ones; only the former need variants."""
    held_out = config.eval
    loaded = load_train_eval(config.data, num_eval=held_out.num_problems, seed=held_out.seed)
    if line := _few(
        config, [problem.question for side in loaded for problem in side.problems], len(loaded[1].problems)
    ):
        say(line)
    own = "eval.max_new_tokens" if held_out.max_new_tokens else "rollout.max_new_tokens"
    train = sampler.encode(
        loaded[0].problems,
        max_new_tokens=config.rollout.max_new_tokens,
        variants=needs.variants,
        transformed=needs.transform_share > 0,
    )
    evaluated = sampler.encode(
        loaded[1].problems, max_new_tokens=held_out.max_new_tokens or config.rollout.max_new_tokens, setting=own
    )
    for name, side, encoded in zip((TRAINING, "held-out data"), loaded, (train, evaluated), strict=True):
        bad = side.num_skipped + encoded.num_damaged
        _report_skipped(say, name, bad, encoded.num_skipped, encoded.num_truncated)
        if line := told(side.read, solutions=name == TRAINING):
            say(f"{name}: {line}")
        if isinstance(sampler.grader, Rewards):
            problems, solutions = [prompt.problem for prompt in encoded.prompts], name == TRAINING
            for line in check_references(
                sampler.grader, problems, name=name, solutions=solutions, encode=sampler.encode_answer
            ):
                say(line)
    return train.prompts, evaluated.prompts


def _few(config: Config, questions: Sequence[object], num_held_out: int) -> str:
    """One line if ``data.path`` is too small for the held-out problems asked for; else empty."""
    wanted, distinct = config.eval.num_problems, len(set(questions))
    if not config.data.path or config.data.eval_path or config.data.pairs or wanted < distinct:
        return ""
    return (
        f"held-out data: {num_held_out:,} of only {counted(distinct, 'problem')}, not eval.size={wanted}; set "
        "data.eval_path, or lower eval.size"
    )


def _report_uncorrected(say: Say, prompts: Sequence[Prompt], limit: int) -> None:
    """Long prompts that the method never corrects."""
    long = sum(len(prompt.prompt_ids) >= limit for prompt in prompts) if limit else 0
    if long:
        say(
            f"{TRAINING}: {long:,} of {len(prompts):,} prompts ({long / len(prompts):.1%}) have {limit} tokens or "
            "more, and their answers are never corrected; raise method.correction.max_prompt_tokens"
        )


def _mixture(weights: Sequence[float]) -> str:
    """How often problems are drawn, by weight: 100 problems of weight 2 are drawn 200 times per epoch."""
    counts = Counter(weights)
    parts = ", ".join(f"{count} problems x {weight:g}" for weight, count in counts.items())
    return f"data.path: {parts} = {sum(weights):,.6g} prompts per epoch"


def _report_skipped(say: Say, name: str, bad: int, over_long: int, cut: int) -> None:
    if bad or over_long or cut:
        say(f"{name}: {bad} bad rows skipped, {over_long} over-long prompts skipped, {cut} cut")
