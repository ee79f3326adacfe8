"""Rewards for a batch: built in, and a custom function that may fail in any way."""

import asyncio
import re
import shlex
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
from processes import shell
from pydantic import ValidationError

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.records import Grade, Problem, Verdict
from edge_grpo.config.tree import load_config
from edge_grpo.rewards import Rewards, RewardSettings, verdict_counts
from edge_grpo.rewards.answers.comparer import How

ROOT = Path(__file__).parents[2]
CustomReward = Callable[..., list[Grade]]


def problem(*answers: str) -> Problem:
    return Problem(id="p", prompt="?", answers=answers)


NO_ANSWER = Problem(id="p", prompt="?", answers=())


def grade(rewards: Rewards, rows: list[tuple[str, Problem]]) -> list[Grade]:
    return rewards.grade([one for _, one in rows], [text for text, _ in rows], [True] * len(rows))


@pytest.fixture(scope="module")
def built_in() -> Iterator[Rewards]:
    with Rewards(RewardSettings(format_weight=0.5, timeout_s=1.5, memory_mb=1024)) as rewards:
        yield rewards


def test_the_reward_is_the_weighted_sum_of_its_parts(built_in: Rewards) -> None:
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


@pytest.mark.parametrize("box", [r"\boxed{}", r"\boxed{ }", r"\boxed{\text{}}", r"\boxed{\,}"])
@pytest.mark.parametrize("form", ["box", "think"])
def test_an_empty_box_earns_no_format_reward(box: str, form: Literal["box", "think"]) -> None:
    with Rewards(RewardSettings(format=form, memory_mb=1024)) as rewards:
        (one,) = grade(rewards, [(f"<think>1+1</think> {box}", problem("2"))])
    assert (one.verdict, one.reward, one.parts["format"]) == (Verdict.UNPARSED, 0.0, 0.0)


def test_hostile_answers_do_not_affect_other_rows(built_in: Rewards) -> None:
    tower = r"\boxed{\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}}"
    slow = r"\boxed{\int_0^1 \sin(x^{x^{x}}) e^{-x^{x}} dx}"
    rows = [(r"\boxed{9**9**9**9}", problem("x")), (r"\boxed{9**9**9**9}", problem("3")), (tower, problem("3"))]
    rows += [(slow, problem(r"\pi")), (r"\boxed{\frac{2}{4}}", problem("0.5")), (r"\boxed{2, 1}", problem("1,2"))]
    grades = grade(built_in, rows)
    assert [one.correct for one in grades] == [False] * 4 + [True] * 2
    assert {one.verdict for one in grades[:4]} <= {Verdict.WRONG, Verdict.TIMEOUT}
    assert [one.reward for one in grades[:4]] == [0.5] * 4


@pytest.mark.parametrize("call", ["thread", "asyncio.to_thread", "inside a loop"])
def test_eight_hanging_rows_at_once_from_any_caller(call: str) -> None:
    hanging = r"\boxed{\int_0^1 \sin(x^{x^{x}}) e^{-x^{x}} dx %d}"
    rows = [(hanging % number, problem(r"\pi")) for number in range(8)]
    rows += [(f"\\boxed{{{number}+x}}", problem(f"x+{number % 5}")) for number in range(10)]

    async def in_loop() -> list[Grade]:
        if call == "inside a loop":
            return grade(rewards, rows)
        return await asyncio.to_thread(grade, rewards, rows)

    with Rewards(RewardSettings(timeout_s=0.3, memory_mb=1024)) as rewards:
        if call == "thread":
            with ThreadPoolExecutor(1) as threads:
                grades = threads.submit(grade, rewards, rows).result()
        else:
            grades = asyncio.run(in_loop())
    assert [one.verdict for one in grades[:8]] == [Verdict.TIMEOUT] * 8
    assert all(one.seconds < 10.0 for one in grades)
    assert [one.correct for one in grades[8:]] == [number < 5 for number in range(10)]


def test_an_exception_in_the_grader_makes_a_row_unscorable() -> None:
    with Rewards(RewardSettings(memory_mb=1024), same=pow) as rewards:  # the worker then runs pow("x", ("y",))
        one, fine = grade(rewards, [(r"\boxed{x}", problem("y")), (r"\boxed{1}", problem("1"))])
    assert fine.correct
    assert one.verdict is Verdict.ERROR
    assert not one.scorable
    assert "TypeError" in one.note


