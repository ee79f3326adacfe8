"""Whole runs on a rollout server: they train, resume, evaluate and screen as they do in process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout.vllm.server import State, serving
from small_runs import SMALL, Crash, CrashAfter, rows
from support import Command, save_tiny

from edge_grpo.base.errors import CheckpointError
from edge_grpo.config.tree import Config, load_config
from edge_grpo.methods import METHODS
from edge_grpo.rollout.engine import ServerError
from edge_grpo.runs.completions import rollouts
from edge_grpo.trackers.console import Silent
from edge_grpo.training.loop import resume, train

QUIET = ["eval.every=0", "eval.at_start=false", "eval.at_end=false"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def running(model: Path) -> Iterator[tuple[str, State]]:
    with serving(model) as server:
        yield server


@pytest.fixture
def server(running: tuple[str, State]) -> Iterator[State]:
    state = running[1]
    state.restart()
    state.asked.clear()
    yield state
    state.trouble, state.change = (lambda _path, _body: None), (lambda _choice: None)


@pytest.fixture
def words(running: tuple[str, State], server: State, model: Path, tmp_path: Path) -> list[str]:
    engine = ["engine.kind=vllm", f"engine.urls=[{running[0]}]", f"engine.folder={tmp_path}", "engine.retries=0"]
    return [f"model.path={model}", *SMALL, "train.steps=2", *(f"rollout.{word}" for word in engine)]


def config(words: list[str], folder: Path, *more: str) -> Config:
    return load_config(None, [*words, f"run.dir={folder}", *more])


class Said(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def test_a_run_on_a_server_trains_and_records_the_weights_behind_every_span(
    words: list[str], server: State, tmp_path: Path
) -> None:
    result = train(config(words, tmp_path / "run"))
    assert result.steps == 2
    table = rollouts(result.folder).to_pylist()
    spans = [(row["step"], span) for row in table for span in row["spans"]]
    assert {span["origin"] for _, span in spans} >= {"sampled", "injected"}
    for step, span in spans:
        assert span["version"] == (None if span["origin"] == "injected" else step - 1)
    for row in rows(result.folder)[1:]:
        assert 0 < row["sampler/gap"] <= row["sampler/gap_max"] < 1e-4
        assert row["sampler/gap_beyond"] == 0
        assert row["entropy/sampling"] is None
    assert server.version.endswith(":2")
    assert list(tmp_path.glob("edge-grpo-*")) == [], "the weights handed over are removed"


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_takes_a_step_on_a_server(kind: str, words: list[str], tmp_path: Path) -> None:
    more = [word for word in SMALL if "correction" not in word or kind in ("edge_grpo", "grpo_matched")]
    kept = [word for word in words if word not in SMALL or word in more]
    own = [f"method={kind}", "train.steps=1", *QUIET]
    assert train(config([kept[0], own[0], *kept[1:]], tmp_path / "run", *own[1:])).steps == 1


def test_a_run_cut_off_resumes_with_the_restored_weights(words: list[str], server: State, tmp_path: Path) -> None:
    straight = train(config(words, tmp_path / "one", "train.steps=3", "train.checkpoint_every=1")).folder
    two = config(words, tmp_path / "two", "train.steps=3", "train.checkpoint_every=1")
    with pytest.raises(Crash):
        train(two, display=CrashAfter(2))
    server.restart()
    folder = resume(two.run.dir).folder
    assert rows(folder) == rows(straight)


def test_a_server_that_goes_away_leaves_a_run_that_resumes(words: list[str], server: State, tmp_path: Path) -> None:
    asked = config(words, tmp_path / "run", "train.steps=3", "train.checkpoint_every=10", *QUIET)
    samples = iter(range(1000))

    def dies(path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        return (0, None) if path.endswith("generate") and server.version.endswith(":2") and next(samples) > 5 else None

    server.trouble = dies
    with pytest.raises(
        ServerError, match=r"^rollout server \S+ hung up .*; then resume with: edge-grpo train --resume"
    ):
        train(asked)
    server.trouble = lambda _path, _body: None
    assert [row["step"] for row in rows(asked.run.dir)] == [1, 2]
    assert resume(asked.run.dir).steps == 3
    straight = train(config(words, tmp_path / "straight", "train.steps=3", "train.checkpoint_every=10", *QUIET))
    assert rows(asked.run.dir) == rows(straight.folder)


def test_what_may_change_on_resume(words: list[str], running: tuple[str, State], model: Path, tmp_path: Path) -> None:
    folder = train(config(words, tmp_path / "run", *QUIET)).folder
    with pytest.raises(CheckpointError, match=r"rollout.engine.kind was 'vllm', now 'hf'"):
        resume(folder, config(words, folder, *QUIET, "train.steps=3", "rollout.engine.kind=hf"))
    with serving(model) as (url, _):
        display = Said()
        moved = [f"rollout.engine.urls=[{url}]", "rollout.engine.timeout_s=9", "rollout.engine.retries=1"]
        assert resume(folder, config(words, folder, *QUIET, "train.steps=3", *moved), display=display).steps == 3
    assert any(line.startswith("rollout.engine.urls: log-probs may be rounded differently") for line in display.said)


def test_eval_and_screen_use_the_server(words: list[str], server: State, model: Path, command: Command) -> None:
    own = [word for word in words if word.startswith(("rollout", "data", "eval.size", "reward"))]
    code, out, err = command("eval", "--model", str(model), "--samples", "2", *own)
    assert (code, err) == (0, "")
    assert "entropy" in out
    asked = server.paths("/inference/v1/generate")
    assert len(asked) == 1 + 6 * 3, "a probe, then a greedy and two sampled answers to each problem"
    Path("data.jsonl").write_text('{"problem": "1+1=?", "answer": "2"}\n{"problem": "2+1=?", "answer": "3"}\n')
    code, out, err = command("screen", "data.jsonl", *own, "--model", str(model), "--samples", "3")
    assert (code, err) == (0, "")
    assert len(server.paths("/inference/v1/generate")) == len(asked) + 1 + 6
