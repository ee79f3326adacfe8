"""Checkpoints: complete or absent, and bit for bit."""

import json
import resource
import subprocess
from pathlib import Path

import pytest
import torch
from support import tiny_policy
from torch.optim import AdamW

from edge_grpo.base.errors import CheckpointError
from edge_grpo.config.sections import TrainSettings
from edge_grpo.models.policy import Policy
from edge_grpo.training.checkpoint import SUMS, RunState, latest, load, prune, read_state, save, steps, verify
from edge_grpo.training.update import make_optimizer

HERE = RunState(step=3, cursor=17, tokens=99, skipped_in_a_row=1, num_threads=1, device="cpu")


def trained_policy(steps: int = 2) -> tuple[Policy, AdamW]:
    policy = tiny_policy()
    optimizer = make_optimizer(policy, TrainSettings())
    for step in range(steps):
        loss = sum((weight * (step + 1)).square().sum() for _, weight in policy.trained())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return policy, optimizer


def test_round_trip_is_bit_exact_and_training_continues_identically(tmp_path: Path) -> None:
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


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    policy, optimizer = trained_policy(0)
    for step in (1, 2, 3):
        save(tmp_path, RunState(step, 0, 0, 0, 1, "cpu"), dict(policy.trained()), optimizer, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000002", "step_000003"]
    assert latest(tmp_path).name == "step_000003"
    assert latest(tmp_path / "nowhere") is None


def test_the_best_is_kept_besides_the_newest(tmp_path: Path) -> None:
    policy, optimizer = trained_policy(0)
    for step, best in ((1, 1), (2, 1), (3, 1), (4, 9)):
        save(tmp_path, RunState(step, 0, 0, 0, 1, "cpu"), dict(policy.trained()), optimizer, keep=1, best=best)
        assert steps(tmp_path) == ([*{best, step}] if step < 4 else [4])
    prune(tmp_path, keep=1)
    assert steps(tmp_path) == [4]


def test_a_draft_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".draft_000009").mkdir()
    assert latest(tmp_path) is None


FILES = ["weights.safetensors", "optimizer.safetensors", "progress.json", SUMS]


def damaged(path: Path, damage: str) -> None:
    held = path.read_bytes()
    half = len(held) // 2
    path.unlink()
    if damage == "flipped":
        path.write_bytes(held[:half] + bytes([held[half] ^ 32]) + held[half + 1 :])
    elif damage == "truncated":
        path.write_bytes(held[:-1])
    elif damage == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "missing"])
def test_damage_is_reported_with_the_last_intact_checkpoint(tmp_path: Path, name: str, damage: str) -> None:
    policy, optimizer = trained_policy()
    paths = [
        save(tmp_path / "run", RunState(step, 0, 0, 0, 1, "cpu"), dict(policy.trained()), optimizer, keep=4)
        for step in (1, 2, 3, 4)
    ]
    damaged(paths[3] / name, damage)
    for read in (verify, read_state, lambda path: load(path, dict(policy.trained()), optimizer)):
        with pytest.raises(CheckpointError, match=rf"step_000004: damaged .*{name}.* to resume from step_000003$"):
            read(latest(tmp_path / "run"))
    damaged(paths[2] / name, damage)
    with pytest.raises(CheckpointError, match=r"; delete .*step_000004 and .*step_000003 to resume from step_000002$"):
        verify(paths[3])
    damaged(paths[1] / name, damage)
    damaged(paths[0] / name, damage)
    with pytest.raises(CheckpointError, match=r"no other checkpoint is intact; delete .*run to restart the run$"):
        verify(paths[3])


def test_the_tool_sha256sum_agrees(tmp_path: Path) -> None:
    policy, optimizer = trained_policy()
    path = save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=2)
    command = ["sha256sum", "--check", "--strict", SUMS]
    done = subprocess.run(command, cwd=path, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()[::2]) == sorted(f"{name}:" for name in FILES[:3])
    damaged(path / "weights.safetensors", "flipped")
    assert subprocess.run(command, cwd=path, capture_output=True, check=False).returncode != 0


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    policy, optimizer = trained_policy(0)
    for step in (1, 2):
        save(tmp_path, RunState(step, 0, 0, 0, 1, "cpu"), dict(policy.trained()), optimizer, keep=9)
    for name in (".draft_000003", ".old_step_000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(b"half")
    (tmp_path / "step_best").mkdir()  # somebody's own
    prune(tmp_path, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000002", "step_best"]


def test_the_millionth_step_is_the_newest(tmp_path: Path) -> None:
    policy, optimizer = trained_policy(0)
    for step in (999_999, 1_000_000):
        save(tmp_path, RunState(step, 0, 0, 0, 1, "cpu"), dict(policy.trained()), optimizer, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_1000000"]


def test_something_else_in_place_of_a_folder_is_one_line(tmp_path: Path) -> None:
    policy, optimizer = trained_policy(0)
    (tmp_path / "step_000003").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"step_000003: could not be written"):
        save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=2)
    assert (tmp_path / "step_000003").read_text() == "in the way"
    with pytest.raises(CheckpointError, match=r"step_000003: damaged"):
        verify(latest(tmp_path))
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointError, match="checkpoints is not a folder"):
        latest(tmp_path / "checkpoints")


def test_an_old_checkpoint_that_cannot_be_removed_is_reported_and_the_new_one_is_complete(tmp_path: Path) -> None:
    policy, optimizer = trained_policy(0)
    save(tmp_path, RunState(1, 0, 0, 0, 1, "cpu"), dict(policy.trained()), optimizer, keep=1)
    (tmp_path / ".old_step_000001").write_text("in the way")
    with pytest.raises(CheckpointError, match="Not a directory"):
        save(tmp_path, RunState(2, 0, 0, 0, 1, "cpu"), dict(policy.trained()), optimizer, keep=1)
    assert read_state(latest(tmp_path)).step == 2


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    policy, optimizer = trained_policy()
    path = save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=2)
    other = dict(list(policy.trained())[1:])
    with pytest.raises(CheckpointError, match="do not fit"):
        load(path, other, optimizer)


def test_progress_is_plain_json(tmp_path: Path) -> None:
    policy, optimizer = trained_policy()
    path = save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=2)
    assert json.loads((path / "progress.json").read_text())["cursor"] == 17
    assert not list(path.glob("*.pt"))


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    policy, optimizer = trained_policy(0)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        save(tmp_path / "file", HERE, dict(policy.trained()), optimizer, keep=2)


def test_saving_the_same_step_again_keeps_the_whole_checkpoint(tmp_path: Path) -> None:
    policy, optimizer = trained_policy()
    path = save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=1)
    before = (path / "weights.safetensors").stat().st_ino
    assert save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=1) == path
    assert (path / "weights.safetensors").stat().st_ino == before


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    policy, optimizer = trained_policy(0)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, unlimited[1]))
    try:
        with pytest.raises(CheckpointError, match="File too large"):
            save(tmp_path, HERE, dict(policy.trained()), optimizer, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert latest(tmp_path) is None
