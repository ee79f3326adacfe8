"""Open an engine, and the sampler around it, from a run's settings: the one place that knows which engines exist."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from edge_grpo.base.world import World
from edge_grpo.config.sections import HfEngineSettings
from edge_grpo.config.tree import Config
from edge_grpo.models.dense import Dense
from edge_grpo.models.loading import context_length, load_policy, vocabulary_size
from edge_grpo.models.policy import Policy
from edge_grpo.models.replica import Replica
from edge_grpo.models.scoring import causal
from edge_grpo.models.stops import Stops, find_stops, marker_ids
from edge_grpo.rewards.builtin import Rewards
from edge_grpo.rollout.engine import Engine
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.ranks import EachRank, FirstRank
from edge_grpo.rollout.sampler import Sampler

__all__ = ["open_engine", "open_sampler"]


def open_engine(
    config: Config,
    policy: Policy,
    stops: Stops,
    *,
    say: Callable[[str], None] = lambda _: None,
    world: World = World(),  # noqa: B008 - frozen
    replica: Replica | None = None,
) -> Engine:
    """The engine named by ``rollout.engine.kind``; the caller closes it.

    Args:
        config: the settings.
        policy: the model.
        stops: what ends a completion.
        say: shows a line about what a server does otherwise.
        world: the ranks that sample together.
        replica: gives rank 0 all weights of a policy that is divided among them.
    Raises:
        EngineError: it cannot generate from this model, or a server does not answer.
    """
    rollout, ids = config.rollout, stops.token_ids
    if isinstance(rollout.engine, HfEngineSettings):
        own = DecodeEngine(
            policy, stop_ids=ids, stop_texts=stops.texts, pad_id=ids[0], max_rows=rollout.max_rows, say=say
        )
        return EachRank(own, world, policy.whole) if world.group else own
    from edge_grpo.rollout.vllm.engine import VllmEngine  # noqa: PLC0415 - in-process runs need no HTTP
    from edge_grpo.rollout.vllm.server import API_KEY  # noqa: PLC0415

    settings = rollout.engine

    def connect(whole: Policy) -> Engine:
        return VllmEngine(
            settings,
            policy=whole,
            stop_ids=ids,
            stop_texts=stops.texts,
            max_rows=rollout.max_rows,
            session=secrets.token_hex(6),
            key=os.environ.get(API_KEY, ""),
            say=say,
        )

    if not world.group:
        return connect(policy)
    return FirstRank(connect, world, replica or Replica(policy, world, lambda: policy))


@contextmanager
def open_sampler(
    config: Config,
    *,
    policy: Policy | None = None,
    engine: Engine | None = None,
    say: Callable[[str], None] = lambda _: None,
    world: World = World(),  # noqa: B008 - frozen
    replica: Replica | None = None,
) -> Iterator[Sampler]:
    """A sampler for the model, data, reward and rollout settings of a run; closed on exit from the block.

    Args:
        config: the settings.
        policy: the model, if already loaded; otherwise ``config.model`` is loaded.
        engine: a custom engine in place of ``rollout.engine``; it stays open.
        say: shows a line about what a model's family does not support.
        world: the ranks that share the work.
        replica: gives rank 0 all weights of a policy that is divided among them.
    Raises:
        EngineError: the model cannot be loaded, or the engine cannot generate from it.
        ConfigError: no stop token, or a reward function that cannot be imported.
    """
    policy = policy or load_policy(config.model)
    stops = find_stops(policy, config.data, config.rollout.stop)
    reward = replace(config.reward, workers=max(1, config.reward.workers // world.local_size))
    with ExitStack() as stack:
        rewards = world.each(lambda: stack.enter_context(Rewards(reward)))
        if engine is None:
            engine = open_engine(config, policy, stops, say=say, world=world, replica=replica)
            stack.callback(engine.close)
        elif world.group:
            engine = EachRank(engine, world, policy.whole)
        for line in _limits(config, policy, engine):
            say(line)
        sampler = Sampler(
            engine=engine,
            grader=rewards,
            tokenizer=policy.tokenizer,
            data=config.data,
            stop_ids=stops.token_ids,
            marker_ids=marker_ids(policy.tokenizer, config.data),
            context=_context(policy, engine),
            vocabulary=vocabulary_size(policy),
            vision=policy.vision,
            world=world,
        )
        sampler.sync(policy, 0)
        yield sampler


def _context(policy: Policy, engine: Engine) -> int | None:
    """The model's context length in tokens, or that of the engine if it is shorter; None if neither has a limit."""
    limits = (context_length(policy), getattr(engine, "context", None))
    return min((limit for limit in limits if limit is not None), default=None)


def _limits(config: Config, policy: Policy, engine: Engine) -> Iterator[str]:
    """What is done in another way than usual, because the model's family does not support the usual one."""
    network = causal(policy.model)
    family, settings = type(network).__name__, network.config.get_text_config()
    attends, on_gpu = bool(getattr(settings, "num_attention_heads", 0)), policy.device.type == "cuda"
    if config.model.attention == "auto" and attends and getattr(settings, "_attn_implementation", "") == "eager":
        yield f"model.attention: {family} has no fused attention; using eager"
    if config.model.gradient_checkpointing and on_gpu and not network.supports_gradient_checkpointing:
        yield f"model.gradient_checkpointing: {family} does not support it; activations of all layers stay in memory"
    if policy.scorer.dense is None and Dense.supports(network):
        yield f"{family}: its layers compute otherwise than those of its family, so that its own code runs them, slowly"
    context, length = context_length(policy), getattr(engine, "context", None)
    if context and length and length < context:
        yield (
            f"rollout.engine: prompts with their completions may have {length} tokens, the model's context is "
            f"{context}; `edge-grpo serve --max-model-len` raises that"
        )
    if note := getattr(engine, "note", ""):
        yield f"{family}: {note}"
