import re
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_grpo.base.records import Problem, Verdict
from edge_grpo.rewards import Rewards, RewardSettings
from edge_grpo.rewards.formats import (
    as_tags,
    outside_thoughts,
    tagged_answer,
    thinks_then_answers,
    thinks_then_boxes,
    tighten,
)

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
    assert [grade.reward for grade in grades] == pytest.approx([1.0, 0.9, 0.1, 0.0, 0.0])
    assert [grade.parts["format"] for grade in grades] == [1, 0, 1, 0, 0]
    right, wrong, unparsed = Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSED
    assert [grade.verdict for grade in grades] == [right, right, wrong, unparsed, unparsed]


def test_a_box_among_the_thoughts_is_no_answer_to_the_format() -> None:
    assert not thinks_then_boxes(r"<think>It is \boxed{2}.</think> It is 2.")
    assert not thinks_then_boxes(r"<think>It is \boxed{2</think>}")
    assert thinks_then_boxes(r"<think>Perhaps \boxed{3}.</think> No, \boxed{2}.")


@pytest.mark.parametrize(
    ("text", "outside"),
    [
        (r"\boxed{2}", r"\boxed{2}"),
        (r"<think>maybe \boxed{5}, but let me check", ""),
        (r"<think>maybe \boxed{5}</think>I do not know.", "I do not know."),
        (r"<think>maybe \boxed{6}</think>It is \boxed{5}.", r"It is \boxed{5}."),
        (r"maybe \boxed{6}</think>It is 5.", "It is 5."),
        ("< think >a</ think >b", "b"),
        ("a <think>b</think> c <think>d</think> e", "a  c  e"),
        ("<think>a</think>b<think>c", "b"),
        ("<think>a<think>b</think>c", "c"),
        ("<think>a</think>b</think>c", "b</think>c"),
        ("<thinking>a</thinking>", "<thinking>a</thinking>"),
        ("", ""),
    ],
)
def test_thoughts_are_cut_out_finished_or_not(text: str, outside: str) -> None:
    assert outside_thoughts(text) == outside


ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("text", "tagged"),
    [
        ("no channels", "no channels"),
        (f"{ANALYSIS}a", "<think>a"),
        (f"{ANALYSIS}a<|end|>", "<think>a</think>"),
        (f"{ANALYSIS}a<|end|><|start|>assistant{FINAL}b", "<think>a</think>b"),
        (f"{ANALYSIS}a{FINAL}b<|return|>", "<think>a</think>b"),
        (f"{ANALYSIS}a</think>b<|end|><|start|>assistant{FINAL}c", "<think>ab</think>c"),
        ("<|channel|>commentary to=f <|constrain|>json<|message|>{}<|call|>", "<think>{}</think>"),
        ("<|channel|>final <|constrain|>json<|message|>{}<|return|>", "{}"),
        (f"<|start|>assistant{FINAL}b", "b"),
    ],
)
def test_channels_read_as_thoughts_and_answer(text: str, tagged: str) -> None:
    assert as_tags(text) == tagged


@pytest.mark.parametrize("form", ["box", "think"])
def test_only_the_final_channel_holds_an_answer(form: Literal["box", "think"]) -> None:
    problem = Problem("p", "1+1?", ("2",))
    texts = [
        rf"{ANALYSIS}It is \boxed{{2}}.",
        rf"{ANALYSIS}It is \boxed{{2}}.<|end|><|start|>assistant{FINAL}It is 2.",
        rf"{ANALYSIS}Is it \boxed{{3}}?<|end|><|start|>assistant{FINAL}\boxed{{2}}",
    ]
    with Rewards(RewardSettings(format=form, workers=1)) as rewards:
        grades = rewards.grade([problem] * 3, texts, [True] * 3)
        assert [rewards.answer(text) for text in texts] == [None, None, "2"]
    assert [grade.verdict for grade in grades] == [Verdict.UNPARSED, Verdict.UNPARSED, Verdict.CORRECT]
    assert [grade.parts["format"] for grade in grades] == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "correct", "formatted"),
    [
        ("<think>1+1</think><answer>2</answer>", True, True),
        ("< think >1+1</ think >\n<answer> 2 </answer>\n", True, True),
        (r"<think>1+1</think><answer>It is \boxed{2}</answer>", True, True),
        ("<answer>2</answer>", True, False),
        ("<think>1+1</think>So: <answer>2</answer>", True, False),
        ("<think>1+1</think><answer>3</answer>", False, True),
        ("<think><answer>2</answer></think><answer>3</answer>", False, True),
        ("<think><answer>2</answer>", False, False),
        ("<think>1+1</think><answer></answer>", False, False),
        (r"<think>1+1</think>\boxed{2}", True, False),
        (r"<think>1+1</think>\boxed{3}<answer>2</answer>", True, False),
        (r"<think>\boxed{2}</think>2", False, False),
    ],
)
def test_an_answer_between_tags(text: str, correct: bool, formatted: bool) -> None:
    settings = RewardSettings(format="answer", format_weight=0.5, accuracy_weight=0.5, workers=1)
    with Rewards(settings) as rewards:
        (one,) = rewards.grade([Problem("p", "?", ("2",))], [text], [True])
    assert (one.correct, one.parts["format"], one.reward) == (correct, formatted, 0.5 * correct + 0.5 * formatted)
    assert (one.verdict is Verdict.UNPARSED) == ("<answer></answer>" in one.note)


def test_without_the_think_format_a_box_in_thoughts_still_counts() -> None:
    with Rewards(RewardSettings(workers=1)) as rewards:
        assert rewards.answer(r"<think>It is \boxed{2}.</think> It is 2.") == "2"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["<think>", "</think>", "<think></think>", "<" + " " * 9, "<|channel|>", "<|end|>"])
def test_thoughts_of_long_texts_are_cut_out_in_linear_time(piece: str) -> None:
    text = piece * (2_000_000 // len(piece))
    outside_thoughts(as_tags(text))
    outside_thoughts("<" + " " * 2_000_000 + "/" + " " * 2_000_000)
