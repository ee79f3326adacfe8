"""Weights on their way: complete or absent, the newest alone, and nothing left behind."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import save_tiny

from edge_grpo.base.errors import EngineError
from edge_grpo.config.sections import LoraSettings, ModelSettings
from edge_grpo.models.loading import load_policy
from edge_grpo.rollout.vllm.weights import BASE, Handover

SESSION = "0123456789ab"
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "n": torch.tensor([3])}


@pytest.fixture
def handover(tmp_path: Path) -> Iterator[Handover]:
    handover = Handover(str(tmp_path / "new"), SESSION)
    yield handover
    handover.close()


def folders(handover: Handover) -> list[str]:
    return sorted(each.name for each in handover.root.iterdir() if each.is_dir())


def test_tensors_are_written_as_they_are_or_in_a_dtype(handover: Handover) -> None:
    read = load_file(handover.write("step-1", TENSORS.items()) / "model-00000.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    assert {name: tensor.dtype for name, tensor in read.items()} == {n: t.dtype for n, t in TENSORS.items()}
    half = load_file(handover.write("step-2", TENSORS.items(), dtype=torch.bfloat16) / "model-00000.safetensors")
    assert {name: tensor.dtype for name, tensor in half.items()} == dict.fromkeys("ab", torch.bfloat16) | {
        "n": torch.int64
    }


def test_a_large_model_is_written_file_by_file(tmp_path: Path) -> None:
    handover = Handover(str(tmp_path), SESSION, file_bytes=12)
    folder = handover.write("step-1", TENSORS.items())
    assert [set(load_file(file)) for file in sorted(folder.iterdir())] == [{"a"}, {"b", "n"}]
    handover.close()


def test_only_the_newest_stay_and_the_frozen_ones(handover: Handover) -> None:
    handover.write(BASE, TENSORS.items())
    for version in (1, 2, 2):
        handover.write(f"step-{version}", TENSORS.items())
    assert folders(handover) == [BASE, "step-2"]
    handover.close()
    assert not handover.root.exists()


def test_half_written_weights_never_appear(handover: Handover) -> None:
    handover.write("step-1", TENSORS.items())

    def fails() -> Iterator[tuple[str, torch.Tensor]]:
        yield from TENSORS.items()
        raise OSError(28, "No space left on device")

    with pytest.raises(
        EngineError, match=r"rollout.engine.folder: weights cannot be written to .*No space left.*; name"
    ):
        handover.write("step-2", fails())
    assert "step-2" not in folders(handover)
    assert "step-1" in folders(handover)
    handover.write("step-3", TENSORS.items())
    assert folders(handover) == ["step-3"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match=r"weights cannot be written to .*file/edge-grpo-weights-0123456789ab \("):
        Handover(str(tmp_path / "file"), SESSION)


def test_an_adapter_is_written_in_pefts_format(handover: Handover, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    policy = load_policy(ModelSettings(path=str(model), lora=LoraSettings(rank=4)))
    folder = handover.write_adapter("step-1", policy)
    names = {each.name for each in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert all(".lora_" in name for name in load_file(folder / "adapter_model.safetensors"))


def test_what_killed_sessions_left_in_the_temporary_folder_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    living = Handover("", SESSION)
    killed = tmp_path / "edge-grpo-weights-ba9876543210"
    killed.mkdir()
    (killed / ".alive").touch()
    other = tmp_path / "edge-grpo-weights-of-mine"
    other.mkdir()
    third = Handover("", "aaaaaaaaaaaa")
    assert sorted(tmp_path.iterdir()) == sorted([living.root, third.root, other])
    assert (living.root.stat().st_mode & 0o777) == 0o700, "weights are nobody else's business"
    for each in (living, third):
        each.close()
    os.rmdir(other)
    assert list(tmp_path.iterdir()) == []
