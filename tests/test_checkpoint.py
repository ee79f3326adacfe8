"""Checkpoints: whole or not there, and bit for bit."""

import json

import pytest
import torch
from safetensors import SafetensorError
from support import tiny_policy

from edge_grpo.checkpoint import Progress, latest, load, save
from edge_grpo.errors import CheckpointError
from edge_grpo.update import TrainSettings, make_optimizer

HERE = Progress(step=3, cursor=17, tokens=99, skipped_in_a_row=1, num_threads=1, device="cpu")


def trained_policy(steps=2):
    policy = tiny_policy()
    optimizer = make_optimizer(policy, TrainSettings())
    for step in range(steps):
        loss = sum((weight * (step + 1)).square().sum() for _, weight in policy.trained())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return policy, optimizer


def test_round_trip_is_bit_exact_and_training_goes_on_the_same(tmp_path):
    policy, optimizer = trained_policy()
    path = save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=2)
    other = tiny_policy()
    fresh = make_optimizer(other, TrainSettings())
    assert load(path, dict(other.trained()), fresh) == HERE
    for model, own in ((policy, optimizer), (other, fresh)):
        sum(weight.square().sum() for _, weight in model.trained()).backward()
        own.step()
    for (name, one), (_, two) in zip(policy.trained(), other.trained(), strict=True):
        assert torch.equal(one, two), name


def test_only_the_newest_are_kept(tmp_path):
    policy, optimizer = trained_policy(0)
    for step in (1, 2, 3):
        save(tmp_path, Progress(step, 0, 0, 0, 1, "cpu"), dict(policy.trained()), optimizer, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000002", "step_000003"]
    assert latest(tmp_path).name == "step_000003"
    assert latest(tmp_path / "nowhere") is None


def test_a_draft_is_no_checkpoint(tmp_path):
    (tmp_path / ".draft_000009").mkdir()
    assert latest(tmp_path) is None


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "progress.json"])
@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_damage_is_told(tmp_path, name, damage):
    policy, optimizer = trained_policy()
    path = save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=2)
    if damage is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(damage)
    with pytest.raises(CheckpointError, match="damaged"):
        load(path, dict(policy.trained()), optimizer)


def test_weights_of_another_model_are_refused(tmp_path):
    policy, optimizer = trained_policy()
    path = save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=2)
    other = dict(list(policy.trained())[1:])
    with pytest.raises(CheckpointError, match="do not fit"):
        load(path, other, optimizer)


def test_progress_is_plain_json(tmp_path):
    policy, optimizer = trained_policy()
    path = save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=2)
    assert json.loads((path / "progress.json").read_text())["cursor"] == 17
    assert not list(path.glob("*.pt"))


def test_an_unwritable_folder_is_told(tmp_path):
    policy, optimizer = trained_policy(0)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        save(tmp_path / "file", HERE, dict(policy.trained()), optimizer, keep=2)


def test_saving_the_same_step_again_keeps_the_whole_checkpoint(tmp_path):
    policy, optimizer = trained_policy()
    path = save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=1)
    before = (path / "weights.safetensors").stat().st_ino
    assert save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=1) == path
    assert (path / "weights.safetensors").stat().st_ino == before


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("edge_grpo.checkpoint.save_file", full)
    policy, optimizer = trained_policy(0)
    with pytest.raises(CheckpointError, match="No space left"):
        save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=1)
    assert latest(tmp_path) is None
