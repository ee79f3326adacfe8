"""Answers are stored problem by problem, never sampled twice, and never mixed with those of another evaluation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import save_tiny

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.records import Problem, Rollout
from edge_grpo.config.tree import Config, load_config, to_tree
from edge_grpo.evaluation.answers import Answer, Draws, draws_of, training_draws
from edge_grpo.evaluation.store import EncodedBenchmark, answer_all, encode, identity_of, read_answers
from edge_grpo.evaluation.suite import Benchmark
from edge_grpo.models.loading import load_policy
from edge_grpo.models.stops import find_stops
from edge_grpo.rollout.engine import Engine, Request, Sampling
from edge_grpo.rollout.open import open_engine, open_sampler
from edge_grpo.rollout.sampler import Sampler

PROBLEMS = tuple(Problem(f"p{i}", f"Compute {'1+' * (i % 3)}{i}.", (str(i),)) for i in range(7))
BENCHMARKS = (Benchmark("one", "", PROBLEMS), Benchmark("two", "", PROBLEMS[:2]))
DRAWS = Draws(samples=2, max_new_tokens=6, temperature=0.7)


Asked = list[tuple[tuple[int, ...], int]]  # prompt and number of draws of every request
Watch = Callable[[Asked], None]


class Cut(BaseException):
    """Stands for kill -9."""


class Watched:
    """An engine that calls ``watch`` with the prompts of every request before it samples."""

    def __init__(self, engine: Engine, watch: Watch) -> None:
        self.engine, self.watch = engine, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        self.watch([(request.prompt_ids, len(request.seeds)) for request in requests])
        return self.engine.sample(requests, sampling)


class Model:
    """A model that answers as the commands query it."""

    def __init__(self, config: Config, draws: Draws, sampler: Sampler) -> None:
        self.config, self.draws, self.sampler = config, draws, sampler

    def encode(self, benchmarks: Sequence[Benchmark]) -> list[EncodedBenchmark]:
        return [encode(self.sampler, each, self.draws) for each in benchmarks]

    def identity(self, benchmarks: Sequence[Benchmark]) -> dict[str, Any]:
        return identity_of(self.config, self.draws, self.encode(benchmarks))

    def answers(self, folder: Path, benchmarks: Sequence[Benchmark] = BENCHMARKS, **more: Any) -> list[Answer]:
        return answer_all(self.sampler, self.config, self.draws, self.encode(benchmarks), folder, **more)


Make = Callable[..., Model]


def unwatched(requests: Asked) -> None:
    """Nothing is recorded."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Make]:
    """Makes models to query; closes them at the end."""
    with ExitStack() as stack:

        def make(draws: Draws = DRAWS, *words: str, watch: Watch = unwatched) -> Model:
            config = load_config(None, [f"model.path={folder}", "reward.workers=1", "rollout.max_rows=4", *words])
            policy = load_policy(config.model)
            stops = find_stops(policy, config.data)
            engine = Watched(open_engine(config, policy, stops), watch)
            return Model(config, draws, stack.enter_context(open_sampler(config, policy=policy, engine=engine)))

        yield make


def test_answers_of_another_kind_of_engine_are_another_evaluation(model: Make) -> None:
    one = model()
    server = load_config({**to_tree(one.config), "rollout.engine": {"kind": "vllm", "urls": ["http://a:1"]}})
    here, there = (identity_of(config, one.draws, one.encode(BENCHMARKS)) for config in (one.config, server))
    assert "engine" not in here["rollout"], "older evaluations resume"
    assert there == {**here, "rollout": {**here["rollout"], "engine": "vllm"}}


