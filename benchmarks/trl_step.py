"""The same GRPO workload here and in TRL's GRPOTrainer: 8 prompts x 8 completions with the bundled model.

    make bench

Both sample up to 64 tokens at temperature 1, reward the right final answer, normalise within the group, and make one
AdamW update over all 64 rows in float32 on a CPU. The learning rate is 1e-9, so that neither model changes and both
sample from the same distribution throughout. Rounds alternate; the ratio is the median over rounds of completions per
second here over completions per second in TRL. The last line is JSON with the key ``trl_step_ratio``.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from edge_grpo.config.tree import load_config
from edge_grpo.data.arithmetic import ArithmeticSettings, problems
from edge_grpo.data.prompts import render_prompt
from edge_grpo.data.settings import DataSettings
from edge_grpo.models.loading import load_tokenizer, resolve
from edge_grpo.training.session import open_session

PROMPTS, GROUP, BUDGET, RATE = 8, 8, 64, 1e-9


def ours(steps: int) -> Iterator[float]:
    """Yield the seconds of ``steps`` steps of this project's loop, indefinitely."""
    config = load_config(
        None,
        [
            "method=grpo",
            f"rollout.prompts_per_step={PROMPTS}",
            f"rollout.group_size={GROUP}",
            f"rollout.max_new_tokens={BUDGET}",
            f"train.learning_rate={RATE}",
            "train.schedule=constant",
            "train.micro_batch_rows=64",
            "eval.every=0",
            "eval.at_end=false",
            "run.rollouts=false",
            "run.tensorboard=false",
        ],
    )
    with open_session(config) as session:
        while True:
            began = time.perf_counter()
            for _ in range(steps):
                collected = session.collect()
                session.learn(collected, session.prepare(collected))
            yield time.perf_counter() - began


def theirs(folder: Path, steps: int) -> Iterator[float]:
    """Yield the seconds of ``steps`` steps of TRL's loop, indefinitely, excluding its setup."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = load_tokenizer("bundled")
    listed = problems(ArithmeticSettings(), count=512)
    rows = [{"prompt": render_prompt(tokenizer, p.prompt, DataSettings()), "answer": p.answer} for p in listed]

    def right(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [2.0 * text.endswith(f"\\boxed{{{a}}}") for text, a in zip(completions, answer, strict=True)]

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Sums the time between the start and end of each step."""

        seconds = 0.0
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds += time.perf_counter() - self.began

    clock = Clock()
    trainer = GRPOTrainer(
        model=resolve("bundled"),
        reward_funcs=right,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[clock],
        args=GRPOConfig(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=PROMPTS * GROUP,
            gradient_accumulation_steps=1,
            num_generations=GROUP,
            max_completion_length=BUDGET,
            temperature=1.0,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            beta=0.0,
            loss_type="grpo",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            model_init_kwargs={"dtype": "float32"},
            logging_steps=1000,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
    )
    while True:
        clock.seconds = 0.0
        trainer.train()
        yield clock.seconds


def main() -> None:
    """Run the rounds and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, after one warm-up round")
    parser.add_argument("--steps", type=int, default=5, help="steps per round and side")
    arguments = parser.parse_args()
    completions = PROMPTS * GROUP * arguments.steps
    speeds: dict[str, list[float]] = {"edge-grpo": [], "trl": []}
    with tempfile.TemporaryDirectory() as scratch:
        sides = {
            "edge-grpo": ours(arguments.steps),
            "trl": theirs(Path(scratch) / "trl", arguments.steps),
        }
        (Path(scratch) / "ours").mkdir()
        for number in range(arguments.rounds + 1):
            for name, side in sides.items():
                speed = completions / next(side)
                if number:
                    speeds[name].append(speed)
                    print(f"round {number}  {name:10s} {speed:7.1f} completions/s", flush=True)
    ratios = [a / b for a, b in zip(speeds["edge-grpo"], speeds["trl"], strict=True)]
    for name, values in speeds.items():
        print(f"{name}: median {statistics.median(values):.1f} completions/s ({min(values):.1f} - {max(values):.1f})")
    ratio = statistics.median(ratios)
    print(f"ratio: median {ratio:.2f} ({min(ratios):.2f} - {max(ratios):.2f}), {torch.get_num_threads()} threads")
    print(json.dumps({"trl_step_ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
