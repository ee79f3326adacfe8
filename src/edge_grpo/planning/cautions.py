"""What looks wrong about a run before it starts: one line each, with the setting that helps."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from edge_grpo.planning.memory import Phase
from edge_grpo.planning.plan import Plan

__all__ = ["Caution", "Seen", "cautions"]

_SHARE: Final = 0.05  # of references that do not fit the cap
_MANY: Final = 0.5  # of groups that are lost
_FEW: Final = 4  # groups left in an update: no more than these


@dataclass(frozen=True)
class Caution:
    """A setting, and what is to be known about it."""

    setting: str
    text: str


@dataclass(frozen=True)
class Seen:
    """What a probe or an earlier run has shown; None = not known. ``source`` says which.

    ``collapse``: the share of groups whose rewards are all equal, as sampled. ``sizes``: that share, or a bound of it,
    for groups of other sizes.
    """

    source: str
    pass_rate: float | None = None
    collapse: float | None = None
    cut: float | None = None
    sizes: tuple[tuple[int, float], ...] = ()


def cautions(plan: Plan, seen: Seen | None = None, *, free: float | None = None) -> list[Caution]:
    """Whatever looks wrong.

    Args:
        plan: the plan.
        seen: what is known of pass rates and collapse.
        free: bytes of memory that are available to a rank; None = unknown.
    """
    found = [*_lengths(plan), *_reference(plan), *_shares(plan), *_fits(plan, free)]
    return found + ([*_groups(plan, seen), *_seen(plan, seen)] if seen else [])


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
        copy = _amount(sum(part.bytes for part in plan.memory.parts if part.name == "reference"))
        scored = "both answers of every pair" if plan.config.data.pairs else "every completion"
        if _does_without(method):
            what, without = f"a KL term of {beta:g} keeps", "method.beta=0 does without; "
        else:
            what, without = f"{method.kind} compares with the model as it was, and keeps", ""
        yield Caution(
            "method.beta" if without else "model.lora.rank",
            f"{what} a frozen copy of the model ({copy} a rank) and scores {scored} with it, too: {without}with "
            "model.lora.rank the base is the reference",
        )


def _does_without(method: Any) -> bool:
    """Whether a method needs no reference if its KL term has no weight."""
    with suppress(ValueError, TypeError):  # 0 may not be allowed, and there may be no such field
        return not bool(replace(method, beta=0.0).needs.reference)
    return False


def _shares(plan: Plan) -> Iterator[Caution]:
    config, ranks = plan.config, plan.ranks
    prompts, size = config.rollout.prompts_per_step, config.rollout.group_size
    noun = "pairs" if config.data.pairs else "prompts"
    if prompts % ranks:
        yield Caution(
            "rollout.prompts_per_step", f"{prompts} {noun} on {ranks} ranks: some wait; make it a multiple of {ranks}"
        )
    rows = config.train.micro_batch_rows
    if not config.data.pairs and plan.shape.packed and rows % size and rows < plan.counts.rows.high:
        yield Caution(
            "train.micro_batch_rows",
            f"{rows} is no multiple of rollout.group_size={size}, so that prompts are computed in two micro-batches: "
            f"{max(size, rows // size * size)} is faster",
        )
    if config.train.mini_batches > prompts:
        yield Caution(
            "train.mini_batches", f"{config.train.mini_batches} updates of {prompts} {noun}: only {prompts} are made"
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
    yield Caution(setting, f"{phase} needs {_amount(peak)} a rank, and {_amount(free)} are free: {remedy}")


def _groups(plan: Plan, seen: Seen) -> Iterator[Caution]:
    """Groups too small for these problems: as measured, else at least as the pass rate alone tells."""
    size, rate = plan.config.rollout.group_size, seen.pass_rate
    if rate in (0.0, 1.0):
        return  # no size helps
    if seen.collapse is not None:
        dead, right = seen.collapse, f", {rate:.1%} right" if rate is not None else ""
        what = f"{dead:.0%} of the groups are dead as sampled, all rewards equal ({seen.source}{right})"
    else:
        dead = _alike(rate, size) if rate is not None else 0.0
        what = (
            f"at a pass rate of {rate or 0:.1%} ({seen.source}), {dead:.0%} of the groups of {size} are all right or "
            "all wrong even if all problems are equally hard"
        )
    if dead > _MANY:
        revived = "; corrections may revive those that are all wrong" if plan.counts.corrected.high else ""
        remedy = f"{_larger(seen, size)} choose other problems (edge-grpo screen){revived}"
        yield Caution("rollout.group_size", f"{what}: {remedy}")


def _larger(seen: Seen, size: int) -> str:
    """The group size that would leave half of the groups mixed, and what joins it to the other remedy."""
    if seen.sizes:
        largest = max(each for each, _ in seen.sizes)
        wanted = min((each for each, share in seen.sizes if each > size and share <= _MANY), default=0)
        return f"{wanted} would leave half of them mixed; or" if wanted else f"no size up to {largest} is sure to help;"
    if seen.pass_rate is None:
        return "raise it, or"
    wanted = next((each for each in range(size, 4097) if _alike(seen.pass_rate, each) <= _MANY), 0)
    if wanted == size:
        return "problems differ in difficulty;"
    equal = " if all problems were equally hard" if seen.collapse is not None else ""
    return f"{wanted} would leave half of them mixed{equal}; or" if wanted else "no usual size helps;"


def _seen(plan: Plan, seen: Seen) -> Iterator[Caution]:
    """What is left of an update, and completions that are cut."""
    prompts = plan.config.rollout.prompts_per_step
    if seen.pass_rate in (0.0, 1.0):
        yield Caution(
            "data.path",
            f"{'no' if seen.pass_rate == 0 else 'every'} answer was right ({seen.source}): there is nothing to "
            f"compare; choose {'easier' if seen.pass_rate == 0 else 'harder'} problems (edge-grpo screen)",
        )
    if seen.collapse is not None:
        left = prompts * (1 - seen.collapse) / min(plan.config.train.mini_batches, prompts)
        if left <= _FEW:
            more = ", or draw more (method.top_up.max_rounds=3)" if hasattr(plan.config.method, "top_up") else ""
            before = " before corrections" if plan.counts.corrected.high else ""
            yield Caution(
                "rollout.prompts_per_step",
                f"with {seen.collapse:.0%} of the groups collapsed ({seen.source}), {left:.1f} of an update's groups "
                f"have a gradient{before}: raise it, or lower train.mini_batches{more}",
            )
    if seen.cut is not None and seen.cut > _SHARE:
        yield Caution(
            "rollout.max_new_tokens",
            f"{seen.cut:.0%} of the completions were cut before they ended ({seen.source}): raise it",
        )


def _alike(rate: float, size: int) -> float:
    """The share of groups that are all right or all wrong, if every problem has this pass rate: p^G + (1 - p)^G."""
    return float(rate**size + (1 - rate) ** size)


def _amount(size: float) -> str:
    """Bytes, in GB or in MB.

    Example:
        >>> _amount(2.5e6), _amount(1.25e9)
        ('2.5 MB', '1.25 GB')
    """
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
