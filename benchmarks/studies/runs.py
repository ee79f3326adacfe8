"""The training runs of a comparison: equal settings, the same three learning rates, several seeds; resumable."""

import functools
import json
import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from edge_grpo.base.digests import digest
from edge_grpo.base.errors import ConfigError
from edge_grpo.base.records import Problem, Prompt
from edge_grpo.bundled.supervised import Example, train_supervised
from edge_grpo.config.tree import Config, config_hash, load_config, to_tree
from edge_grpo.data.pictures import with_sentence
from edge_grpo.data.problems import load_train_eval
from edge_grpo.data.prompts import encode_problems, encode_text
from edge_grpo.data.transforms import SENTENCES, Transform
from edge_grpo.evaluation.answers import heldout_draws
from edge_grpo.evaluation.heldout import evaluate
from edge_grpo.models.loading import load_policy, resolve
from edge_grpo.models.stops import find_stops
from edge_grpo.rollout.open import open_sampler
from edge_grpo.runs.completions import rollouts
from edge_grpo.trackers.console import Display
from edge_grpo.training import loop
from edge_grpo.training.collect import stream

__all__ = ["RATES", "Arm", "Comparison", "Measured", "train_all"]

RATES = (1e-4, 2e-4, 4e-4)
"""The learning rates that every arm chooses from, on validation problems."""

_TRANSFORMS = tuple(name for name in get_args(Transform) if not name.endswith("flipped"))
_NUM_VALIDATION = 200
_NUM_TEST = 400


@dataclass(frozen=True)
class Arm:
    """A row of a comparison: its short name, its title, and the settings that define it.

    ``supervised``: supervised training on the reference solutions of the same prompts, in place of a method.
    """

    name: str
    title: str
    overrides: tuple[str, ...]
    supervised: bool = False


@dataclass(frozen=True)
class Measured:
    """The outcome of one run: right or wrong on each problem, and figures of its training steps."""

    arm: str
    rate: float
    seed: int
    flags: tuple[bool, ...]
    validation: float
    figures: Mapping[str, Any]

    @property
    def accuracy(self) -> float:
        """Share of test problems answered correctly."""
        return sum(self.flags) / len(self.flags)

    @classmethod
    def read(cls, file: Path, *, arm: str, rate: float, seed: int) -> "Measured":
        """Read a run's ``result.json``."""
        held = json.loads(file.read_text(encoding="utf-8"))
        validation = sum(held["validation"]) / len(held["validation"])
        return cls(arm, rate, seed, tuple(held["test"]), validation, held)


@dataclass(frozen=True)
class Comparison:
    """The outcome: each arm's runs at its chosen rate, one per seed; all runs; and the untrained model."""

    arms: tuple[Arm, ...]
    runs: Mapping[str, tuple[Measured, ...]]
    measured: tuple[Measured, ...]
    rates: Mapping[str, float]
    base: Measured
    config: Config
    overrides: tuple[str, ...]

    @property
    def num_seeds(self) -> int:
        """Seeds per arm."""
        return len(self.runs[self.arms[0].name])


def train_all(
    arms: Sequence[Arm], overrides: Sequence[str], *, folder: str, seeds: int, jobs: int, display: Display
) -> Comparison:
    """Train the missing runs and read them all.

    Every arm is trained from seed 0 at three learning rates and keeps the one that does best on validation problems;
    the other seeds are trained at that rate. Finished runs are not repeated, interrupted ones resume.

    Args:
        arms: what is compared.
        overrides: settings for all arms.
        folder: where the runs are kept.
        seeds: seeds per arm.
        jobs: runs side by side, one thread each.
        display: receives progress.
    Raises:
        ConfigError: a setting is wrong.
    """
    for arm in arms:  # report every mistake before training anything
        config = load_config(None, words(arm, overrides))
        if config.data.path and not config.data.eval_path:
            raise ConfigError("data.eval_path: a comparison needs held-out problems in a separate file; set it")
    search = [job(arm, rate, 0, folder, overrides) for arm in arms for rate in RATES]
    found = {(m.arm, m.rate, m.seed): m for m in _run_all(search, jobs, display)}
    rates = {arm.name: max(RATES, key=lambda rate: found[arm.name, rate, 0].validation) for arm in arms}
    rest = [job(arm, rates[arm.name], seed, folder, overrides) for seed in range(1, seeds) for arm in arms]
    measured = (*found.values(), *_run_all(rest, jobs, display))
    chosen = {
        arm.name: tuple(
            sorted((m for m in measured if m.arm == arm.name and m.rate == rates[arm.name]), key=lambda m: m.seed)
        )
        for arm in arms
    }
    config = load_config(None, overrides)
    return Comparison(tuple(arms), chosen, measured, rates, _base(config, folder), config, tuple(overrides))


