"""What may change when a run is resumed, what is refused by name, and how a stopped run is ended where it is."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_runs import SMALL, rows, weights
from support import save_tiny

from edge_grpo.base.errors import CheckpointError
from edge_grpo.config.explain import setting_names
from edge_grpo.config.tree import Config, config_hash, load_config, to_yaml
from edge_grpo.models import precision
from edge_grpo.runs import starts
from edge_grpo.runs.folder import RunFolder
from edge_grpo.trackers.console import Silent
from edge_grpo.training import resumption
from edge_grpo.training.checkpoint import read_state, steps
from edge_grpo.training.loop import resume, train

Make = Callable[..., Config]


class Said(Silent):
    """Records the messages; stops the run with a signal when a step's row is written."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.said: list[str] = []
        self.stop_at = stop_at

    def say(self, message: str) -> None:
        self.said.append(message)

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(model: Path, tmp_path: Path) -> Make:
    def make(*overrides: str) -> Config:
        return load_config(None, [f"model.path={model}", *SMALL, f"run.dir={tmp_path / 'run'}", *overrides])

    return make


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    file = tmp_path / "problems.jsonl"
    lines = [json.dumps({"problem": f"Compute {number}+1.", "answer": number + 1}) for number in range(12)]
    file.write_text("\n".join(lines))
    return file


def last_start(run: str | Path) -> dict[str, object]:
    return starts.read(Path(run))[-1]


# --- ending a run where it is ---------------------------------------------------------------------------------------


def test_a_stopped_run_is_ended_where_it_is(config: Make) -> None:
    stopped = train(config(), display=Said(stop_at=3))
    assert (stopped.steps, stopped.folder.joinpath("final").exists()) == (3, False)
    before = rows(stopped.folder)
    assert "eval/accuracy" not in before[-1]
    ended = resume(stopped.folder, config("train.steps=3"))
    assert ended.steps == 3
    checkpoint = load_file(ended.folder / "checkpoints/step_000003/weights.safetensors")
    final = load_file(ended.folder / "final/model.safetensors")
    assert all((final[name] == weight).all() for name, weight in checkpoint.items())
    written = rows(ended.folder)
    assert "eval/accuracy" in written[-1]
    assert [{k: v for k, v in row.items() if k in old} for row, old in zip(written, before, strict=True)] == before
    display = Said()
    assert resume(ended.folder, display=display).steps == 3
    assert "is finished (3 steps); raise train.steps" in display.said[-1]
    resume(ended.folder, config("train.steps=3", "model.save_dtype=bfloat16"), display=display)
    assert "is finished (3 steps), so model.save_dtype had no effect" in display.said[-1]
    assert load_config(str(ended.folder / "config.yaml")).train.steps == 3


@pytest.mark.parametrize(("bound", "done"), [("train.steps", "3 steps"), ("train.max_tokens", "sampled tokens")])
def test_a_bound_below_what_is_done_is_refused(config: Make, bound: str, done: str) -> None:
    folder = train(config("eval.every=0"), display=Said(stop_at=3)).folder
    with pytest.raises(CheckpointError, match=rf"{bound} was \d+, now 2, but the run has .*{done}.*edge-grpo export"):
        resume(folder, config("eval.every=0", f"{bound}=2"))
    tokens = read_state(folder / "checkpoints/step_000003").tokens
    assert resume(folder, config("eval.every=0", f"train.max_tokens={tokens}")).steps == 3
    assert (folder / "final").exists()


def test_the_best_checkpoint_survives_a_stop(config: Make, model: Path) -> None:
    """The random model never answers right, so that its first evaluation remains the best."""
    best = ["train.keep_best=true", "train.keep_checkpoints=1", "train.checkpoint_every=4"]
    plain = train(config("run.dir=" + config().run.dir + "-plain")).folder
    folder = train(config(*best), display=Said(stop_at=5)).folder
    assert steps(folder / "checkpoints") == [2, 5]
    display = Said()
    resume(folder, display=display)
    assert steps(folder / "checkpoints") == [2, 6]
    assert weights(folder) == weights(plain)
    assert display.said[-1].startswith("best held-out accuracy: 0.0% after step 2; final/ is the model after step 6.")


# --- settings -------------------------------------------------------------------------------------------------------


def test_the_settings_that_may_change_exist() -> None:
    names = list(setting_names(Config))
    for pattern in resumption.MAY_CHANGE:
        assert any(fnmatch(name, pattern) for name in names), pattern


