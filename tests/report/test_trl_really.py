"""Files that TRL's own trainer wrote are read: its format, its groups, its dead groups."""

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support import Command, save_tiny

from edge_grpo.report.diagnosis import diagnose
from edge_grpo.report.sources import Asked, read_rollouts

PROMPTS, SIZE, STEPS = 4, 4, 3


def accuracy_reward(completions: list[Any], **_: Any) -> list[float | None]:
    """Right in one of two prompts' groups; some cannot be scored."""
    rewards: list[float | None] = [float(i % 3 == 0) if i // SIZE % 2 else 0.0 for i in range(len(completions))]
    rewards[0] = None
    return rewards


def length_reward(completions: list[Any], log_extra: Any = None, **_: Any) -> list[float | None]:
    """The same for all, and a further column of text."""
    log_extra("remark", ["none"] * len(completions))
    return [None if i == 0 else 0.25 for i in range(len(completions))]


def trained(folder: Path, prompts: list[Any], **settings: Any) -> list[float]:
    """Train for some steps in ``folder``; the share of groups without deviation that TRL measured in each."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    trainer = GRPOTrainer(
        model=str(save_tiny(folder / "model")),
        reward_funcs=[accuracy_reward, length_reward],
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        args=GRPOConfig(
            output_dir=str(folder),
            max_steps=STEPS,
            per_device_train_batch_size=PROMPTS * SIZE,
            num_generations=SIZE,
            max_completion_length=6,
            log_completions=True,
            num_completions_to_print=0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            **settings,
        ),
    )
    trainer.train()
    return [row["frac_reward_zero_std"] for row in trainer.state.log_history if "frac_reward_zero_std" in row]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    assert find_spec("trl"), "this test needs TRL, the extra 'bench': pip install -e '.[bench]' -c constraints.txt"
    monkeypatch.setattr(logging.root, "level", logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL, transformers and accelerate
        yield


@pytest.mark.slow
@pytest.mark.parametrize("chat", [False, True])
def test_a_run(tmp_path: Path, chat: bool, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"{i}+{i}=" for i in range(PROMPTS)]
    prompts: list[Any] = [[{"role": "user", "content": text}] for text in texts] if chat else list(texts)
    zero = trained(tmp_path, prompts)
    found = diagnose(read_rollouts(tmp_path, Asked({})))
    assert (found.rollouts.name, found.rollouts.files, found.overall.groups) == ("TRL", STEPS, PROMPTS * STEPS)
    assert found.group_sizes == {SIZE: PROMPTS * STEPS}
    assert [span.tally.dead / span.tally.groups for span in found.spans] == pytest.approx(zero)
    assert sum(row.reward is None for group in found.groups for row in group.rows) == STEPS
    assert found.prompts == PROMPTS
    assert not [note for note in found.notes if "do not fit" in note or "repeat" in note]
    assert [c.column for c in found.rollouts.columns if c.role == "reward"] == ["accuracy_reward", "length_reward"]
    capsys.readouterr()  # what the trainer printed
    code, out, _ = command("diagnose", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out)["overall"]["kinds"]["all wrong"] == found.overall.dead


@pytest.mark.slow
def test_steps_that_trained_on_the_same_rows_are_counted_once(tmp_path: Path) -> None:
    trained(tmp_path, [f"{i}+{i}=" for i in range(PROMPTS)], num_iterations=3)
    found = diagnose(read_rollouts(tmp_path, Asked({})))
    assert found.overall.groups == PROMPTS
    assert "files left out because they repeat the rows of the file before: 2" in found.notes
