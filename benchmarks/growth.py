"""How time grows with group size, answer length, prompt length, prompts per step and model width.

    make bench ARGS=growth

From a small shape with random weights, each size doubles three times while the others stay. A step samples, grades and
updates; sampling and the update (with scoring) are timed on their own. Time is per token of the answers; along the
prompt's length it is per token of the prompts, and along the width per token and weight of the matrices, so that it
stays the same where it grows linearly with the size. ``growth`` is the worst ratio between successive doublings in the
table: above 1, time grows faster than linearly somewhere. A prompt is the same for all rows of its group, so where rows
share it in the update, seconds per row grow much more slowly than the prompt: ``growth_prompt`` is how many times as
long a row takes with a prompt eight times as long.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from measuring import Figures, command_line, machine, print_figures, shown, table
from shapes import smollm2_135m
from update import weights_of_layers

from edge_grpo.config.tree import load_config
from edge_grpo.training.session import open_session

KEYS = ("growth", "growth_prompt")
DOUBLINGS: Final = 3
HEAD: Final = 32  # width of an attention head


@dataclass(frozen=True)
class Point:
    """The sizes of a step: ``prompts`` x ``group`` answers of ``answer`` tokens to prompts of ``prompt`` tokens."""

    group: int = 8
    answer: int = 16
    prompt: int = 16
    prompts: int = 4
    width: int = 128
    layers: int = 4
    vocabulary: int = 4096

    @property
    def rows(self) -> int:
        """Answers of a step."""
        return self.prompts * self.group

    @property
    def shape(self) -> dict[str, int]:
        """Of a Llama model with twice as many query heads as heads of keys and values."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": 3 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.width // HEAD,
            "num_key_value_heads": max(1, self.width // (2 * HEAD)),
        }

    @property
    def weights(self) -> int:
        """Of the matrices that every token meets, the head's among them."""
        return weights_of_layers(self.shape) + self.vocabulary * self.width


AXES = {
    "group": "group size",
    "answer": "answer length",
    "prompt": "prompt length",
    "prompts": "prompts per step",
    "width": "model width",
}


PHASES = ("sampling", "update")


@dataclass(frozen=True)
class Timed:
    """Median seconds of a step's phases, and the tokens of its answers and of the prompts of all rows."""

    sampling: float
    update: float
    answers: float
    prompts: float

    def per(self, phase: str, axis: str, point: Point) -> float:
        """Microseconds per token (see the head of this file), along the width per million weights as well."""
        tokens = self.prompts if axis == "prompt" else self.answers
        millions = point.weights / 1e6 if axis == "width" else 1.0
        return 1e6 * float(getattr(self, phase)) / tokens / millions


def along(axis: str, base: Point) -> Iterator[Point]:
    """The base, then one size doubled again and again."""
    for power in range(DOUBLINGS + 1):
        yield replace(base, **{axis: getattr(base, axis) * 2**power})


def timed(point: Point, steps: int, seconds: float) -> Timed:
    """Take at least so many steps and seconds; the first step does not count."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = smollm2_135m(folder / "model", **point.shape)
        chance = torch.Generator().manual_seed(0)
        words = torch.randint(1, point.vocabulary, (2 * point.prompts, point.prompt), generator=chance).tolist()
        lines = [json.dumps({"problem": " ".join(map(str, row)), "answer": "0"}) + "\n" for row in words]
        (folder / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
        settings = {
            "method": "grpo",
            "model.path": model,
            "data.path": str(folder / "prompts.jsonl"),
            "data.template": "plain",
            "reward.function": f"{Path(__file__).with_name('parity.py')}:reward",
            "reward.function_style": "trl",
            "rollout.prompts_per_step": str(point.prompts),
            "rollout.group_size": str(point.group),
            "rollout.max_new_tokens": str(point.answer),
            "train.learning_rate": "1e-9",
            "train.schedule": "constant",
            "eval.every": "0",
            "eval.at_start": "false",
            "eval.at_end": "false",
            "run.rollouts": "false",
            "run.trackers": "[]",
        }
        taken: list[tuple[float, float, float]] = []
        with open_session(load_config(None, [f"{name}={value}" for name, value in settings.items()])) as session:
            began = time.perf_counter()
            while len(taken) <= steps or time.perf_counter() - began < seconds:
                collected = session.collect()
                metrics = session.learn(collected, session.prepare(collected))
                spent = session.watch.take("sample", "score", "update")
                taken.append((spent["sample"], spent["score"] + spent["update"], float(metrics["tokens"][0])))
    sampling, update, tokens = (statistics.median(column) for column in zip(*taken[1:], strict=True))
    return Timed(sampling, update, tokens, float(point.rows * point.prompt))


def ratios(figures: Sequence[float | None]) -> list[float | None]:
    """Each figure over the one before; None where one is missing or zero."""
    return [b / a if a and b is not None else None for a, b in pairwise(figures)]


def report(found: Mapping[str, Sequence[tuple[Point, Timed]]]) -> Iterator[list[str]]:
    """A row per point: its size, and for either phase seconds, time per token, and its ratio to the row above."""
    for axis, own in found.items():
        columns = []
        for phase in PHASES:
            per = [each.per(phase, axis, point) for point, each in own]
            columns.append(list(zip(per, [None, *ratios(per)], strict=True)))
        for place, (point, each) in enumerate(own):
            cells = [AXES[axis], f"{getattr(point, axis):,}"]
            for phase, column in zip(PHASES, columns, strict=True):
                per_token, ratio = column[place]
                cells += [f"{getattr(each, phase):.3f}", shown(per_token, 1), shown(ratio)]
            yield [*cells, shown(1e3 * each.update / point.rows)]


def measure(*, quick: bool = False, base: Point = Point()) -> Figures:
    """The worst growth of time per token between successive doublings, and that of a row with its prompt."""
    points: dict[Point, Timed] = {}
    found: dict[str, list[tuple[Point, Timed]]] = {}
    for axis in AXES:
        for point in along(axis, base):
            if point not in points:
                points[point] = timed(point, steps=2 if quick else 5, seconds=0.0 if quick else 2.0)
            found.setdefault(axis, []).append((point, points[point]))
    head = ["size", "", "sampling, s", "us/token", "ratio", "update, s", "us/token", "ratio", "update, ms/row"]
    print(table(head, list(report(found))), flush=True)
    worst = [
        ratio
        for axis, own in found.items()
        for phase in PHASES
        for ratio in ratios([each.per(phase, axis, point) for point, each in own])
        if ratio is not None
    ]
    short, *_, long = (each.update / point.rows for point, each in found["prompt"])
    return dict(zip(KEYS, (max(worst, default=None), long / short if short else None), strict=True))


def main() -> None:
    """Measure, and print the figures as JSON."""
    arguments = command_line(__doc__).parse_args()
    print(machine(), flush=True)
    print_figures(measure(quick=arguments.quick))


if __name__ == "__main__":
    main()
