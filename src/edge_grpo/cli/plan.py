"""``edge-grpo plan``: a run before it starts."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.text import counted
from edge_grpo.cli.progress import ProgressBar, waiting
from edge_grpo.cli.settings import Settings

if TYPE_CHECKING:
    from edge_grpo.config.tree import Config
    from edge_grpo.planning.cautions import Caution
    from edge_grpo.planning.cost import Cost, Rates
    from edge_grpo.planning.memory import Memory
    from edge_grpo.planning.plan import Plan
    from edge_grpo.planning.probe import Probe

__all__ = ["plan"]

_MOMENTS = {
    "sampling": "while sampling",
    "backward": "as the backward pass begins",
    "update": "at the optimizer's step",
    "saving": "while final/ is written and read back",
}


def plan(
    settings: Settings = None,
    processes: Annotated[
        int, typer.Option("--processes", min=0, metavar="N", help="Plan for N ranks, one per GPU; 0: one process.")
    ] = 0,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Plan for this; it need not be here.")] = "auto",
    tokens_per_s: Annotated[
        float, typer.Option("--tokens-per-s", min=0, metavar="X", help="Sampled tokens per second of whole steps.")
    ] = 0.0,
    earlier: Annotated[str, typer.Option("--from", metavar="RUN_DIR", help="Take rates from this run.")] = "",
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", min=0, metavar="P", help="Of all machines together.")
    ] = None,
    completion_tokens: Annotated[
        int, typer.Option("--completion-tokens", min=0, metavar="N", help="Memory for completions of at most N tokens.")
    ] = 0,
    with_probe: Annotated[bool, typer.Option("--probe", help="Load the model and sample a few problems.")] = False,
    problems: Annotated[int, typer.Option(min=1, metavar="N", help="With --probe: how many.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run would do before any weight is loaded: counts, memory by part, time and cost, and cautions.

    Takes the arguments of `edge-grpo train`. Only the model's configuration, its tokenizer and the data are read;
    `--probe` loads the model as well.
    """
    if tokens_per_s and earlier:
        raise ConfigError("--tokens-per-s and --from: two rates; give one of them")
    from edge_grpo.config.tree import load_config, split_words  # noqa: PLC0415 - imports torch

    config = load_config(*split_words(settings))
    if with_probe and config.data.pairs:
        raise ConfigError("--probe: the run trains on stored pairs (data.pairs), of which nothing is sampled; drop it")
    notes = Console(stderr=True)
    with waiting("reading the configuration of the model, and the data"):
        from edge_grpo.planning import cost as costs  # noqa: PLC0415 - model code
        from edge_grpo.planning.plan import plan_of  # noqa: PLC0415

        made = plan_of(config, processes=processes, device=device, completion=completion_tokens)
    rates = costs.rates_of(earlier) if earlier else None
    if tokens_per_s:
        rates = costs.Rates(tokens_per_s, "--tokens-per-s")
    found = _probed(config, problems, notes) if with_probe else None
    price = costs.cost(made.counts, rates, price_per_hour=price_per_hour) if rates else None
    warned = _cautions(made, rates, found)
    if as_json:
        print(json.dumps(_plain(made, rates, price, found, warned), indent=2))
        return
    _show(made, rates, price, found, warned)


def _probed(config: "Config", problems: int, notes: Console) -> "Probe":
    from edge_grpo.planning.probe import probe  # noqa: PLC0415

    say = partial(notes.print, markup=False, highlight=False, soft_wrap=True)
    with ProgressBar("problems") as shown:
        return probe(config, num_problems=problems, say=say, progress=shown)


def _cautions(made: "Plan", rates: "Rates | None", found: "Probe | None") -> "list[Caution]":
    from edge_grpo.planning.cautions import Seen, cautions  # noqa: PLC0415
    from edge_grpo.planning.machine import free_memory  # noqa: PLC0415

    seen = None
    if rates and (rates.accuracy is not None or rates.collapse is not None):
        seen = Seen(rates.source, rates.accuracy, rates.collapse)
    if found:
        size = made.config.rollout.group_size
        own = next((each.collapse.total for each in found.sizes if each.collapse.size == size), found.dead)
        sizes = tuple((each.collapse.size, each.collapse.total) for each in found.sizes)
        seen = Seen(f"--probe, {counted(found.problems, 'problem')}", found.pass_rate, own, found.cut, sizes)
    here = free_memory() if made.device == "cpu" else _free_on_gpu()
    return cautions(made, seen, free=here / made.ranks if here and made.device == "cpu" else here)