def test_a_grader_that_fails_on_every_row_is_an_error() -> None:
    broken, fine = (r"\boxed{x}", problem("y")), (r"\boxed{1}", problem("1"))
    with Rewards(RewardSettings(memory_mb=1024), same=pow) as rewards:
        with pytest.raises(DataError, match="reward: none of 1 completions could be scored; the first: TypeError"):
            grade(rewards, [broken])
        grade(rewards, [fine])
        assert not any(one.scorable for one in grade(rewards, [broken] * 7))  # a few repairs with bad luck
        with pytest.raises(DataError, match="none of 8"):
            grade(rewards, [broken] * 8)


@pytest.mark.parametrize("command", ["sleep 60", "kill -SEGV $PPID"])
def test_a_late_or_crashing_answer_is_a_timeout_and_keeps_its_format(command: str) -> None:
    config = RewardSettings(format_weight=0.5, timeout_s=1.5, memory_mb=1024)
    with Rewards(config, same=shell) as rewards:
        (one,) = grade(rewards, [(f"\\boxed{{{command}}}", problem("sh"))])
    assert (one.verdict, one.reward) == (Verdict.TIMEOUT, 0.5)
    assert one.parts == {"format": 1.0, "accuracy": 0.0}


def test_unequal_lengths_and_missing_answers_are_errors(built_in: Rewards) -> None:
    assert built_in.grade([], [], []) == []
    with pytest.raises(DataError, match="1 problems, 2 completions"):
        built_in.grade([problem("1")], ["", ""], [True, True])
    with pytest.raises(DataError, match="no reference answer"):
        grade(built_in, [("", problem())])


def test_verdict_counts_are_shares_of_all_rows() -> None:
    counts = verdict_counts([Grade(verdict, 0.0) for verdict in (Verdict.TIMEOUT, Verdict.ERROR, Verdict.TIMEOUT)])
    assert counts["verdict/timeout"] == (2.0, 3.0)
    assert counts["verdict/error"] == (1.0, 3.0)
    assert set(counts) == {f"verdict/{verdict.value}" for verdict in Verdict}


@pytest.mark.parametrize(
    "first",
    [
        "raise ImportError('libmine.so: failed to map segment from shared object')",
        "import os\nos._exit(1)",
        "bytearray(3 * 2**30)",
    ],
)
def test_a_function_that_may_not_fit_into_memory_is_an_error_that_says_so(tmp_path: Path, first: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"{first}\ndef f(completions, problems):\n    return [1.0] * len(completions)\n")
    config = RewardSettings(function=f"{path}:f", memory_mb=1024)
    with pytest.raises(ConfigError, match=r"cannot be used: .*reward\.memory_mb \(now 1024\)"), Rewards(config):
        pass


def test_invalid_settings_are_rejected() -> None:
    for wrong in ({"timeout_s": 0.0}, {"workers": 0}, {"memory_mb": 10}, {"timeout": 3.0}):
        with pytest.raises(ValidationError):
            RewardSettings(**wrong)


@pytest.fixture
def custom(tmp_path: Path) -> CustomReward:
    """Grades ["a", "bad", "c"] with a function that has the given body."""

    def run(body: str, rows: int = 3, **changes: object) -> list[Grade]:
        path = tmp_path / "mine.py"
        path.write_text(f"import math, os, time\ndef reward(completions, problems):\n    {body}\n")
        config = RewardSettings(
            **{"function": f"{path}:reward", "timeout_s": 0.5, "function_timeout_s": 1.0, "memory_mb": 1024, **changes}
        )
        with Rewards(config) as rewards:
            return grade(rewards, [(text, NO_ANSWER) for text in ("a", "bad", "c")[:rows]])

    return run


def verdicts(grades: list[Grade]) -> list[str]:
    return [one.verdict.value for one in grades]


def test_a_custom_reward_may_return_numbers_mappings_and_none(custom: CustomReward) -> None:
    grades = custom("return [2.5, None, 0]")
    assert verdicts(grades) == ["correct", "error", "wrong"]
    assert [(one.reward, dict(one.parts)) for one in grades] == [
        (2.5, {"reward": 2.5}),
        (0.0, {"reward": 0.0}),
        (0.0, {"reward": 0.0}),
    ]
    grades = custom(
        "return [{'x': 1, 'y': -2.0, 'correct': True}, {'x': 1}, {'x': 0.5, 'y': 1}]", function_parts=("y", "x")
    )
    assert verdicts(grades) == ["correct", "error", "correct"]
    assert [one.reward for one in grades] == [-1.0, 0.0, 1.5]
    assert tuple(grades[0].parts) == ("y", "x")
    assert "want ['x', 'y']" in grades[1].note
    grades = custom("return [{'x': 1, 'y': 1}, 1, {1: 1, 'y': 1}]", function_parts=("y", "x"))
    assert verdicts(grades) == ["correct", "error", "error"]
    assert [one.note.split(",")[0] for one in grades[1:]] == [
        "the function returned a number",
        "the function returned parts ['1'",
    ]


