"""What a run holds: data that was left out is told, and collecting changes nothing."""

from dataclasses import replace

import pytest
from support import save_tiny

from edge_grpo.base.errors import CheckpointError, DataError, TrainingError
from edge_grpo.config.tree import load_config
from edge_grpo.rewards import Rewards
from edge_grpo.runs.folder import RunFolder
from edge_grpo.trackers.console import Silent
from edge_grpo.training.checkpoint import read_progress
from edge_grpo.training.session import Session, is_final_of


class Listening(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


@pytest.fixture
def make(tmp_path):
    model = save_tiny(tmp_path / "model")

    def build(*overrides, display=None):
        words = ["rollout.max_new_tokens=6", "rollout.prompts_per_step=2", "eval.size=2", "data.arithmetic.size=10"]
        config = load_config(None, [f"model.path={model}", *words, *overrides])
        (tmp_path / "run").mkdir(exist_ok=True)
        folder = RunFolder(tmp_path / "run", tensorboard=False)
        return Session(config, config.method, folder, display or Listening(), Rewards(config.reward))

    return build


def write(tmp_path, lines):
    file = tmp_path / "d.jsonl"
    file.write_text("\n".join(lines))
    return file


GOOD = ['{"problem": "Compute %d+1.", "answer": "%d"}' % (i, i + 1) for i in range(6)]  # noqa: UP031


def test_what_is_left_out_is_told(make, tmp_path):
    file = write(tmp_path, [*GOOD, '{"problem": "x"}', f'{{"problem": "{"long " * 50}", "answer": "1"}}'])
    display = Listening()
    session = make(
        f"data.path={file}", "data.bad_rows=skip", "data.over_long=skip", "data.max_prompt_tokens=60", display=display
    )
    assert session.num_items + len(session.held_out) == 6
    told = " ".join(display.said)
    assert "1 bad rows skipped" in told
    assert "1 over-long prompts skipped" in told


def test_nothing_to_train_on_is_an_error(make, tmp_path):
    file = write(tmp_path, GOOD)
    with pytest.raises(DataError, match="max_prompt_tokens"):
        make(f"data.path={file}", "data.over_long=skip", "data.max_prompt_tokens=2")


def test_without_evaluation_nothing_is_held_out(make, tmp_path):
    file = write(tmp_path, GOOD)
    none = ["eval.every=0", "eval.at_start=false", "eval.at_end=false"]
    assert make(f"data.path={file}", *none).num_items == 6
    assert make(f"data.path={file}").num_items == 4


def test_collecting_and_shaping_change_nothing(make):
    session = make()
    with session.rewards:
        one, two = session.collect(0), session.collect(0)
        session.shape(one)
    assert one.groups == two.groups
    assert session.cursor == 0
    assert not session.optimizer.state


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_end_the_step_before_its_update(make, monkeypatch, value):
    session = make()
    with session.rewards:
        collected = session.collect(0)
    real = session.updater.shape

    def shape(batch):
        signal = real(batch)
        return replace(signal, advantages=signal.advantages + value * batch.mask)

    monkeypatch.setattr(session.updater, "shape", shape)
    with pytest.raises(
        TrainingError, match=r"the method's advantages are not finite \(NaN or inf\) in \d+ of \d+ rows"
    ):
        session.shape(collected)


def test_weights_that_are_not_finite_are_never_saved(make):
    session = make()
    session.save(0)
    next(session.policy.trained())[1].data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="after step 1 the weights are not finite"):
        session.save(1)
    assert [path.name for path in session.folder.checkpoints.iterdir()] == ["step_000000"]


def test_rows_that_somebody_took_out_are_told(make):
    session = make()
    session.folder.write_metrics({"step": 2})
    session.save(3)
    session.restore(session.folder.checkpoints / "step_000003")
    assert "metrics.jsonl has no row of the steps 1, 3" in session.display.said


def test_the_final_model_knows_its_step_and_replaces_an_older_one_as_a_whole(make):
    session = make()
    session.save(0)
    progress = read_progress(session.folder.checkpoints / "step_000000")
    assert not is_final_of(session.folder, progress)
    session.finish(0)
    assert is_final_of(session.folder, progress)
    assert not is_final_of(session.folder, replace(progress, step=1))
    session.finish(1)
    assert is_final_of(session.folder, replace(progress, step=1))
    (session.folder.final / "progress.json").write_text("rubbish")
    assert not is_final_of(session.folder, progress)
    assert not [path for path in session.folder.path.iterdir() if path.name.startswith((".final", ".old"))]


def test_a_final_model_that_cannot_be_written_is_told(make):
    session = make()
    (session.folder.path / ".final").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"final: could not be written \(.*edge-grpo train --resume"):
        session.finish(1)
