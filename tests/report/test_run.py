"""A run as its folder tells it."""

from pathlib import Path

import pytest
from made_runs import answer, group, make_run

from edge_grpo.base.errors import CheckpointError
from edge_grpo.report.groups import Kind
from edge_grpo.report.run import NothingLoggedError, read_run
from edge_grpo.runs.folder import RunFolder


def kinds(path: Path) -> list[tuple[Kind, Kind | None]]:
    return [(one.before, one.after) for one in read_run(path).drawn]


def test_groups_have_a_kind_before_and_after_corrections(tmp_path: Path) -> None:
    ungraded = answer(0, verdict="error", verdict_before="error")
    rows = [
        *group(1, 0, [answer(0), answer(1)]),
        *group(1, 1, [answer(0), answer(1, before=0, strategy="answer")]),
        *group(1, 2, [answer(1), answer(1)]),
        *group(1, 3, [answer(0, dropped="dynamic_sampling"), answer(0, dropped="dynamic_sampling")]),
        *group(1, 4, [answer(0), ungraded, ungraded]),
        *group(1, 5, [answer(0.5), answer(0.5, verdict_before="wrong")]),
        *group(1, 6, [answer(0.5), answer(0.505)]),
    ]
    assert kinds(make_run(tmp_path / "run", {1: rows})) == [
        (Kind.USEFUL, Kind.USEFUL),
        (Kind.ALL_WRONG, Kind.USEFUL),
        (Kind.ALL_RIGHT, Kind.ALL_RIGHT),
        (Kind.ALL_WRONG, None),
        (Kind.UNSCORABLE, Kind.UNSCORABLE),
        (Kind.EQUAL, Kind.ALL_RIGHT),
        (Kind.NEAR_CONSTANT, Kind.NEAR_CONSTANT),
    ]


def test_one_outlier_does_not_make_other_groups_nearly_constant(tmp_path: Path) -> None:
    rows = [row for number in range(20) for row in group(1, number, [answer(0), answer(1)])]
    rows += group(1, 20, [answer(0), answer(-200)])
    assert set(kinds(make_run(tmp_path / "run", {1: rows}))) == {(Kind.USEFUL, Kind.USEFUL)}


def test_rows_that_a_method_drops_stay_in_the_group_they_were_sampled_in(tmp_path: Path) -> None:
    kept = group(1, 0, [answer(0)], sampled_group=7)
    cut = group(1, 1, [answer(1, dropped="method", trained=False)], sampled_group=7, family=1)
    assert kinds(make_run(tmp_path / "run", {1: kept + cut})) == [(Kind.USEFUL, Kind.USEFUL)]


def test_corrections_that_were_added_to_those_sampled_are_not_compared(tmp_path: Path) -> None:
    rows = group(1, 0, [answer(0), answer(0), answer(1, before=0, strategy="answer", sampled_group=-1)])
    assert kinds(make_run(tmp_path / "run", {1: rows})) == [(Kind.ALL_WRONG, Kind.ALL_WRONG)]


def test_answers_shared_with_other_variants_count_once_as_sampled_and_everywhere_as_compared(tmp_path: Path) -> None:
    first = group(1, 0, [answer(0), answer(0)], family=0)
    second = group(1, 1, [answer(1), answer(1)], family=0, variant=1, source=1)
    copies = group(1, 0, [answer(1)], family=0, variant=0, source=1, sampled_group=1)
    copies += group(1, 1, [answer(0)], family=0, variant=1, source=0, sampled_group=0)
    path = make_run(tmp_path / "run", {1: first + second + copies})
    assert kinds(path) == [(Kind.ALL_WRONG, Kind.USEFUL), (Kind.ALL_RIGHT, Kind.USEFUL)]


def test_a_run_without_rollouts_or_steps(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", {})
    with pytest.raises(NothingLoggedError, match="has not logged a step yet") as caught:
        read_run(made)
    assert not caught.value.may_begin
    folder = RunFolder(made)
    folder.write_metrics({"step": 1, "accuracy": 0.5})
    run = read_run(made)
    assert (run.num_steps, list(run.completions), list(run.drawn), run.is_live) == (1, [], [], False)
    with pytest.raises(CheckpointError, match="holds no run"):
        read_run(tmp_path)


def test_a_run_is_live_while_a_process_holds_its_lock(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", {1: group(1, 0, [answer(0)])})
    folder = RunFolder(made)
    folder.lock()
    assert read_run(made).is_live
    folder.close()
    assert not read_run(made).is_live