def test_every_problem_gets_a_greedy_and_some_sampled_answers(model: Make, tmp_path: Path) -> None:
    seen = []
    answers = model().answers(tmp_path / "a", progress=lambda *each: seen.append(each))
    assert [(each.benchmark, each.problem) for each in answers[::3]] == [
        *(("one", problem.id) for problem in PROBLEMS),
        ("two", "p0"),
        ("two", "p1"),
    ]
    assert [(each.decoding, each.number) for each in answers[:3]] == [("greedy", 0), ("sampled", 0), ("sampled", 1)]
    assert all(each.gold == (each.problem[1:],) and 0 < each.tokens <= 6 and each.entropy > 0 for each in answers)
    assert (seen[0], seen[-1]) == ((0, 27), (27, 27))
    assert len({each.completion for each in answers[1::3]}) > 3  # draws of different problems differ


@pytest.mark.parametrize("cut_after", [0, 1, 3, 5])
def test_a_kill_costs_only_the_problems_being_answered(model: Make, tmp_path: Path, cut_after: int) -> None:
    whole = model().answers(tmp_path / "whole")
    calls, limit = [], [cut_after]

    def watch(requests: Asked) -> None:
        calls.append(requests)
        if len(calls) > limit[0]:
            raise Cut

    one = model(watch=watch)
    with pytest.raises(Cut):
        one.answers(tmp_path / "cut")
    done = calls[:-1]
    lost = calls[-1]
    calls.clear()
    limit[0] = 99
    again = one.answers(tmp_path / "cut")
    assert lost in calls, "interrupted problems are answered again"
    assert len(done) + len(calls) == len([*range(2), *range(1), *range(4), *range(1)]), "and nothing else is"
    assert [replace(each, entropy=0.0) for each in again] == [replace(each, entropy=0.0) for each in whole]


