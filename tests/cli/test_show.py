"""``methods NAME`` and ``show-config SECTION``."""

from pathlib import Path

import yaml
from support import Command


def test_one_method_is_described_with_its_settings(command: Command) -> None:
    code, out, _ = command("methods", "raft")
    assert code == 0
    assert out.startswith("method=raft: arXiv:2304.06767\n\nReward-ranked fine-tuning")
    assert "Source:" in out
    assert "\naccept: best\n" in out
    assert "top_up:\n  max_rounds: 0\n" in out
    assert out.endswith("(train.NAME=VALUE):\n\nmini_batches: 4\n\n")
    code, _, err = command("methods", "gropo")
    assert code == 2
    assert "'gropo' is not a method; did you mean 'grpo'?" in err


def test_a_description_has_no_markup_of_sphinx(command: Command) -> None:
    out = command("methods", "nthr")[1]
    assert "Formula (LaTeX):\n    -" in out
    assert "the influence $s_{i,t} =" in out
    assert not any(mark in out for mark in ("``", ":math:", ".. math"))


def test_sections_are_shown_alone_and_as_they_would_be_used(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("show-config", "train", "model.lora", "train.steps=9", "method=raft")
    assert code == 0
    shown = yaml.safe_load(out)
    assert list(shown) == ["train", "model"]
    assert (shown["train"]["steps"], shown["train"]["mini_batches"]) == (9, 4)
    assert shown["model"] == {"lora": {"rank": 0, "alpha": 32.0, "targets": []}}
    whole = command("show-config", "train.steps=9", "method=raft")[1]
    assert out.splitlines()[0] == whole.splitlines()[0], "the hash is of all settings"
    (tmp_path / "c.yaml").write_text("train: {steps: 4}\n")
    (tmp_path / "train").mkdir()
    assert yaml.safe_load(command("show-config", "c.yaml", "train.steps", "train.seed=7")[1]) == {"train": {"steps": 4}}
    assert yaml.safe_load(command("show-config", "train")[1])["train"]["steps"] == 60, "a folder is no configuration"


def test_a_section_that_does_not_exist_is_refused(command: Command) -> None:
    for word, meant in (("trian", "train"), ("model.lora.rankk", "model.lora.rank")):
        code, _, err = command("show-config", word)
        assert code == 2
        assert f"'{word}': no such section, setting or configuration file (did you mean '{meant}'?)" in err
    assert "'train.steps.x': no such section" in command("show-config", "train.steps.x")[2]
