"""The rollouts that a report carries: steps with their groups and completions, compressed, within a size."""

import base64
import gzip
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edge_grpo.report.run import Drawn, Run
from edge_grpo.report.tokens import SHADES, Tokens, marks
from edge_grpo.runs.completions import DATA, rollouts

__all__ = ["Carried", "Pictures", "carry", "no_pictures"]

Pictures = Callable[[Mapping[str, Any]], Sequence[str]]
"""The images in the prompt of a row of a rollout file, as ``data:`` URLs."""

_COLUMNS: Final = (
    *("step", "problem", "prompt", "answer", "sampled_group", "group", "variant", "source", "layer"),
    *("completion", "completion_before", "strategy", "verdict", "verdict_before", "note", "reward", "reward_before"),
    *("reward_parts", "images", "finished", "entropy", "advantage_before_shaping", "advantage", "trained", "dropped"),
    "spans",
)


_MOST_CHARACTERS: Final = 2**20  # of a text that is cut, before it is halved until it fits


def no_pictures(_: Mapping[str, Any]) -> Sequence[str]:
    """What a run without images shows."""
    return ()


@dataclass(frozen=True)
class Carried:
    """The rollouts of one run that a page carries.

    ``packed`` is gzipped JSON in base64, ``steps`` are those in it, ``num_left_out`` counts the run's completions that
    are not, ``num_plain`` those in it whose tokens cannot be told apart, and ``num_cut`` those whose text is cut.
    """

    packed: str
    steps: Sequence[int]
    num_completions: int
    num_left_out: int
    num_plain: int
    num_cut: int


def carry(run: Run, *, max_bytes: int, tokenizer: Tokens | None = None, pictures: Pictures = no_pictures) -> Carried:
    """As many steps of a run as fit, evenly spread, the first and the last among them.

    Of a step that is too large by itself, as many groups as fit; of a group that is, the beginnings of its texts.

    Args:
        run: its completions are read from its folder, a step at a time.
        max_bytes: of the result.
        tokenizer: cuts completions into their tokens; None = their text is whole.
        pictures: finds the images of prompts.
    """
    steps = sorted({one.step for one in run.completions})
    drawn = {(group.step, group.number): group for group in run.drawn}
    made: dict[int, dict[str, Any]] = {}

    def packed(chosen: Sequence[int], share: float = 1.0) -> tuple[list[dict[str, Any]], str]:
        for step in chosen:
            if step not in made:
                made[step] = _step(run, step, drawn, tokenizer, pictures)
        content = [_part(made[step], share) for step in chosen]
        return content, _packed({"shades": SHADES, "steps": content})

    wanted, share = len(steps), 1.0
    chosen = _spread(steps, 1)
    content, result = packed(chosen)
    if len(result) <= max_bytes:
        wanted = min(wanted, max(1, int(1.2 * max_bytes / len(result))))
        while chosen := _spread(steps, wanted):
            content, result = packed(chosen)
            if len(result) <= max_bytes or wanted == 1:
                break
            wanted = max(1, min(wanted - 1, int(0.95 * wanted * max_bytes / len(result))))
    while len(result) > max_bytes and len(content[0]["groups"]) > 1:
        share *= 0.9 * max_bytes / len(result)
        content, result = packed(chosen, share)
    most = _MOST_CHARACTERS
    while len(result) > max_bytes and most > 1:
        most //= 2
        content = [_shortened(step, most) for step in content]
        result = _packed({"shades": SHADES, "steps": content})
    rows = [row for step in content for group in step["groups"] for row in group["rows"]]
    own = sum(one.is_own for one in run.completions)
    num_cut = sum("cut" in row for row in rows)
    num_plain = sum("pieces" not in row for row in rows) - num_cut
    return Carried(result, chosen, len(rows), own - len(rows), num_plain, num_cut)


