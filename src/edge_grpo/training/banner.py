"""What a run is about, in a few lines at its start."""

from collections.abc import Iterator
from pathlib import Path

import torch

from edge_grpo.base.text import counted
from edge_grpo.config.sections import VllmEngineSettings
from edge_grpo.config.tree import Config
from edge_grpo.data.settings import named
from edge_grpo.models.adapters import describe
from edge_grpo.models.policy import Policy
from edge_grpo.rewards.formats import PLACES
from edge_grpo.trackers.console import decoding
from edge_grpo.training.session import Session

__all__ = ["banner", "legend"]


def banner(session: Session, folder: Path) -> Iterator[str]:
    """The run folder, model, precision, device, method and data of a run that is about to start or to resume."""
    config = session.config
    yield f"run folder: {folder}"
    yield f"model: {config.model.path}, {_model(session.policy)}"
    if session.world.size > 1:
        weights = "the weights divided among them" if session.policy.is_sharded else "each with all weights"
        yield f"processes: {session.world.size}, {weights}"
    if isinstance(config.rollout.engine, VllmEngineSettings):
        yield f"rollouts: vLLM on {', '.join(config.rollout.engine.urls)}"
    yield f"trained: {describe(session.policy.adapted)}"
    yield f"method: {session.method.kind}, {_budget(config)}"
    yield f"data: {_data(session)}"


def legend(config: Config, *, evaluated: bool) -> Iterator[str]:
    """What the figures on the console mean."""
    pairs = bool(config.data.pairs)
    sampled = f"accuracy: training samples, {decoding(config.rollout.temperature)}"
    held_out = f"held-out: {decoding(config.eval.temperature)}" if evaluated else ""
    yield "; ".join(filter(None, ("pairs: chosen above rejected" if pairs else sampled, held_out)))
    if config.reward.function and (evaluated or not pairs):
        place = PLACES[config.reward.format]
        yield f"right or wrong: 'correct' of reward.function, else the built-in check of the last {place}"


def _model(policy: Policy) -> str:
    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in policy.model.parameters()})
    precision = " and ".join(dtypes) + (", computing in bfloat16" if policy.autocast else "")
    precision += "" if policy.scorer.is_packed else ", by the model's own code"
    threads = torch.get_num_threads()
    where = f"cpu with {counted(threads, 'thread')}"
    if policy.device.type != "cpu":
        where = f"{policy.device} ({torch.cuda.get_device_name(policy.device)})"
    return f"{_size(sum(weight.numel() for weight in policy.model.parameters()))}, {precision}, on {where}"


def _budget(config: Config) -> str:
    train, rollout = config.train, config.rollout
    until = f" or {train.max_tokens:,} sampled tokens" if train.max_tokens else ""
    steps = counted(train.steps, "step")
    if config.data.pairs:
        return f"{steps} of {counted(rollout.prompts_per_step, 'pair')}"
    return (
        f"{steps}{until}, each of {counted(rollout.prompts_per_step, 'prompt')} x "
        f"{rollout.group_size} completions of "
        f"at most {rollout.max_new_tokens} tokens"
    )


def _data(session: Session) -> str:
    data, count = session.config.data, session.source.num_items
    noun = "pair" if data.pairs else "problem"
    name = named(data.pairs or data.path) or f"built-in {data.task}"
    held_out = counted(len(session.held_out), "held-out problem") if session.held_out else "nothing held out"
    return f"{name}, {counted(count, noun)} to train on, {held_out}"


def _size(count: int) -> str:
    """A number of parameters.

    Example:
        >>> _size(640), _size(626_944), _size(1_543_714_304)
        ('640 parameters', '0.63M parameters', '1.54B parameters')
    """
    for unit, letter in ((1e9, "B"), (1e6, "M")):
        if count >= unit / 10:
            return f"{count / unit:.2f}{letter} parameters"
    return f"{count:,} parameters"
