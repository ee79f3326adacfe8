"""The same GRPO steps here and in TRL's GRPOTrainer, in three cases.

    make bench ARGS=trl_step

``toy``: the bundled model, 8 prompts x 8 completions of up to 64 tokens. ``long``: a model of the same shape whose
answers have a median of 8 tokens, and one in twenty 64. ``135m``: a model of SmolLM2-135M's shape, 4 prompts of 50
tokens x 8 completions of 64 tokens.

Both sides sample at temperature 1, score the answers with the same function, normalise within the group and make one
AdamW update over all rows. The learning rate is 1e-9, so that both sample from the same distribution throughout. This
side runs with its defaults: the small models in float32, the large one in bf16 over float32 weights where the machine
is fast at bf16. TRL runs each combination in ``TRL`` once, after a round to warm up (weights in float32 or bf16,
autocast, dynamic or static cache, continuous batching), and the fastest is compared; it always computes log-probs in
chunks, and samples with transformers. Rounds alternate; a ratio is the median over rounds of TRL's seconds over ours.
The last line is JSON.
"""

import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from measuring import Figures, Unavailable, command_line, machine, print_figures
from shapes import bundled, long_tailed, smollm2_135m

from edge_grpo.config.tree import Config, load_config
from edge_grpo.data.arithmetic import ArithmeticSettings, problems
from edge_grpo.data.settings import DataSettings
from edge_grpo.data.templates import render_prompt
from edge_grpo.models.loading import load_tokenizer
from edge_grpo.training.session import open_session

RATE = 1e-9


@dataclass(frozen=True)
class Case:
    """A workload: the model, ``prompts`` x ``group`` completions of at most ``budget`` tokens, steps per round.

    ``micro``: rows per forward and backward pass, 0 = all; ``words``: length of random prompts of words, which are
    tokens, 0 = problems of the built-in task.
    """

    key: str
    model: Callable[[Path], str]
    prompts: int
    group: int
    budget: int
    steps: int
    template: Literal["chat", "plain"] = "chat"
    words: int = 0
    micro: int = 0

    @property
    def rows(self) -> int:
        """Completions of a step."""
        return self.prompts * self.group

    def texts(self) -> list[str]:
        """The prompts as text."""
        if not self.words:
            return [problem.prompt for problem in problems(ArithmeticSettings(), count=512)]
        drawn = torch.randint(1, 49152, (64, self.words), generator=torch.Generator().manual_seed(0))
        return [" ".join(map(str, row)) for row in drawn.tolist()]


CASES = {
    "toy": Case("trl_step_ratio", bundled, 8, 8, 64, steps=5),
    "long": Case("trl_step_ratio_long", long_tailed, 8, 8, 64, steps=5),
    "135m": Case("trl_step_ratio_135m", smollm2_135m, 4, 8, 64, steps=1, template="plain", words=50),
}


@dataclass(frozen=True)
class TrlSettings:
    """How TRL computes: the dtype of its weights, autocast, and who batches its sampling."""

    name: str
    dtype: str
    bf16: bool
    continuous: bool = False
    further: dict[str, Any] = field(default_factory=dict)


STATIC = {"cache_implementation": "static"}
TRL = (
    TrlSettings("float32", "float32", bf16=False),
    TrlSettings("float32, continuous batching", "float32", bf16=False, continuous=True),
    TrlSettings("float32 under bf16 autocast", "float32", bf16=True),
    TrlSettings("float32 under bf16 autocast, static cache", "float32", bf16=True, further=STATIC),
    TrlSettings("bf16", "bfloat16", bf16=True),
    TrlSettings("bf16, static cache", "bfloat16", bf16=True, further=STATIC),
    TrlSettings("bf16 without autocast", "bfloat16", bf16=False),
    TrlSettings("bf16 without autocast, static cache", "bfloat16", bf16=False, further=STATIC),
    TrlSettings("bf16, continuous batching", "bfloat16", bf16=True, continuous=True),
)


def settings_of(case: Case, model: str, scratch: Path) -> Config:
    """This project's settings for a case; the prompts go into ``scratch``."""
    rows = scratch / "prompts.jsonl"
    rows.write_text("".join(json.dumps({"problem": text, "answer": "0"}) + "\n" for text in case.texts()))
    return load_config(
        None,
        [
            "method=grpo",
            f"model.path={model}",
            f"data.path={rows}",
            f"data.template={case.template}",
            f"reward.function={Path(__file__).with_name('parity.py')}:reward",
            "reward.function_style=trl",
            f"rollout.prompts_per_step={case.prompts}",
            f"rollout.group_size={case.group}",
            f"rollout.max_new_tokens={case.budget}",
            f"train.learning_rate={RATE}",
            "train.schedule=constant",
            "eval.every=0",
            "eval.at_start=false",
            "eval.at_end=false",
            "run.rollouts=false",
            "run.trackers=[]",
            *([f"train.micro_batch_rows={case.micro}", "model.gradient_checkpointing=false"] if case.micro else []),
        ],
    )