def words(arm: Arm, overrides: Sequence[str]) -> list[str]:
    """The settings of an arm; those for all arms come last and win."""
    method = [] if any(text.startswith("method=") for text in arm.overrides) else ["method=edge_grpo"]
    return [*method, *arm.overrides, *overrides]


def job(arm: Arm, rate: float, seed: int, folder: str, overrides: Sequence[str]) -> "Job":
    """One training run of an arm."""
    own = f"{folder}/{arm.name}-lr{rate:g}-seed{seed}"
    quiet = ("eval.every=0", "eval.at_start=false", "eval.at_end=false", "run.trackers=[]", "reward.workers=1")
    run = (f"train.learning_rate={rate}", f"train.seed={seed}", f"run.dir={own}")
    return Job(arm.name, rate, seed, own, (*words(arm, overrides), *quiet, *run), arm.supervised)


@dataclass(frozen=True)
class Job:
    """One training run: its arm, learning rate and seed, and where its files are."""

    arm: str
    rate: float
    seed: int
    folder: str
    overrides: tuple[str, ...]
    supervised: bool

    @property
    def result(self) -> Path:
        return Path(self.folder) / "result.json"

    @property
    def digest(self) -> str:
        return _digest(self.overrides)


def _run_all(jobs: Sequence[Job], workers: int, display: Display) -> Iterator[Measured]:
    waiting = [job for job in jobs if _kept(job) is None]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        tasks = {pool.submit(_run, job): job for job in waiting}
        try:
            for number, task in enumerate(as_completed(tasks), 1):
                job, seconds = tasks[task], task.result()
                display.say(f"{number}/{len(waiting)}  {job.arm}  rate {job.rate:g}  seed {job.seed}  {seconds:.0f} s")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for job in jobs:
        yield Measured.read(job.result, arm=job.arm, rate=job.rate, seed=job.seed)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _run(job: Job) -> float:
    """Train and evaluate one job; returns the seconds of training."""
    config = load_config(None, list(job.overrides))
    final = Path(job.folder) / "final"
    measured: dict[str, Any] = {}
    if job.supervised:
        began = time.monotonic()
        _train_sft(config, final)
        measured["seconds"] = time.monotonic() - began
    else:
        known = (Path(job.folder) / "config.yaml").exists()
        done = loop.resume(job.folder, config) if known else loop.train(config)
        if done.signal:
            raise KeyboardInterrupt
        measured = _training(Path(job.folder))
    result = _test(config, str(final)) | measured | {"hash": job.digest}
    draft = job.result.with_suffix(".draft")
    draft.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draft.replace(job.result)
    return float(measured["seconds"])


def _kept(job: Job) -> dict[str, Any] | None:
    """The result on disk, if any.

    Raises:
        ConfigError: it belongs to other settings or another bundled model.
    """
    if not job.result.exists():
        return None
    held: dict[str, Any] = json.loads(job.result.read_text(encoding="utf-8"))
    if held.get("hash") != job.digest:
        raise ConfigError(f"{job.folder} was made with other settings or another base model; use another --dir")
    return held


@functools.cache
def _digest(overrides: tuple[str, ...]) -> str:
    """Digest of the settings, without the folder, and of the weights of a model in a folder."""
    config = load_config(None, list(overrides))
    file = Path(resolve(config.model.path)) / "model.safetensors"
    return f"{config_hash(to_tree(config))}-{digest(file.read_bytes() if file.is_file() else b'')}"


def _base(config: Config, folder: str) -> Measured:
    """The untrained model, on the same problems."""
    file = Path(folder) / "base.json"
    file.write_text(json.dumps(_test(config, config.model.path)) + "\n", encoding="utf-8")
    return Measured.read(file, arm="base", rate=0.0, seed=0)


