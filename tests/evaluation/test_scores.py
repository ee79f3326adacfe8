"""Scores against numbers worked by hand."""

from collections.abc import Sequence

import pytest

from edge_grpo.evaluation.answers import Answer
from edge_grpo.evaluation.intervals import wilson
from edge_grpo.evaluation.scores import majority, scores_of, values_of
from edge_grpo.functional.coverage import pass_at_k


def answer(
    problem: str,
    verdict: str,
    *,
    number: int = -1,
    said: str | None = "1",
    benchmark: str = "b",
    tokens: int = 4,
    finished: bool = True,
    entropy: float | None = 0.5,
) -> Answer:
    """A greedy answer, or the sampled one of that number."""
    return Answer(
        benchmark=benchmark,
        problem=problem,
        prompt=f"{problem}?",
        decoding="greedy" if number < 0 else "sampled",
        number=max(0, number),
        completion="",
        answer=said,
        gold=("1",),
        verdict=verdict,
        reward=0.0,
        tokens=tokens,
        finished=finished,
        entropy=entropy,
    )


def sampled(
    problem: str, verdicts: str, said: Sequence[str | None] | None = None, benchmark: str = "b"
) -> list[Answer]:
    """``c``, ``w``, ``u``, ``e``, ``t`` stand for verdicts."""
    words = {"c": "correct", "w": "wrong", "u": "unparsed", "e": "error", "t": "timeout"}
    answers = said or ["1" if v == "c" else None if v == "u" else f"{i + 2}" for i, v in enumerate(verdicts)]
    return [
        answer(problem, words[v], number=i, said=one, benchmark=benchmark)
        for i, (v, one) in enumerate(zip(verdicts, answers, strict=True))
    ]


def test_every_metric_of_a_problem() -> None:
    values = values_of([answer("p", "correct"), *sampled("p", "ccwwwu")])
    p = ("b", "p")
    assert set(values) == {"pass@1/greedy", "pass@1/sampled", "avg@6", "pass@2", "pass@4", "pass@6", "maj@6"}
    assert values["pass@1/greedy"] == {p: 1.0}
    assert values["avg@6"] == values["pass@1/sampled"] == {p: 2 / 6}
    assert values["pass@2"][p] == pytest.approx(1 - 6 / 15)
    assert values["pass@4"][p] == pytest.approx(1 - 1 / 15)
    assert values["pass@6"] == {p: 1.0}
    assert values["maj@6"] == {p: 1.0}  # two say 1, the others differ


def test_greedy_alone_has_one_metric_and_samples_alone_have_no_greedy() -> None:
    assert set(values_of([answer("p", "wrong")])) == {"pass@1/greedy"}
    assert "pass@1/greedy" not in values_of(sampled("p", "cw"))
    assert set(values_of(sampled("p", "c"))) == {"pass@1/sampled", "avg@1", "maj@1"}


def test_what_the_grader_failed_on_counts_nowhere() -> None:
    values = values_of([answer("p", "error"), *sampled("p", "cewe"), *sampled("q", "eeee"), *sampled("r", "cwtw")])
    assert "pass@1/greedy" not in values
    assert values["avg@4"] == {("b", "p"): 0.5, ("b", "r"): 0.25}
    assert values["pass@2"] == {("b", "p"): 1.0, ("b", "r"): pass_at_k(4, 1, 2)}
    assert set(values["pass@4"]) == {("b", "r")}  # p has too few left


@pytest.mark.parametrize(
    ("verdicts", "said", "value"),
    [
        ("ccw", ["1", " 1", "2"], 1.0),
        ("cww", ["1", "2", "2"], 0.0),
        ("cwu", ["1", "2", None], 0.5),  # a tie of two
        ("cwwccww", [r"\frac{1}{2}", "3", "3", r"\frac{2}{4}", "0.5", "4", "4"], 1.0),  # one value, three spellings
        ("cww", ["x+1", "2", " x + 1"], 0.5),  # one spelling, graded both ways
        ("uu", [None, None], 0.0),
        ("cuu", ["1", None, None], 1.0),  # a sample without an answer has no vote
        ("cuu", ["1", "", " "], 1.0),  # nor has an empty box
        ("ccww", ["x = 1", "1", "2", r"\text{two}"], 1.0),
    ],
)
def test_the_majority(verdicts: str, said: list[str | None], value: float) -> None:
    assert majority(sampled("p", verdicts, said)) == value


def test_benchmarks_and_both_averages() -> None:
    answers = [answer(f"p{i}", "correct" if i < 3 else "wrong", benchmark="small") for i in range(4)]
    answers += [answer(f"p{i}", "correct" if i < 5 else "wrong", benchmark="large", tokens=8) for i in range(20)]
    found = scores_of(answers, ["small", "large"])
    small = found["benchmarks"]["small"]["scores"]["pass@1/greedy"]
    assert (small["value"], small["low"], small["high"], small["problems"]) == (0.75, *wilson(3, 4), 4)
    averages = {name: row["scores"]["pass@1/greedy"] for name, row in found["averages"].items()}
    assert averages["problem-weighted"]["value"] == pytest.approx(8 / 24)
    assert averages["macro"]["value"] == pytest.approx((0.75 + 0.25) / 2)
    for one in averages.values():
        assert one["low"] < one["value"] < one["high"]
        assert one["problems"] == 24
    assert found["averages"]["problem-weighted"]["greedy"]["length"] == pytest.approx((4 * 4 + 20 * 8) / 24)
    assert "averages" not in scores_of(answers, ["small"])


def test_a_benchmark_without_right_answers_still_widens_the_average() -> None:
    answers = [answer(f"p{i}", "wrong", benchmark="s") for i in range(4)]
    answers += [answer(f"p{i}", "correct" if i % 2 else "wrong", benchmark="l") for i in range(40)]
    macro = scores_of(answers, ["s", "l"])["averages"]["macro"]["scores"]["pass@1/greedy"]
    assert macro["high"] - macro["value"] > wilson(0, 4)[1] / 2
    assert macro["value"] - macro["low"] == pytest.approx((0.5 - wilson(20, 40)[0]) / 2)


def test_problems_can_be_left_out() -> None:
    answers = [answer("p", "correct"), answer("q", "wrong")]
    assert scores_of(answers, ["b"], without={("b", "q")})["benchmarks"]["b"]["scores"]["pass@1/greedy"]["value"] == 1.0
    empty = scores_of(answers, ["b"], without={("b", "p"), ("b", "q")})["benchmarks"]["b"]
    assert (empty["problems"], empty["scores"]) == (0, {})


def test_answers_are_described() -> None:
    answers = [answer("p", "correct", tokens=2, entropy=1.0), answer("q", "unparsed", tokens=6, finished=False)]
    told = scores_of([*answers, *sampled("p", "cw")], ["b"])["benchmarks"]["b"]
    assert told["greedy"] == {
        "answers": 2,
        "entropy": (2 * 1.0 + 6 * 0.5) / 8,
        "length": 4.0,
        "truncated": 0.5,
        "verdicts": {"correct": 1, "unparsed": 1},
    }
    assert told["sampled"]["answers"] == 2


def test_an_entropy_that_no_engine_recorded_is_none_and_not_0() -> None:
    unknown, known = answer("p", "correct", entropy=None), answer("q", "correct", entropy=1.5)
    assert scores_of([unknown], ["b"])["benchmarks"]["b"]["greedy"]["entropy"] is None
    assert scores_of([unknown, known], ["b"])["benchmarks"]["b"]["greedy"]["entropy"] == 1.5