def _free_on_gpu() -> float | None:
    """Bytes left on the first GPU; None without one."""
    import torch  # noqa: PLC0415

    return float(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def _plain(
    made: "Plan", rates: "Rates | None", price: "Cost | None", found: "Probe | None", warned: "list[Caution]"
) -> dict[str, Any]:
    """The plan as JSON values; NaN is null."""
    memory, (phase, peak) = made.memory, made.memory.peak
    content = {
        "device": made.device,
        "ranks": made.ranks,
        "model": asdict(made.shape),
        "bytes_per_number": asdict(made.precision),
        "data": asdict(made.lengths) | {"references": len(made.lengths.references)},
        "counts": asdict(made.counts),
        "memory": {
            "parts": [asdict(part) for part in memory.parts],
            "phases": {str(each): memory.at(each) for each in type(phase)},
            "peak": {"phase": str(phase), "bytes": peak},
        },
        "rates": asdict(rates) if rates else None,
        "cost": asdict(price) | {"total_s": price.total_s} if price else None,
        "probe": asdict(found) if found else None,
        "cautions": [asdict(each) for each in warned],
        "assumptions": list(made.assumptions),
    }
    sound: dict[str, Any] = _finite(content)
    return sound


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- shown ------------------------------------------------------------------------------------------------------------


def _show(
    made: "Plan", rates: "Rates | None", price: "Cost | None", found: "Probe | None", warned: "list[Caution]"
) -> None:
    console = Console()
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    config, shape = made.config, made.shape
    where = made.device + (f", {made.ranks} ranks" if made.ranks > 1 else "")
    where += " with divided weights" if made.place.divided else ""
    half = {2: "bfloat16", 4: "float32"}[made.precision.passes]
    say(f"{config.method.kind}, {config.model.path} ({shape.family}), passes in {half}, on {where}")
    say(f"{shape.weights:,} weights, {shape.trained:,} of them trained")
    _table(console, "a step", ("", ""), _counts(made))
    _memory(console, made.memory)
    for line in (*_time(made, rates, price), *(_probe_lines(found) if found else ())):
        say(line)
    if found:
        _sizes(console, found)
    for each in warned:
        say(f"! {each.setting}: {each.text}")
    say("assumed:")
    for line in made.assumptions:
        say(f"- {line}")


def _table(console: Console, title: str, columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 or not column else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _counts(made: "Plan") -> Iterator[tuple[str, str]]:
    counts, lengths, config = made.counts, made.lengths, made.config
    if config.data.pairs:
        yield "pairs", str(counts.prompts)
    else:
        variants = f" of {counts.variants} variants each" if counts.variants > 1 else ""
        measured = f", {lengths.mean:.0f} tokens on average, at most {lengths.longest:,}" if lengths.counted else ""
        yield "prompts", f"{counts.prompts}{variants}{measured}"
        yield "completions", f"{counts.completions}, in groups of {counts.group_size}"
    if counts.corrected.high:
        yield "corrected", f"{counts.corrected} of them, to at most {counts.longest:,} tokens"
    if counts.revisions.high:
        yield "revisions", f"{counts.revisions} more completions"
    yield "rows trained", str(counts.rows)
    yield "updates", f"{counts.updates}, in {counted(counts.passes, 'pass')}"
    idle = " (rows without a gradient are left out)" if counts.micro_batches.low < counts.micro_batches.high else ""
    each = " and rank" if made.ranks > 1 else ""
    upto = f"up to {counts.micro_batches.high:,}" if idle else str(counts.micro_batches)
    yield "micro-batches", f"{upto} per update{each}, of at most {counted(counts.rows_at_once, 'row')}{idle}"
    if counts.tokens:
        yield "sampled tokens", f"at most {counts.tokens:,} a step, {counts.tokens * counts.steps:,} in all"
    yield "trained tokens", f"at most {counts.trained_tokens:,} a step, in each pass"
    bound = f"; train.max_tokens ends the run after {counts.steps_at_cap:,} at the cap" if counts.steps_at_cap else ""
    yield "steps", f"{counts.steps:,}{bound}"
    noun = "pair" if config.data.pairs else "problem"
    epochs = counts.prompts.low * counts.steps / lengths.per_epoch
    more = " or more" if counts.prompts.high > counts.prompts.low else ""
    yield "epochs", f"{epochs:.2f}{more}, of {counted(lengths.per_epoch, noun)}"
    if counts.evaluations and counts.evaluated:
        yield "evaluations", f"{counts.evaluations} of at most {counts.evaluated:,} answers"


def _memory(console: Console, memory: "Memory") -> None:
    """Parts by phase, the peak marked."""
    phase, peak = memory.peak
    phases = tuple(each for each in type(phase) if any(each in part.phases for part in memory.parts))
    unit, name = (1e9, "GB") if peak >= 1e9 else (1e6, "MB")

    def cell(amount: float) -> str:
        return f"{amount / unit:,.2f}" if unit == 1e9 else f"{amount / unit:,.1f}"

    def rows() -> Iterator[tuple[str, ...]]:
        for part in memory.parts:
            yield part.name, *(cell(part.bytes) if each in part.phases else "" for each in phases)
        yield "sum", *(cell(memory.at(each)) for each in phases)

    _table(console, f"memory of a rank, {name}", ("part", *map(str, phases)), rows())
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    say(f"peak: {cell(peak)} {name}, {_MOMENTS[str(phase)]}")
    for part in memory.parts:
        if part.note:
            say(f"  {part.name}: {part.note}")


def _time(made: "Plan", rates: "Rates | None", price: "Cost | None") -> Iterator[str]:
    if rates is None or price is None:
        if made.config.data.pairs:
            yield "time: not estimated; rates count sampled tokens, and stored pairs have none"
        else:
            yield "time: not estimated without a measured rate; give --from RUN_DIR or --tokens-per-s X"
        return
    most = "at most " if price.bound else ""
    length = (
        f", {rates.length:.0f} tokens a completion there" if rates.length is not None else ", completions at their cap"
    )
    yield f"time: {most}{_span(price.step_s)} a step, {most}{_span(price.steps_s)} for all steps"
    yield f"  at {rates.tokens_per_s:,.0f} sampled tokens a second ({rates.source}){length}"
    if price.evaluations_s is None and made.counts.evaluations:
        yield "  evaluations come on top"
    elif price.evaluations_s:
        yield f"  and {_span(price.evaluations_s)} for evaluations"
    if rates.phases:
        yield "  a step there: " + ", ".join(f"{phase} {share:.0%}" for phase, share in rates.phases.items())
    if price.price is not None:
        amount = f"{price.price:,.2f}" if price.price >= 1 else f"{price.price:.2g}"
        yield f"cost: {most}{amount}, for {_span(price.total_s)}"


def _probe_lines(found: "Probe") -> Iterator[str]:
    yield (
        f"probe: {counted(found.problems, 'problem')}, {counted(found.answers, 'answer')}: {found.pass_rate:.1%} "
        f"right, {found.cut:.1%} cut, {found.length:.0f} tokens on average, {found.sampling_per_s:,.0f} tokens sampled "
        "a second (sampling alone)"
    )
    yield f"  dead prompts: {found.dead:.1%} (all rewards equal), {found.never:.1%} never right"
    if found.unscorable:
        yield f"  {counted(found.unscorable, 'answer')} could not be graded and are left out"


def _sizes(console: Console, found: "Probe") -> None:
    def rows() -> Iterator[tuple[str, ...]]:
        for each in found.sizes:
            own = each.collapse
            shares = (f"{share:.1%}" for share in (own.total, own.all_wrong, own.all_right))
            yield str(own.size), *shares, "at most, on average" if each.extrapolated else ""

    columns = ("group size", "collapsed", "all wrong", "all right", "")
    _table(console, "collapsed groups, expected", columns, rows())
    if any(each.extrapolated for each in found.sizes):
        console.print(
            "beyond the sampled group size: as if each problem's rewards kept the frequencies seen, which is too high",
            highlight=False,
            soft_wrap=True,
        )


def _span(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"
