import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Problem
from edge_grpo.data.problems import load_eval, load_problems, load_train_eval, split, told
from edge_grpo.data.readers import BadRowError
from edge_grpo.data.rows import read_problem
from edge_grpo.data.settings import DataSettings, FieldNames

ROWS = [
    {"problem": "1+1?", "answer": "2", "solution": "it is 2", "level": 1},
    {"problem": "x²=4, é 漢 \u2028?", "answer": ["2", " -2\n"]},
    {"problem": "half of 284", "answer": 142.0, "solution": None},
    {"problem": "a half", "answer": 0.5},
    {"problem": "none", "answer": 0},
]


def write_jsonl(path: Path, rows: Sequence[object], newline: str = "\n", start: bytes = b"") -> str:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes(start + newline.join(lines).encode() + newline.encode())
    return str(path)


@pytest.fixture(params=["jsonl", "jsonl, CRLF and BOM", "json", "parquet", "saved dataset"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "jsonl":
        return write_jsonl(tmp_path / "rows.jsonl", ROWS)
    if request.param == "jsonl, CRLF and BOM":
        return write_jsonl(tmp_path / "rows.jsonl", ROWS, "\r\n", b"\xef\xbb\xbf")
    if request.param == "json":
        (tmp_path / "rows.json").write_text(json.dumps(ROWS), encoding="utf-8")
        return str(tmp_path / "rows.json")
    columns = {
        "problem": [row["problem"] for row in ROWS],
        "answer": [["2"], ["2", " -2\n"], ["142"], ["0.5"], ["0"]],
        "solution": [row.get("solution") for row in ROWS],
        "level": [row.get("level") for row in ROWS],
    }
    if request.param == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
        return str(tmp_path / "rows.parquet")
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns)}).save_to_disk(str(tmp_path / "rows"))
    return str(tmp_path / "rows")


def test_every_kind_of_source_reads_the_same(source: str) -> None:
    loaded = load_problems(source)
    assert loaded.num_skipped == 0
    assert [each.prompt for each in loaded.problems] == [row["problem"] for row in ROWS]
    assert [each.answers for each in loaded.problems] == [("2",), ("2", "-2"), ("142",), ("0.5",), ("0",)]
    assert [each.solution for each in loaded.problems] == ["it is 2", "", "", "", ""]
    assert [each.id for each in loaded.problems] == [f"rows:{number}" for number in range(1, 6)]
    assert loaded.problems[0].meta == {"level": 1}


def test_fields_are_mapped(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "q.jsonl", [{"question": "?", "gold": 7, "uid": 12, "why": "so", "problem": "no"}])
    names = FieldNames(prompt="question", answer="gold", solution="why", id="uid")
    assert load_problems(path, names).problems == (Problem("12", "?", ("7",), "so", meta={"problem": "no"}),)