def test_a_partial_line_and_a_partial_problem_are_answered_again(model: Make, tmp_path: Path) -> None:
    one = model()
    whole = one.answers(tmp_path / "a")
    path = tmp_path / "a/answers.jsonl"
    content = path.read_bytes()
    for kept in (len(content) - 1, len(content) - 9, len(content) // 2, 10, 0):
        path.write_bytes(content[:kept])
        again = one.answers(tmp_path / "a")
        assert [each.completion for each in again] == [each.completion for each in whole]
        assert len(read_answers(tmp_path / "a")[1]) == len(whole)


def test_nothing_is_answered_twice(model: Make, tmp_path: Path) -> None:
    model().answers(tmp_path / "a")
    model(watch=lambda _: pytest.fail("asked again")).answers(tmp_path / "a")


def test_draws_do_not_depend_on_the_other_problems(model: Make, tmp_path: Path) -> None:
    one = model()
    all_answers = one.answers(tmp_path / "a")
    few = one.answers(tmp_path / "b", (Benchmark("one", "", PROBLEMS[3:5]),))
    assert [each.completion for each in few] == [each.completion for each in all_answers[9:15]]


@pytest.mark.parametrize(
    ("draws", "words", "benchmarks", "named"),
    [
        (replace(DRAWS, samples=3), (), BENCHMARKS, "eval.samples was 2, is 3"),
        (DRAWS, ("data.template=plain",), BENCHMARKS, "data.template was 'chat', is 'plain'"),
        (DRAWS, ("reward.accuracy_weight=2",), BENCHMARKS, "reward.accuracy_weight was 1.0, is 2.0"),
        (DRAWS, (), BENCHMARKS[:1], "problems.two"),
        (DRAWS, (), (BENCHMARKS[0], Benchmark("two", "", PROBLEMS[1:3])), "problems.two"),
        (DRAWS, (), (BENCHMARKS[0], Benchmark("two", "", (replace(PROBLEMS[0], answers=("9",)), PROBLEMS[1]))),
         "problems.two"),
    ],
)  # fmt: skip
def test_answers_of_different_evaluations_are_never_mixed(
    model: Make, tmp_path: Path, draws: Draws, words: tuple[str, ...], benchmarks: Sequence[Benchmark], named: str
) -> None:
    model().answers(tmp_path / "a")
    before = (tmp_path / "a/answers.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="holds another evaluation") as error:
        model(draws, *words).answers(tmp_path / "a", benchmarks)
    assert named in str(error.value)
    assert (tmp_path / "a/answers.jsonl").read_bytes() == before


def test_an_edited_reward_function_is_another_evaluation(
    model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text("def reward(completions, problems):\n    return [1.0 for _ in problems]\n")
    one = model(DRAWS, f"reward.function={judge}:reward")
    before = one.identity(BENCHMARKS)
    judge.write_text(judge.read_text().replace("1.0", "0.0"))
    assert one.identity(BENCHMARKS) != before
    monkeypatch.chdir(tmp_path)
    module = model(DRAWS, "reward.function=judge:reward")
    code = module.identity([])["reward"]["code"]
    assert code == one.identity([])["reward"]["code"] != ""


def test_arguments_of_the_chat_template_count(model: Make) -> None:
    on, off = (model(DRAWS, f"data.chat_template_kwargs={{think: {value}}}") for value in ("true", "false"))
    assert on.identity(BENCHMARKS) != off.identity(BENCHMARKS)
    assert model().identity(BENCHMARKS)["data"]["chat_template_kwargs"] == {}


def test_what_a_reward_may_read_of_a_problem_counts(model: Make) -> None:
    one = model()
    problems = tuple(replace(problem, meta={"level": 1}) for problem in PROBLEMS)
    before, after = (one.identity([each]) for each in (BENCHMARKS[0], Benchmark("one", "", problems)))
    assert before["problems"] != after["problems"]


def test_a_folder_in_use_is_refused(model: Make, tmp_path: Path) -> None:
    refused = []

    def watch(_: Asked) -> None:
        if not refused:
            with pytest.raises(ConfigError, match="another process is using it") as error:
                model().answers(tmp_path / "a")
            refused.append(error)

    model(watch=watch).answers(tmp_path / "a")
    assert refused


def test_only_a_finished_evaluation_is_read(model: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no evaluation"):
        read_answers(tmp_path)
    model().answers(tmp_path / "a")
    identity, answers = read_answers(tmp_path / "a")
    assert identity["eval"]["samples"] == 2
    assert answers[0].prompt == "Compute 0."
    path = tmp_path / "a/answers.jsonl"
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for cut in (content[:-1], b"".join(lines[:-1]), content + lines[0]):
        path.write_bytes(cut)
        with pytest.raises(DataError, match="of 27 answers; rerun the same"):
            read_answers(tmp_path / "a")
    path.write_bytes(b"{}\n" + b"".join(lines[1:]))
    with pytest.raises(DataError, match="line 1: not an answer"):
        read_answers(tmp_path / "a")


def drawn(*words: str, samples: int | None = None) -> tuple[int, float, int]:
    draws = draws_of(load_config(None, list(words)), samples)
    return draws.samples, draws.temperature, draws.max_new_tokens


def test_samples_come_from_the_option_or_from_the_eval_section() -> None:
    assert drawn() == (0, 1.0, 96)
    assert drawn(samples=4) == (4, 1.0, 96)
    assert drawn("eval.samples=8") == (8, 1.0, 96)
    assert drawn("eval.samples=8", samples=0) == (0, 1.0, 96)
    assert drawn("eval.samples=8", "eval.temperature=0.6", "eval.max_new_tokens=7") == (8, 0.6, 7)
    assert drawn("eval.temperature=0.1") == (1, 0.1, 96)
    assert drawn("rollout.temperature=0.5", "rollout.max_new_tokens=9", samples=2) == (2, 0.5, 9)


def test_screening_draws_as_training_does() -> None:
    config = load_config(None, ["eval.temperature=0.3", "eval.top_p=0.5", "eval.max_new_tokens=7", "rollout.top_k=9"])
    draws = training_draws(config, 4)
    assert (draws.greedy, draws.samples, draws.temperature, draws.top_p, draws.top_k) == (False, 4, 1.0, 1.0, 9)
    assert draws.max_new_tokens == config.rollout.max_new_tokens
