"""Rewards of a batch: built in, and a user's own function that may do anything wrong."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge_grpo.errors import ConfigError, DataError
from edge_grpo.records import Grade, Problem, Verdict
from edge_grpo.rewards import Rewards, RewardSettings, verdict_counts

OwnReward = Callable[..., list[Grade]]


def _shell(command: str, shell: str) -> int:
    return subprocess.call([shell, "-c", command])


def problem(*answers: str) -> Problem:
    return Problem(id="p", prompt="?", answers=answers)


def grade(rewards: Rewards, rows: list[tuple[str, Problem]]) -> list[Grade]:
    return rewards.grade([one for _, one in rows], [text for text, _ in rows], [True] * len(rows))


@pytest.fixture(scope="module")
def built_in() -> Iterator[Rewards]:
    with Rewards(RewardSettings(format_weight=0.5, timeout_s=1.5, memory_mb=1024)) as rewards:
        yield rewards


def test_parts_and_weights(built_in: Rewards) -> None:
    grades = grade(
        built_in,
        [
            (r"\boxed{2}", problem("2")),
            (r"\boxed{3}", problem("2")),
            ("2", problem("2")),
            (r"\boxed{b}", problem("a", "b")),
        ],
    )
    assert [one.verdict for one in grades] == [Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSED, Verdict.CORRECT]
    assert [one.reward for one in grades] == [1.5, 0.5, 0.0, 1.5]
    for one in grades:
        assert tuple(one.parts) == built_in.part_names == ("format", "accuracy")
        weighted = zip(built_in.part_weights, one.parts.values(), strict=True)
        assert one.reward == sum(weight * part for weight, part in weighted)


def test_hostile_answers_stop_nothing_else(built_in: Rewards) -> None:
    tower = r"\boxed{\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}}"
    slow = r"\boxed{\int_0^1 \sin(x^{x^{x}}) e^{-x^{x}} dx}"
    rows = [(r"\boxed{9**9**9**9}", problem("x")), (r"\boxed{9**9**9**9}", problem("3")), (tower, problem("3"))]
    rows += [(slow, problem(r"\pi")), (r"\boxed{\frac{2}{4}}", problem("0.5")), (r"\boxed{2, 1}", problem("1,2"))]
    grades = grade(built_in, rows)
    assert [one.correct for one in grades] == [False] * 4 + [True] * 2
    assert {one.verdict for one in grades[:4]} <= {Verdict.WRONG, Verdict.TIMEOUT}
    assert [one.reward for one in grades[:4]] == [0.5] * 4


def test_an_exception_of_the_grader_is_unscorable(built_in: Rewards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_grpo.rewards.pool.same_answer", pow)  # what the worker then runs: pow("x", "y")
    (one,) = grade(built_in, [(r"\boxed{x}", problem("y"))])
    assert one.verdict is Verdict.ERROR
    assert not one.scorable
    assert "TypeError" in one.note


@pytest.mark.parametrize("command", ["sleep 60", "kill -9 $PPID"])
def test_a_late_or_crashing_answer_is_a_timeout_and_keeps_its_format(
    command: str, built_in: Rewards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_grpo.rewards.pool.same_answer", _shell)
    (one,) = grade(built_in, [(f"\\boxed{{{command}}}", problem("sh"))])
    assert (one.verdict, one.reward) == (Verdict.TIMEOUT, 0.5)
    assert one.parts == {"format": 1.0, "accuracy": 0.0}


def test_shapes_and_missing_answers(built_in: Rewards) -> None:
    assert built_in.grade([], [], []) == []
    with pytest.raises(DataError, match="1 problems, 2 completions"):
        built_in.grade([problem("1")], ["", ""], [True, True])
    with pytest.raises(DataError, match="no reference answer"):
        grade(built_in, [("", problem())])


def test_verdict_counts() -> None:
    counts = verdict_counts([Grade(verdict, 0.0) for verdict in (Verdict.TIMEOUT, Verdict.ERROR, Verdict.TIMEOUT)])
    assert counts["verdict/timeout"] == (2.0, 3.0)
    assert counts["verdict/error"] == (1.0, 3.0)
    assert set(counts) == {f"verdict/{verdict.value}" for verdict in Verdict}


def test_settings_are_checked() -> None:
    for wrong in ({"timeout_s": 0.0}, {"workers": 0}, {"memory_mb": 10}, {"timeout": 3.0}):
        with pytest.raises(ValidationError):
            RewardSettings(**wrong)


@pytest.fixture
def own(tmp_path: Path) -> OwnReward:
    """Grades ["a", "bad", "c"] with a function of the given body."""

    def run(body: str, rows: int = 3, **changes: object) -> list[Grade]:
        path = tmp_path / "mine.py"
        path.write_text(f"import math, os, time\ndef reward(completions, problems):\n    {body}\n")
        config = RewardSettings(
            **{"function": f"{path}:reward", "timeout_s": 0.5, "function_timeout_s": 1.0, "memory_mb": 1024, **changes}
        )
        with Rewards(config) as rewards:
            return grade(rewards, [(text, problem("a")) for text in ("a", "bad", "c")[:rows]])

    return run


def verdicts(grades: list[Grade]) -> list[str]:
    return [one.verdict.value for one in grades]


def test_own_reward_numbers_mappings_and_none(own: OwnReward) -> None:
    grades = own("return [2.5, None, 0]")
    assert verdicts(grades) == ["correct", "error", "wrong"]
    assert [(one.reward, dict(one.parts)) for one in grades] == [
        (2.5, {"reward": 2.5}),
        (0.0, {"reward": 0.0}),
        (0.0, {"reward": 0.0}),
    ]
    grades = own(
        "return [{'x': 1, 'y': -2.0, 'correct': True}, {'x': 1}, {'x': 0.5, 'y': 1}]", function_parts=("y", "x")
    )
    assert verdicts(grades) == ["correct", "error", "correct"]
    assert [one.reward for one in grades] == [-1.0, 0.0, 1.5]
    assert tuple(grades[0].parts) == ("y", "x")
    assert "want ['x', 'y']" in grades[1].note


@pytest.mark.parametrize("value", ["math.nan", "math.inf", "'1'", "[1]", "object()"])
def test_own_reward_that_is_no_number(own: OwnReward, value: str) -> None:
    grades = own(f"return [1.0, {value}, 1.0]")
    assert verdicts(grades)[1] == "error"
    assert grades[1].note


@pytest.mark.parametrize("body", ["return [1.0]", "return None", "return 1.0", "return (x for x in [1])"])
def test_own_reward_of_the_wrong_shape(own: OwnReward, body: str) -> None:
    grades = own(body)
    assert verdicts(grades) == ["error"] * 3
    assert all("want a list of" in one.note or "pickle" in one.note for one in grades)


@pytest.mark.parametrize(
    ("blow", "verdict"),
    [
        ("raise ValueError('no')", "error"),
        ("raise SystemExit(0)", "error"),
        ("time.sleep(100)", "timeout"),
        ("bytearray(3 * 2**30)", "timeout"),
        ("os._exit(1)", "timeout"),
        ("9**9**9", "timeout"),
    ],
)
def test_own_reward_that_fails_on_one_row(own: OwnReward, blow: str, verdict: str) -> None:
    grades = own(f"for text in completions:\n        if text == 'bad': {blow}\n    return [1.0] * len(completions)")
    assert verdicts(grades) == ["correct", verdict, "correct"]
    assert grades[1].reward == 0.0
    assert grades[1].note


def test_own_reward_that_always_hangs_gives_up(own: OwnReward) -> None:
    grades = own("time.sleep(100)", timeout_s=0.3, function_timeout_s=0.3, workers=1)
    assert verdicts(grades) == ["timeout", "timeout", "error"]
    assert "not reached" in grades[2].note


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("mine", "want 'package.module:name'"),
        ("mine.py:reward", "there is no file"),
        ("no_such_module_here:reward", "No module named"),
        ("json:no_such_name", "no function 'no_such_name'"),
        ("json:dumps", "want \\(completions, problems\\)"),
    ],
)
def test_a_function_that_cannot_be_loaded(function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message), Rewards(RewardSettings(function=function)):
        pass


def test_a_file_that_does_not_import(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def reward(:\n")
    with pytest.raises(ConfigError, match="SyntaxError"), Rewards(RewardSettings(function=f"{path}:reward")):
        pass
    with pytest.raises(ConfigError, match="function_parts"):
        Rewards(RewardSettings(function=f"{path}:reward", function_parts=("correct",)))


def test_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    config = RewardSettings(
        function="examples/own_reward.py:reward", function_parts=("format", "accuracy", "brevity"), memory_mb=1024
    )
    with Rewards(config) as rewards:
        grades = rewards.grade([problem("1/2")] * 3, [r"\boxed{0.5}", r"\boxed{2}", "0.5"], [True, True, False])
    assert [one.correct for one in grades] == [True, False, False]
    assert grades[0].reward > grades[1].reward > grades[2].reward
    assert [one.parts["format"] for one in grades] == [1.0, 1.0, 0.0]