def test_settings_that_change_no_numbers_may_change(config: Make) -> None:
    straight = train(config("run.dir=" + config().run.dir + "-straight")).folder
    folder = train(config(), display=Said(stop_at=3)).folder
    free = ["train.checkpoint_every=1", "train.keep_checkpoints=4", "eval.every=3", "eval.size=4", "reward.workers=2",
            "run.rollouts=false", "run.trackers=[]"]  # fmt: skip
    display = Said()
    resume(folder, config(*free), display=display)
    assert weights(folder) == weights(straight)
    assert len(list((folder / "checkpoints").iterdir())) == 4
    assert len(list((folder / "rollouts").iterdir())) == 3
    assert [row["step"] for row in rows(folder) if "eval/accuracy" in row] == [0, 2, 6]
    (said,) = [line for line in display.said if line.startswith("changed on resume: ")]
    assert "eval.size 6 -> 4" in said
    assert last_start(folder)["changed"]["train.checkpoint_every"] == [2, 1]
    display = Said()
    resume(folder, display=display)  # the new settings are the run's own now
    assert load_config(str(folder / "config.yaml")).eval.size == 4


def test_a_setting_that_changes_rounding_says_so(config: Make) -> None:
    folder = train(config(), display=Said(stop_at=2)).folder
    display = Said()
    resume(folder, config("train.micro_batch_rows=5"), display=display)
    assert [line for line in display.said if line.startswith("train.micro_batch_rows: ") and "byte for byte" in line]


def test_a_run_that_an_earlier_version_started_resumes(config: Make) -> None:
    folder = train(config("run.trackers=[tensorboard]"), display=Said(stop_at=2)).folder
    tree = RunFolder.read_config(folder)[0]
    run = {"dir": tree["run"]["dir"], "rollouts": True, "tensorboard": True}
    RunFolder(folder).write_config(to_yaml({**tree, "run": run}), config_hash({**tree, "run": run}))
    display = Said()
    resume(folder, config("train.steps=3"), display=display)
    assert [row["step"] for row in rows(folder)] == [0, 1, 2, 3]
    assert not [line for line in display.said if "trackers" in line]


@pytest.mark.parametrize("word", ["train.learning_rate=0.1", "rollout.group_size=2", "data.arithmetic.size=30"])
def test_every_other_setting_is_refused_by_name(config: Make, word: str) -> None:
    folder = train(config("train.steps=0", "eval.at_start=false")).folder
    with pytest.raises(
        CheckpointError, match=rf"{word.partition('=')[0]} was .*\. Only these may change: train\.steps"
    ):
        resume(folder, config("train.steps=1", word))
    assert load_config(str(folder / "config.yaml")).train.steps == 0, "nothing is recorded"


@pytest.mark.parametrize("word", ["eval.size=3", "eval.seed=1"])
def test_held_out_problems_split_off_the_training_problems_stay(config: Make, problems: Path, word: str) -> None:
    own = [f"data.path={problems}", "train.steps=1", "eval.size=4"]
    folder = train(config(*own)).folder
    with pytest.raises(CheckpointError, match=rf"{word.partition('=')[0]} was .* change the training problems"):
        resume(folder, config(*own, "train.steps=2", word))
    assert resume(folder, config(*own, "train.steps=2", "eval.temperature=1")).steps == 2


@pytest.mark.parametrize(("schedule", "steps", "told"), [("linear", 8, "step 3 is 7.5e-05, after 7.5e-05"),
                                                        ("cosine", 6, "step 3 is 7.5e-05, after 8.54e-05"),
                                                        ("constant", 8, "")])  # fmt: skip
def test_raising_steps_says_what_becomes_of_the_learning_rate(
    config: Make, schedule: str, steps: int, told: str
) -> None:
    plain = [f"train.schedule={schedule}", "eval.every=0", "eval.at_start=false", "eval.at_end=false"]
    folder = train(config(*plain, "train.steps=4"), display=Said(stop_at=2)).folder
    display = Said()
    resume(folder, config(*plain, f"train.steps={steps}"), display=display)
    said = [line for line in display.said if "schedule now ends" in line]
    assert [told in line for line in said] == [True] * bool(told)


# --- inputs ---------------------------------------------------------------------------------------------------------


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