def test_without_correct_the_built_in_check_gives_the_verdict(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def number(completions, problems):\n    return [1.5] * 4 + [None]\n"
        "def mapping(completions, problems):\n    return [{'x': 1, 'correct': False}] + [{'x': 1}] * 4\n"
    )
    texts = [r"\boxed{1/2}", r"\boxed{3}", "0.5", r"\boxed{0.5}", r"\boxed{0.5}"]
    problems = [problem("0.5")] * 3 + [NO_ANSWER] + [problem("0.5")]
    wanted = {
        "number": ["correct", "wrong", "unparsed", "correct", "error"],
        "mapping": ["wrong", "wrong", "unparsed", "correct", "correct"],
    }
    for name, expected in wanted.items():
        with Rewards(RewardSettings(function=f"{path}:{name}", memory_mb=1024)) as rewards:
            grades = grade(rewards, list(zip(texts, problems, strict=True)))
        assert verdicts(grades) == expected
        assert len({one.reward for one in grades if one.scorable}) == 1


def test_a_row_that_failed_keeps_its_verdict_whatever_its_box_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import os\ndef f(completions, problems):\n    return [1 if '2' in c else os._exit(1) for c in completions]\n"
    )
    texts = [r"\boxed{1}", r"\boxed{2}"]
    with Rewards(RewardSettings(function=f"{path}:f", memory_mb=1024)) as rewards:
        grades = grade(rewards, list(zip(texts, [problem("1")] * 2, strict=True)))
    assert verdicts(grades) == ["timeout", "wrong"]
    assert [one.reward for one in grades] == [0.0, 1.0]


def test_seconds_count_the_time_spent_on_the_row(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import time\ndef f(completions, problems):\n    time.sleep(1.0)\n    return [1.0] * len(completions)\n"
    )
    with Rewards(RewardSettings(function=f"{path}:f", memory_mb=1024)) as rewards:
        grades = grade(rewards, [("a", NO_ANSWER)] * 4)
    assert all(0.25 <= one.seconds < 1.0 for one in grades)
    slow = problem(r"\int_0^1 \sin(x^{x^{x}}) e^{-x^{x}} dx")
    with Rewards(RewardSettings(timeout_s=0.5, memory_mb=1024)) as rewards:
        late, unparsed, at_once = grade(rewards, [(r"\boxed{\pi}", slow), ("x", slow), (r"\boxed{7}", problem("7"))])
        assert rewards.decided == {How.WORKER: 1, How.TEXT: 1}
    assert 0.5 <= late.seconds < 10.0
    assert 0 < unparsed.seconds < late.seconds
    assert 0 < at_once.seconds < late.seconds
    assert at_once == Grade(Verdict.CORRECT, 2.0, {"format": 1.0, "accuracy": 1.0})


def test_mappings_need_no_declared_parts(custom: CustomReward) -> None:
    grades = custom("return [{'x': 1, 'y': 0.5}, {'x': 1, 'correct': False}, {'correct': True}]")
    assert verdicts(grades) == ["correct", "wrong", "error"]
    assert [dict(one.parts) for one in grades] == [{"reward": 1.5}, {"reward": 1.0}, {"reward": 0.0}]
    assert "a number for each of its parts" in grades[2].note


@pytest.mark.parametrize(
    "value",
    [
        "math.nan",
        "math.inf",
        "1e300",
        "'1'",
        "[1]",
        "object()",
        "type('Odd', (), {'__float__': lambda self: 1 / 0})()",
        "{'x': 1, 'correct': 'no'}",
    ],
)
def test_a_custom_reward_that_is_not_a_number_is_an_error(custom: CustomReward, value: str) -> None:
    grades = custom(f"return [1.0, {value}, 1.0]")
    assert verdicts(grades) == ["correct", "error", "correct"]
    assert grades[1].note


