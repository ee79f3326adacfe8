import json

import pytest

from edge_grpo.data.rows import BadRowError, described, is_text, load_records, required, row_id
from edge_grpo.errors import DataError
from edge_grpo.records import Problem

SETTINGS = {
    "split": "train",
    "split_setting": "data.some_split",
    "fields_setting": "data.some_fields",
    "id_field": "id",
    "noun": "things",
}


def problem(row, name):
    text = required(row, "q")
    if not is_text(text, "q"):
        raise BadRowError(f"field 'q': {described(text)}, wanted text")
    return Problem(row_id(row, "id", name), text, ("1",))


def write(tmp_path, rows):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(tmp_path / "rows.jsonl")


def test_records_in_order_with_names_of_their_own_or_by_place(tmp_path):
    path = write(tmp_path, [{"q": "a"}, {"q": "b", "id": 7}])
    records, skipped = load_records(path, problem, bad_rows="error", **SETTINGS)
    assert [(one.id, one.prompt) for one in records] == [("rows:1", "a"), ("7", "b")]
    assert skipped == 0


def test_messages_name_the_settings_of_who_asks(tmp_path):
    path = write(tmp_path, [{"q": 3}, {"p": "x"}])
    with pytest.raises(DataError, match=r"row 1, field 'q': int 3, wanted text\. .* \(data\.some_fields\.\*\)"):
        load_records(path, problem, bad_rows="error", **SETTINGS)
    with pytest.raises(DataError, match=r"no things to read: all 2 rows are bad; the first: .*row 1"):
        load_records(path, problem, bad_rows="skip", **SETTINGS)


def test_a_missing_split_names_its_setting(tmp_path):
    import datasets

    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"q": ["?"]})}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"no split 'train'; it has 'test'\. Set data\.some_split"):
        load_records(str(tmp_path / "saved"), problem, bad_rows="error", **SETTINGS)


def test_values_are_described_in_words():
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
