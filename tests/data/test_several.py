"""Several files as one data set: weights, ids, held-out problems, and mistakes in the list."""

import json
from pathlib import Path

import pytest

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.config.tree import load_config, located, parse_tree, to_tree
from edge_grpo.data.pairs import load_pairs
from edge_grpo.data.problems import load_problems, load_train_eval
from edge_grpo.data.settings import DataSettings, FieldNames


def write(path: Path, *rows: object) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(name="files")
def _files(tmp_path: Path) -> tuple[str, str]:
    rows = [[{"problem": f"{name}{number}?", "answer": number} for number in range(3)] for name in "ab"]
    return write(tmp_path / "a" / "train.jsonl", *rows[0]), write(tmp_path / "b" / "train.jsonl", *rows[1])


def test_a_list_is_read_in_order_and_equal_ids_get_the_number_of_their_file(files: tuple[str, str]) -> None:
    found = load_problems(files).problems
    assert [one.prompt for one in found] == ["a0?", "a1?", "a2?", "b0?", "b1?", "b2?"]
    assert [one.id for one in found][2:4] == ["train:3", "train:1#2"]
    assert {one.weight for one in found} == {1.0}


def test_weights_belong_to_the_problems(files: tuple[str, str]) -> None:
    found = load_problems({files[0]: 2.0, files[1]: 0.5}).problems
    assert [one.weight for one in found] == [2.0] * 3 + [0.5] * 3


def test_equal_ids_within_a_file_are_still_an_error(tmp_path: Path, files: tuple[str, str]) -> None:
    twice = write(tmp_path / "twice.jsonl", *[{"problem": "?", "answer": 1, "id": 5}] * 2)
    with pytest.raises(DataError, match=r"twice\.jsonl, row 2, field 'id': '5' is also the id of row 1"):
        load_problems((files[0], twice))
    both = write(tmp_path / "both.jsonl", *[{"problem": "x", "answer": 1, "id": name} for name in ("5", "5#2")])
    five = write(tmp_path / "five.jsonl", {"problem": "x", "answer": 1, "id": "5"})
    with pytest.raises(DataError, match="several sources have ids '5' and '5#2'"):
        load_problems((both, five))


def test_a_source_without_usable_rows_is_named(tmp_path: Path, files: tuple[str, str]) -> None:
    bad = write(tmp_path / "bad.jsonl", {"question": "?"})
    with pytest.raises(DataError, match=r"bad\.jsonl: no problems to read"):
        load_problems((files[0], bad), bad_rows="skip")


def test_problems_are_held_out_from_all_files(files: tuple[str, str]) -> None:
    train, held_out = load_train_eval(DataSettings(path={files[0]: 3, files[1]: 1}), num_eval=4, seed=1)
    assert (len(train.problems), len(held_out.problems)) == (2, 4)
    assert {one.prompt[0] for one in held_out.problems} == {"a", "b"}
    given = DataSettings(path=files[0], eval_path=(files[1],))
    assert [one.prompt for one in load_train_eval(given, num_eval=9, seed=0)[1].problems] == ["b0?", "b1?", "b2?"]


def test_pairs_come_from_several_files(tmp_path: Path) -> None:
    row = {"prompt": "?", "chosen": "a", "rejected": "b"}
    paths = tuple(write(tmp_path / name, row) for name in ("x.jsonl", "y.jsonl"))
    assert [one.id for one in load_pairs(paths).pairs] == ["x:1", "y:1"]


def test_the_settings_take_text_a_list_or_weights(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(files[0]).parent)
    assert load_config(None, ["data.path=[a.jsonl, b.jsonl]"]).data.path == ("a.jsonl", "b.jsonl")
    config = load_config(None, ["data.path={train.jsonl: 2, acme/gsm: 0.5}", "data.eval_path=[train.jsonl, x.jsonl]"])
    assert config.data.path == {"train.jsonl": 2.0, "acme/gsm": 0.5}
    tree = located(to_tree(config))
    assert tree["data"]["path"] == {files[0]: 2.0, "acme/gsm": 0.5}
    assert tree["data"]["eval_path"] == [files[0], "x.jsonl"]
    assert parse_tree(tree).data.path == {files[0]: 2.0, "acme/gsm": 0.5}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.path=5", r"data\.path: got 5, wanted text"),
        ("data.path=[]", r"data\.path: got \(\), wanted at least one path"),
        ("data.path=['', a.jsonl]", "wanted at least one path, none of them empty"),
        ("data.path=[a.jsonl, 3]", r"data\.path\.1: got 3, wanted text"),
        ("data.path=[a.jsonl, a.jsonl]", r"'a\.jsonl' is listed twice; .* write {a\.jsonl: 2, \.\.\.}"),
        ("data.path={a.jsonl: 0}", r"data\.path\.a\.jsonl: got 0, wanted more than 0"),
        ("data.path={a.jsonl: much}", r"data\.path\.a\.jsonl: got 'much', wanted a number"),
        ("data.eval_path={a.jsonl: 2}", "eval_path: got weights, which are for data.path alone; give a list"),
    ],
)
def test_a_mistake_in_the_list_is_one_line(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(None, [setting])
    assert "\n" not in str(raised.value)


def test_a_column_that_no_row_has_is_reported_if_the_user_named_it(files: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"^data\.fields\.solution: no row of .*train\.jsonl has a field 'worked'"):
        load_problems(files, FieldNames(solution="worked"))
    assert load_problems(files, FieldNames(solution="solution")).problems[0].solution == ""
