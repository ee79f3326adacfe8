"""The memory that `edge-grpo plan` foresees, beside what training really takes: three shapes and more, on the CPU.

    .venv/bin/python benchmarks/plan_memory.py                  # all shapes; needs 8 GB, some minutes on one core
    .venv/bin/python benchmarks/plan_memory.py --only bundled

Each shape trains two steps in a process of its own. What counts is resident memory beyond that of the same process
after it has trained the bundled model for a step, with and without LoRA: Python, its libraries and their caches are
there already. Peaks are those of the second step (there are no moments before the first one ends): of sampling, of
scoring and updating, and of writing ``final/``. Freed memory goes back to the system at once
(``MALLOC_MMAP_THRESHOLD_``). Prints a Markdown table, and fails if the peak is more than a fifth away from the plan.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memory import SMOLLM2_135M, Shape, resident, restart_peak, save_random

LIMIT = 0.2
"""How far the largest peak may be from the plan, as a share of the plan."""

SMALL = Shape(512, 8, 8, 4, 1536, 32000, tied=True, head_dim=64, bias=False)
_PLAIN = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
_REWARD = "def reward(completions, problems):\n    return [float(i % 2) for i in range(len(problems))]\n"
_BASE = (
    "reward.workers=1",
    "method=grpo",
    "model.device=cpu",
    "eval.every=0",
    "eval.at_start=false",
    "eval.at_end=false",
    "train.steps=2",
)


@dataclass(frozen=True)
class Case:
    """A shape and how it is trained; ``shape`` None is the bundled model."""

    shape: Shape | None
    words: tuple[str, ...]


CASES: Mapping[str, Case] = {
    # so hot that few completions end before their cap
    "bundled, float32": Case(
        None,
        (
            "rollout.prompts_per_step=32",
            "train.micro_batch_rows=256",
            "rollout.max_new_tokens=48",
            "rollout.temperature=9",
        ),
    ),
    "37M, float32": Case(SMALL, ("model.dtype=float32", "rollout.prompts_per_step=8", "train.micro_batch_rows=32")),
    "37M, LoRA of rank 16, bfloat16": Case(
        SMALL,
        ("model.dtype=bfloat16", "model.lora.rank=16", "rollout.prompts_per_step=8", "train.micro_batch_rows=32"),
    ),
    "135M, float32": Case(
        SMOLLM2_135M,
        ("model.dtype=float32", "rollout.prompts_per_step=4", "train.micro_batch_rows=16", "rollout.max_new_tokens=64"),
    ),
    "135M, bfloat16": Case(
        SMOLLM2_135M,
        (
            "model.dtype=bfloat16",
            "rollout.prompts_per_step=4",
            "train.micro_batch_rows=16",
            "rollout.max_new_tokens=64",
        ),
    ),
    "135M, LoRA of rank 16, bfloat16": Case(
        SMOLLM2_135M,
        ("model.dtype=bfloat16", "model.lora.rank=16", "rollout.prompts_per_step=8", "train.micro_batch_rows=32"),
    ),
}


def planned(words: Sequence[str]) -> dict[str, float]:
    """The plan's bytes by measured phase."""
    from edge_grpo.config.tree import load_config
    from edge_grpo.planning.memory import Phase
    from edge_grpo.planning.plan import plan_of

    found = plan_of(load_config(None, words)).memory
    updating = max(found.at(Phase.BACKWARD), found.at(Phase.UPDATE))
    return {"sampling": found.at(Phase.SAMPLING), "updating": updating, "saving": found.at(Phase.SAVING)}


def measure(words: Sequence[str]) -> dict[str, float]:
    """Train two steps, and measure the second one's peaks, in bytes beyond what the process took before."""
    from edge_grpo.config.tree import load_config
    from edge_grpo.training.session import open_session

    for own in ((), ("model.lora.rank=2", "model.dtype=bfloat16")):  # which load further libraries
        warm = load_config(None, [*_BASE, "rollout.prompts_per_step=2", *own])
        with open_session(warm) as session, tempfile.TemporaryDirectory() as folder:
            session.learn(collected := session.collect(), session.prepare(collected))
            session.policy.save(Path(folder))
        del session, collected
    _collect()
    before, found = resident(), {}
    with open_session(load_config(None, words)) as session:
        session.learn(collected := session.collect(), session.prepare(collected))
        del collected
        _collect()
        restart_peak()
        collected = session.collect()
        found["sampling"] = resident(peak=True) - before
        restart_peak()
        session.learn(collected, session.prepare(collected))
        found["updating"] = resident(peak=True) - before
        cap = session.config.rollout.max_new_tokens
        lengths = [len(row.rollout.completion_ids) / cap for group in collected.groups for row in group.rows]
        _collect()
        restart_peak()
        with tempfile.TemporaryDirectory() as folder:
            session.policy.save(Path(folder))
        found["saving"] = resident(peak=True) - before
    return found | {"reached": sum(lengths) / len(lengths)}


def _collect() -> None:
    """Give back what is no longer used."""
    gc.collect()
    if platform.system() == "Linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def run(case: Case) -> tuple[dict[str, float], dict[str, float]]:
    """What the plan says of a case, and what a process of its own measured."""
    with tempfile.TemporaryDirectory() as place:
        path = "bundled" if case.shape is None else str(save_random(Path(place), case.shape))
        reward = Path(place) / "alternating.py"  # so that every row has a gradient
        reward.write_text(_REWARD, encoding="utf-8")
        words = [*_BASE, f"model.path={path}", f"reward.function={reward}:reward", *case.words]
        command = [sys.executable, __file__, "--worker", json.dumps(words)]
        done = subprocess.run(command, env=os.environ | _PLAIN, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit("a process failed")
        return planned(words), json.loads(done.stdout.splitlines()[-1])


def row(name: str, plan: Mapping[str, float], found: Mapping[str, float]) -> str:
    """A line of the table, in MB."""
    cells = [f"{plan[phase] / 1e6:.0f} / {found[phase] / 1e6:.0f}" for phase in plan]
    return f"| {name} | {' | '.join(cells)} | {off(plan, found):+.1%} | {found['reached']:.0%} |"


def off(plan: Mapping[str, float], found: Mapping[str, float]) -> float:
    """How far the measured peak is from the planned one, as a share of that."""
    return max(found[phase] for phase in plan) / max(plan.values()) - 1


def about() -> Iterator[str]:
    """Where this was measured."""
    import torch
    import transformers

    yield f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
    yield f"transformers {transformers.__version__}, one thread"


def main() -> None:
    """Measure, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="shapes whose names hold one of these")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(json.loads(options.worker))))
        return
    print("".join(about()), end="\n\n")
    print("| shape | sampling | updating | saving | peak off by | of the cap |\n|---|---|---|---|---|---|")
    far = []
    for name, case in CASES.items():
        if options.only and not any(word in name for word in options.only):
            continue
        plan, found = run(case)
        print(row(name, plan, found), flush=True)
        if abs(off(plan, found)) > LIMIT:
            far.append(name)
    if far:
        raise SystemExit(f"more than {LIMIT:.0%} off: {'; '.join(far)}")


if __name__ == "__main__":
    main()
