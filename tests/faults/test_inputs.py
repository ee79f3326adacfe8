"""Bad configurations, rows and models on the real command line: one clear line, exit code 2, no run folder left."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from faults.fixtures import Command
from faults.test_disk_full import check_told
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow

QUICK = ["train.steps=1", "eval.every=0", "eval.at_start=false", "eval.at_end=false", "rollout.prompts_per_step=2"]
GOOD = b'{"problem": "1+1?", "answer": "2"}\n{"problem": "2+2?", "answer": "4"}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  steps: 1\n  steps: 2\n", "line 3: the key 'steps' is given twice"),
        ("train: " + "[" * 1000 + "]" * 1000, "nested too deeply"),
        ("train: steps: 1", "line 1: not YAML"),
        ("\0", "not YAML"),
    ],
)
def test_an_unreadable_configuration_is_one_line(command: Command, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    check_told(command(["train", str(tmp_path / "c.yaml"), f"run.dir={tmp_path / 'run'}"]), "c.yaml", message)
    assert not (tmp_path / "run").exists()


def damage_model(folder: Path, damage: str) -> None:
    file = folder / "model.safetensors"
    held = load_file(file)
    if damage == "pickle":
        torch.save(held, folder / "pytorch_model.bin")
        file.unlink()
    elif damage == "missing":
        del held["model.norm.weight"]
        save_file(held, file, {"format": "pt"})
    elif damage == "shape":
        save_file(held | {"model.norm.weight": torch.zeros(5)}, file, {"format": "pt"})
    elif damage == "cut off":
        file.write_bytes(file.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("pickle", "pytorch_model.bin is a pickle, which is never loaded"),
        ("missing", "lack the weights model.norm.weight"),
        ("shape", "model.norm.weight [5] instead of [32]"),
        ("cut off", "cannot load a model"),
    ],
)
def test_an_incomplete_model_folder_is_rejected(
    command: Command, tiny: Path, tmp_path: Path, damage: str, message: str
) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    damage_model(tmp_path / "model", damage)
    answer = command(["train", *QUICK, f"model.path={tmp_path / 'model'}", f"run.dir={tmp_path / 'run'}"])
    check_told(answer, "model.path: ", message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{}", "row 3, field 'problem': missing"),
        (b'{"problem": "", "answer": "1"}', "row 3, field 'problem': empty text"),
        (b'{"problem": "na\xefve", "answer": "1"}', "row 3, byte 16 of the line: not UTF-8"),
        (json.dumps({"problem": "1+1 " * 2_500_000, "answer": "2"}).encode(), "its prompt has at least 6"),
    ],
)
def test_an_unusable_row_is_named_or_skipped(
    command: Command, tiny: Path, tmp_path: Path, line: bytes, message: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD + line + b"\n")
    words = ["train", *QUICK, f"model.path={tiny}", f"data.path={file}", f"run.dir={tmp_path / 'run'}"]
    check_told(command(words), message)
    assert not (tmp_path / "run").exists()
    answer = command([*words, "data.bad_rows=skip", "data.over_long=skip"])
    assert answer["code"] == 0, answer["out"]
    assert "training data: 1 bad rows skipped, 0 over" in answer["out"] or "0 bad rows skipped, 1 over" in answer["out"]
    assert answer["seconds"][0] < 60
    assert answer["memory_mb"] < 2000
