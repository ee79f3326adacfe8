"""What a run leaves behind: checkpoints, figures for every tracker, and a final model that knows its step."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from support import tiny_policy, tiny_sampler

from edge_grpo.base.errors import CheckpointError
from edge_grpo.config.tree import load_config
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.runs.folder import RunFolder
from edge_grpo.trackers.console import Silent
from edge_grpo.training.checkpoint import read_state, steps
from edge_grpo.training.journal import Journal, finished
from edge_grpo.training.session import Session
from edge_grpo.training.source import StoredPairs


class Recorder(Silent):
    """Records what is logged."""

    def __init__(self) -> None:
        self.said, self.logged, self.rewound = [], [], []

    def say(self, message: str) -> None:
        self.said.append(message)

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        self.logged.append((step, dict(row)))

    def rewind(self, step: int | None) -> None:
        self.rewound.append(step)


@pytest.fixture
def session() -> Session:
    policy = tiny_policy()
    sampler = tiny_sampler(DecodeEngine(policy, stop_ids=[2], pad_id=0), lambda *_: True)
    config = load_config(None, [])
    return Session(config, config.method, policy=policy, sampler=sampler, source=StoredPairs((), 1, 2, 0))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    (tmp_path / "run").mkdir()
    return Journal(RunFolder(tmp_path / "run"), [Recorder()], Recorder(), clock=lambda: 5.0)


def test_every_tracker_gets_each_row_and_each_rewind(journal: Journal, session: Session) -> None:
    session.step = 3
    journal.log(3, {"loss": 0.5, "bad": float("nan")})
    journal.save(session)
    journal.restore(session)
    for tracker in journal.trackers:
        assert tracker.logged == [(3, {"time/at": 5.0, "loss": 0.5, "bad": None})]
        assert tracker.rewound == [3]


def test_a_new_run_forgets_what_trackers_hold_of_an_earlier_attempt(journal: Journal, session: Session) -> None:
    journal.restore(session)
    assert [tracker.rewound for tracker in journal.trackers] == [[None], [None]]


def test_missing_rows_are_reported(journal: Journal, session: Session) -> None:
    journal.folder.write_metrics({"step": 2})
    session.step = 3
    journal.save(session)
    journal.restore(session)
    assert "metrics.jsonl has no rows for steps 1, 3" in journal.display.said


def test_keep_best_saves_and_keeps_the_step_with_the_best_accuracy(tmp_path: Path, session: Session) -> None:
    session.config = load_config(None, ["train.keep_best=true", "train.keep_checkpoints=1"])
    (tmp_path / "run").mkdir()
    journal = Journal(RunFolder(tmp_path / "run"), [], Recorder())
    kept = []
    accuracies = {1: 0.25, 2: 0.5, 3: float("nan"), 4: 0.5, 5: 0.4, 6: 0.75, 7: None}
    for step, accuracy in accuracies.items():
        session.step = step
        row = {} if accuracy is None else {"eval/accuracy": accuracy}
        journal.log(step, row)
        if journal.is_best(session, row) or step in (3, 5, 7):
            journal.save(session)
        kept.append(steps(journal.folder.checkpoints))
    assert kept == [[1], [2], [2, 3], [2, 3], [2, 5], [6], [6, 7]]
    assert journal.best_note(session).startswith(
        "best held-out accuracy: 75.0% after step 6; final/ is the model after"
    )
    assert f"edge-grpo export {tmp_path / 'run'} --step 6 OUT" in journal.best_note(session)
    journal.restore(session)
    assert steps(journal.folder.checkpoints) == [6, 7]
    session.config = load_config(None, ["train.keep_checkpoints=1"])
    assert journal.best_note(session) == ""
    journal.restore(session)
    assert steps(journal.folder.checkpoints) == [7]


def test_figures_are_added_to_a_row_for_every_tracker(journal: Journal) -> None:
    journal.log(1, {"loss": 0.5})
    journal.log(2, {"loss": 0.25})
    journal.extend(2, {"eval/accuracy": 0.5})
    assert list(journal.folder.rows()) == [
        {"step": 1, "time/at": 5.0, "loss": 0.5},
        {"step": 2, "time/at": 5.0, "loss": 0.25, "eval/accuracy": 0.5},
    ]
    assert journal.trackers[0].logged[-1] == (2, {"eval/accuracy": 0.5})
    journal.extend(3, {"eval/accuracy": 1.0})
    assert [row["step"] for row in journal.folder.rows()] == [1, 2, 3]


def test_non_finite_weights_are_never_saved(journal: Journal, session: Session) -> None:
    journal.save(session)
    next(session.policy.trained())[1].data.fill_(float("nan"))
    session.step = 1
    with pytest.raises(Exception, match="after step 1 the weights are not finite"):
        journal.save(session)
    assert [path.name for path in journal.folder.checkpoints.iterdir()] == ["step_000000"]


def test_the_final_model_knows_its_step_and_replaces_an_older_one_as_a_whole(
    journal: Journal, session: Session
) -> None:
    folder = journal.folder
    journal.save(session)
    state = read_state(folder.checkpoints / "step_000000")
    assert finished(folder) is None
    journal.finish(session)
    assert finished(folder) == state
    session.step = 1
    journal.save(session)
    assert finished(folder) is None, "the final model is older than the newest checkpoint"
    journal.finish(session)
    assert finished(folder) == replace(state, step=1)
    (folder.final / "progress.json").write_text("rubbish")
    assert finished(folder) is None
    assert not [path for path in folder.path.iterdir() if path.name.startswith((".final", ".old"))]


def test_a_final_model_that_cannot_be_written_is_one_line(journal: Journal, session: Session) -> None:
    (journal.folder.path / ".final").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"final: could not be written \(.*edge-grpo train --resume"):
        journal.finish(session)


def test_a_tracker_that_cannot_write_ends_the_run_in_one_line(journal: Journal) -> None:
    def full(step: int, row: Mapping[str, float | None]) -> NoReturn:
        raise OSError(28, "No space left on device")

    journal.trackers[0].log = full
    with pytest.raises(CheckpointError, match=r"could not be written \(No space left on device\).*--resume"):
        journal.log(1, {"loss": 1.0})


def test_a_final_model_that_is_not_the_trained_one_replaces_nothing(journal: Journal, session: Session) -> None:
    journal.finish(session)
    before = (journal.folder.final / "model.safetensors").read_bytes()
    layer = session.policy.model.model.layers[0].mlp
    layer.register_forward_hook(lambda module, args, output: output + torch.arange(output.shape[-1]))  # never saved
    session.step = 1
    with pytest.raises(CheckpointError, match=r"final: not written, because .* not the one that was trained") as caught:
        journal.finish(session)
    assert str(journal.folder.checkpoints) in str(caught.value)
    assert (journal.folder.final / "model.safetensors").read_bytes() == before
    assert "| steps | 0 |" in (journal.folder.final / "README.md").read_text()
