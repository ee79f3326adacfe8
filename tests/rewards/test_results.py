"""Reward functions may return entries in any form; anything else is explained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Problem
from edge_grpo.rewards import Rewards, RewardSettings
from edge_grpo.rewards.custom import call
from edge_grpo.rewards.results import entries
from edge_grpo.rewards.styles import Batch

FORMS: dict[str, Callable[[], object]] = {
    "list": lambda: [0.0, 1.0, 2.0],
    "tuple": lambda: (0.0, 1.0, 2.0),
    "integers": lambda: range(3),
    "generator": lambda: (float(number) for number in range(3)),
    "map": lambda: map(float, range(3)),
    "values of a dict": {"a": 0, "b": 1, "c": 2}.values,
    "array": lambda: np.arange(3),
    "float32 array": lambda: np.arange(3, dtype=np.float32),
    "numpy scalars": lambda: [np.float32(number) for number in range(3)],
    "tensor": lambda: torch.arange(3).float(),
    "bfloat16 tensor": lambda: torch.arange(3).bfloat16(),
    "tensor with a gradient": lambda: torch.arange(3).float().requires_grad_(),
    "scalar tensors": lambda: [torch.tensor(1.0 * number) for number in range(3)],
    "columns": lambda: {"x": np.arange(3)},
}


def rewards_of(result: object) -> object:
    """What the worker's side of a call makes of a result."""
    RESULT[:] = [result]
    return call(f"{__name__}:reward", Batch(["a", "b", "c"], [Problem("p", "?", ("1",))] * 3, [True] * 3))


RESULT: list[object] = []


def reward(completions: list[str], problems: list[Problem]) -> object:
    return RESULT[0]


@pytest.mark.parametrize("form", FORMS)
def test_entries_come_in_many_forms(form: str) -> None:
    found = rewards_of(FORMS[form]())
    plain = [0.0, 1.0, 2.0]
    assert found == ([{"x": number} for number in plain] if form == "columns" else plain)


def test_columns_become_mappings_of_parts() -> None:
    parts = {"format": (1, 0), "brevity": torch.tensor([0.5, 0.25]), "correct": [True, None]}
    assert entries(parts, 2) == [
        {"format": 1, "brevity": 0.5, "correct": True},
        {"format": 0, "brevity": 0.25, "correct": None},
    ]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (1.0, "the function returned a float, want a list of 3"),
        (None, "the function returned a NoneType, want a list of 3"),
        ("1.0", "the function returned a str, want a list of 3"),
        ({1.0, 2.0, 3.0}, "the function returned a set, want a list of 3"),
        ({}, "the function returned a dict, want a list of 3, or lists of 3 by part"),
        ({"x": [1.0]}, "the function returned a dict, want a list of 3, or lists of 3 by part"),
        ([1.0], "the function returned 1 entries, want a list of 3"),
        (np.float64(1.0), "the function returned a float64, want a list of 3"),
        (torch.tensor(1.0), "the function returned a Tensor, want a list of 3"),
        (np.zeros((3, 1)), "the function returned a ndarray of shape (3, 1), want a list of 3 numbers"),
        (torch.zeros(3, 2), "the function returned a Tensor of shape (3, 2), want a list of 3 numbers"),
    ],
    ids=str,
)
def test_other_results_are_explained(result: object, message: str) -> None:
    assert entries(result, 3) == message


def test_an_endless_iterator_ends() -> None:
    assert entries(iter(int, 1), 3) == "the function returned 4 or more entries, want a list of 3"


ASYNC = """
import asyncio
state = {}
async def score(text):
    await asyncio.sleep(0.01)
    return float(len(text))
async def plain(completions, problems):
    return await asyncio.gather(*map(score, completions))
def coroutines(completions, problems):
    return [score(text) for text in completions]
async def generator(completions, problems):
    for text in completions:
        yield await score(text)
async def connected(completions, problems):
    loop = state.setdefault("loop", asyncio.get_running_loop())
    return [float(loop is asyncio.get_running_loop())] * len(completions)
async def hanging(completions, problems):
    await asyncio.sleep(100)
async def failing(completions, problems):
    if "bad" in completions:
        raise ValueError("no")
    return [await score(text) for text in completions]
async def short(completions, problems):
    return [1.0]
"""


@pytest.fixture(name="graded")
def _graded(tmp_path: Path) -> Callable[..., list[tuple[str, float]]]:
    path = tmp_path / "asynchronous.py"
    path.write_text(ASYNC)

    def grade(name: str, calls: int = 1) -> list[tuple[str, float]]:
        config = RewardSettings(function=f"{path}:{name}", timeout_s=0.3, function_timeout_s=0.6, workers=1)
        problems = [Problem("p", "?", ())] * 3
        with Rewards(config) as rewards:
            for _ in range(calls):
                grades = rewards.grade(problems, ["a", "bad", "cc"], [True] * 3)
        return [(str(one.verdict), one.reward) for one in grades]

    return grade


@pytest.mark.parametrize("name", ["plain", "coroutines", "generator"])
def test_functions_may_be_asynchronous(graded: Callable[..., list[tuple[str, float]]], name: str) -> None:
    assert graded(name) == [("correct", 1.0), ("correct", 3.0), ("correct", 2.0)]


def test_calls_share_an_event_loop(graded: Callable[..., list[tuple[str, float]]]) -> None:
    assert [reward for _, reward in graded("connected", calls=2)] == [1.0] * 3


def test_an_asynchronous_function_fails_like_any_other(graded: Callable[..., list[tuple[str, float]]]) -> None:
    assert [verdict for verdict, _ in graded("failing")] == ["correct", "error", "correct"]
    with pytest.raises(DataError, match="none of 3 completions could be scored; the first: killed after"):
        graded("hanging")
    with pytest.raises(DataError, match="the first: the function returned 1 entries, want a list of 3"):
        graded("short")