def test_numbers_may_be_of_a_class_that_only_the_worker_knows(custom: CustomReward) -> None:
    grades = custom("return [type('Mine', (float,), {})(2)] * len(completions)\nclass Own(float): pass")
    assert [one.reward for one in grades] == [2.0] * 3
    grades = custom("return [{'x': Own(2)}] * len(completions)\nclass Own(float): pass")
    assert [one.reward for one in grades] == [2.0] * 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1.0]", "the function returned 1 entries, want a list of 3"),
        ("return None", "a NoneType, want a list of 3"),
        ("return 1.0", "a float, want a list of 3"),
        ("return (x for x in [1])", "the function returned 1 entries, want a list of 3"),
        ("return [None] * len(completions)", "the function returned None"),
        ("raise KeyError('answer')", "KeyError: 'answer'"),
        ("time.sleep(100)", "killed after"),
        ("os._exit(1)", "the process died"),
    ],
)
def test_a_custom_reward_that_always_fails_is_an_error(custom: CustomReward, body: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"reward\.function: .*none of 3 .*{re.escape(message)}.*Fix the function"):
        custom(body)


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
def test_a_custom_reward_that_fails_on_one_row_affects_no_other(custom: CustomReward, blow: str, verdict: str) -> None:
    grades = custom(f"for text in completions:\n        if text == 'bad': {blow}\n    return [1.0] * len(completions)")
    assert verdicts(grades) == ["correct", verdict, "correct"]
    assert grades[1].reward == 0.0
    assert grades[1].note


def test_retrying_the_rows_of_a_hanging_reward_gives_up(custom: CustomReward) -> None:
    body = "time.sleep(0 if completions == ['a'] else 100); return [1.0]"
    grades = custom(body, timeout_s=0.3, function_timeout_s=0.3, workers=1)
    assert verdicts(grades) == ["correct", "timeout", "error"]
    assert "not reached" in grades[2].note


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("mine", "want 'package.module:name'"),
        ("mine.py:reward", "no such file"),
        ("~nobody-of-this-name/mine.py:reward", "reward.function: .* cannot be accessed"),
        ("no_such_module_here:reward", "No module named"),
        ("json:no_such_name", "no function 'no_such_name'"),
        ("json:dumps", "want \\(completions, problems\\)"),
        ("textwrap:dedent", "it takes \\(text\\), want \\(completions, problems\\)"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_an_error(function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message), Rewards(RewardSettings(function=function)):
        pass


def test_a_file_that_does_not_import_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def reward(:\n")
    with pytest.raises(ConfigError, match="SyntaxError"), Rewards(RewardSettings(function=f"{path}:reward")):
        pass
    for parts in (("correct",), ("x", "x")):
        with pytest.raises(ConfigError, match=r"reward\.function_parts: got"):
            Rewards(RewardSettings(function=f"{path}:reward", function_parts=parts))


def documented(path: str) -> list[str]:
    """The settings of a file's commands that train with a custom reward."""
    text = (ROOT / path).read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^ *edge-grpo train (.*\breward\.function=.*)$", text, re.M)


PAGES = ("docs/rewards.md", "docs/coming_from.md", "examples/own_reward.py", "examples/trl_reward.py")
COMMANDS = [line for page in PAGES for line in documented(page)]


@pytest.mark.parametrize("line", [line for line in COMMANDS if "function_style" in line])
def test_the_documented_commands_for_other_signatures_work(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with Rewards(load_config(None, shlex.split(line)).reward) as rewards:
        grades = rewards.grade([problem("1/2")] * 3, [r"\boxed{0.5}", r"\boxed{2}", "0.5"], [True, True, False])
    assert [one.reward for one in grades] == [2.0, 1.0, 0.0]
    assert [one.correct for one in grades] == [True, False, False]


@pytest.mark.parametrize("line", [line for line in COMMANDS if "function_style" not in line])
def test_the_documented_commands_work(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(None, shlex.split(line))
    with Rewards(config.reward) as rewards:
        grades = rewards.grade([problem("1/2")] * 3, [r"\boxed{0.5}", r"\boxed{2}", "0.5"], [True, True, False])
        assert all(tuple(one.parts) == rewards.part_names for one in grades)
    assert [one.verdict.value for one in grades] == ["correct", "wrong", "wrong"]
    assert grades[0].reward > grades[1].reward > grades[2].reward
    if config.reward.function_parts:
        assert [one.parts["format"] for one in grades] == [1.0, 1.0, 0.0]


def test_the_pages_and_the_examples_show_commands() -> None:
    assert all(map(documented, PAGES))
