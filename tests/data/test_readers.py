import json
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Problem
from edge_grpo.data.readers import BadRowError, described, is_text, load_records, optional, required, row_id

SETTINGS: dict[str, Any] = {
    "split": "train",
    "split_setting": "data.some_split",
    "fields_setting": "data.some_fields",
    "id_field": "id",
    "noun": "things",
}


def problem(row: Mapping[str, object], name: str) -> Problem:
    text = required(row, "q")
    if not is_text(text, "q"):
        raise BadRowError(f"field 'q': {described(text)}, wanted text")
    return Problem(row_id(row, "id", name), text, ("1",))


def write(tmp_path: Path, rows: Sequence[object]) -> str:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(tmp_path / "rows.jsonl")


def test_records_keep_their_order_and_get_default_ids(tmp_path: Path) -> None:
    path = write(tmp_path, [{"q": "a"}, {"q": "b", "id": 7}])
    records, skipped = load_records(path, problem, bad_rows="error", **SETTINGS)
    assert [(one.id, one.prompt) for one in records] == [("rows:1", "a"), ("7", "b")]
    assert skipped == 0


def test_messages_name_the_callers_settings(tmp_path: Path) -> None:
    path = write(tmp_path, [{"q": 3}, {"p": "x"}])
    with pytest.raises(DataError, match=r"row 1, field 'q': int 3, wanted text\. .* \(data\.some_fields\.\*\)"):
        load_records(path, problem, bad_rows="error", **SETTINGS)
    with pytest.raises(DataError, match=r"no things to read: all 2 rows are bad; the first: .*row 1"):
        load_records(path, problem, bad_rows="skip", **SETTINGS)


def test_a_missing_split_names_its_setting(tmp_path: Path) -> None:
    import datasets

    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"q": ["?"]})}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"no split 'train'; it has 'test'\. Set data\.some_split"):
        load_records(str(tmp_path / "saved"), problem, bad_rows="error", **SETTINGS)


def test_values_are_described_in_words() -> None:
    values = [None, "", "x", [1], {"a": 1}, 2.5, True]
    assert [described(value) for value in values] == [
        "nothing (null)",
        "empty text",
        "text",
        "a list",
        "an object",
        "float 2.5",
        "bool True",
    ]


def load(path: Path, **more: Any) -> tuple[list[str], int]:
    records, skipped = load_records(str(path), problem, **{"bad_rows": "skip", **SETTINGS, **more})
    return [one.prompt for one in records], skipped


def test_a_line_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"q": "first"}\n{"q": "xyz\xe9"}\n\n{"q": "xyz\xc3\xa9"}\r\n{"q": "last"}')
    assert load(file) == (["first", "xyzé", "last"], 1)
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2, byte 11 of the line: not UTF-8 text\. Fix the row"):
        load(file, bad_rows="error")


def test_a_file_in_another_encoding_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"q": "first"}\n', encoding="utf-16")
    with pytest.raises(DataError, match=r"all 2 rows are bad; the first: .*row 1, byte 1 of the line: not UTF-8"):
        load(file)


def test_empty_rows_are_bad_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{}\n{"q": "kept"}\n""\nnull\n   \n[]\n')
    assert load(file) == (["kept"], 4)
    file.write_text("")
    with pytest.raises(DataError, match="it has no rows"):
        load(file)


def test_a_text_that_is_not_utf8_in_parquet_is_one_bad_row(tmp_path: Path) -> None:
    texts = [b"first", b"xyz\xe9", b"last"]
    offsets = pa.array([0, 5, 9, 13], pa.int32()).buffers()[1]
    column = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"".join(texts))])
    pq.write_table(pa.table({"q": column}), tmp_path / "rows.parquet")
    assert load(tmp_path / "rows.parquet") == (["first", "last"], 1)
    with pytest.raises(DataError, match=r"row 2, byte 4 of a text: not UTF-8"):
        load(tmp_path / "rows.parquet", bad_rows="error")


def test_a_row_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"q": "x" * 10**7}) + '\n{"q": "next"}\n')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prompts, skipped = load(file, bad_rows="error")
    assert ([len(prompt) for prompt in prompts], skipped) == ([10**7, 4], 0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


def test_dotted_names_reach_into_objects_and_a_column_of_that_name_wins() -> None:
    row = {"a": {"b": {"c": 1}, "b.c": 2}, "x.y": 3, "x": {"y": 4}, "text": '{"inner": 5}', "none": None}
    wanted = {"a.b.c": 2, "x.y": 3, "text.inner": 5, "none": None}
    assert {name: required(row, name) for name in wanted} == wanted
    assert [optional(row, name) for name in ("a.q", "q", "none.x", "x.y.z")] == [None] * 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("q.b", "field 'q.b': missing; the row has 'a', 'n', 't'"),
        ("a.q", "field 'a.q': missing; 'a' has 'b'"),
        ("a.b.q", "field 'a.b.q': 'b' holds int 1, wanted an object"),
        ("n.b", r"field 'n.b': 'n' holds nothing \(null\), wanted an object"),
        ("t.b", "field 't.b': 't' holds text, wanted an object"),
    ],
)
def test_a_missing_inner_key_names_what_exists(name: str, message: str) -> None:
    with pytest.raises(BadRowError, match=f"^{message}$"):
        required({"a": {"b": 1}, "n": None, "t": "{not JSON"}, name)