LONG = "7" * 5000
DEEP = "[" * 100_000 + "]" * 100_000
BAD = {
    "not JSON": ("{'problem': 1}", "column 2: not JSON"),
    "not an object": ([1, 2], "holds a list, wanted an object"),
    "no prompt": ({"answer": "1"}, "field 'problem': missing; the row has 'answer'"),
    "no fields": ({}, "field 'problem': missing; the row has no fields"),
    "prompt of the wrong type": ({"problem": 3, "answer": "1"}, "field 'problem': int 3, wanted text"),
    "empty prompt": ({"problem": " \n", "answer": "1"}, "field 'problem': empty text, wanted text"),
    "no answer": ({"problem": "?"}, "field 'answer': missing"),
    "null answer": ({"problem": "?", "answer": None}, r"field 'answer': nothing \(null\)"),
    "empty answer": ({"problem": "?", "answer": "  "}, "field 'answer': empty text"),
    "empty list": ({"problem": "?", "answer": []}, "field 'answer': an empty list"),
    "empty answer in a list": ({"problem": "?", "answer": ["1", ""]}, "field 'answer': empty text"),
    "boolean answer": ({"problem": "?", "answer": True}, "field 'answer': bool True"),
    "infinite answer": ('{"problem": "?", "answer": Infinity}', "field 'answer': float inf"),
    "object as answer": ({"problem": "?", "answer": {"x": 1}}, "field 'answer': an object"),
    "solution of the wrong type": ({"problem": "?", "answer": "1", "solution": 5}, "field 'solution': int 5"),
    "id of the wrong type": ({"problem": "?", "answer": "1", "id": 1.5}, "field 'id': float 1.5"),
    "huge integer": (f'{{"problem": "?", "answer": {LONG}}}', "field 'answer': an integer of 5000 digits"),
    "huge negative integer": (f'{{"problem": "?", "answer": [-{LONG}]}}', "field 'answer': an integer of 5000"),
    "huge integer as prompt": (f'{{"problem": {LONG}, "answer": 1}}', "field 'problem': an integer of 5000 digits"),
    "huge integer as solution": (f'{{"problem": "?", "answer": 1, "solution": {LONG}}}', "field 'solution': an int"),
    "huge integer as id": (f'{{"problem": "?", "answer": 1, "id": {LONG}}}', "field 'id': an integer of 5000"),
    "nested too deeply": (f'{{"problem": "?", "answer": {DEEP}}}', "column 1: .* nested too deeply"),
    "lone surrogate in the prompt": (
        r'{"problem": "? \ud83d", "answer": "1"}',
        r"field 'problem': lone surrogate \\ud83d at position 2",
    ),
    "lone surrogate in the answer": (r'{"problem": "?", "answer": ["1\ude00"]}', "field 'answer': lone surrogate"),
    "lone surrogate in the solution": (
        r'{"problem": "?", "answer": "1", "solution": "\ud83d"}',
        "field 'solution': lone surrogate",
    ),
    "lone surrogate in the id": (r'{"problem": "?", "answer": "1", "id": "\ud83d"}', "field 'id': lone surrogate"),
    "duplicate id": ({"problem": "?", "answer": "1", "id": "a"}, "field 'id': 'a' is also the id of row 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_reported_or_skipped(tmp_path: Path, case: str) -> None:
    row, message = BAD[case]
    path = write_jsonl(tmp_path / "rows.jsonl", [{"problem": "!", "answer": "1", "id": "a"}, "", row])
    with pytest.raises(DataError, match=rf"rows\.jsonl, row 3, {message}.*data\.bad_rows=skip"):
        load_problems(path)
    loaded = load_problems(path, bad_rows="skip")
    assert [each.id for each in loaded.problems] == ["a"]
    assert loaded.num_skipped == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "no problems to read: it has no rows"),
        ("blank.jsonl", b"\n \r\n", "it has no rows"),
        ("list.json", b"[]", "it has no rows"),
        ("empty.json", b"", "line 1: not JSON"),
        ("object.json", b'{"problem": "?"}', "holds an object, wanted a list"),
        ("broken.json", b"[\n{]", "line 2: not JSON"),
        ("deep.json", DEEP.encode(), "deep.json: .* nested too deeply"),
        (
            "long.json",
            f'[{{"problem": "?", "answer": {LONG}}}]'.encode(),
            "long.json, row 1, field 'answer': an integer",
        ),
        ("latin.jsonl", '{"problem": "é"}'.encode("latin-1"), "not UTF-8 text"),
        ("broken.parquet", b"PAR1 no", "not a readable parquet file"),
        ("rows.tsv", b"problem,answer\n", "unknown file type; wanted one of .json, .jsonl, .parquet, .csv"),
    ],
)
def test_an_unusable_file_is_an_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_problems(str(tmp_path / name))


