"""Pass rates, bands and the collapse they foretell."""

import json
import math
import random

import pytest
from test_scores import sampled

from edge_grpo.data.problems import DataSettings
from edge_grpo.errors import ConfigError
from edge_grpo.screen import Rate, expected_collapse, in_band, load_rows, parse_band, rates, write_rows


def test_rates_leave_out_what_could_not_be_graded():
    found = rates([*sampled("p", "cwcw"), *sampled("q", "ewww"), *sampled("r", "eeee")])
    assert found == [Rate("p", 2, 4), Rate("q", 0, 3)]
    assert found[0].value == 0.5


def test_both_ends_of_a_band_are_in_it():
    measured = [Rate(str(c), c, 8) for c in range(9)]
    assert [rate.right for rate in in_band(measured, parse_band("0:0.125"))] == [0, 1]
    assert [rate.right for rate in in_band(measured, parse_band("0.25:0.75"))] == [2, 3, 4, 5, 6]
    assert in_band([Rate("a", 3, 10)], parse_band("0.3:0.3"))


@pytest.mark.parametrize("text", ["", "0.5", "0.5:", "1:0", "-1:1", "0:2", "a:b", "nan:1", "0:1:2"])
def test_a_wrong_band_is_named(text):
    with pytest.raises(ConfigError, match="--keep-rate: came"):
        parse_band(text)


def test_the_expected_collapse_is_without_bias():
    rng = random.Random(0)
    true = [rng.random() ** 3 for _ in range(4000)]
    measured = [Rate(str(i), sum(rng.random() < p for _ in range(16)), 16) for i, p in enumerate(true)]
    for size in (2, 4, 8, 16):
        found = expected_collapse(measured, size)
        assert found.all_wrong == pytest.approx(sum((1 - p) ** size for p in true) / 4000, abs=0.02)
        assert found.all_right == pytest.approx(sum(p**size for p in true) / 4000, abs=0.02)
        assert found.total == found.all_wrong + found.all_right


def test_problems_with_too_few_answers_tell_nothing_of_large_groups():
    measured = [Rate("a", 0, 8), Rate("b", 1, 3)]
    assert expected_collapse(measured, 4).all_wrong == 1.0
    assert expected_collapse(measured, 2).all_wrong == pytest.approx((1 + 1 / 3) / 2)
    assert expected_collapse([], 2).total == 0.0


def test_kept_rows_are_as_they_were(tmp_path):
    given = [
        {"problem": "1+1?", "answer": 2.0, "answers": ["2", 2], "nested": {"a": [1]}, "solution": "é\u2028"},
        {"problem": "2+2?", "answer": ["4", "four"], "correctness_rate": 0.9},
    ]
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in given))
    benchmark, rows = load_rows(str(data), DataSettings())
    assert [problem.answers for problem in benchmark.problems] == [("2",), ("4", "four")]
    out = tmp_path / "out.jsonl"
    write_rows(out, [Rate("d:2", 1, 8), Rate("d:1", 0, 8)], rows)
    written = [json.loads(line) for line in out.read_text("utf-8").split("\n") if line]
    assert written == [{**given[1], "correctness_rate": 0.125}, {**given[0], "correctness_rate": 0.0}]
    assert math.isclose(written[0]["correctness_rate"], 1 / 8)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_rows(tmp_path / "gone/out.jsonl", [], rows)
