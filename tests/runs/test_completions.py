"""Rollout files: one schema whatever a step holds, and a reader for the whole run."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from edge_grpo.base.errors import DataError
from edge_grpo.runs import rollouts
from edge_grpo.runs.completions import data_columns, data_values, schema_of, table_of
from edge_grpo.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with closing(RunFolder.create(str(tmp_path / "run"), {"method": {"kind": "grpo"}}, "x: 1\n", "abc")) as made:
        yield made


DATA: list[dict[str, Any]] = [
    {"level": 3, "share": 0.5, "hard": True, "source": "amc", "tags": ["a", {"b": 1}], "mixed": 1, "none": None},
    {"level": 2**40, "share": 2, "hard": False, "tags": {}, "mixed": "x", "big": 2**70},
]


def test_each_column_of_the_data_has_one_kind_in_every_file() -> None:
    columns = data_columns(DATA)
    assert columns == {
        "level": "whole", "share": "number", "hard": "flag", "source": "text", "tags": "json", "mixed": "json",
        "none": "text", "big": "json",
    }  # fmt: skip
    first, second = table_of([data_values(row, columns) for row in DATA], columns).to_pylist()
    assert (first["data/level"], second["data/share"], second["data/hard"]) == (3, 2.0, False)
    assert (first["data/source"], second["data/source"], first["data/none"]) == ("amc", None, None)
    assert json.loads(first["data/tags"]) == ["a", {"b": 1}]
    assert [json.loads(row["data/mixed"]) for row in (first, second)] == [1, "x"]
    assert json.loads(second["data/big"]) == 2**70
    assert table_of([], columns).schema == table_of([data_values(DATA[0], columns)], columns).schema


def test_names_of_the_data_cannot_clash_with_our_own() -> None:
    own = [name for name in schema_of().names if "/" in name]
    assert own == []
    columns = data_columns([dict.fromkeys(schema_of().names, 1)])
    assert len(set(schema_of(columns).names)) == 2 * len(schema_of().names)


def test_odd_values_are_kept_as_far_as_a_file_can_hold_them() -> None:
    row = {"half": "a\ud800b", "keys": {(1, 2): 3}, "day": [complex(1, 2)]}
    columns = data_columns([row])
    (found,) = table_of([data_values(row, columns)], columns).to_pylist()
    assert found["data/half"] == "a\\ud800b"
    assert json.loads(found["data/keys"]).startswith("not JSON: ")
    assert json.loads(found["data/day"]) == ["(1+2j)"]


def test_a_run_is_read_while_it_goes_on(folder: RunFolder) -> None:
    assert rollouts(folder.path).num_rows == 0
    assert rollouts(folder.path).schema == schema_of()
    folder.write_rollouts(1, [{"step": 1, "completion": "a"}, {"step": 1, "completion": "b"}])
    folder.write_rollouts(2, [])
    folder.write_rollouts(12, [{"step": 12, "reward": 0.5, "data/level": 3}], {"level": "whole"})
    (folder.path / "rollouts/.step_000013.parquet").write_bytes(b"half a fi")
    table = rollouts(folder.path)
    assert table["step"].to_pylist() == [1, 1, 12]
    assert table["completion"].to_pylist() == ["a", "b", None]
    assert table["data/level"].to_pylist() == [None, None, 3]
    assert rollouts(str(folder.path), steps=range(2, 20))["step"].to_pylist() == [12]
    assert rollouts(folder.path, steps=[5]).num_rows == 0


def test_files_of_an_older_version_are_read_too(folder: RunFolder) -> None:
    folder.write_rollouts(1, [{"step": 1, "completion": "old", "trained": True}])
    file = folder.path / "rollouts/step_000001.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["dropped", "note"]), file)
    folder.write_rollouts(2, [{"step": 2, "dropped": "method"}])
    assert rollouts(folder.path)["dropped"].to_pylist() == [None, "method"]


def test_what_cannot_be_read_is_named(tmp_path: Path, folder: RunFolder) -> None:
    with pytest.raises(DataError, match=r"nowhere: no run \(no config\.yaml\); name a run folder"):
        rollouts(tmp_path / "nowhere")
    folder.write_rollouts(1, [])
    (folder.path / "rollouts/step_000001.parquet").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"step_000001\.parquet: cannot be read as parquet"):
        rollouts(folder.path)


def test_bytes_in_a_column_of_the_data_are_counted_not_printed() -> None:
    row = {"thumb": {"bytes": b"x" * 5000}}
    assert json.loads(str(data_values(row, data_columns([row]))["data/thumb"])) == {"bytes": "5,000 bytes"}
