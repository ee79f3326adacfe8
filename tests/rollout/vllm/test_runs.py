"""Whole runs on a rollout server: they train, resume, evaluate and screen as they do in process."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout.vllm.server import State, serving
from small_runs import SMALL, Crash, CrashAfter, rows
from support import Command

from edge_grpo.base.errors import CheckpointError
from edge_grpo.config.tree import Config, load_config
from edge_grpo.methods import METHODS
from edge_grpo.rollout.engine import ServerError
from edge_grpo.runs.completions import rollouts
from edge_grpo.trackers.console import Silent
from edge_grpo.training.loop import resume, train

QUICK = ("dapo", "edge_grpo", "mgrpo", "rpo", "share_grpo")  # top-up, reflections, revisions, pairs, variants
QUIET = ["eval.every=0", "eval.at_start=false", "eval.at_end=false"]


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


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in METHODS]
)
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
    assert (Path(asked.run.dir) / "checkpoints/step_000002").is_dir(), "finished steps are saved"
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
    assert re.search(r"greedy +6 +- ", out), "the server records no entropies"
    asked = server.paths("/inference/v1/generate")
    assert len(asked) == 1 + 6 * 3, "a probe, then a greedy and two sampled answers to each problem"
    Path("data.jsonl").write_text('{"problem": "1+1=?", "answer": "2"}\n{"problem": "2+1=?", "answer": "3"}\n')
    code, out, err = command("screen", "data.jsonl", *own, "--model", str(model), "--samples", "3")
    assert (code, err) == (0, "")
    assert len(server.paths("/inference/v1/generate")) == len(asked) + 1 + 6


def test_a_methods_sampler_correction_applies(words: list[str], server: State, tmp_path: Path) -> None:
    """The server's log-probs are off by a quarter, but for the probe's."""

    def off(choice: dict[str, Any]) -> None:
        for each in choice["logprobs"]["content"] if len(server.paths("/inference/v1/generate")) > 1 else ():
            each["logprob"] -= 0.25

    server.change = off
    found = {}
    for correction in ("none", "token_truncate"):
        server.restart()
        server.asked.clear()
        more = ["method=grpo", f"method.sampler_correction={correction}", "train.steps=1", *QUIET]
        kept = [word for word in words if "correction" not in word]
        display = Said()
        (row,) = rows(train(config([more[0], *kept], tmp_path / correction, *more[1:]), display=display).folder)
        assert row["sampler/gap"] == pytest.approx(0.25, abs=1e-4)
        assert row["sampler/gap_max"] == pytest.approx(0.25, abs=1e-4)
        assert row["sampler/gap_beyond"] == 1
        found[correction] = row["grad_norm"]
        said = [line for line in display.said if "the sampler's log-probs differ from the policy's by 0.25" in line]
        assert said[0].endswith(
            "method.sampler_correction=token_truncate corrects for it"
            if correction == "none"
            else "compare its dtype with the policy's"
        )
    assert found["token_truncate"] == pytest.approx(found["none"] * 1.2840, rel=1e-3), "e ** 0.25 on every token"


def test_the_api_key_is_stored_nowhere(
    words: list[str], server: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "secret-key-of-a-server"
    monkeypatch.setenv("EDGE_GRPO_API_KEY", server.key)
    folder = train(config(words, tmp_path / "run", "train.steps=1", *QUIET)).folder
    server.key = ""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 5
    assert not [file for file in files if b"secret-key-of-a-server" in file.read_bytes()]


def test_a_new_run_without_its_server_leaves_no_folder(words: list[str], tmp_path: Path, command: Command) -> None:
    more = ["rollout.engine.urls=[http://127.0.0.1:9]", f"run.dir={tmp_path / 'run'}"]
    code, out, err = command("train", *words, *more)
    assert (code, out) == (2, "")
    assert err.startswith("edge-grpo: rollout server http://127.0.0.1:9 does not answer (")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_ranks_with_divided_weights_ask_through_the_first(words: list[str], server: State, tmp_path: Path) -> None:
    more = ["train.steps=2", "distributed.shard=full", *QUIET]
    alone = train(config(words, tmp_path / "alone", "train.steps=2", *QUIET)).folder
    server.restart()
    server.asked.clear()
    line = [
        sys.executable,
        "-m",
        "edge_grpo",
        "train",
        "--processes",
        "2",
        *words,
        *more,
        f"run.dir={tmp_path / 'two'}",
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    columns = ["step", "group", "completion", "strategy", "reward", "prompt_ids"]
    ours, theirs = (rollouts(folder).select(columns).to_pylist() for folder in (tmp_path / "two", alone))
    assert ours == theirs
    assert len([path for path, _ in server.asked if path == "/edge_grpo"]) == 1, "only the first rank talks to it"
    spans = [span for row in rollouts(tmp_path / "two").to_pylist() for span in row["spans"]]
    assert {span["version"] for span in spans if span["origin"] == "sampled"} == {0, 1}
    assert all(row["sampler/gap_max"] < 1e-4 for row in rows(tmp_path / "two"))
