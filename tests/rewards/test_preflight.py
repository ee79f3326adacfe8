"""The preflight: which references the reward does not accept, in lines with an example and a remedy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Problem
from edge_grpo.rewards import Rewards, RewardSettings
from edge_grpo.rewards.preflight import check_references

PROSE = "Ann had $100. She spent $30 on a hat and $20 on shoes. She has 50 left."


@pytest.fixture(scope="module")
def built_in() -> Iterator[Rewards]:
    with Rewards(RewardSettings(workers=1, memory_mb=1024, timeout_s=1.0)) as rewards:
        yield rewards


def problems(*answers: str, solution: str = "") -> list[Problem]:
    return [Problem(f"p{i}", "?", (answer,), solution) for i, answer in enumerate(answers)]


def test_good_references_need_no_line(built_in: Rewards) -> None:
    good = [*problems("7", "x+1", "10,000", "Monday"), *problems("7", solution="So it is \\boxed{7}.")]
    assert check_references(built_in, good, name="data") == []
    assert check_references(built_in, [], name="data") == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (problems(PROSE), ["1 of 3 answers are worked solutions or sentences", "'Ann had", "data.answer_pattern"]),
        (
            problems("1234.56005859375"),
            ["1 of 3 answers look like float32", "perhaps 1234.56", "or float64"],
        ),
        (
            problems(r"\frac{1}{"),
            ["1 of 3 answers are not accepted", r"'\\frac{1}{' of problem 'p0'", "corrections never inject them"],
        ),
    ],
)
def test_bad_answers_are_counted_and_shown(built_in: Rewards, bad: list[Problem], said: list[str]) -> None:
    (line,) = check_references(built_in, [*problems("7", "8"), *bad], name="data")
    assert line.startswith("data: ")
    assert [each for each in said if each not in line] == []


def test_bad_solutions_are_counted_and_shown(built_in: Rewards) -> None:
    mixed = [
        *problems("7", solution="So it is \\boxed{7}."),
        *problems("7", "8", solution="So 3+4=7 pens."),
        *problems("9", "9", "9", solution="So \\boxed{x+8}."),
    ]
    unread, wrong = check_references(built_in, mixed, name="data")
    assert "2 of 6 worked solutions have no readable answer, such as 'So 3+4=7 pens.' of problem 'p0'" in unread
    assert "'#### ANSWER'" in unread
    assert "3 of 6 worked solutions do not grade right" in wrong
    assert "its box holds 'x+8'; wrong: the answer is '9'" in wrong
    assert check_references(built_in, mixed, name="data", solutions=False) == []


@pytest.mark.parametrize(
    "answers", [[PROSE], ["1234.56005859375"], [r"\frac{1}{"], [PROSE, r"\boxed{", "0.10000000149011612"]]
)
def test_if_no_answer_is_accepted_it_is_an_error(built_in: Rewards, answers: list[str]) -> None:
    with pytest.raises(DataError, match=rf"data: none of {len(answers)} reference answers is usable; .*'p0'") as error:
        check_references(built_in, problems(*answers), name="data")
    assert ("Write the column as text or float64" in str(error.value)) == (answers == ["1234.56005859375"])


def test_comparisons_in_workers_are_bounded(built_in: Rewards) -> None:
    many = [Problem(str(i), "?", (f"x+{i}",), f"So \\boxed{{{i}+x}}.") for i in range(1200)]
    before = dict(built_in.decided)
    (line,) = check_references(built_in, many, name="data")
    assert "of 1,200 worked solutions were checked: a sample" in line
    compared = sum(built_in.decided.values()) - sum(before.values())
    assert 1200 < compared <= 1200 + 1000, "all answers by text, and at most 1,000 solutions"


@pytest.fixture
def function(tmp_path: Path) -> str:
    """A reward that wants tags, notes every completion that it sees, and fails on one of them."""
    (tmp_path / "mine.py").write_text(
        "def reward(completions, problems):\n"
        f"    open({str(tmp_path / 'seen')!r}, 'a').write(''.join(f'{{c}}\\n' for c in completions))\n"
        "    if r'\\boxed{3}' in completions:\n"
        "        raise ValueError('not three')\n"
        "    return [{'r': 1.0, 'correct': '<answer>' in c} for c in completions]\n"
    )
    return f"{tmp_path / 'mine.py'}:reward"


def test_a_custom_reward_is_tried_on_a_sample_and_never_an_error(tmp_path: Path, function: str) -> None:
    many = [Problem(str(i), "?", (str(i),), f"<answer>{i}</answer>") for i in range(100)]
    with Rewards(RewardSettings(function=function, workers=1)) as rewards:
        answers, solutions = check_references(rewards, many, name="data")
        assert len((tmp_path / "seen").read_text().splitlines()) == 32
        assert "tried on 16 of 100 answers and does not accept 16" in answers
        assert "method.correction.answer_phrase" in answers
        assert "tried on 16 of 100 worked solutions and accepts them" in solutions
        (failed,) = check_references(rewards, many[3:4], name="data", solutions=False)
        (refused,) = check_references(rewards, many[5:6], name="data", solutions=False)
    assert "tried on 1 of 1 answers and failed on every one; the first: '3' of problem '3' (error: ValueError" in failed
    assert "not three" in failed
    assert refused.endswith("it saw \\boxed{ANSWER}"), "held-out problems are never corrected"
