"""The run folder: written line by line, cut back to a step."""

import json

import pytest

from edge_grpo.errors import CheckpointError, ConfigError
from edge_grpo.rundir import RunFolder

TREE = {"method": {"kind": "grpo"}, "run": {"tensorboard": True}}


def make(path):
    return RunFolder.create(str(path), TREE, "method: {kind: grpo}\n", "abc")


def test_rows_are_json_even_where_numbers_are_not(tmp_path):
    folder = make(tmp_path / "run")
    folder.write_metrics({"step": 1, "x": float("nan"), "y": float("inf"), "z": 2.5})
    folder.close()
    assert list(folder.rows()) == [{"step": 1, "x": None, "y": None, "z": 2.5}]


def test_cutting_back_keeps_what_came_before(tmp_path):
    folder = make(tmp_path / "run")
    for step in range(4):
        folder.write_metrics({"step": step, "loss": 1.0})
        if step:
            folder.write_rollouts(step, [{"step": step, "spans": []}])
    folder.close()
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    folder.cut_back(2)
    folder.close()
    assert [row["step"] for row in folder.rows()] == [0, 1, 2]
    names = sorted(path.name for path in (folder.path / "rollouts").iterdir())
    assert names == ["step_000001.parquet", "step_000002.parquet"]
    assert len(list((folder.path / "events").iterdir())) == 1
    folder.cut_back(None)
    assert list(folder.rows()) == []


def test_the_configuration_is_read_back_with_its_hash(tmp_path):
    folder = make(tmp_path / "run")
    assert RunFolder.read_config(folder.path) == ({"method": {"kind": "grpo"}}, "abc")
    for text in ("[", "3\n"):
        (folder.path / "config.yaml").write_text(text)
        with pytest.raises(CheckpointError, match="--resume: "):
            RunFolder.read_config(folder.path)


def test_a_used_or_impossible_folder_is_refused(tmp_path):
    make(tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a run already"):
        make(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        make(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be written"):
        make(tmp_path / "file" / "below")


def test_without_a_name_the_next_free_folder_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(make("").path) for _ in range(2)] == ["runs/grpo-1", "runs/grpo-2"]


def test_metrics_without_tensorboard(tmp_path):
    folder = RunFolder.create(str(tmp_path / "r"), {**TREE, "run": {"tensorboard": False}}, "", "")
    folder.write_metrics({"step": 1})
    assert not (folder.path / "events").exists()
    assert json.loads((folder.path / "metrics.jsonl").read_text()) == {"step": 1}


@pytest.mark.parametrize("name", ["checkpoints", "final", "events", "rollouts"])
def test_files_that_a_new_run_would_overwrite_are_left_alone(tmp_path, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"has {name} but no run"):
        make(tmp_path / "run")


def test_a_run_that_never_began_leaves_no_trace(tmp_path):
    folder = make(tmp_path / "run")
    folder.cut_back(None)
    folder.discard_unstarted()
    assert not folder.path.exists()
    begun = make(tmp_path / "run")
    begun.write_metrics({"step": 0})
    begun.close()
    begun.discard_unstarted()
    assert (begun.path / "config.yaml").exists()


def test_one_process_at_a_time(tmp_path):
    folder = make(tmp_path / "run")
    with folder.locked(), pytest.raises(CheckpointError, match="another process"), folder.locked():
        pytest.fail("two at once")
    with folder.locked():
        pass
