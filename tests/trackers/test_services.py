"""The real wandb, trackio and MLflow, offline: what they store of a run, of a resumed one, and without a server."""

import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_grpo.trackers.base import COLUMNS

pytestmark = [pytest.mark.trackers, pytest.mark.filterwarnings("ignore")]  # the libraries' own

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("rollout.prompts_per_step=2", "rollout.group_size=2", "rollout.max_new_tokens=16", "reward.workers=1"),
    *("eval.size=4", "eval.every=0", "run.table_rows=3", "run.table_every=2", "train.checkpoint_every=2"),
]
Points = dict[str, list[tuple[int, float]]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def train(place: Path, *words: str, **environment: str) -> str:
    """Train in a process of its own, as libraries keep state; returns what it printed."""
    own = {
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(place / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db",
        "PYTHONPATH": str(ROOT / "src"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "edge_grpo", "train", *words],
        env={**os.environ, **own, **environment},
        cwd=place,
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def written(folder: Path) -> Points:
    """The metrics of a run by name."""
    points: Points = {}
    for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if name not in ("step", "time/at") and value is not None:
                points.setdefault(name, []).append((row["step"], value))
    return points


# --- reading back -----------------------------------------------------------------------------------------------------


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file: a log in blocks of 32 KiB, as LevelDB has them, behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (room := 32768 - place % 32768) < 7:
            place += room
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or a last part
            yield Record.FromString(whole)
            whole = b""


def wandb_points(files: list[Path]) -> tuple[Points, Points]:
    """The metrics, and what is said of tables."""
    points: Points = {}
    tables: Points = {}
    for file in files:
        for record in wandb_records(file):
            if record.WhichOneof("record_type") != "history":
                continue
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            step = row.pop("step")
            for name, value in row.items():
                if not name.startswith("_") and name != "time/at" and isinstance(value, int | float):
                    (tables if "rollouts" in name else points).setdefault(name, []).append((step, value))
    return points, tables


def wandb_files(folder: Path) -> list[Path]:
    return sorted((folder / "trackers/wandb/wandb").glob("offline-run-*/*.wandb"))


def trackio_points(place: Path) -> tuple[dict[str, Points], list[Any]]:
    """The metrics of each of trackio's runs, and the tables."""
    runs: dict[str, Points] = {}
    tables = []
    (database,) = (place / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    for run, step, text in rows:
        for name, value in json.loads(text).items():
            if name == "rollouts":
                tables.append(value)
            elif name != "time/at":
                runs.setdefault(run, {}).setdefault(name, []).append((step, value))
    return runs, tables


def mlflow_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    return client, list(client.search_runs([client.get_experiment_by_name("edge-grpo").experiment_id]))


def mlflow_points(client: Any, run: Any) -> Points:
    return {
        name: sorted((one.step, one.value) for one in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


# --- tests ------------------------------------------------------------------------------------------------------------


def test_all_three_hold_what_metrics_jsonl_holds_and_a_resumed_run_continues_them(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    train(place, *TINY, "run.dir=run", "train.steps=2", "run.trackers=[wandb,trackio,mlflow]")
    said = train(place, "--resume", "run", "train.steps=4")
    expected = written(place / "run")
    assert {step for step, _ in expected["reward/before"]} == {1, 2, 3, 4}
    assert "replaces" not in said

    points, tables = wandb_points(wandb_files(place / "run"))
    assert points == expected
    assert tables["rollouts/nrows"] == [(1, 3), (3, 3)]
    assert tables["rollouts/ncols"] == [(1, len(COLUMNS)), (3, len(COLUMNS))]
    assert len({file.parent.name.rpartition("run-")[2] for file in wandb_files(place / "run")}) == 1, "one id"

    runs, tables = trackio_points(place)
    ((_, points),) = runs.items()
    assert points == expected
    assert [len(table["_value"]) for table in tables] == [3, 3]
    assert tables[0]["_value"][0]["completion"].startswith("    "), "code, because the viewer renders Markdown"

    client, (run,) = mlflow_runs(place, monkeypatch)
    assert mlflow_points(client, run) == {name.replace("@", "_"): each for name, each in expected.items()}
    assert run.info.status == "FINISHED"
    assert run.data.params["rollout.group_size"] == "2"
    assert run.data.params == {**run.data.params, "train.learning_rate": "0.0001"}
    names = [each.path for each in client.list_artifacts(run.info.run_id, "rollouts")]
    assert names == ["rollouts/step_000001.json", "rollouts/step_000003.json"]


def test_a_run_cut_back_to_a_checkpoint_is_replaced(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    train(place, *TINY, "run.dir=run", "train.steps=3", "run.trackers=[wandb,trackio,mlflow]")
    newest = place / "run/checkpoints/step_000003"
    for path in [*sorted(newest.rglob("*"), reverse=True), newest]:  # as if it had been killed in step 3
        path.rmdir() if path.is_dir() else path.unlink()
    said = train(place, "--resume", "run", "train.steps=4")
    assert said.count("because steps are logged again") == 3
    expected = written(place / "run")

    first, *rest = wandb_files(place / "run")
    assert wandb_points(rest)[0] == expected
    assert first.name != rest[0].name
    runs, _ = trackio_points(place)
    assert list(runs.values()) == [expected]
    client, (run,) = mlflow_runs(place, monkeypatch)
    assert mlflow_points(client, run) == expected


def test_without_a_server_a_run_finishes_and_says_what_was_not_sent(place: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    key = "0123456789" * 4
    said = train(
        place,
        *(*TINY, "run.dir=run", "train.steps=2", "run.trackers=[wandb,mlflow,trackio]"),
        WANDB_MODE="online",
        WANDB_BASE_URL=nowhere,
        WANDB_API_KEY=key,
        MLFLOW_TRACKING_URI=nowhere,
        TRACKIO_SERVER_URL=nowhere,
    )
    assert (place / "run/final/config.json").is_file()
    for name in ("wandb", "mlflow", "trackio"):
        assert f"\n{name}: 3 rows and 1 table not sent: " in said, said
    assert key not in said
    files = [path for path in (place / "run").rglob("*") if path.is_file()]
    assert [path for path in files if key.encode() in path.read_bytes()] == []


def test_settings_are_sent_and_no_code_or_environment(place: Path) -> None:
    train(place, *TINY, "run.dir=run", "train.steps=1", "run.trackers=[wandb]", SECRET_OF_THE_TEST="do not send this")
    (file,) = wandb_files(place / "run")
    assert b"do not send this" not in file.read_bytes()
    (run,) = (record.run for record in wandb_records(file) if record.WhichOneof("record_type") == "run")
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    stored = yaml.safe_load((place / "run/config.yaml").read_text("utf-8"))
    assert settings["rollout"] == stored["rollout"]
    sent = [path.name for path in file.parent.rglob("*") if path.is_file()]
    assert [name for name in sent if name.endswith((".py", ".patch", ".txt", ".diff"))] == []
