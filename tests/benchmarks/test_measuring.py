"""What the benchmarks share: rounds alternate, medians of ratios, and tables that take missing figures."""

import json

import measuring
import pytest
import torch


def test_rounds_alternate_and_the_first_one_does_not_count() -> None:
    calls: list[tuple[str, int]] = []

    def side(name: str, value: float) -> measuring.Side:
        def run(number: int) -> float:
            calls.append((name, number))
            return value * number

        return run

    found = measuring.alternate({"a": side("a", 1.0), "b": side("b", 10.0)}, 2)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert found == {"a": [1.0, 2.0], "b": [10.0, 20.0]}


def test_a_ratio_is_the_median_over_rounds() -> None:
    assert measuring.over([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == 3.0
    assert measuring.over([], []) is None
    assert measuring.over([1.0], [0.0]) is None
    assert measuring.over([1.0, 2.0], []) is None


def test_the_worst_part_is_the_one_farthest_below_its_bar() -> None:
    assert measuring.worst([(0.5, 0.4), (1.0, 2.0)]) == 0.5
    assert measuring.worst([(0.5, 0.4), (None, 2.0)]) is None


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (None, "-"),
        ([], "-"),
        (0.0, "0.00 %"),
        (1234.5, "1,234.50 %"),
        ([3.0, 1.0, 2.0], "2.00 % (1.00 - 3.00)"),
        ([0.0], "0.00 % (0.00 - 0.00)"),
    ],
)
def test_a_cell_takes_zero_and_missing_figures(values: list[float] | float | None, text: str) -> None:
    assert measuring.shown(values, unit=" %") == text


def test_a_table_has_equal_columns_and_may_be_empty() -> None:
    lines = measuring.table(["side", "s"], [["a long name", "-"], ["b", "1.00"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2] == "| a long name | -    |"
    assert measuring.table(["side"], []).splitlines() == ["| side |", "| ---- |"]


def test_figures_are_one_line_of_json_with_nulls(capsys: pytest.CaptureFixture[str]) -> None:
    measuring.print_figures({"a": 1.23456, "b": None, "c": 0.0})
    assert json.loads(capsys.readouterr().out) == {"a": 1.235, "b": None, "c": 0.0}


def test_the_product_rate_counts_two_operations_per_weight() -> None:
    assert 1e6 < measuring.product_rate(torch.float32, size=64, products=1) < 1e14


def test_the_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    with measuring.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_the_machine_is_one_line_with_versions_and_date() -> None:
    line = measuring.machine()
    assert "\n" not in line
    assert all(
        word in line for word in ("cores", "threads", "bf16", f"torch {torch.__version__}", "trl", "vllm", "UTC")
    )