def _shortened(step: Mapping[str, Any], most: int) -> dict[str, Any]:
    """A step whose texts have at most so many characters, without the images of its prompts."""
    groups = [
        {
            **group,
            "images": [],
            "prompt": group["prompt"][:most],
            "data": {name: value[:most] if isinstance(value, str) else value for name, value in group["data"].items()},
            "rows": [_cut(row, most) for row in group["rows"]],
        }
        for group in step["groups"]
    ]
    return {**step, "groups": groups}


def _cut(row: Mapping[str, Any], most: int) -> dict[str, Any]:
    text = row.get("text", "")
    if max(len(text), len(row.get("before", "")), len(row.get("note", ""))) <= most:
        return dict(row)
    whole = {name: value for name, value in row.items() if name not in ("opened", "pieces", "shades", "origins")}
    short = {name: row[name][:most] for name in ("text", "before", "note") if name in row}
    return {**whole, **short, "cut": row.get("cut", 0) + max(0, len(text) - most)}


def _spread(steps: Sequence[int], wanted: int) -> list[int]:
    if len(steps) <= wanted:
        return list(steps)
    if wanted == 1:
        return [steps[-1]]
    return [steps[round(number * (len(steps) - 1) / (wanted - 1))] for number in range(wanted)]


def _part(step: Mapping[str, Any], share: float) -> dict[str, Any]:
    groups = step["groups"]
    return {**step, "groups": groups[: max(1, int(len(groups) * share))]}


def _packed(content: object) -> str:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _step(
    run: Run,
    step: int,
    drawn: Mapping[tuple[int, int], Drawn],
    tokenizer: Tokens | None,
    pictures: Pictures,
) -> dict[str, Any]:
    """A step's groups as they were sampled, each with its completions; copies under other prompts are left out."""
    rows = rollouts(run.path, [step], columns=(*_COLUMNS, *run.data_columns)).to_pylist()
    homes = {row["problem"]: row["sampled_group"] for row in rows if (row["sampled_group"] or 0) >= 0}
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in (each for each in rows if each["source"] == each["variant"]):
        number = homes[row["problem"]] if row["sampled_group"] == -1 else row["sampled_group"]
        found[row["group"] if number is None else number].append(row)  # None: of an earlier version
    return {
        "step": step,
        "groups": [
            _group(number, own, drawn[step, number], tokenizer, pictures) for number, own in sorted(found.items())
        ],
    }


def _group(
    number: int,
    rows: Sequence[Mapping[str, Any]],
    drawn: Drawn,
    tokenizer: Tokens | None,
    pictures: Pictures,
) -> dict[str, Any]:
    first = rows[0]
    return {
        "number": number,
        "problem": first["problem"],
        "prompt": first["prompt"],
        "answer": first["answer"],
        "layer": first["layer"],
        "before": str(drawn.before),
        "after": str(drawn.after or "dropped"),
        "images": list(pictures(first)),
        "data": {name.removeprefix(DATA): _plain(first[name]) for name in first if name.startswith(DATA)},
        "rows": [_row(row, tokenizer) for row in rows],
    }


def _row(row: Mapping[str, Any], tokenizer: Tokens | None) -> dict[str, Any]:
    shown = {
        "text": row["completion"],
        "before": row["completion_before"],
        "strategy": row["strategy"],
        "verdict": row["verdict"],
        "verdict_before": row["verdict_before"],
        "note": row["note"],
        "reward": row["reward"],
        "reward_before": row["reward_before"],
        "parts": {part["name"]: _plain(part["value"]) for part in row["reward_parts"] or ()},
        "advantage": row["advantage"],
        "advantage_before": row["advantage_before_shaping"],
        "entropy": row["entropy"],
        "finished": row["finished"],
        "trained": row["trained"],
        "dropped": row["dropped"],
    }
    told = {name: _plain(value) for name, value in shown.items()}
    return {name: value for name, value in told.items() if value not in (None, "")} | marks(row, tokenizer)


def _plain(value: Any) -> Any:
    """A value that JSON holds: numbers to four digits, and none that is not finite."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None
