"""Answers of one model to many problems, graded, and kept in a folder: what is answered is never asked again."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import edge_grpo
from edge_grpo.base.digests import digest
from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Grade, Problem, Rollout, Verdict
from edge_grpo.base.rng import derive_seed
from edge_grpo.base.settings import settings
from edge_grpo.config.tree import Config
from edge_grpo.data.prompts import encode_problems
from edge_grpo.evaluation.heldout import grader
from edge_grpo.evaluation.suite import Benchmark
from edge_grpo.models.loading import check_fit, fingerprint, stop_token_ids
from edge_grpo.models.policy import Policy
from edge_grpo.rewards import custom as own
from edge_grpo.rewards.answers.extract import boxed_answer
from edge_grpo.rewards.builtin import Rewards
from edge_grpo.rollout.engine import Engine, Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.sampler import Prompted
from edge_grpo.runs import workdir as kept
from edge_grpo.runs.durable import write_whole

__all__ = [
    "Answer",
    "Asked",
    "Asker",
    "Draws",
    "Progress",
    "answer_all",
    "code_digest",
    "draws_of",
    "read_answers",
    "training_draws",
]

GREEDY = "greedy"
SAMPLED = "sampled"


@settings
class Draws:
    """How a problem is answered: ``greedy`` once or not, and ``samples`` times at a temperature."""

    greedy: bool = True
    samples: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 96
    seed: int = 0


def draws_of(config: Config, samples: int | None) -> Draws:
    """How problems are evaluated: greedily, and by the ``eval`` section, whose temperature 0 means the rollout's.

    Args:
        config: the settings.
        samples: sampled answers a problem; None = ``eval.samples`` if that asks for several or a temperature is set.
    """
    wanted = config.eval.samples if config.eval.samples > 1 or config.eval.temperature > 0 else 0
    return Draws(
        samples=wanted if samples is None else samples,
        temperature=config.eval.temperature or config.rollout.temperature,
        top_p=config.eval.top_p,
        max_new_tokens=config.eval.max_new_tokens or config.rollout.max_new_tokens,
        seed=config.eval.seed,
    )


def training_draws(config: Config, samples: int) -> Draws:
    """So many answers a problem as training samples them, by the ``rollout`` section."""
    rollout = config.rollout
    return Draws(
        greedy=False,
        samples=samples,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_new_tokens=rollout.max_new_tokens,
        seed=config.train.seed,
    )


@dataclass(frozen=True)
class Answer:
    """One answer to one problem, as a line of ``answers.jsonl``.

    ``prompt`` is the question, without a template. ``decoding`` is ``greedy`` or ``sampled``, ``number`` counts the
    sampled ones from 0. ``completion`` is the text and
    ``answer`` the content of its last box, None without one. ``tokens`` counts the stop token; ``entropy`` is the mean
    over tokens, nats.
    """

    benchmark: str
    problem: str
    prompt: str
    decoding: str
    number: int
    completion: str
    answer: str | None
    gold: tuple[str, ...]
    verdict: str
    reward: float
    tokens: int
    finished: bool
    entropy: float

    @property
    def correct(self) -> bool:
        """Whether it is right."""
        return self.verdict == Verdict.CORRECT

    @property
    def scorable(self) -> bool:
        """False where the grader failed: such an answer counts nowhere."""
        return self.verdict != Verdict.ERROR


@dataclass(frozen=True)
class Asked:
    """A benchmark whose prompts have tokens; ``num_over_long`` prompts were left out, ``num_skipped`` rows were bad."""

    name: str
    problems: tuple[Prompted, ...]
    num_skipped: int = 0
    num_over_long: int = 0
    num_truncated: int = 0


Progress = Callable[[int, int], None]
"""Told how many of how many answers there are: at the start, and whenever there are more."""


class Asker:
    """A loaded model with what it takes to ask it.

    Args:
        policy: the model.
        config: its data section decides the template and the rule for over-long prompts, its rollout section stop
            tokens and how many rows are decoded side by side.
        draws: how each problem is answered.
        rewards: grades the answers.
    """

    def __init__(self, policy: Policy, config: Config, draws: Draws, rewards: Rewards) -> None:
        self.policy, self.config, self.draws = policy, config, draws
        stop_ids = stop_token_ids(policy, config.rollout.stop)
        self.engine: Engine = DecodeEngine(
            policy, stop_ids=stop_ids, pad_id=stop_ids[0], max_rows=config.rollout.max_rows
        )
        self.grade = grader(policy.tokenizer, rewards)

    def encode(self, benchmark: Benchmark) -> Asked:
        """Its problems with their prompt tokens.

        Raises:
            DataError: a prompt is over-long and must not be, or none is left.
            ConfigError: prompt and answer exceed the model's context.
        """
        encoded = encode_problems(self.policy.tokenizer, benchmark.problems, self.config.data)
        check_fit(self.policy, encoded.prompt_ids, self.draws.max_new_tokens)
        prompted = tuple(Prompted(*pair) for pair in zip(encoded.problems, encoded.prompt_ids, strict=True))
        return Asked(benchmark.name, prompted, benchmark.num_skipped, encoded.num_skipped, encoded.num_truncated)

    def identity(self, asked: Sequence[Asked]) -> dict[str, Any]:
        """All that the answers depend on, as JSON has it: two evaluations are the same where this is."""
        data, reward = self.config.data, asdict(self.config.reward) | {"code": code_digest(self.config.reward.function)}
        told = {
            "edge_grpo": edge_grpo.__version__,
            "weights": fingerprint(self.config.model),
            "model": {"device": self.policy.device.type, "dtype": self.config.model.dtype},
            "data": {
                name: getattr(data, name) for name in ("template", "system_prompt", "over_long", "max_prompt_tokens")
            },
            "reward": {name: reward[name] for name in reward if name != "workers"},
            "rollout": {"stop": list(self.config.rollout.stop)},
            "eval": asdict(self.draws),
            "problems": {each.name: _content_digest(each) for each in asked},
        }
        plain: dict[str, Any] = json.loads(json.dumps(told))
        return plain

    @property
    def counts(self) -> dict[str, int]:
        """Answers a problem, by decoding."""
        counts = {GREEDY: int(self.draws.greedy), SAMPLED: self.draws.samples}
        return {decoding: count for decoding, count in counts.items() if count}

    def ask(self, benchmark: str, problems: Sequence[Prompted], decoding: str) -> list[Answer]:
        """All answers of one decoding to some problems, problem by problem.

        The draws of a problem depend on its benchmark and id alone, not on what else is asked.
        """
        draws, count = self.draws, self.counts[decoding]
        seeds = [
            tuple(derive_seed(draws.seed, "answers", benchmark, item.problem.id, j) for j in range(count))
            for item in problems
        ]
        requests = [Request(item.prompt_ids, own) for item, own in zip(problems, seeds, strict=True)]
        drawn = Sampling(draws.max_new_tokens, draws.temperature, draws.top_p, draws.top_k)
        groups = self.engine.sample(requests, drawn if decoding == SAMPLED else Sampling(draws.max_new_tokens, 0.0))
        asked = [item.problem for item in problems for _ in range(count)]
        rollouts = [rollout for group in groups for rollout in group]
        graded = enumerate(self._graded(benchmark, decoding, asked, rollouts))
        return [replace(answer, number=place % count) for place, answer in graded]

    def _graded(
        self, benchmark: str, decoding: str, problems: Sequence[Problem], rollouts: Sequence[Rollout]
    ) -> Iterator[Answer]:
        grades = self.grade(problems, rollouts)
        texts = self.policy.tokenizer.batch_decode(
            [list(rollout.completion_ids) for rollout in rollouts], skip_special_tokens=True
        )
        for problem, rollout, grade, text in zip(problems, rollouts, grades, texts, strict=True):
            yield _answer(benchmark, decoding, problem, rollout, grade, text)


def _answer(benchmark: str, decoding: str, problem: Problem, rollout: Rollout, grade: Grade, text: str) -> Answer:
    entropies = [value for span in rollout.spans for value in span.entropies]
    return Answer(
        benchmark=benchmark,
        problem=problem.id,
        prompt=problem.prompt,
        decoding=decoding,
        number=0,
        completion=text,
        answer=boxed_answer(text),
        gold=problem.answers,
        verdict=str(grade.verdict),
        reward=grade.reward,
        tokens=len(rollout.completion_ids),
        finished=rollout.finished,
        entropy=sum(entropies) / max(1, len(entropies)),
    )


def answer_all(asker: Asker, asked: Sequence[Asked], folder: Path, *, progress: Progress) -> list[Answer]:
    """Answer what the folder has no answers to yet, and return all answers, benchmark by benchmark.

    ``identity.json`` says whose answers these are; ``answers.jsonl`` gets them some problems at a time, first all
    greedy ones, so that a kill costs at most the problems being answered.

    Args:
        asker: the model.
        asked: what is asked.
        folder: made if it is not there.
        progress: is told.

    Raises:
        ConfigError: the folder holds answers of another evaluation, or cannot be written.
    """
    identity = asker.identity(asked)
    counts, items = asker.counts, [(each.name, item) for each in asked for item in each.problems]
    total = len(items) * sum(counts.values())
    with kept.opened(folder):
        kept.check_identity(folder, identity, what="evaluation", model=asker.config.model.path, answers=total)
        done = _whole_units(folder, counts)
        num_done = sum(counts[decoding] for *_, decoding in done)
        progress(num_done, total)
        for decoding, name in ((decoding, each.name) for decoding in counts for each in asked):
            missing = [item for of, item in items if of == name and (name, item.problem.id, decoding) not in done]
            missing.sort(key=lambda item: len(item.prompt_ids))  # prompts side by side are padded to the longest
            at_once = max(1, asker.config.rollout.max_rows // counts[decoding])
            for start in range(0, len(missing), at_once):
                answers = asker.ask(name, missing[start : start + at_once], decoding)
                kept.append(folder / "answers.jsonl", answers)
                num_done += len(answers)
                progress(num_done, total)
    stored: dict[tuple[str, str], list[Answer]] = {}
    for answer in read_answers(folder)[1]:
        stored.setdefault((answer.benchmark, answer.problem), []).append(answer)
    return [answer for name, item in items for answer in stored[name, item.problem.id]]


def read_answers(folder: Path) -> tuple[dict[str, Any], list[Answer]]:
    """What a finished evaluation depended on, and its answers in the order in which they were written.

    Raises:
        DataError: there is none, or it was cut off, or a line is not an answer.
    """
    path, rerun = folder / "answers.jsonl", "finish it with the same `edge-grpo eval` again"
    try:
        told = json.loads((folder / kept.IDENTITY).read_text(encoding="utf-8"))
        lines = path.read_bytes().split(b"\n")
        if lines[-1] or len(lines) - 1 != told["answers"]:
            raise DataError(f"{folder}: {len(lines) - 1} of {told['answers']} answers are there; {rerun}")
        answers = []
        for number, line in enumerate(lines[:-1], 1):
            try:
                row = json.loads(line)
                answers.append(Answer(**{**row, "gold": tuple(row["gold"])}))
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{path}, line {number}: not an answer of an evaluation ({error})") from None
        return dict(told["identity"]), answers
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"{folder}: holds no evaluation ({reason}); give a folder that edge-grpo eval has written"
        ) from None


def _whole_units(folder: Path, counts: Mapping[str, int]) -> set[tuple[str, str, str]]:
    """(benchmark, problem, decoding) with all their answers; others, cut off by a kill, are taken out of the file."""
    path = folder / "answers.jsonl"
    if not path.exists():
        return set()
    content = path.read_bytes()
    lines: dict[tuple[str, str, str], list[bytes]] = {}
    for line in content.split(b"\n"):
        try:
            row = json.loads(line)
            unit = (row["benchmark"], row["problem"], row["decoding"])
        except (ValueError, TypeError, KeyError):
            continue  # the line that a kill cut off
        lines.setdefault(unit, []).append(line)
    whole = {unit: own for unit, own in lines.items() if len(own) == counts.get(unit[2])}
    kept = b"".join(line + b"\n" for own in whole.values() for line in own)
    if kept != content:
        write_whole(path, kept.decode("utf-8"))
    return set(whole)


def _content_digest(asked: Asked) -> str:
    """Twelve hex digits that change with anything of the problems that an answer or its grade may depend on."""
    content = [[item.prompt_ids, asdict(item.problem)] for item in asked.problems]
    return digest(content)


def code_digest(function: str) -> str:
    """Twelve hex digits of the file that a reward function lies in; empty for one of an installed module."""
    place = own.locate(function).rpartition(":")[0] if function else ""
    folder, _, name = place.rpartition("/")
    module = Path(folder, *name.split("."))
    for file in (Path(place), Path(f"{module}.py"), module / "__init__.py"):
        if place and file.is_file():
            return digest(file.read_bytes())
    return ""
