import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_grpo.base.records import Problem, Verdict
from edge_grpo.rewards import Rewards, RewardSettings
from edge_grpo.rewards.formats import tagged_answer, thinks_then_answers, thinks_then_boxes, tighten

# The release's rules are patterns, which take more than linear time.
PIECES = ["<think>", "</think>", "<answer>", "</answer>", r"\boxed{", "}", "x", "\n", " ", "<", ">", "/"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)


@given(TEXTS)
def test_formats_match_the_patterns_of_the_release(text: str) -> None:
    assert tighten(text) == re.sub(r"\s*(<|>|/)\s*", r"\1", text)
    assert thinks_then_boxes(text) == bool(re.fullmatch(r"<think>.*</think>.*\\boxed\{.*\}.*", text, re.DOTALL))
    tagged = re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL)
    assert thinks_then_answers(text) == bool(tagged)
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    assert tagged_answer(text) == (found[1].strip() if found else None)


@pytest.mark.timeout(60)  # rules of more than linear time take minutes
@pytest.mark.parametrize("text", [" " * 200_000 + "x", "</think>" * 50_000, r"<think></think>\boxed{" * 20_000])
def test_long_texts_do_not_stall_the_rules(text: str) -> None:
    assert tighten(text) == text
    assert not thinks_then_boxes(text)
    assert not thinks_then_answers(text)
    assert tagged_answer(text) is None


def test_thinking_can_earn_the_format_reward() -> None:
    problem = Problem("p", "1+1?", ("2",))
    texts = [
        r"<think>a</think> \boxed{2}",
        r"\boxed{2}",
        r"< think >a< / think > \boxed{3}",
        "<think>a</think> 2",
        r"<think>\boxed{2}</think> 2",
    ]
    settings = RewardSettings(format="think", format_weight=0.1, accuracy_weight=0.9, workers=1)
    with Rewards(settings) as rewards:
        grades = rewards.grade([problem] * 5, texts, [True] * 5)
    assert [grade.reward for grade in grades] == pytest.approx([1.0, 0.9, 0.1, 0.0, 0.9])
    assert [grade.parts["format"] for grade in grades] == [1, 0, 1, 0, 0]
    right, wrong, unparsed = Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSED
    assert [grade.verdict for grade in grades] == [right, right, wrong, unparsed, right]


def test_a_box_among_the_thoughts_is_no_answer_to_the_format() -> None:
    assert not thinks_then_boxes(r"<think>It is \boxed{2}.</think> It is 2.")
    assert not thinks_then_boxes(r"<think>It is \boxed{2</think>}")
    assert thinks_then_boxes(r"<think>Perhaps \boxed{3}.</think> No, \boxed{2}.")
