"""Memory and time of log-probs and entropies from hidden states with a vocabulary of 151,936.

    make bench ARGS=logits_memory

Forward and backward pass from 2,048 hidden states of width 896: with the function that scoring uses, with all logits at
once, and with TRL's chunked function. Each side runs in a process of its own, in alternation. Its memory is the peak of
resident memory (VmHWM, reset and read around the pass) above what is resident when weights, hidden states and loaded
kernels are there. That is exact to the page, covers the library's buffers, and includes the gradients that the pass
leaves behind: those of the weights are the same for all sides. Large blocks are returned to the system as soon as they
are freed (MALLOC_MMAP_THRESHOLD_). Sides must agree on the loss.

``logits_memory`` is the share of the peak with all logits, ``logits_memory_vs_trl`` and ``logits_time_vs_trl`` are
ratios to TRL's. At 4,096 and 8,192 tokens all logits at once do not run; ``logits_memory_growth`` is how many times as
much memory 8,192 tokens need here as 2,048, hidden states' gradients left out: 1 means that it is constant.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import torch
from measuring import Figures, Unavailable, command_line, machine, over, print_figures, shown, table
from memory import resident, restart_peak
from torch import Tensor

from edge_grpo.functional.logits import logprobs_and_entropy
from edge_grpo.models import kernels
from edge_grpo.models.scoring import LOGITS_AT_ONCE

KEYS = ("logits_memory", "logits_memory_vs_trl", "logits_time_vs_trl", "logits_memory_growth")
TEMPERATURE = 0.9
Scores = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Work:
    """The sizes: vocabulary, width of hidden states, tokens, and how many times as many tokens are tried as well."""

    vocabulary: int = 151_936
    hidden: int = 896
    tokens: int = 2048
    longer: tuple[int, ...] = (2, 4)
    dtype: str = "float32"


def head_scores(hidden: Tensor, weight: Tensor, targets: Tensor, *, logits_at_once: int = LOGITS_AT_ONCE) -> Scores:
    """What scoring does with hidden states."""
    at_once = logits_at_once // len(weight)
    return kernels.head_scores(hidden, weight, targets, temperature=TEMPERATURE, at_once=at_once)


def all_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Scores:
    """The same from all logits at once."""
    return logprobs_and_entropy(hidden @ weight.T, targets, temperature=TEMPERATURE)


def trl(hidden: Tensor, weight: Tensor, targets: Tensor) -> Scores:
    """The function behind TRL's `add_fused_lm_head`, with the chunks of 32,768 tokens of the vocabulary set there."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    outputs = ("log_probs", "entropy")
    found = ChunkedLogProbFunction.apply(hidden, weight, None, targets, TEMPERATURE, 32_768, None, 1.0, outputs)
    return found[0], found[1]


SIDES: Mapping[str, Callable[[Tensor, Tensor, Tensor], Scores]] = {
    "edge-grpo": head_scores,
    "all logits": all_logits,
    "TRL": trl,
}


def worker(side: str, work: Work) -> dict[str, float]:
    """One pass in this process: the peak above the baseline in bytes, seconds, and the loss."""
    chance, dtype = torch.Generator().manual_seed(0), getattr(torch, work.dtype)
    weight, hidden = (
        torch.randn(rows, work.hidden, generator=chance).mul_(0.05).to(dtype).requires_grad_()
        for rows in (work.vocabulary, work.tokens)
    )
    targets = torch.randint(0, work.vocabulary, (work.tokens,), generator=chance)
    few = [each[:8].detach().requires_grad_() for each in (hidden, weight)]
    _pass(SIDES[side], few[0], few[1], targets[:8] % 8)
    before = resident()
    restart_peak()
    began = time.perf_counter()
    loss = _pass(SIDES[side], hidden, weight, targets)
    spent = time.perf_counter() - began
    return {"bytes": resident(peak=True) - before, "seconds": spent, "loss": loss}


def _pass(scores: Callable[[Tensor, Tensor, Tensor], Scores], hidden: Tensor, weight: Tensor, targets: Tensor) -> float:
    """The loss of one forward and backward pass, in which both log-probs and entropies have a gradient."""
    logprobs, entropy = scores(hidden, weight, targets)
    loss = -(logprobs.mean() + 0.01 * entropy.mean())
    loss.backward()
    return loss.item()


def separately(side: str, work: Work) -> dict[str, float]:
    """What :func:`worker` returns in a process of its own."""
    command = [sys.executable, __file__, "--worker", json.dumps({"side": side, **asdict(work)})]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def alternating(sides: Sequence[str], work: Work, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Every side in each round.

    Raises:
        Unavailable: the system does not tell a process's memory.
        SystemExit: sides do not compute the same.
    """
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            found[side].append(separately(side, work))
    losses = [each["loss"] for own in found.values() for each in own]
    if max(losses) - min(losses) > 1e-3 * abs(losses[0]):
        raise SystemExit(f"the sides do not compute the same: losses {losses}")
    if any(math.isnan(each["bytes"]) for own in found.values() for each in own):
        raise Unavailable("this system does not tell the peak of a process's resident memory")
    return found


def column(found: Mapping[str, Sequence[Mapping[str, float]]], side: str, name: str) -> list[float]:
    """A figure of a side in all rounds; empty if the side did not run."""
    return [each[name] for each in found.get(side, ())]


def measure(*, quick: bool = False, work: Work = Work()) -> Figures:
    """Memory against all logits at once, memory and time against TRL, and growth with the number of tokens."""
    there = [side for side in SIDES if side != "TRL" or find_spec("trl")]
    if "TRL" not in there:
        print("TRL is not installed, so it takes no part; `make bench` installs the extra 'bench'")
    gradients = (work.vocabulary + work.tokens) * work.hidden * getattr(torch, work.dtype).itemsize
    rows, beyond = [], []
    first: dict[str, list[dict[str, float]]] = {}
    for times in (1, *work.longer):
        own = Work(**asdict(work) | {"tokens": times * work.tokens})
        sides = there if times == 1 else [side for side in there if side != "all logits"]
        found = alternating(sides, own, rounds=(1 if quick else 3) if times == 1 else 1)
        first = first or found
        peak = statistics.median(column(found, "edge-grpo", "bytes"))
        beyond.append(peak - own.tokens * work.hidden * getattr(torch, work.dtype).itemsize)
        for side in sides:
            peaks = [each / 2**20 for each in column(found, side, "bytes")]
            rows.append([f"{own.tokens:,}", side, shown(peaks, 0), shown(column(found, side, "seconds"))])
    print(f"gradients of weights and {work.tokens:,} hidden states: {gradients / 2**20:,.0f} MiB of each peak")
    print(table(["tokens", "side", "peak, MiB", "seconds"], rows), flush=True)
    pairs = (("bytes", "all logits"), ("bytes", "TRL"), ("seconds", "TRL"))
    ratios = [over(column(first, "edge-grpo", name), column(first, side, name)) for name, side in pairs]
    return dict(zip(KEYS, (*ratios, beyond[-1] / beyond[0] if beyond[0] else None), strict=True))


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = command_line(__doc__)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        given: dict[str, Any] = arguments.worker
        print(json.dumps(worker(given.pop("side"), Work(**given))))
        return
    print(machine(), flush=True)
    print_figures(measure(quick=arguments.quick, work=Work(dtype=arguments.dtype)))


if __name__ == "__main__":
    main()
