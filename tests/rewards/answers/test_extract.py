"""The last balanced box, in fixed cases and random texts."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_grpo.rewards import boxed_answer

PIECES = st.sampled_from(["\\boxed", "{", "}", "\\{", "\\}", "7", " ", "\\frac", "x", "\\fbox", "\n"])
BALANCED = st.recursive(
    st.text("ab1+ ", max_size=4), lambda inner: st.builds("{{{}}}{}".format, inner, inner), max_leaves=6
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{7}", "7"),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{\text{}}", None),
        (r"\boxed{\quad}", None),
        (r"\boxed{5} or \boxed{}", None),
        (r"\boxed{\frac{1}{2}} and more }", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{7 and \boxed{8}", "8"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{1} then \boxed{2", None),
        (r"\boxed{1} then \boxed 2", "2"),
        (r"\boxed {7}", "7"),
        (r"\boxed 7", "7"),
        (r"\boxed -7.5.", "-7.5"),
        (r"\boxed B.", "B"),
        (r"\boxed\frac12", r"\frac12"),
        (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed\sqrt2", r"\sqrt2"),
        (r"\boxed\pi", r"\pi"),
        (r"\fbox{7}", "7"),
        (r"\fbox{7}, so \boxed{8}", "8"),
        (r"\boxed{5}. Note that \boxed requires braces.", "5"),
        (r"\boxed{5}. A \boxedanswer{6}", "5"),
        ("", None),
        ("boxed{7}", None),
    ],
)
def test_the_last_box_is_read(text: str, answer: str | None) -> None:
    assert boxed_answer(text) == answer


@given(before=st.lists(PIECES, max_size=20).map("".join), content=BALANCED, after=st.text("xyz .}", max_size=10))
def test_a_balanced_last_box_is_found_whatever_surrounds_it(before: str, content: str, after: str) -> None:
    assert boxed_answer(f"{before}\\boxed{{1{content}}}{after}") == f"1{content}"


@given(st.lists(PIECES, max_size=40).map("".join))
def test_the_answer_is_balanced_and_part_of_the_text(text: str) -> None:
    answer = boxed_answer(text)
    if answer is not None:
        assert answer.count("{") == answer.count("}")
        assert answer.strip()
        assert answer in text[text.rfind("box") :]


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 40_000,
        "\\boxed{" + "{}" * 100_000 + "}",
        "\\boxed{" * 20_000 + "}" * 20_000,
        "x" * 10**6,
        "{" * 200_000,
    ],
)
def test_long_texts_are_read_quickly(text: str) -> None:
    start = time.perf_counter()
    boxed_answer(text)
    assert time.perf_counter() - start < 10.0
