"""Equivalent questions: which there are and which are drawn."""

import random

import pytest

from edge_grpo.data.arithmetic import ArithmeticSettings, problems
from edge_grpo.data.variants import check_count, draw_variants, wordings
from edge_grpo.errors import DataError
from edge_grpo.records import Problem

PROBLEM = Problem("p", "a", ("1",), variants=("b", "c"))


def test_the_built_in_task_has_three_wordings():
    (problem,) = problems(ArithmeticSettings(), count=1)
    texts = wordings(problem)
    assert texts[0] == problem.prompt
    assert len(set(texts)) == 3


def test_draws_are_without_replacement_and_leave_none_out():
    drawn = [draw_variants(PROBLEM, wordings(PROBLEM), 2, random.Random(seed)) for seed in range(30)]
    assert all(len(set(each)) == 2 for each in drawn)
    assert {text for each in drawn for text in each} == {"a", "b", "c"}


def test_too_few_wordings_are_told_with_what_to_do():
    check_count(PROBLEM, 3)
    with pytest.raises(DataError, match=r"'p': 3 wordings of the question, 4 wanted.*data\.fields\.variants"):
        check_count(PROBLEM, 4)
