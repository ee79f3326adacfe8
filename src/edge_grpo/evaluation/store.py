"""Answers to benchmarks, stored in a folder: an interrupted evaluation resumes, and no problem is answered twice."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import edge_grpo
from edge_grpo.base.digests import digest
from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Problem, Prompt
from edge_grpo.config.tree import Config
from edge_grpo.evaluation.answers import Answer, Draws, answer
from edge_grpo.evaluation.suite import Benchmark
from edge_grpo.models.loading import fingerprint, pick_device
from edge_grpo.rewards.sources import source_files
from edge_grpo.rollout.sampler import Sampler
from edge_grpo.runs import workdir
from edge_grpo.runs.durable import write_whole

__all__ = ["EncodedBenchmark", "OnProgress", "answer_all", "code_digest", "encode", "identity_of", "read_answers"]


_PROMPT_SETTINGS = ("template", "system_prompt", "chat_template_kwargs", "over_long", "max_prompt_tokens")


@dataclass(frozen=True)
class EncodedBenchmark:
    """A benchmark with encoded prompts; ``num_skipped`` bad rows and ``num_over_long`` prompts were left out."""

    name: str
    problems: tuple[Prompt, ...]
    num_skipped: int = 0
    num_over_long: int = 0
    num_truncated: int = 0


OnProgress = Callable[[int, int], None]
"""Called with the numbers of answers so far and in total: at the start, and whenever more arrive."""


def encode(sampler: Sampler, benchmark: Benchmark, draws: Draws) -> EncodedBenchmark:
    """Encode the problems of a benchmark.

    Raises:
        DataError: a prompt is over-long and may be neither skipped nor cut, or none is left.
        ConfigError: a prompt and its answer exceed the model's context.
    """
    encoded = sampler.encode(benchmark.problems, max_new_tokens=draws.max_new_tokens)
    return EncodedBenchmark(
        benchmark.name,
        encoded.prompts,
        benchmark.num_skipped + encoded.num_damaged,
        encoded.num_skipped,
        encoded.num_truncated,
    )


def identity_of(config: Config, draws: Draws, benchmarks: Sequence[EncodedBenchmark]) -> dict[str, Any]:
    """Everything the answers depend on, as JSON values: evaluations with equal identities are the same."""
    data, reward = config.data, asdict(config.reward) | {"code": code_digest(config.reward.function)}
    identity = {
        "edge_grpo": edge_grpo.__version__,
        "weights": fingerprint(config.model),
        "model": {"device": pick_device(config.model).type, "dtype": config.model.dtype},
        "data": {name: getattr(data, name) for name in _PROMPT_SETTINGS},
        "reward": {name: reward[name] for name in reward if name != "workers"},
        "rollout": {"stop": list(config.rollout.stop), **_engine(config)},
        "eval": asdict(draws),
        "problems": {each.name: _content_digest(each) for each in benchmarks},
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


def _engine(config: Config) -> dict[str, str]:
    """The kind of engine, if another than the default samples: its arithmetic and its random numbers are its own."""
    kind = config.rollout.engine.kind
    return {} if kind == "hf" else {"engine": kind}


def answer_all(
    sampler: Sampler,
    config: Config,
    draws: Draws,
    benchmarks: Sequence[EncodedBenchmark],
    folder: Path,
    *,
    identity: Mapping[str, Any] | None = None,
    progress: OnProgress | None = None,
) -> list[Answer]:
    """Answer the problems that have no answers in the folder yet; returns all answers, benchmark by benchmark.

    ``identity.json`` records what the answers depend on; ``answers.jsonl`` grows by a few problems at a time, all
    greedy answers first, so that a kill costs at most the problems being answered. Ranks share the problems; rank 0
    alone locks, reads and writes the folder.

    Args:
        sampler: the model, the grader and the ranks.
        config: the settings; each rank draws up to ``rollout.max_rows`` answers between two writes.
        draws: how problems are answered.
        benchmarks: the problems.
        folder: created if it does not exist.
        identity: from :func:`identity_of`, if already known.
        progress: called as answers arrive, on every rank.

    Raises:
        ConfigError: the folder holds another evaluation's answers, is in use, or cannot be written.
    """
    counts, items = draws.counts, [(each.name, item) for each in benchmarks for item in each.problems]
    total = len(items) * sum(counts.values())
    world, progress = sampler.world, progress or _silent

    def begin() -> set[tuple[str, str, str]]:
        held.enter_context(workdir.opened(folder))
        found = identity_of(config, draws, benchmarks) if identity is None else identity
        workdir.check_identity(folder, found, what="evaluation", model=config.model.path, answers=total)
        return _whole_units(folder, counts)

    with ExitStack() as held:
        done = world.first(begin)
        num_done = sum(counts[decoding] for *_, decoding in done)
        progress(num_done, total)
        for decoding, name in ((decoding, each.name) for decoding in counts for each in benchmarks):
            missing = [item for of, item in items if of == name and (name, item.problem.id, decoding) not in done]
            missing.sort(key=lambda item: len(item.prompt_ids))  # prompts decoded together are padded to the longest
            size = max(1, config.rollout.max_rows // counts[decoding]) * world.size
            for start in range(0, len(missing), size):
                answers = answer(sampler, name, missing[start : start + size], draws, decoding)
                world.first(partial(workdir.append, folder / "answers.jsonl", answers))
                num_done += len(answers)
                progress(num_done, total)
    stored: dict[tuple[str, str], list[Answer]] = {}
    for each in world.first(lambda: read_answers(folder)[1]):
        stored.setdefault((each.benchmark, each.problem), []).append(each)
    return [each for name, item in items for each in stored[name, item.problem.id]]


def _silent(done: int, total: int) -> None:
    """Report nothing."""


def read_answers(folder: Path) -> tuple[dict[str, Any], list[Answer]]:
    """The identity of a finished evaluation, and its answers in the order they were written.

    Raises:
        DataError: the folder holds no evaluation or an unfinished one, or a line is not an answer.
    """
    path, rerun = folder / "answers.jsonl", "rerun the same `edge-grpo eval` to finish it"
    try:
        header = json.loads((folder / workdir.IDENTITY).read_text(encoding="utf-8"))
        lines = path.read_bytes().split(b"\n")
        if lines[-1] or len(lines) - 1 != header["answers"]:
            raise DataError(f"{folder}: holds only {len(lines) - 1} of {header['answers']} answers; {rerun}")
        answers = []
        for number, line in enumerate(lines[:-1], 1):
            try:
                row = json.loads(line)
                answers.append(Answer(**row | {"gold": tuple(row["gold"]), "images": tuple(row.get("images", ()))}))
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{path}, line {number}: not an answer of an evaluation ({error})") from None
        return dict(header["identity"]), answers
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{folder}: holds no evaluation ({reason}); pass a folder written by edge-grpo eval") from None


def _whole_units(folder: Path, counts: Mapping[str, int]) -> set[tuple[str, str, str]]:
    """Each (benchmark, problem, decoding) with all its answers; others, cut off by a kill, are removed."""
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
            continue  # a line cut off by a kill
        lines.setdefault(unit, []).append(line)
    whole = {unit: own for unit, own in lines.items() if len(own) == counts.get(unit[2])}
    kept = b"".join(line + b"\n" for own in whole.values() for line in own)
    if kept != content:
        write_whole(path, kept.decode("utf-8"))
    return set(whole)


def _plain(problem: Problem) -> dict[str, Any]:
    """A problem as JSON values; its images, if it has any, by their digests."""
    plain = asdict(replace(problem, images=()))
    images = [(each.digest, each.min_pixels, each.max_pixels, each.transform, each.seed) for each in problem.images]
    return {name: value for name, value in plain.items() if name != "images"} | ({"images": images} if images else {})


def _content_digest(benchmark: EncodedBenchmark) -> str:
    """Twelve hex digits that change with anything in the problems that an answer or its grade may depend on."""
    content = [[item.prompt_ids, _plain(item.problem)] for item in benchmark.problems]
    return digest(content)


def code_digest(function: str) -> str:
    """Twelve hex digits of the file that defines a reward function and of the neighbours it imports.

    Empty if the function is in an installed module.
    """
    files = source_files(function)
    if len(files) > 1:
        return digest([digest(file.read_bytes()) for file in files])
    return digest(files[0].read_bytes()) if files else ""
