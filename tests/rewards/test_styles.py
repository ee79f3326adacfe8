"""Reward functions written for TRL or verl are called as they are there."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.records import Picture, Problem
from edge_grpo.rewards import Rewards, RewardSettings
from edge_grpo.rewards.custom import call, check
from edge_grpo.rewards.styles import Batch

TEXT = Problem("a", "1+1?", ("2",), meta={"level": 1}, columns={"gold": 2, "level": 1})
TALK = Problem(
    "b",
    "And 2+3?",
    ("5",),
    earlier=("1+1?", "2"),
    system="Brief.",
    as_messages=True,
    columns={"gold": 5, "level": None},
)


@pytest.fixture(name="function")
def _function(tmp_path: Path) -> Callable[[str], str]:
    """Writes a function with the given parameters and body, and returns its path."""

    def write(code: str) -> str:
        (tmp_path / "theirs.py").write_text(code)
        return f"{tmp_path / 'theirs.py'}:reward"

    return write


def trl(path: str, *problems: Problem, token_ids: Sequence[Sequence[int]] = ()) -> object:
    texts = ["it is 2", "it is 5"][: len(problems)]
    return call(path, Batch(texts, problems, [True] * len(problems), token_ids), "trl")


def test_a_function_for_trl_gets_prompts_completions_and_columns(function: Callable[[str], str]) -> None:
    path = function(
        "def reward(prompts, completions, gold, level=None, **kwargs):\n"
        "    assert prompts == ['1+1?'] and completions == ['it is 2'] and gold == [2] and level == [1]\n"
        "    assert kwargs == {'answer': ['2']}, kwargs\n"
        "    return [float(str(want) in text) for want, text in zip(gold, completions)]\n"
    )
    assert check(path, "trl") == ""
    assert trl(path, TEXT) == [1.0]


def test_conversations_are_lists_of_messages_as_in_trl(function: Callable[[str], str]) -> None:
    path = function(
        "def reward(completions, prompts, answer, **kwargs):\n"
        "    assert prompts == ['1+1?', [{'role': 'system', 'content': 'Brief.'},\n"
        "        {'role': 'user', 'content': '1+1?'},\n"
        "        {'role': 'assistant', 'content': '2'}, {'role': 'user', 'content': 'And 2+3?'}]]\n"
        "    assert completions == ['it is 2', [{'role': 'assistant', 'content': 'it is 5'}]]\n"
        "    assert (answer, kwargs['level']) == (['2', '5'], [1, None])\n"
        "    return [None, completions[1][0]['content'].endswith('5')]\n"
    )
    assert trl(path, TEXT, TALK) == [None, 1.0]


def test_a_function_for_trl_without_keywords_gets_what_it_names(function: Callable[[str], str]) -> None:
    path = function(
        "def reward(completions, log_metric=None):\n    return [float(len(text)) for text in completions]\n"
    )
    assert check(path, "trl") == ""
    assert trl(path, TEXT) == [7.0]


def test_a_function_for_trl_may_count_tokens(function: Callable[[str], str]) -> None:
    path = function("def reward(completion_ids, **kwargs):\n    return [float(len(ids)) for ids in completion_ids]\n")
    assert check(path, "trl") == ""
    assert trl(path, TEXT, TALK, token_ids=[(1, 2, 3), (4,)]) == [3.0, 1.0]
    config = RewardSettings(function=path, function_style="trl")
    with Rewards(config) as rewards:
        grades = rewards.grade([TEXT] * 2, ["x", "y"], [True] * 2, [(5, 6), (7,)])
        assert [one.reward for one in grades] == [2, 1]
        with pytest.raises(DataError, match="and 1 lists of token ids"):
            rewards.grade([TEXT] * 2, ["x", "y"], [True] * 2, [(5, 6)])
        (unknown,) = rewards.grade([TEXT], ["x"], [True], strict=False)
    assert unknown.note.startswith("TypeError: it takes 'completion_ids', but is called with 'answer'")


def test_rows_of_a_failed_batch_keep_their_tokens(function: Callable[[str], str]) -> None:
    path = function("def reward(completion_ids, **kwargs):\n    return [1 / len(ids) for ids in completion_ids]\n")
    with Rewards(RewardSettings(function=path, function_style="trl")) as rewards:
        grades = rewards.grade([TEXT] * 3, ["x"] * 3, [True] * 3, [(5, 6), (), (7,)])
    assert [(str(one.verdict), one.reward) for one in grades] == [("unparsed", 0.5), ("error", 0), ("unparsed", 1)]


def test_a_column_that_the_data_lacks_is_named(function: Callable[[str], str]) -> None:
    path = function("def reward(completions, solution, **kwargs):\n    return [1.0]\n")
    with pytest.raises(TypeError, match="it takes 'solution', but is called with 'answer', 'level', 'gold', 'prompts'"):
        trl(path, TEXT)
    config = RewardSettings(function=path, function_style="trl")
    with Rewards(config) as rewards, pytest.raises(DataError, match="TypeError: it takes 'solution', but"):
        rewards.grade([TEXT], ["x"], [True])


@pytest.mark.parametrize(
    ("style", "parameters", "message"),
    [
        ("trl", "trainer_state, **kwargs", "trainer_state cannot be passed; give each a default, such as None"),
        ("trl", "prompts, completions, trainer_state, log_extra", "trainer_state, log_extra cannot be passed"),
        ("trl", "completions, problems", "the signature of reward.function_style=own; set that"),
        ("verl", "completions, problems", r"want \(data_source, solution_str, ground_truth, extra_info\): "),
        ("own", "data_source, solution_str, ground_truth, extra_info=None", "needs reward.function_style=trl or verl"),
    ],
)
def test_another_signature_is_rejected_before_anything_is_sampled(
    function: Callable[[str], str], style: Any, parameters: str, message: str
) -> None:
    config = RewardSettings(function=function(f"def reward({parameters}): ..."), function_style=style)
    with pytest.raises(ConfigError, match=message) as raised, Rewards(config):
        pass
    assert "\n" not in str(raised.value)


ROW = Problem(
    "v", "1+1?", ("2",), columns={"data_source": "x", "reward_model": {"ground_truth": 2}, "extra_info": {"index": 3}}
)


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_function_for_verl_is_called_once_per_row(function: Callable[[str], str], keyword: str) -> None:
    path = function(
        f"{keyword} reward(data_source, solution_str, ground_truth, extra_info=None, **kwargs):\n"
        "    right = str(ground_truth) in solution_str\n"
        "    return {'score': 2 * right - 1, 'acc': right, 'pred': str((data_source, extra_info))}\n"
    )
    assert check(path, "verl") == ""
    config = RewardSettings(function=path, function_style="verl")
    with Rewards(config) as rewards:
        grades = rewards.grade([ROW, TEXT, ROW], ["2", "2", "3"], [True] * 3)
    assert [(str(one.verdict), one.reward) for one in grades] == [("correct", 1), ("correct", 1), ("wrong", -1)]


def test_a_score_for_verl_may_be_a_number_and_must_be_there(function: Callable[[str], str]) -> None:
    path = function("def reward(data_source, solution_str, ground_truth, extra_info): return float(solution_str)")
    assert call(path, Batch(["2", "3"], [ROW] * 2, [True] * 2), "verl") == [2.0, 3.0]
    path = function("def reward(data_source, solution_str, ground_truth, extra_info): return {'acc': True}")
    config = RewardSettings(function=path, function_style="verl")
    with Rewards(config) as rewards, pytest.raises(DataError, match="a mapping without 'score': "):
        rewards.grade([ROW], ["x"], [True])


def test_images_are_passed_as_datasets_stores_them(function: Callable[[str], str]) -> None:
    path = function(
        "def reward(completions, images, **kwargs):\n"
        "    assert images == [[{'path': '/a.png', 'bytes': None}, {'path': None, 'bytes': b'x'}]], images\n"
        "    return [1.0]\n"
    )
    images = Picture("1", "d", (1, 1), path="/a.png"), Picture("2", "e", (1, 1), content=b"x")
    assert trl(path, replace(TEXT, images=images)) == [1.0]
