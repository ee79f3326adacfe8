"""The loop end to end on a tiny random model: files, resume bit for bit, signals, a custom method."""

import json
import os
import runpy
import signal
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, final

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import Field
from small_runs import ROOT, SMALL, Crash, CrashAfter, documented, resumed, rollouts, rows, weights
from support import save_tiny
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_grpo.base.errors import CheckpointError, ConfigError, TrainingError
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.config.tree import Config, config_hash, load_config, to_yaml
from edge_grpo.methods import Method
from edge_grpo.runs.folder import RunFolder
from edge_grpo.trackers.console import Silent
from edge_grpo.training.loop import resume, train

NOT_EVALUATED = ["eval.every=0", "eval.at_start=false", "eval.at_end=false"]


Make = Callable[..., Config]


class Said(Silent):
    """Records the messages shown."""

    def __init__(self) -> None:
        self.said = []

    def say(self, message: str) -> None:
        self.said.append(message)


class SignalAt(Said):
    """Sends this process a signal when a step's row is written."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.step, self.number = step, number

    def log(self, step: int, row: Mapping[str, float | None]) -> None:
        if step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(model: Path, tmp_path: Path) -> Make:
    def make(*overrides: str, name: str = "run") -> Config:
        return load_config(None, [f"model.path={model}", *SMALL, f"run.dir={tmp_path / name}", *overrides])

    return make


@pytest.fixture(scope="module")
def straight(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    return train(load_config(None, [f"model.path={model}", *SMALL, f"run.dir={folder}"])).folder


def test_the_run_folder_holds_what_it_should(straight: Path) -> None:
    written = rows(straight)
    assert [row["step"] for row in written] == list(range(7))
    assert "accuracy" not in written[0]
    assert [row["step"] for row in written if "eval/accuracy" in row] == [0, 2, 4, 6]
    assert written[3]["collapse/before"] == 1.0
    assert written[3]["collapse/after"] < 1.0
    assert (straight / "config.yaml").read_text().startswith("# edge-grpo configuration ")
    assert list((straight / "events").iterdir())
    assert sorted(path.name for path in (straight / "checkpoints").iterdir()) == ["step_000004", "step_000006"]
    loaded = AutoModelForCausalLM.from_pretrained(straight / "final")
    tokenizer = AutoTokenizer.from_pretrained(straight / "final")
    assert loaded(**tokenizer("1+1\n", return_tensors="pt")).logits.isfinite().all()


def test_the_phases_of_a_step_add_up_to_it(straight: Path) -> None:
    phases = [f"time/{name}_s" for name in ("sample", "grade", "correct", "score", "update")]
    for line in (straight / "metrics.jsonl").read_text().splitlines()[1:]:
        row = json.loads(line)
        spent = sum(row[name] for name in phases)
        assert all(row[name] > 0 for name in [*phases, "time/write_s"])
        assert 0.5 * row["time/step_s"] < spent <= row["time/step_s"]


def test_a_run_introduces_itself_and_explains_each_surprise_once(config: Make) -> None:
    display = Said()
    train(config("train.steps=2"), display=display)
    assert display.said[0].startswith("run folder: ")
    assert any(line.startswith("method: edge_grpo, 2 steps") for line in display.said)
    explained = [line for line in display.said if line.startswith("step ")]
    assert explained[0].startswith("step 0: 100% of the held-out answers were cut at rollout.max_new_tokens=12 tokens")
    assert [line for line in explained if "completions were cut" in line] == [
        "step 1: 100% of the completions were cut at rollout.max_new_tokens=12 tokens, before they ended; raise it, or "
        "ask for shorter answers (data.system_prompt)"
    ]
    again = Said()
    resume(config().run.dir, config("train.steps=3"), display=again)
    assert again.said[0] == "resuming after step 2"
    assert any(line.startswith("run folder: ") for line in again.said)


def test_a_reward_that_fails_on_some_rows_is_explained_by_its_file_and_line(config: Make, tmp_path: Path) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text("def reward(texts, tasks):\n    return [1 / (sum(map(ord, one)) % 2) for one in texts]\n")
    display = Said()
    words = ("train.steps=1", "method.correction.amount=none", *NOT_EVALUATED)
    train(config(*words, f"reward.function={judge}:reward"), display=display)
    (line,) = [line for line in display.said if "failed and are dropped" in line]
    assert f"the first: ZeroDivisionError: division by zero ({judge}:2)" in line


def test_rollouts_hold_every_completion(straight: Path) -> None:
    steps = rollouts(straight)
    assert [len(step) for step in steps] == [12] * 6
    for line in steps[0]:
        ids = [token for span in line["spans"] for token in span["token_ids"]]
        origins = {span["origin"] for span in line["spans"]}
        if line["strategy"] == "none":
            assert origins == {"sampled"}
            assert line["completion_before"] == ""
        if line["strategy"] == "reference":
            assert origins == {"injected"}
            assert line["verdict"] == "correct"
            assert line["advantage"] > 0
        assert 0 < len(ids) <= 12 + 110
        assert line["entropy"] > 0
        assert line["prompt"].startswith("Compute ")
        assert len(line["prompt_ids"]) > len(line["prompt"])
    assert {line["strategy"] for step in steps for line in step} == {"none", "reflect", "answer", "reference"}


@pytest.mark.parametrize("step", [pytest.param(step, marks=pytest.mark.slow) for step in (1, 2, 3, 4)] + [5])
def test_resume_is_bit_exact_at_any_step(straight: Path, config: Make, step: int) -> None:
    wanted = config()
    with pytest.raises(Crash):
        train(wanted, display=CrashAfter(step))
    torch.manual_seed(step)  # the global generator must not matter
    result = resume(wanted.run.dir)
    assert result.steps == 6
    assert weights(result.folder) == weights(straight)
    assert rows(result.folder) == rows(straight)
    assert rollouts(result.folder) == rollouts(straight)


def test_a_run_killed_before_its_first_evaluation_starts_again(straight: Path, config: Make) -> None:
    wanted = config()
    with pytest.raises(Crash):
        train(wanted, display=CrashAfter(0))
    (Path(wanted.run.dir) / "metrics.jsonl").write_text('{"step": 0, "eval/acc')  # cut off while writing
    assert rows(resume(wanted.run.dir).folder) == rows(straight)


@pytest.mark.parametrize(
    ("step", "number"), [pytest.param(0, signal.SIGINT, marks=pytest.mark.slow), (3, signal.SIGTERM)]
)
def test_a_signal_stops_cleanly_and_resume_is_bit_exact(straight: Path, config: Make, step: int, number: int) -> None:
    wanted, display = config(), SignalAt(step, number)
    result = train(wanted, display=display)
    assert (result.steps, result.signal) == (step, number)
    assert f"edge-grpo train --resume {result.folder}" in display.said[-1]
    assert not (result.folder / "final").exists()
    assert result.model is None
    assert weights(resume(wanted.run.dir).folder) == weights(straight)
    assert rows(result.folder) == rows(straight)


def test_a_finished_run_stays_as_it_is(straight: Path) -> None:
    before = weights(straight)
    result = resume(straight)
    assert result.steps == 6
    assert result.model == straight / "final"
    assert list(result.metrics) == list(RunFolder(straight).rows())
    assert weights(straight) == before


def test_steps_may_be_raised(model: Path, config: Make) -> None:
    constant = ["train.schedule=constant", *NOT_EVALUATED, "train.steps=4"]
    long = train(config(*constant, name="long"))
    short = config(*constant, "train.steps=2", name="short")
    train(short)
    result = resume(short.run.dir, config(*constant, name="short"))
    assert result.steps == 4
    assert weights(result.folder) == weights(long.folder)
    assert load_config(str(result.folder / "config.yaml")).train.steps == 4


def test_an_edited_configuration_is_refused(config: Make) -> None:
    wanted = config("train.steps=1")
    folder = train(wanted).folder
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("learning_rate: 0.0001", "learning_rate: 0.1"))
    with pytest.raises(CheckpointError, match="edited"):
        resume(folder)
    with pytest.raises(CheckpointError, match="no run"):
        resume(folder / "rollouts")
    with pytest.raises(ConfigError, match="already holds a run"):
        train(wanted)


def test_a_run_older_than_a_setting_resumes_with_its_default(config: Make) -> None:
    folder = train(config("train.steps=1")).folder
    tree, _ = RunFolder.read_config(folder)
    del tree["model"]["trust_remote_code"]
    (folder / "config.yaml").write_text(f"# edge-grpo configuration {config_hash(tree)}\n{to_yaml(tree)}")
    assert resume(folder, config("train.steps=2")).steps == 2
    with pytest.raises(CheckpointError, match=r"model\.trust_remote_code was False, now True"):
        resume(folder, config("train.steps=2", "model.trust_remote_code=true"))


def test_a_bound_on_tokens_ends_the_run_and_survives_a_crash(config: Make) -> None:
    bound = ("train.max_tokens=1600", "train.steps=1000", "eval.every=0", "train.checkpoint_every=1")
    straight, again = resumed(config(*bound, name="one"), config(*bound, name="two"))
    steps = rows(straight)[1:]
    assert 2 < len(steps) < 20
    assert sum(row["tokens"] for row in steps[:-1]) < 1600 <= sum(row["tokens"] for row in steps)
    assert "eval/accuracy" in steps[-1]
    assert weights(again) == weights(straight)
    assert rows(again) == rows(straight)
    display = Said()
    assert resume(again, display=display).steps == len(steps)  # finished: nothing is retrained
    assert display.said == [f"{again} is finished ({len(steps)} steps); raise train.max_tokens to train further"]


def test_a_bound_on_tokens_may_be_raised_on_resume(config: Make) -> None:
    def bound(tokens: int, *more: str) -> Config:
        return config("eval.every=0", "train.steps=4", f"train.max_tokens={tokens}", *more)

    folder = train(bound(1)).folder
    for tokens, steps in ((2, 1), (0, 4)):  # 0: no bound, so the steps end it
        assert resume(folder, bound(tokens)).steps == steps
    assert load_config(str(folder / "config.yaml")).train.max_tokens == 0
    with pytest.raises(CheckpointError, match=r"train\.max_tokens was 0, now 9, but the run has \d+ sampled tokens"):
        resume(folder, bound(9))


def test_stored_pairs_have_no_tokens_to_bound_and_no_samples_to_speak_of(
    config: Make, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i}?", "chosen": "a", "rejected": "b"}) + "\n" for i in range(4)))
    words = [f"model.path={model}", *SMALL[:-1], "method=rpo", f"data.pairs={file}", f"run.dir={tmp_path / 'run'}"]
    with pytest.raises(ConfigError, match=r"^train\.max_tokens: with data\.pairs nothing is sampled"):
        train(load_config(None, [*words, "train.max_tokens=9"]))
    assert not (tmp_path / "run").exists()
    display = Said()
    train(load_config(None, [*words, "train.steps=1"]), display=display)
    assert display.said[-1] == "pairs: chosen above rejected"
    train(config("train.steps=0", name="sampled"), display=display)
    assert "accuracy: training samples, temperature 1; held-out: greedy" in display.said


def test_lora_resumes_bit_for_bit_and_leaves_the_adapter(config: Make) -> None:
    lora = ["model.lora.rank=2", "train.learning_rate=0.01", "train.steps=4", *NOT_EVALUATED]
    one, two = config(*lora, name="one"), config(*lora, name="two")
    straight = train(one).folder
    with pytest.raises(Crash):
        train(two, display=CrashAfter(3))
    assert weights(resume(two.run.dir).folder) == weights(straight)
    assert (straight / "final/adapter/adapter_model.safetensors").exists()
    AutoModelForCausalLM.from_pretrained(straight / "final")


def test_the_reference_model_keeps_the_policy_near(config: Make) -> None:
    near = ["method=grpo", "method.beta=0.1", "train.steps=2", "eval.every=0"]
    overrides = [text for text in SMALL if not text.startswith("method.")]
    made = config(name="kl")
    settings_ = load_config(None, [f"model.path={made.model.path}", *overrides, *near, f"run.dir={made.run.dir}"])
    written = rows(train(settings_).folder)
    assert written[1]["kl/reference"] == pytest.approx(0.0, abs=1e-6)


def test_micro_batches_do_not_change_the_run(config: Make) -> None:
    one, two = (
        train(config(f"train.micro_batch_rows={size}", "train.steps=2", *NOT_EVALUATED, name=str(size))).folder
        for size in (64, 5)
    )
    for a, b in zip(rows(one), rows(two), strict=True):
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4, abs=1e-6)


def test_dynamic_sampling_without_a_useful_group_updates_nothing(config: Make, model: Path) -> None:
    overrides = [text for text in SMALL if not text.startswith("method.")]
    folder = config().run.dir
    made = load_config(
        None, [f"model.path={model}", *overrides, "method=dapo", "method.top_up.max_rounds=2", "eval.every=0",
               "eval.at_start=false", "train.steps=1", f"run.dir={folder}"]
    )  # fmt: skip
    written = rows(train(made).folder)
    assert written[0]["empty_steps"] == 1.0
    assert written[0]["dynamic/prompts"] == 9
    assert written[0]["dynamic/extra_completions"] == 24


@final
@settings
class Mine(Method):
    """A minimal custom method: the reward against the batch mean."""

    kind: Literal["mine"] = "mine"
    weight: float = Field(default=1.0, gt=0)
    names: tuple[str, ...] = ("a", "b")
    poison: bool = False

    def signal(self, batch: Scored) -> Signal:
        advantages = self.weight * (batch.reward - batch.reward.mean() + 0.5)
        return Signal(
            advantages=advantages[:, None].expand_as(batch.old_logprobs),
            mask=batch.mask,
            keep=batch.scorable,
            raw_advantages=advantages,
            row_advantages=advantages,
        )

    def loss(self, x: LossInputs, totals: Totals) -> Tensor:
        total = (x.logprobs * x.advantages)[x.mask].sum()
        return -total / totals.tokens * (float("nan") if self.poison else 1.0)


def test_a_custom_method(config: Make) -> None:
    wanted = config("train.steps=3", *NOT_EVALUATED, name="own")
    with pytest.raises(Crash):
        train(wanted, method=Mine(weight=2.0), display=CrashAfter(2))
    with pytest.raises(CheckpointError, match="trains a custom method"):
        resume(wanted.run.dir)
    with pytest.raises(CheckpointError, match=r"method\.weight was 2\.0"):
        resume(wanted.run.dir, method=Mine(weight=1.0))
    result = resume(wanted.run.dir, method=Mine(weight=2.0))
    whole = train(config("train.steps=3", *NOT_EVALUATED, name="whole"), method=Mine(weight=2.0))
    assert weights(result.folder) == weights(whole.folder)


def test_the_custom_method_example_resumes_when_rerun(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"model.path={model}", *SMALL[2:-1], "eval.every=0", "train.schedule=constant"]
    for steps in (1, 2, 2):
        argv = ["own_method.py", str(tmp_path / "run"), *words, f"train.steps={steps}"]
        monkeypatch.setattr("sys.argv", argv)
        runpy.run_path(str(ROOT / "examples/own_method.py"), run_name="__main__")
        assert f"trained {steps} steps" in capsys.readouterr().out
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 1, 2]
    capsys.readouterr()


def test_the_pages_name_every_metric_and_column(straight: Path, model: Path, tmp_path: Path) -> None:
    words = [f"model.path={model}", *SMALL[2:-1], "train.steps=1", "eval.samples=4", "eval.temperature=1"]
    written = {name for line in (straight / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    for method in ("grpo", "dapo"):
        more = [f"method={method}", "method.beta=0.1", "method.top_up.max_rounds=1", "method.top_up.fill=true"]
        folder = train(load_config(None, [*words, *more, f"run.dir={tmp_path / method}"])).folder
        written |= {name for line in (folder / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    names = documented("metrics.md")
    assert {one for one in written if not any(fnmatch(one, name) for name in names)} == set()
    rare = {"empty_updates", "correction/fallback", "correction/skipped_*"}  # written where they occur
    rare |= {"sampler/gap", "sampler/gap_max", "sampler/gap_beyond"}  # of engines that are not exact
    assert {name for name in names if not any(fnmatch(one, name) for one in written)} == rare
    (schema,) = {pq.read_schema(file) for file in [next((straight / "rollouts").glob("*.parquet"))]}
    columns = {"data/*" if name.startswith("data/") else name for name in schema.names}
    for name in ("spans", "reward_parts", "images"):
        columns |= {f"{name}.{field.name}" for field in schema.field(name).type.value_type}
    assert documented("rollouts.md") == columns


def test_gradients_that_stay_non_finite_end_the_run(config: Make) -> None:
    wanted = config("train.max_skipped_updates=3", "eval.every=0", name="nan")
    with pytest.raises(TrainingError, match="3 updates in a row"):
        train(wanted, method=Mine(poison=True))
    written = rows(wanted.run.dir)
    assert [row["skipped_updates"] for row in written[1:]] == [1.0, 1.0]
    checkpoint = Path(wanted.run.dir) / "checkpoints/step_000002/progress.json"
    assert json.loads(checkpoint.read_text())["skipped_in_a_row"] == 2


def test_a_run_whose_answers_stand_between_tags(tmp_path: Path) -> None:
    config = load_config(None, [*SMALL, "reward.format=answer", "train.steps=1", f"run.dir={tmp_path / 'run'}"])
    train(config)
    assert rows(tmp_path / "run")[0]["eval/accuracy"] > 0  # the bundled model writes boxes