def ours(case: Case, model: str, scratch: Path) -> Iterator[float]:
    """Yield the seconds of ``case.steps`` steps of this project's loop, indefinitely."""
    with open_session(settings_of(case, model, scratch)) as session:
        while True:
            began = time.perf_counter()
            for _ in range(case.steps):
                collected = session.collect()
                session.learn(collected, session.prepare(collected))
            spent = {name: round(s, 3) for name, s in session.watch.take("sample", "grade", "score", "update").items()}
            print(f"  {spent}", flush=True)
            yield time.perf_counter() - began


def trainer_of(case: Case, model: str, scratch: Path, settings: TrlSettings) -> tuple[Any, Any]:
    """TRL's trainer for a case, and a clock that sums the ``seconds`` between the start and end of each step."""
    from datasets import Dataset
    from parity import reward  # here, because a module of the tests has the same name
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        seconds = 0.0
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds += time.perf_counter() - self.began

    clock, tokenizer, micro = Clock(), load_tokenizer(model), case.micro or case.rows
    prompts = [render_prompt(tokenizer, text, DataSettings(template=case.template)) for text in case.texts()]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": text} for text in prompts]),
        callbacks=[clock],
        args=GRPOConfig(
            output_dir=str(scratch / "trl"),
            max_steps=case.steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=case.rows // micro,
            num_generations=case.group,
            max_completion_length=case.budget,
            temperature=1.0,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            beta=0.0,
            loss_type="grpo",
            use_cpu=not torch.cuda.is_available(),
            bf16=settings.bf16,
            gradient_checkpointing=False,
            use_transformers_continuous_batching=settings.continuous,
            model_init_kwargs={"dtype": settings.dtype},
            logging_steps=1000,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **settings.further,
        ),
    )
    return trainer, clock


def theirs(case: Case, model: str, scratch: Path, settings: TrlSettings) -> Iterator[float]:
    """Yield the seconds of ``case.steps`` steps of TRL's loop, indefinitely, excluding its setup."""
    trainer, clock = trainer_of(case, model, scratch, settings)
    while True:
        clock.seconds = 0.0
        with redirect_stdout(None):
            trainer.train()
        yield clock.seconds


def fastest(case: Case, model: str, scratch: Path) -> TrlSettings:
    """TRL's settings with the fewest seconds in one round, after a round to warm up."""
    found: dict[float, TrlSettings] = {}
    for settings in TRL:
        try:
            with closing(theirs(case, model, scratch, settings)) as side:  # type: ignore[type-var]
                next(side)
                seconds = next(side)
        except Exception as error:  # noqa: BLE001 - whatever does not run here cannot be the fastest
            print(f"TRL, {settings.name}: does not run here ({str(error)[:200]})", flush=True)
            continue
        found[seconds] = settings
        print(f"TRL, {settings.name}: {seconds / case.steps:.3f} s per step", flush=True)
    if not found:
        raise Unavailable("TRL runs with none of its settings")
    return found[min(found)]


def compare(case: Case, rounds: int, scratch: Path) -> float:
    """Alternate the two sides; print each round and return the median ratio."""
    model = case.model(scratch / "model")
    settings = fastest(case, model, scratch)
    sides = {"edge-grpo": ours(case, model, scratch), "trl": theirs(case, model, scratch, settings)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            spent = next(side) / case.steps
            if number:
                seconds[name].append(spent)
                print(f"round {number}  {name:10s} {spent:8.3f} s per step", flush=True)
    ratios = [b / a for a, b in zip(seconds["edge-grpo"], seconds["trl"], strict=True)]
    for name, own in seconds.items():
        print(f"{name}: median {statistics.median(own):.3f} s per step ({min(own):.3f} - {max(own):.3f})")
    ratio = statistics.median(ratios)
    print(
        f"{case.key}: median {ratio:.2f} ({min(ratios):.2f} - {max(ratios):.2f}), TRL's fastest setting: "
        f"{settings.name}, {torch.get_num_threads()} threads"
    )
    return ratio


def measure(cases: Sequence[str] = tuple(CASES), *, quick: bool = False, rounds: int | None = None) -> Figures:
    """TRL's seconds per step over ours, by case.

    Raises:
        Unavailable: TRL is not installed.
    """
    if find_spec("trl") is None:
        raise Unavailable("TRL is not installed; `make bench` installs the extra 'bench'")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    results: Figures = {}
    for name in cases:
        with tempfile.TemporaryDirectory() as scratch:
            results[CASES[name].key] = compare(CASES[name], rounds or (2 if quick else 7), Path(scratch))
    return results


def main() -> None:
    """Run the cases and print the results."""
    parser = command_line(__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="which cases; all by default")
    parser.add_argument("--rounds", type=int, help="timed rounds, after one warm-up round (default: 7)")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    print_figures(measure(arguments.cases or tuple(CASES), quick=arguments.quick, rounds=arguments.rounds))


if __name__ == "__main__":
    main()