def _test(config: Config, model: str) -> dict[str, Any]:
    """Right or wrong on every validation and every test problem, decoded greedily."""
    _, held_out = load_train_eval(config.data, num_eval=_NUM_VALIDATION + _NUM_TEST, seed=0)
    with open_sampler(replace(config, model=replace(config.model, path=model))) as sampler:
        draws = heldout_draws(config)

        def flags(problems: Sequence[Problem]) -> list[bool]:
            encoded = sampler.encode(problems, max_new_tokens=draws.max_new_tokens)
            return [answer.correct for answer in evaluate(sampler, encoded.prompts, draws)]

        found = flags(held_out.problems)
        result = {"validation": found[:_NUM_VALIDATION], "test": found[_NUM_VALIDATION:]}
        shown = [_otherwise(problem, number) for number, problem in enumerate(held_out.problems[_NUM_VALIDATION:])]
        return result | ({"transformed": flags(shown)} if any(problem.images for problem in shown) else {})


def _otherwise(problem: Problem, number: int) -> Problem:
    """A problem whose images are turned or noisy, with the sentence that says so."""
    name: Any = _TRANSFORMS[number % len(_TRANSFORMS)]
    images = tuple(replace(image, transform=name, seed=number) for image in problem.images)
    return replace(problem, prompt=with_sentence(problem.prompt, SENTENCES[name]), images=images)


def _training(folder: Path) -> dict[str, float | None]:
    """Means over the training steps, and over their last quarter (``late/``); sums of tokens, completions, seconds."""
    file = folder / "metrics.jsonl"
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    late = rows[-max(1, len(rows) // 4) :]
    names = (
        "collapse/before",
        "collapse/after",
        "advantage/variance_before",
        "advantage/variance",
        "tokens",
        "accuracy",
    )
    figures = {name: _mean([row.get(name) for row in rows]) for name in names}
    figures |= {f"late/{name}": _mean([row.get(name) for row in late]) for name in ("entropy", "accuracy")}
    figures["steps"] = float(len(rows))
    figures["sampled_tokens"] = sum(row["tokens"] for row in rows)
    figures["extra_completions"] = sum(row.get("dynamic/extra_completions") or 0.0 for row in rows)
    figures["seconds"] = sum(row["time/step_s"] for row in rows)
    return figures | _questions(folder)


def _questions(folder: Path) -> dict[str, float | None]:
    """Shares of questions with an advantage other than 0, and with a right answer; in the first quarter ``early/``."""
    steps: dict[int, dict[int, list[tuple[bool, bool]]]] = {}
    for row in rollouts(folder).select(["step", "family", "advantage", "verdict"]).to_pylist():
        found = (bool(row["advantage"]), row["verdict"] == "correct")
        steps.setdefault(row["step"], {}).setdefault(row["family"], []).append(found)
    questions = [list(families.values()) for _, families in sorted(steps.items())]
    early = questions[: max(1, len(questions) // 4)]

    def share(some: Sequence[Sequence[Sequence[tuple[bool, bool]]]], which: int) -> float | None:
        return _mean([float(any(each[which] for each in own)) for step in some for own in step])

    return {
        "questions/signal": share(questions, 0),
        "questions/right": share(questions, 1),
        "early/questions/signal": share(early, 0),
        "early/questions/right": share(early, 1),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else None


def _train_sft(config: Config, final: Path) -> None:
    """Supervised training on the reference solutions of the prompts that the other arms sample from."""
    policy = load_policy(config.model)
    loaded, _ = load_train_eval(config.data, num_eval=_NUM_VALIDATION + _NUM_TEST, seed=0)
    encoded = encode_problems(policy.tokenizer, loaded.problems, config.data)
    problems = encoded.prompts
    stop = find_stops(policy, config.data, config.rollout.stop).token_ids[0]

    def example(item: Prompt) -> Example:
        return Example(item.prompt_ids, (*encode_text(policy.tokenizer, _solution(item.problem)), stop))

    def batches() -> Iterator[list[Example]]:
        prompts = stream(problems, seed=config.train.seed, start=0)
        while True:
            yield [example(next(prompts)) for _ in range(config.rollout.prompts_per_step)]

    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=config.train.learning_rate, weight_decay=0.0)
    train_supervised(
        policy.model, batches(), optimizers=[optimizer], steps=config.train.steps, warmup_steps=0, pad_id=stop
    )
    draft = final.with_name(".final")
    policy.save(draft)
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)


def _solution(problem: Problem) -> str:
    return problem.solution or f"\\boxed{{{problem.answer}}}"