def test_a_column_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")]
    )
    pq.write_table(pa.table({"problem": broken}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet, row 1, byte 1 of a text: not UTF-8"):
        load_problems(str(tmp_path / "rows.parquet"))


def test_files_without_permission_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    with monkeypatch.context() as patch, pytest.raises(DataError, match=r"rows\.jsonl: cannot be read: Permission"):
        patch.setattr("pathlib.Path.open", refuse)
        load_problems(path)
    with monkeypatch.context() as patch, pytest.raises(DataError, match=r"rows\.jsonl: cannot be accessed"):
        patch.setattr("pathlib.Path.is_file", refuse)
        load_problems(path)
    with pytest.raises(DataError, match="cannot be accessed"):
        load_problems("~nobody-of-this-name/rows.jsonl")


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setenv("HOME", str(tmp_path))
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    datasets.Dataset.from_dict({"problem": ["?"], "answer": ["1"]}).save_to_disk(str(tmp_path / "saved"))
    assert len(load_problems("~/rows.jsonl").problems) == len(ROWS)
    assert load_problems("~/saved").problems[0].id == "saved:1"
    asked = []
    monkeypatch.setattr(datasets, "load_from_disk", lambda name: asked.append(name) or [ROWS[0]])
    load_problems("~/saved")
    assert asked == [str(tmp_path / "saved")]


def test_a_system_prompt_must_be_valid_text() -> None:
    with pytest.raises(ValidationError, match="system_prompt: lone surrogate"):
        DataSettings(system_prompt="Think. \ud83d")


def test_if_every_row_is_bad_the_first_is_shown(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"answer": 1}, {"problem": "?"}])
    with pytest.raises(DataError, match=r"all 2 rows are bad; the first: .*row 1, field 'problem'"):
        load_problems(path, bad_rows="skip")


def test_missing_files_and_nonsense_paths_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.jsonl: no such file"):
        load_problems(str(tmp_path / "missing.jsonl"))
    with pytest.raises(DataError, match="no such file or folder"):
        load_problems(str(tmp_path / "no" / "such" / "folder"))


def test_a_missing_split_is_reported(tmp_path: Path) -> None:
    import datasets

    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"problem": ["?"], "answer": ["1"]})}).save_to_disk(
        str(tmp_path / "saved")
    )
    with pytest.raises(DataError, match="no split 'train'; it has 'test'"):
        load_problems(str(tmp_path / "saved"))
    assert len(load_problems(str(tmp_path / "saved"), split="test").problems) == 1


def test_a_hub_dataset_that_cannot_be_loaded_gives_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(name: str, split: str) -> None:
        raise ConnectionError("Couldn't reach the Hub.\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"cannot be loaded as a hub dataset \(split 'train'\): Couldn't") as e:
        load_problems("some/name")
    assert "\n" not in str(e.value)


def test_a_hub_dataset_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    made = datasets.Dataset.from_dict({"problem": ["?"], "answer": [3.0]})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: made)
    assert load_problems("some/name").problems[0] == Problem("name:1", "?", ("3",))


def test_a_split_is_disjoint_and_seeded_and_keeps_equal_prompts_together() -> None:
    made = [Problem(str(number), f"p{number % 15}", ("1",)) for number in range(20)]
    train, test = split(made, 6, 0)
    assert len(train) + len(test) == 20
    assert 4 <= len(test) <= 6
    assert not {each.prompt for each in train} & {each.prompt for each in test}
    assert (train, test) == split(made, 6, 0)
    assert test != split(made, 6, 1)[1]
    with pytest.raises(DataError, match="15 distinct problems"):
        split(made, 15, 0)
    with pytest.raises(DataError, match=r"every problem occurs more than 1 times.*data\.eval_path"):
        split([Problem(str(number), f"p{number // 2}", ("1",)) for number in range(20)], 1, 0)


def test_train_and_eval_load_from_every_combination(tmp_path: Path) -> None:
    rows = [{"problem": f"p{number}", "answer": number} for number in range(10)]
    train_path = write_jsonl(tmp_path / "a.jsonl", rows)
    eval_path = write_jsonl(tmp_path / "b.jsonl", rows[:5])
    train, test = load_train_eval(DataSettings(), num_eval=20, seed=0)
    assert (len(train.problems), len(test.problems)) == (1536, 20)
    train, test = load_train_eval(DataSettings(path=train_path), num_eval=3, seed=0)
    assert (len(train.problems), len(test.problems)) == (7, 3)
    train, test = load_train_eval(DataSettings(path=train_path), num_eval=200, seed=0)
    assert (len(train.problems), len(test.problems)) == (8, 2), "a fifth of what is there"
    train, test = load_train_eval(DataSettings(path=train_path, eval_path=eval_path), num_eval=3, seed=0)
    assert (len(train.problems), len(test.problems)) == (10, 3)
    assert len(load_eval(DataSettings(eval_path=eval_path), num_eval=9, seed=0).problems) == 5


