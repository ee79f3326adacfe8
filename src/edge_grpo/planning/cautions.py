"""What looks wrong about a run before it starts: one line each, with the setting that helps."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edge_grpo.planning.memory import Phase
from edge_grpo.planning.plan import Plan

__all__ = ["Caution", "Seen", "cautions"]

_SHARE: Final = 0.05  # of references that do not fit the cap
_MANY: Final = 0.5  # of groups that are lost
_FEW: Final = 4  # groups left in an update


@dataclass(frozen=True)
class Caution:
    """A setting, and what is to be known about it."""

    setting: str
    text: str


@dataclass(frozen=True)
class Seen:
    """What a probe or an earlier run has shown; None = not known. ``source`` says which."""

    source: str
    pass_rate: float | None = None
    collapse: float | None = None
    cut: float | None = None


def cautions(plan: Plan, seen: Seen | None = None, *, free: float | None = None) -> list[Caution]:
    """Whatever looks wrong.

    Args:
        plan: the plan.
        seen: what is known of pass rates and collapse.
        free: bytes of memory that are available to a rank; None = unknown.
    """
    found = [*_lengths(plan), *_reference(plan), *_shares(plan), *_fits(plan, free)]
    return found + (list(_collapse(plan, seen)) if seen else [])


def _lengths(plan: Plan) -> Iterator[Caution]:
    cap, lengths, data = plan.config.rollout.max_new_tokens, plan.lengths, plan.config.data
    if (share := lengths.beyond(cap)) > _SHARE:
        longest = max(lengths.references)
        yield Caution(
            "rollout.max_new_tokens",
            f"{share:.0%} of the reference solutions are longer than {cap:,} tokens (the longest has {longest:,}); a "
            "completion that needs as many is cut and never right: raise it",
        )
    if lengths.over_long and data.over_long == "error":
        yield Caution(
            "data.max_prompt_tokens",
            f"{lengths.over_long:,} of {lengths.counted:,} prompts have more than {data.max_prompt_tokens:,} tokens, "
            "which ends the run: raise it, or set data.over_long=skip",
        )
    elif lengths.over_long:
        what = {"skip": "are skipped", "truncate": "lose their first tokens"}[data.over_long]
        yield Caution(
            "data.max_prompt_tokens",
            f"{lengths.over_long:,} of {lengths.counted:,} prompts have more than {data.max_prompt_tokens:,} tokens "
            f"and {what}: raise it to keep them",
        )
    room = plan.shape.context
    if room is not None and lengths.counted and lengths.longest + cap > room:
        yield Caution(
            "rollout.max_new_tokens",
            f"a prompt of {lengths.longest:,} tokens and {cap:,} new ones exceed the model's context of {room:,}, "
            "which ends the run: lower it, or data.max_prompt_tokens",
        )


def _reference(plan: Plan) -> Iterator[Caution]:
    method, needs = plan.config.method, plan.config.method.needs
    beta, most = getattr(method, "beta", None), getattr(method, "kl_max", None)
    if most is not None and not needs.reference:
        yield Caution(
            "method.kl_max",
            "bounds a KL term, but there is none: with method.beta=0 no reference is kept; set method.beta, or drop it",
        )
    if needs.reference and not plan.shape.rank:
        copy = sum(part.bytes for part in plan.memory.parts if part.name == "reference")
        yield Caution(
            "method.beta",
            f"a KL term of {beta:g} keeps a frozen copy of the model ({copy / 1e9:.2f} GB a rank) and scores every "
            "completion with it, too: method.beta=0 does without; with model.lora.rank the base is the reference",
        )


def _shares(plan: Plan) -> Iterator[Caution]:
    config, ranks = plan.config, plan.ranks
    prompts, size = config.rollout.prompts_per_step, config.rollout.group_size
    if prompts % ranks:
        yield Caution(
            "rollout.prompts_per_step", f"{prompts} prompts on {ranks} ranks: some wait; make it a multiple of {ranks}"
        )
    rows = config.train.micro_batch_rows
    if plan.shape.packed and rows % size and rows < plan.counts.rows.high:
        yield Caution(
            "train.micro_batch_rows",
            f"{rows} is no multiple of rollout.group_size={size}, so that prompts are computed in two micro-batches: "
            f"{max(size, rows // size * size)} is faster",
        )
    if config.train.mini_batches > prompts:
        yield Caution(
            "train.mini_batches", f"{config.train.mini_batches} updates of {prompts} prompts: only {prompts} are made"
        )


def _fits(plan: Plan, free: float | None) -> Iterator[Caution]:
    phase, peak = plan.memory.peak
    if free is None or peak <= free:
        return
    lower = {
        Phase.SAMPLING: ("rollout.max_rows", "lower it, or rollout.max_new_tokens"),
        Phase.BACKWARD: ("train.micro_batch_rows", "lower it, or rollout.max_new_tokens"),
    }
    setting, remedy = lower.get(phase, ("model.lora.rank", "train adapters (16), or divide the weights (--processes)"))
    yield Caution(setting, f"{phase} needs {peak / 1e9:.2f} GB a rank, and {free / 1e9:.2f} GB are free: {remedy}")


def _collapse(plan: Plan, seen: Seen) -> Iterator[Caution]:
    size, prompts = plan.config.rollout.group_size, plan.config.rollout.prompts_per_step
    if seen.pass_rate is not None and 0 < seen.pass_rate < 1 and _alike(seen.pass_rate, size) > _MANY:
        wanted = next((each for each in range(size, 4097) if _alike(seen.pass_rate, each) <= _MANY), 0)
        enough = f"{wanted} would leave half of them mixed" if wanted else "no usual size helps"
        yield Caution(
            "rollout.group_size",
            f"at a pass rate of {seen.pass_rate:.1%} ({seen.source}), {_alike(seen.pass_rate, size):.0%} of the groups "
            f"of {size} are all right or all wrong even if all problems are equally hard: {enough}; or choose other "
            "problems (edge-grpo screen)",
        )
    if seen.pass_rate in (0.0, 1.0):
        yield Caution(
            "data.path",
            f"{'no' if seen.pass_rate == 0 else 'every'} answer was right ({seen.source}): there is nothing to "
            f"compare; choose {'easier' if seen.pass_rate == 0 else 'harder'} problems (edge-grpo screen)",
        )
    if seen.collapse is not None:
        left = prompts * (1 - seen.collapse) / min(plan.config.train.mini_batches, prompts)
        if left < _FEW:
            yield Caution(
                "rollout.prompts_per_step",
                f"with {seen.collapse:.0%} of the groups collapsed ({seen.source}), {left:.1f} of an update's groups "
                "have a gradient: raise it, lower train.mini_batches, or draw more (method.top_up.max_rounds=3)",
            )
    if seen.cut is not None and seen.cut > _SHARE:
        yield Caution(
            "rollout.max_new_tokens",
            f"{seen.cut:.0%} of the completions were cut before they ended ({seen.source}): raise it",
        )


def _alike(rate: float, size: int) -> float:
    """The share of groups that are all right or all wrong, if every problem has this pass rate: p^G + (1 - p)^G."""
    return float(rate**size + (1 - rate) ** size)