CHANGES = {
    "data.path": lambda at: rewrite(at / "problems.jsonl", "Compute 3+1.", "Compute 1+3."),
    "data.eval_path": lambda at: rewrite(at / "held_out.jsonl", '"answer": 2', '"answer": 3'),
    "model.path": lambda at: rewrite(at / "model/generation_config.json", "{", "{ "),
    "the code of reward.function": lambda at: rewrite(at / "judge.py", "1.0", "2.0"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_input_that_changed_is_named_until_it_is_accepted(
    config: Make, problems: Path, tmp_path: Path, name: str
) -> None:
    save_tiny(tmp_path / "model")
    (tmp_path / "held_out.jsonl").write_text('{"problem": "Compute 1+1.", "answer": 2}\n')
    (tmp_path / "judge.py").write_text("def reward(completions, problems):\n    return [1.0 for _ in problems]\n")
    own = [f"data.path={problems}", f"data.eval_path={tmp_path}/held_out.jsonl", f"model.path={tmp_path}/model",
           f"reward.function={tmp_path}/judge.py:reward", "train.steps=2"]  # fmt: skip
    folder = train(config(*own), display=Said(stop_at=1)).folder
    CHANGES[name](tmp_path)
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file())
    with pytest.raises(CheckpointError, match=rf"^--resume: {name} changed since .*--accept-changes"):
        resume(folder)
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()) == before
    display = Said()
    assert resume(folder, display=display, accept_changes=True).steps == 2
    assert f"accepted: {name} changed since the last start" in display.said
    assert last_start(folder)["accepted"] == [name]
    assert resume(folder, config(*own, "train.steps=3")).steps == 3, "accepted once and for all"


def test_lora_names_changed_base_weights(config: Make, tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    own = [f"model.path={base}", "model.lora.rank=2", "train.steps=2"]
    folder = train(config(*own), display=Said(stop_at=1)).folder
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + bytes(4))
    with pytest.raises(CheckpointError, match=r"^--resume: model\.path changed"):
        resume(folder)


def test_the_built_in_problems_are_checked_too(config: Make) -> None:
    folder = train(config("train.steps=1")).folder
    record = folder / starts.STARTS
    record.write_text(record.read_text().replace(last_start(folder)["inputs"]["data"], "0" * 12))
    with pytest.raises(CheckpointError, match=r"the built-in problems changed since the run was last started; restore"):
        resume(folder, config("train.steps=2"))
    record.write_text(record.read_text().replace('"edge-grpo": "', '"edge-grpo": "0.0.'))
    with pytest.raises(CheckpointError, match=r"last started \(or is read differently: edge-grpo was 0\.0\.\S+, now"):
        resume(folder, config("train.steps=2"))


def test_a_run_without_a_record_resumes_and_gets_one(config: Make) -> None:
    folder = train(config("train.steps=1")).folder
    (folder / starts.STARTS).unlink()
    display = Said()
    assert resume(folder, config("train.steps=2"), display=display).steps == 2
    assert [line for line in display.said if "no digests" in line and "could not be checked" in line]
    assert set(last_start(folder)["inputs"]) >= {"data", "model", "prompts", "held_out", "reward"}


def test_a_run_resumes_bit_for_bit_in_the_dtype_that_it_began_with(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"model.path={model}", *SMALL, "train.steps=4", "train.checkpoint_every=2"]
    made = [load_config(None, [*words, f"run.dir={tmp_path / name}"]) for name in ("whole", "stopped")]
    with monkeypatch.context() as patch:
        patch.setattr(precision, "LARGE", 0)
        patch.setattr(precision, "half_is_fast", lambda _: True)
        whole = train(made[0]).folder
        stopped = train(made[1], display=Said(stop_at=2)).folder
    display = Said()
    assert resume(stopped, display=display).steps == 4
    assert not [line for line in display.said if "bit-exact" in line]
    assert any("computing in bfloat16" in line for line in display.said)
    assert weights(whole) == weights(stopped)


def test_another_version_or_processor_is_said_to_change_rounding(config: Make) -> None:
    folder = train(config("train.steps=1")).folder
    start = last_start(folder)
    start["versions"]["torch"] = "1.0"
    starts.append(folder, start)
    display = Said()
    resume(folder, config("train.steps=2"), display=display)
    assert [line for line in display.said if line.startswith("torch was 1.0, now ") and "rounding" in line]


def test_ranks_wait_as_long_as_the_run_says(config: Make, tmp_path: Path) -> None:
    folder = train(config("distributed.timeout_s=7200", "train.steps=1")).folder
    assert resumption.patience(folder, None) == 7200
    assert resumption.patience(folder, config("distributed.timeout_s=60")) == 60
    with pytest.raises(CheckpointError, match="holds no run"):
        resumption.patience(tmp_path / "nowhere", None)