GSM = [
    {"question": "3 and 4 pens?", "answer": "He has 3+4=<<3+4=7>>7 pens.\n#### 7"},
    {"question": "A bus?", "answer": "1200+34=<<1200+34=1234>>1234.\n#### 1,234", "solution": "Add them.\n#### 1,234"},
    {"question": "Alone?", "answer": "#### 5"},
    {"question": "Plain?", "answer": "6"},
]


def test_marked_answers_are_read_and_their_text_is_the_solution(tmp_path: Path) -> None:
    loaded = load_problems(write_jsonl(tmp_path / "gsm.jsonl", GSM), FieldNames(prompt="question"))
    assert [each.answers for each in loaded.problems] == [("7",), ("1,234",), ("5",), ("6",)]
    assert [each.solution for each in loaded.problems] == [
        "He has 3+4=<<3+4=7>>7 pens.\n\\boxed{7}",
        "Add them.\n\\boxed{1,234}",
        "",
        "",
    ]
    assert told(loaded.read) == "3 answers read after the last '####'"
    assert "a row without a solution gets the worked text" in told(loaded.read, solutions=True)
    assert told(load_problems(write_jsonl(tmp_path / "plain.jsonl", GSM[3:]), FieldNames(prompt="question")).read) == ""


def test_a_boxed_solution_in_the_answer_column_is_read(tmp_path: Path) -> None:
    text = r"Adding 3 and 4 gives \boxed{7}, which is the answer."
    loaded = load_problems(write_jsonl(tmp_path / "math.jsonl", [{"problem": "?", "answer": [text, "7.0"]}]))
    assert loaded.problems[0].answers == ("7", "7.0")
    assert loaded.problems[0].solution == text
    assert told(loaded.read) == "1 answers read from the last box"


def test_a_pattern_finds_the_answer_and_rows_without_one_are_bad(tmp_path: Path) -> None:
    rows = [{"problem": "?", "answer": "The answer is: 7"}, {"problem": "?", "answer": "seven"}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"row 2, field .answer.: data\.answer_pattern matches nothing in .seven."):
        load_problems(path, answer_pattern="is: (.+)")
    data = DataSettings(path=path, eval_path=path, answer_pattern="is: (.+)", bad_rows="skip")
    for loaded in load_train_eval(data, num_eval=5, seed=0):
        assert [each.answers for each in loaded.problems] == [("7",)]
        assert told(loaded.read) == "1 answers read with data.answer_pattern"


@pytest.mark.parametrize("pattern", ["(", "(a)(b)", "a" * 2000])
def test_a_bad_pattern_is_a_bad_setting(pattern: str) -> None:
    with pytest.raises(ValidationError, match="answer_pattern"):
        DataSettings(answer_pattern=pattern)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"question": "1?", "answer": "1"}, ". Set data.fields.prompt=question"),
        ({"Question": "1?", "Final_Answer": 1}, ". Set data.fields.prompt=Question data.fields.answer=Final_Answer"),
        (
            {"prompt": [{"role": "user", "content": "1?"}], "reward_model": {"ground_truth": "1"}},
            ". Set data.fields.prompt=prompt data.fields.answer=reward_model.ground_truth",
        ),
        ({"problem": "1", "reward_model": {"ground_truth": "1"}}, ". Set data.fields.answer=reward_model.ground_truth"),
        ({"problem": "1?", "solution": "It is \\boxed{1}."}, ". Set data.fields.answer=solution"),
        ({"problem": "1?", "reward_model": {"style": "rule"}}, "the row has 'problem', 'reward_model'"),
        ({"text": "1?", "answer": "1"}, "the row has 'text', 'answer'"),
    ],
)
def test_a_missing_column_offers_the_settings_for_those_that_usually_hold_it(row: dict[str, Any], wanted: str) -> None:
    with pytest.raises(BadRowError) as raised:
        read_problem(row, FieldNames(), "1")
    told = str(raised.value) + (f". {raised.value.remedy}" if raised.value.remedy else "")
    assert told.endswith(wanted)
