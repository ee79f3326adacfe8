"""The evidence for decomposed processes: finished draws are kept, and every number on the page comes from them."""

import json
from pathlib import Path

import decomposed_gp
import pytest
from decomposed_gp import Job
from gp import synthetic
from gp.page import page, signed

JOBS = [Job("regression", "near", None, 2), Job("regret", "near", 5.0, 2)]


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | float, ...]]:
    """Recorded draws, the third of which is interrupted."""
    made: list[tuple[str | float, ...]] = []

    def measure(case: str, draw: int, *rest: float) -> dict[str, float]:
        made.append((case, draw, *rest))
        if len(made) == 3:
            raise KeyboardInterrupt
        return {"value": 10.0 * draw + sum(rest)}

    monkeypatch.setattr(decomposed_gp, "MEASURES", {"regression": measure, "regret": measure})
    return made


def test_finished_draws_are_kept_and_missing_ones_are_made(
    tmp_path: Path, measures: list[tuple[str | float, ...]]
) -> None:
    path = tmp_path / "folder" / "draws.jsonl"
    with pytest.raises(KeyboardInterrupt):
        decomposed_gp.measure(path, JOBS)
    with path.open("a") as file:
        file.write('{"key": "regret/near/5.0/1", "val')  # a kill in the middle of a line
    values = decomposed_gp.measure(path, JOBS)
    assert measures == [("near", 0), ("near", 1), ("near", 0, 5.0), ("near", 0, 5.0), ("near", 1, 5.0)]
    assert values == {
        "regression/near/None/0": {"value": 0.0},
        "regression/near/None/1": {"value": 10.0},
        "regret/near/5.0/0": {"value": 5.0},
        "regret/near/5.0/1": {"value": 15.0},
    }
    assert decomposed_gp.measure(path, JOBS) == values == decomposed_gp.finished(path)
    assert len(measures) == 5


def test_draws_of_other_code_are_never_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "draws.jsonl"
    path.write_text(json.dumps({"code": "of yesterday"}) + "\n")
    with pytest.raises(SystemExit, match="made by different code"):
        decomposed_gp.finished(path)


def test_times_are_in_a_table() -> None:
    section = "\n".join(decomposed_gp.timing(1, observations=20, num_candidates=30))
    assert "20 observations, 30 candidates" in section
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| posterior")]
    assert len(rows) == 5
    assert all(float(row[1]) >= 0 for row in rows), "numbers; a fast machine rounds them to 0"


def regression(least: float = 0.0) -> list[dict[str, float]]:
    """Two draws: the error falls from 2 to 1 and from 2 to 2."""
    return [
        {f"{name}_{count}": value for count in synthetic.COUNTS for name, value in own.items()}
        for own in (
            {"sum": 2.0, "parts": 1.0, "least": least, "most": 0.5, "mean": 0.25},
            {"sum": 2.0, "parts": 2.0, "least": 0.1, "most": 0.25, "mean": 0.5},
        )
    ]


def written(**changed: list[dict[str, float]]) -> list[str]:
    rows = {("regression", case, None): regression() for case in synthetic.CASES}
    rows["fitted", "near", None] = [{f"{arm}_{n}": 2.0 for arm in ("sum", "parts") for n in synthetic.FITTED}] * 3
    rows["regret", "near", 5.0] = [{"parts": 1.0, "sum": 2.0}, {"parts": 2.0, "sum": 1.5}]
    rows["epidemic", "budget", 5.0] = [{"parts": 10.0, "sum": 12.0, "own": 9.0}] * 2
    rows["weather", "hottest", 1.0] = [{"delta": 1.0, "safe": 4.0, "sum": 2.0}] * 2
    for case, values in changed.items():
        rows["regression", case, None] = values
    gains = {("arithmetic, fresh", 5.0): [0.1, 0.11, 0.12], ("arithmetic, fresh", 1.0): [0.1, -0.1, 0.0]}
    return page(rows, ["\n## In use"], ["\n## Time"], gains).splitlines()


def test_every_number_of_the_page_comes_from_the_draws() -> None:
    lines = written()
    assert "| near | 2 | 0.0e+00 | 5.0e-01 | none | 5.0e-01 |" in lines
    assert "| near | 3 | 2.000 | 1.500 | +25.0 % (0.0 to +50.0) | 50 % (9 to 91) | 1 of 2 |" in lines
    assert "| near | 40 | 2.000 | 2.000 | 0.0 % (0.0 to 0.0) | 0 % (0 to 56) | 3 of 3 |" in lines
    assert "| near | 5 | 2 | 1.500 | 1.750 | +0.250 (-0.500 to +1.000) | 1 of 2 |" in lines
    assert "| 5 | sum of kernels | 2 | 10.0 | 12.0 | +2.0 (+2.0 to +2.0) | 2 of 2 |" in lines
    assert "| 5 | own kernel | 2 | 10.0 | 9.0 | -1.0 (-1.0 to -1.0) | 0 of 2 |" in lines
    assert "| hottest | 1 | safe | 2 | 4.00 | 2.00 | -2.00 (-2.00 to -2.00) | 0 of 2 |" in lines
    assert lines.index("## In use") < lines.index("## Time")


def test_the_summary_follows_from_the_draws() -> None:
    lines = written()
    assert "- Variance: in no draw is it larger with the parts, at any point (smallest difference 0.0e+00)." in lines
    assert "- Error, near: reduced by 25.0 to 25.0 % with the parts." in lines
    assert "| near, regret | no difference shown | - |" in lines
    assert "| epidemic, against the sum of kernels | **better** | - |" in lines
    assert "| epidemic, against its own kernel | **worse** | - |" in lines
    assert "| hottest, safe width | - | **worse** |" in lines
    assert "| arithmetic, fresh | **better** | no difference shown |" in lines


def test_a_variance_that_grew_is_reported() -> None:
    (line,) = [line for line in written(near=regression(least=-1e-9)) if line.startswith("| near | 2 |")]
    assert line == "| near | 2 | -1.0e-09 | 5.0e-01 | **some** | 5.0e-01 |"
    assert any(line.startswith("- Variance: **it is larger") for line in written(near=regression(least=-1e-9)))


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert [signed(value, 1) for value in (0.04, -0.04, 0.06, -0.06)] == ["0.0", "0.0", "+0.1", "-0.1"]
