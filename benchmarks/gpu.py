"""On a GPU: sampling, and the use of the device by training, of 0.5B and 1.5B models here and in TRL.

    make bench-gpu

Random Qwen2 models; 8 prompts of 256 tokens x 8 completions of 256 tokens, 16 rows per forward and backward pass, no
gradient checkpointing, no early stop. TRL samples with transformers; its weights are bf16, or float32 under bf16
autocast, and its cache is dynamic or static, whichever is fastest in one step. Steps alternate. MFU is the FLOP of
forward and backward pass over seconds and the FLOP/s of a bf16 product of 8192 x 8192 on the same device: of the update
alone (with scoring and the optimizer), and of the whole step. The formula is in update.py; this side computes a prompt
once, TRL once per completion, and each is credited with what it computes. Without a GPU it says so and exits with 2.
"""

import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import Figures, command_line, machine, over, print_figures, product_rate, shown, table
from shapes import QWEN2, qwen2
from trl_step import TRL, Case, TrlSettings, settings_of, trainer_of
from update import flop

from edge_grpo.training.session import open_session

VOCABULARY = 151_936
PROMPT, NEW = 256, 256


class Step(NamedTuple):
    """Seconds of sampling (with grading) and of all else, and the sampled tokens."""

    sampling: float
    rest: float
    tokens: float


@dataclass(frozen=True)
class Size:
    """A model's shape, and the case that it is measured in."""

    name: str
    shape: Mapping[str, Any]
    case: Case

    def flop(self, prompts: int) -> float:
        """Of a step's forward and backward passes over this many prompts; all other tokens are scored."""
        scored = self.case.rows * self.case.budget
        shape = {"vocab_size": VOCABULARY} | dict(self.shape)
        return flop(shape, tokens=prompts * self.case.words + scored, scored=scored)


def size(name: str, shape: Mapping[str, Any]) -> Size:
    """A size with the usual case."""
    make = partial(_make, shape)
    return Size(name, shape, Case(name, make, 8, 8, NEW, steps=1, template="plain", words=PROMPT, micro=16))


def _make(shape: Mapping[str, Any], folder: Path) -> str:
    return qwen2(folder, **shape)


def ours(case: Case, model: str, scratch: Path) -> Iterator[Step]:
    """Steps of this project's loop, indefinitely."""
    with open_session(settings_of(case, model, scratch)) as session:
        while True:
            began = time.perf_counter()
            collected = session.collect()
            sampled = time.perf_counter()
            metrics = session.learn(collected, session.prepare(collected))
            yield Step(sampled - began, time.perf_counter() - sampled, float(metrics["tokens"][0]))


def theirs(case: Case, model: str, scratch: Path, settings: TrlSettings) -> Iterator[Step]:
    """Steps of TRL's loop, indefinitely; sampling is what the trainer's own method for rollouts takes."""
    trainer, clock = trainer_of(case, model, scratch, settings)
    sample, spent = trainer._generate_and_score_completions, [0.0]

    def watched(*arguments: Any) -> Any:
        began = time.perf_counter()
        found = sample(*arguments)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent[0] += time.perf_counter() - began
        return found

    trainer._generate_and_score_completions = watched
    while True:
        clock.seconds = spent[0] = 0.0
        with redirect_stdout(None):
            trainer.train()
        yield Step(spent[0], clock.seconds - spent[0], float(case.rows * case.budget))


def fastest(case: Case, model: str, scratch: Path) -> TrlSettings:
    """The faster way to hold TRL's weights, after a step to warm up."""
    found: dict[float, TrlSettings] = {}
    for settings in (each for each in TRL if each.bf16 and not each.continuous):
        with ExitStack() as stack:
            side = theirs(case, model, scratch, settings)
            stack.callback(side.close)  # type: ignore[attr-defined]
            next(side)
            step = next(side)
        found[step.sampling + step.rest] = settings
        print(f"TRL, {settings.name}: {step.sampling + step.rest:.2f} s per step", flush=True)
    return found[min(found)]


def compare(one: Size, rounds: int, rate: float, scratch: Path) -> Figures:
    """Alternate the two sides, print a table, and return the ratios of one model."""
    model = one.case.model(scratch / "model")
    chosen = fastest(one.case, model, scratch)
    sides = {"edge-grpo": ours(one.case, model, scratch), "TRL": theirs(one.case, model, scratch, chosen)}
    steps: dict[str, list[Step]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            step = next(side)
            if number:
                steps[name].append(step)
    whole = {name: [each.sampling + each.rest for each in own] for name, own in steps.items()}
    speed = {name: [each.tokens / each.sampling for each in own] for name, own in steps.items()}
    work = {"edge-grpo": one.flop(one.case.prompts), "TRL": one.flop(one.case.rows)}
    used = {name: [work[name] / each.rest / rate for each in own] for name, own in steps.items()}
    rows = [
        [
            name,
            shown(whole[name]),
            shown(speed[name], 0),
            shown([100 * each for each in used[name]], 1, " %"),
            shown([100 * work[name] / each / rate for each in whole[name]], 1, " %"),
        ]
        for name in sides
    ]
    done = " and ".join(f"{each / 1e12:,.0f} ({name})" for name, each in work.items())
    print(f"{one.name}, TFLOP per update: {done}; TRL with {chosen.name}")
    print(table(["", "s per step", "sampling, tokens/s", "MFU, update", "MFU, step"], rows), flush=True)
    return {
        f"gpu_{one.name}_step_ratio": over(whole["TRL"], whole["edge-grpo"]),
        f"gpu_{one.name}_sampling_ratio": over(speed["edge-grpo"], speed["TRL"]),
        f"gpu_{one.name}_mfu": statistics.median(used["edge-grpo"]),
        f"gpu_{one.name}_mfu_trl": statistics.median(used["TRL"]),
    }


def measure(*, quick: bool = False, sizes: tuple[Size, ...] | None = None, products: int = 8192) -> Figures:
    """Ratios and MFU of all models."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = product_rate(torch.bfloat16, size=products, device=device)
    print(f"bf16 products of {products} x {products}: {rate / 1e12:,.2f} TFLOP/s", flush=True)
    figures: Figures = {}
    for one in sizes or tuple(size(name, shape) for name, shape in QWEN2.items()):
        with tempfile.TemporaryDirectory() as scratch:
            figures |= compare(one, 1 if quick else 3, rate, Path(scratch))
    return figures


def main() -> None:
    """Measure on the GPU, and print the figures as JSON."""
    arguments = command_line(__doc__).parse_args()
    if not torch.cuda.is_available():
        print("bench-gpu: PyTorch sees no CUDA device; nothing was measured")
        sys.exit(2)
    print(machine(), flush=True)
    print_figures(measure(quick=arguments.quick))


if __name__ == "__main__":
    main()
