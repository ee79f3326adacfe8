"""Pass rates, bands and the collapse they predict."""

import json
import math
import random
from pathlib import Path

import datasets
import pytest
from evaluation.test_scores import sampled

from edge_grpo.base.errors import ConfigError
from edge_grpo.data.pictures import gradient
from edge_grpo.data.problems import load_problems
from edge_grpo.data.settings import DataSettings, FieldNames
from edge_grpo.evaluation.pass_rates import Rate, expected_collapse, in_band, load_rows, parse_band, rates, write_rows


def test_rates_leave_out_what_could_not_be_graded() -> None:
    found = rates([*sampled("p", "cwcw"), *sampled("q", "ewww"), *sampled("r", "eeee")])
    assert [(rate.problem, rate.right, rate.answers) for rate in found] == [("p", 2, 4), ("q", 0, 3)]
    assert found[0].value == 0.5


def rate(problem: str, right: int, answers: int) -> Rate:
    """Right answers earn 2, wrong ones 1."""
    counts = {(2.0, True): right, (1.0, False): answers - right}
    return Rate(problem, {key: count for key, count in counts.items() if count})


def test_both_ends_of_a_band_are_in_it() -> None:
    measured = [rate(str(c), c, 8) for c in range(9)]
    assert [one.right for one in in_band(measured, parse_band("0:0.125"))] == [0, 1]
    assert [one.right for one in in_band(measured, parse_band("0.25:0.75"))] == [2, 3, 4, 5, 6]
    assert in_band([rate("a", 3, 10)], parse_band("0.3:0.3"))


@pytest.mark.parametrize("text", ["", "0.5", "0.5:", "1:0", "-1:1", "0:2", "a:b", "nan:1", "0:1:2"])
def test_a_wrong_band_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="--keep-rate: got"):
        parse_band(text)


def test_the_expected_collapse_is_without_bias() -> None:
    rng = random.Random(0)
    true = [rng.random() ** 3 for _ in range(4000)]
    measured = [rate(str(i), sum(rng.random() < p for _ in range(16)), 16) for i, p in enumerate(true)]
    for size in (2, 4, 8, 16):
        found = expected_collapse(measured, size)
        assert found.all_wrong == pytest.approx(sum((1 - p) ** size for p in true) / 4000, abs=0.02)
        assert found.all_right == pytest.approx(sum(p**size for p in true) / 4000, abs=0.02)
        assert found.total == pytest.approx(found.all_wrong + found.all_right)


def test_problems_with_too_few_answers_say_nothing_about_large_groups() -> None:
    measured = [rate("a", 0, 8), rate("b", 1, 3)]
    assert expected_collapse(measured, 4).all_wrong == 1.0
    assert expected_collapse(measured, 2).all_wrong == pytest.approx((1 + 1 / 3) / 2)
    assert math.isnan(expected_collapse([], 2).total)


def test_a_group_collapses_where_rewards_are_equal_not_where_all_are_wrong() -> None:
    unparsed_or_wrong = Rate("a", {(0.0, False): 4, (1.0, False): 4})
    found = expected_collapse([unparsed_or_wrong], 8)
    assert (found.total, found.all_wrong, found.all_right) == (0.0, 0.0, 0.0)
    found = expected_collapse([unparsed_or_wrong], 2)
    assert found.total == found.all_wrong == pytest.approx(12 / 28)
    one_reward_for_all = Rate("a", {(1.0, False): 2, (1.0, True): 2})
    found = expected_collapse([one_reward_for_all], 2)
    assert (found.total, found.all_wrong, found.all_right) == (1.0, 1 / 6, 1 / 6)


def test_kept_rows_are_as_they_were(tmp_path: Path) -> None:
    given = [
        {"problem": "1+1?", "answer": 2.0, "answers": ["2", 2], "nested": {"a": [1]}, "solution": "é\u2028"},
        {"problem": "2+2?", "answer": ["4", "four"], "correctness_rate": 0.9},
    ]
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in given))
    benchmark, rows = load_rows(str(data), DataSettings())
    assert [problem.answers for problem in benchmark.problems] == [("2",), ("4", "four")]
    out = tmp_path / "out.jsonl"
    write_rows(out, [rate("d:2", 1, 8), rate("d:1", 0, 8)], rows)
    written = [json.loads(line) for line in out.read_text("utf-8").split("\n") if line]
    assert written == [{**given[1], "correctness_rate": 0.125}, {**given[0], "correctness_rate": 0.0}]
    assert math.isclose(written[0]["correctness_rate"], 1 / 8)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_rows(tmp_path / "gone/out.jsonl", [], rows)


def test_kept_rows_with_images_can_be_read_from_another_folder(tmp_path: Path) -> None:
    picture = gradient(20, 30)
    (tmp_path / "a.png").write_bytes(picture.content)
    data = tmp_path / "d.parquet"
    images = [{"path": "a.png"}], [{"bytes": picture.content}]
    given = [{"problem": "<image>?", "answer": "1", "images": each} for each in images]
    datasets.Dataset.from_list(given).to_parquet(data)
    _, rows = load_rows(str(data), DataSettings())
    (tmp_path / "other").mkdir()
    write_rows(tmp_path / "other/out.jsonl", [rate("d:1", 1, 8), rate("d:2", 1, 8)], rows)
    found = load_problems(str(tmp_path / "other/out.jsonl")).problems
    assert [problem.images[0].digest for problem in found] == [picture.digest] * 2


@pytest.mark.parametrize("column", ["images", "extra.pictures"])
def test_images_of_messages_and_nested_columns_can_be_read_from_another_folder(tmp_path: Path, column: str) -> None:
    picture = gradient(20, 30)
    (tmp_path / "a.png").write_bytes(picture.content)
    parts = [{"type": "image", "path": "a.png"}, {"type": "text", "text": "?"}]
    nested = {"problem": "<image>?", "answer": "1", "extra": {"pictures": "a.png"}}
    row = {"problem": [{"role": "user", "content": parts}], "answer": "1"} if column == "images" else nested
    (tmp_path / "d.jsonl").write_text(json.dumps(row))
    settings = DataSettings(fields=FieldNames(images=column))
    _, rows = load_rows(str(tmp_path / "d.jsonl"), settings)
    (tmp_path / "other").mkdir()
    write_rows(tmp_path / "other/out.jsonl", [rate("d:1", 1, 8)], rows)
    (found,) = load_problems(str(tmp_path / "other/out.jsonl"), settings.fields).problems
    assert [each.digest for each in found.images] == [picture.digest]


def test_of_two_rows_with_one_id_the_measured_one_is_written(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    rows = [{"id": "a", "problem": "1+1?", "answer": 2}, {"id": "a", "problem": "9*9?", "answer": 81}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark, kept = load_rows(str(data), DataSettings(bad_rows="skip"))
    assert benchmark.num_skipped == 1
    assert kept["a"] == rows[0]


def test_a_row_with_a_lone_surrogate_is_written_as_it_was_read(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    data.write_text(json.dumps({"problem": "é?", "answer": 2, "note": "\ud800"}) + "\n")
    out = tmp_path / "out.jsonl"
    write_rows(out, [rate("d:1", 1, 8)], load_rows(str(data), DataSettings())[1])
    assert json.loads(out.read_text("utf-8"))["note"] == "\ud800"
