"""What may change when a run is resumed, what that does to it, and what is refused by name."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from edge_grpo.base.errors import CheckpointError, ConfigError
from edge_grpo.base.world import World
from edge_grpo.config.sections import DistributedSettings, TrainSettings
from edge_grpo.config.tree import Config, changes, config_hash, located, parse_tree, to_tree, updated
from edge_grpo.methods.base import Method
from edge_grpo.models.loading import pick_device
from edge_grpo.models.precision import settled
from edge_grpo.rollout.engine import Engine
from edge_grpo.runs import starts
from edge_grpo.runs.environment import environment
from edge_grpo.runs.folder import RunFolder
from edge_grpo.training import checkpoint, inputs
from edge_grpo.training.schedule import learning_rate
from edge_grpo.training.session import Session

__all__ = [
    "BOUNDS",
    "MAY_CHANGE",
    "Resumption",
    "agreed_tree",
    "check_inputs",
    "patience",
    "plan",
    "start_of",
    "tree_of",
]

BOUNDS = ("train.steps", "train.max_tokens")
"""What ends a run."""

_ROUNDING = (  # other sums, same values
    *("train.micro_batch_rows", "rollout.max_rows", "model.gradient_checkpointing"),
    *("distributed.shard", "distributed.cpu_offload"),
)
_SERVERS = ("rollout.engine.urls", "rollout.engine.lora")  # the same distribution, up to rounding
_HANDOVER = tuple(f"rollout.engine.{name}" for name in ("folder", "timeout_s", "retries", "transport"))
MAY_CHANGE = (
    *BOUNDS,
    *_ROUNDING,
    *("train.checkpoint_every", "train.keep_checkpoints", "train.keep_best", "train.max_skipped_updates"),
    *("eval.*", "run.*", "distributed.timeout_s", "reward.workers", "model.save_dtype"),
    *_SERVERS,
    *_HANDOVER,
)
"""The settings that may change on resume, as patterns of dotted names."""

Changes = Mapping[str, tuple[Any, Any]]
"""Settings by dotted name, as (before, now)."""


@dataclass(frozen=True)
class Resumption:
    """How a run is resumed.

    Args:
        config: the settings to resume with.
        tree: the same, as the run folder keeps them.
        before: the settings so far.
        changed: what differs between the two.
        accept: whether inputs that changed on disk are accepted.
    """

    config: Config
    tree: dict[str, Any]
    before: Config
    changed: Changes = field(default_factory=dict)
    accept: bool = False

    def notes(self, *, step: int, tokens: int, last_rate: float | None) -> list[str]:
        """What the changed settings do to the run, a line each.

        Args:
            step: steps done.
            tokens: tokens sampled in them.
            last_rate: the learning rate of the last of them, if known.
        """
        if not self.changed:
            return []
        named = ", ".join(f"{name} {was} -> {now}" for name, (was, now) in self.changed.items())
        lines = [f"changed on resume: {named}"]
        if rounding := [name for name in self.changed if name in _ROUNDING]:
            lines.append(
                f"{' and '.join(rounding)}: sums are formed in another order, so results agree with an uninterrupted "
                "run up to rounding, no longer byte for byte"
            )
        if moved := [name for name in self.changed if name in _SERVERS]:
            lines.append(
                f"{' and '.join(moved)}: log-probs may be rounded differently from here on, and a token that is drawn "
                "differently changes the rest of its completion"
            )
        old, new = (learning_rate(step, each.train, tokens=tokens) for each in (self.before, self.config))
        if 0 < step < self.config.train.steps and old != new:
            lines.append(_schedule_note(self.config.train, step, new, last_rate))
        return lines


def _schedule_note(train: TrainSettings, step: int, rate: float, last_rate: float | None) -> str:
    ends = " or ".join([f"step {train.steps}", *([f"{train.max_tokens} tokens"] if train.max_tokens else [])])
    jump = f"{rate:.3g}" if last_rate is None else f"{rate:.3g}, after {last_rate:.3g} at step {step}"
    return f"the {train.schedule} schedule now ends at {ends}: the learning rate of step {step + 1} is {jump}"


def patience(root: Path, config: Config | None) -> float:
    """How long the ranks of a run that resumes wait for each other, in seconds: known before they meet.

    Args:
        root: the run's folder.
        config: the settings to resume with; None = the run's own.
    Raises:
        CheckpointError: no run there.
    """
    if config:
        return config.distributed.timeout_s
    own = RunFolder.read_config(root)[0].get("distributed", {})
    return float(own.get("timeout_s", DistributedSettings().timeout_s))


def plan(
    root: Path, config: Config | None, method: Method | None, engine: Engine | None, *, accept: bool = False
) -> Resumption:
    """Compare the settings to resume with to those of the run.

    Args:
        root: the run's folder.
        config: the settings to resume with; None = the run's own.
        method: the custom method, if the run was started with one.
        engine: the custom engine, likewise.
        accept: see :class:`Resumption`.
    Raises:
        CheckpointError: no run there, its configuration was edited, a custom method or engine is missing, or a setting
            was changed that may not change.
    """
    old, digest = RunFolder.read_config(root)
    if config_hash(old) != digest:
        raise CheckpointError(f"{root}/config.yaml was edited after the run began; start a new run with these settings")
    if "class" in old["method"] and method is None:
        raise CheckpointError(
            f"{root} trains a custom method ({old['method']['class']}); resume it with training.loop.resume(method=...)"
        )
    rollout = dict(old.get("rollout", {}))
    if "class" in (used := rollout.get("engine", {})):
        if engine is None:
            raise CheckpointError(
                f"{root} samples with a custom engine ({used['class']}); resume it with "
                "training.loop.resume(engine=...)"
            )
        del rollout["engine"]
    old = updated(old)
    started = parse_tree({**old, "rollout": rollout, **({"method": {}} if method else {})})
    new = tree_of(config or started, method, engine)
    known = tree_of(started, None)  # settings added after the run began have their defaults
    known["method"] = old["method"]
    known["rollout"]["engine"] = used or known["rollout"]["engine"]
    new["run"]["dir"] = known["run"]["dir"]
    changed = changes(known, new)
    _refuse_others(changed, started, config or started)
    _refuse_lower_bounds(root, changed)
    return Resumption(_in_its_dtype(config or started, root), new, started, changed, accept)


def _in_its_dtype(config: Config, root: Path) -> Config:
    """The settings with the dtype that ``auto`` meant so far, on this kind of device: it was found by trying."""
    known = checkpoint.computed_in(root / "checkpoints", pick_device(config.model).type)
    return replace(config, model=settled(config.model, known))


def _refuse_others(changed: Changes, before: Config, now: Config) -> None:
    """Raise CheckpointError for settings that would change what is trained."""
    refused = {name: pair for name, pair in changed.items() if not any(fnmatch(name, each) for each in MAY_CHANGE)}
    reason = f"Only these may change: {', '.join(MAY_CHANGE)}; start a new run for other settings"
    if not refused and _split(before) != _split(now):
        refused = {name: pair for name, pair in changed.items() if name.startswith("eval.")}
        reason = "Held-out problems are split off data.path, so this would change the training problems"
    if refused:
        named = "; ".join(f"{name} was {was!r}, now {asked!r}" for name, (was, asked) in refused.items())
        raise CheckpointError(f"--resume: {named}. {reason}")


def _split(config: Config) -> tuple[int, int] | None:
    """How many held-out problems are split off the training problems, and by which seed; None if none are."""
    data, count = config.data, config.eval.num_problems
    return (count, config.eval.seed) if data.path and not data.eval_path and not data.pairs and count else None


def _refuse_lower_bounds(root: Path, changed: Changes) -> None:
    """Raise CheckpointError for a bound lowered below what is done."""
    lowered = [name for name in BOUNDS if name in changed and _is_lowered(name, *changed[name])]
    newest = checkpoint.latest(root / "checkpoints") if lowered else None
    if newest is None:
        return
    state = checkpoint.read_state(newest)
    done = {"train.steps": (state.step, "steps"), "train.max_tokens": (state.tokens, "sampled tokens")}
    for name, (was, asked) in ((name, changed[name]) for name in lowered):
        count, what = done[name]
        if asked < count:
            raise CheckpointError(
                f"--resume: {name} was {was}, now {asked}, but the run has {count} {what}. {name}={count} ends it "
                f"where it is; for the model of an earlier step, use edge-grpo export {root} --step N OUT"
            )


def _is_lowered(name: str, was: int, asked: int) -> bool:
    """Whether a run would end sooner; ``train.max_tokens`` 0 never ends it."""
    old, new = (math.inf if name == "train.max_tokens" and bound == 0 else bound for bound in (was, asked))
    return new < old


def tree_of(config: Config, method: Method | None, engine: Engine | None = None) -> dict[str, Any]:
    """The settings as the run folder keeps them; a custom method or engine by the name of its class."""
    tree = to_tree(config)
    if method is not None:
        own: dict[str, Any] = TypeAdapter(type(method)).dump_python(method, mode="json")
        tree["method"] = {"class": _class_of(method), **own}
    if engine is not None:
        tree["rollout"]["engine"] = {"class": _class_of(engine)}
    return located(tree)


def agreed_tree(config: Config, method: Method | None, engine: Engine | None, world: World) -> dict[str, Any]:
    """The tree of the settings, which must be the same on all ranks: each would train on its own otherwise.

    Raises:
        ConfigError: names the settings that differ.
    """
    trees = world.gather(lambda: tree_of(config, method, engine))

    def check() -> None:
        for rank, tree in enumerate(trees):
            if found := changes(trees[0], tree):
                named = " and ".join(f"{name} ({first!r} and {own!r})" for name, (first, own) in found.items())
                raise ConfigError(
                    f"ranks 0 and {rank} were started with different {named}; give all ranks the same settings"
                )

    world.first(check)
    return trees[world.rank]


def _class_of(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def check_inputs(
    recorded: Sequence[Mapping[str, Any]], now: Mapping[str, Any], found: Mapping[str, str], resumption: Resumption
) -> tuple[str, ...]:
    """Compare the inputs of a run with those recorded by its last start.

    Args:
        recorded: the run's starts.
        now: the environment of this one.
        found: the inputs now, see :func:`edge_grpo.training.inputs.digests`.
        resumption: the settings, and whether changes are accepted.

    Returns:
        the inputs that changed and were accepted.
    Raises:
        CheckpointError: some changed, and that was not accepted.
    """
    usable = [start for start in recorded if isinstance(start.get("inputs"), dict)]
    last: Mapping[str, Any] = usable[-1] if usable else {}
    before, old, new = last.get("inputs", {}), resumption.before.eval, resumption.config.eval
    if (old.num_problems, old.seed) != (new.num_problems, new.seed):  # other problems are held out
        before = {name: value for name, value in before.items() if name not in inputs.HELD_OUT}
    different = inputs.changed(before, found, resumption.config)
    if different and not resumption.accept:
        other = starts.other_environment(last, now)
        raise CheckpointError(
            f"--resume: {' and '.join(different)} changed since the run was last started"
            + (f" (or is read differently: {other})" if other else "")
            + "; restore the old content, or add --accept-changes to continue with the new"
        )
    return different


def start_of(session: Session, folder: Path, resumption: Resumption | None) -> dict[str, Any]:
    """What a run folder records of a start: where it runs, how, and what it learns from; all ranks must ask for it.

    Raises:
        CheckpointError: an input has changed since the last start.
        DataError: machines have different inputs.
    """
    found = inputs.agreed(
        lambda: inputs.digests(session.config, session.source, session.held_out), session.config, session.world
    )

    def recorded() -> dict[str, Any]:
        now = environment()
        accepted = check_inputs(starts.read(folder), now, found, resumption) if resumption else ()
        trained = asdict(session.policy.adapted)
        return {**now, "ranks": session.world.size, "inputs": found, "trained": trained, "accepted": list(accepted)}

    return session.world.first(recorded)
