"""Reading reference answers: marks, boxes, patterns, and telling a worked solution from an answer."""

import pytest

from edge_grpo.base.errors import DataError
from edge_grpo.rewards.references import (
    Found,
    Reference,
    boxed_solution,
    compiled,
    float32_noise,
    is_worked,
    read_reference,
)


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("He has 3+4=<<3+4=7>>7 pens.\n#### 7", "7", Found.MARKED),
        ("A lot.\n#### 4,320", "4,320", Found.MARKED),
        ("Falling: 2-5=-3.\n####-3  \n", "-3", Found.MARKED),
        ("#### 1\nno, rather\n#### $2.50", "$2.50", Found.MARKED),
        (r"All of it. #### \boxed{x+1}", "x+1", Found.MARKED),
        (r"First \boxed{4}. Then \boxed{\frac{1}{2}}.", r"\frac{1}{2}", Found.BOXED),
        (r"$\boxed{a=170}$", r"$\boxed{a=170}$", Found.ALONE),  # graded as its content
        (" 7 pens\n", "7 pens", Found.ALONE),
        ("She had $100 and spent $50, so $50 are left.", "She had $100 and spent $50, so $50 are left.", Found.ALONE),
        ("3+4=7 pens.\n####", "3+4=7 pens.\n####", Found.ALONE),
        ("#### Step 1\n3+4=7 pens", "#### Step 1\n3+4=7 pens", Found.ALONE),
        ("##### 7", "##### 7", Found.ALONE),
    ],
)
def test_the_answer_in_a_text(text: str, answer: str, found: Found) -> None:
    assert read_reference(text)[:2] == (answer, found)


def test_the_text_around_an_answer_is_its_worked_solution() -> None:
    assert read_reference("3+4=7 pens.\n#### 7").worked == "3+4=7 pens.\n\\boxed{7}"
    assert read_reference("#### 7").worked == ""
    boxed = r"He has 3+4=7 pens, so \boxed{7}."
    assert read_reference(boxed).worked == boxed
    assert read_reference(r"$x$ is \boxed{7}").worked == ""
    assert read_reference("7 pens").worked == ""


def test_only_a_marked_answer_at_the_end_of_a_solution_becomes_a_box() -> None:
    assert boxed_solution("So 7.\n#### 7\n") == "So 7.\n\\boxed{7}"
    for unchanged in ("So 7.", "#### Idea\nSo 7.", r"So \boxed{7}.", ""):
        assert boxed_solution(unchanged) == unchanged


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        (r"answer is (\S+)", "The answer is 3. No, the answer is 4", "4"),
        (r"\d+", "3 and 4", "4"),
        (r"(\d*)", "it is 12 then", "12"),  # an empty match is no answer
        (r"(?s).+", "7\n#### 8", "7\n#### 8"),  # all of the column
    ],
)
def test_a_pattern_decides_alone(pattern: str, text: str, answer: str) -> None:
    assert read_reference(text, pattern)[:2] == (answer, Found.MATCHED)


def test_a_pattern_that_matches_nothing_is_a_bad_row() -> None:
    with pytest.raises(ValueError, match="matches nothing"):
        read_reference("seven", r"\d+")


def test_a_pattern_that_backtracks_forever_is_stopped() -> None:
    with pytest.raises(DataError, match=r"data.answer_pattern: .* takes more than 1 s .* simplify it"):
        read_reference("x" * 3000, r"(x+x+)+y")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is not a regular expression: missing"),
        ("(a)(b)", "has 2 groups, wanted at most one"),
        ("a" * 1001, "1001 characters"),
        ("(?:(?:a{1000}){1000}){1000}", "repeats more than 10,000 times"),
        ("(" * 400 + ")" * 400, "is not a regular expression: maximum recursion"),
    ],
)
def test_a_bad_pattern_is_refused_before_it_is_used(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compiled(pattern)


WORKED = [
    "Ann had $100. She spent $30 on a hat and $20 on shoes. She has 50 left.",
    "Half of 50% is 25%.\n25% of 80 is 20",
    "Tom has 3+4=7 pens",
    "25% of 80 is <<80*.25=20>>20",
    "The answer is 7",
    "x = 3, therefore y = 4",
    "After paying 30 dollars for a hat and 20 for shoes out of 100 she has 50 left",
    "one\n#### \n",
]
ALONE = [
    "7",
    "-1,234.5",
    "$10,000",
    "5 million US dollars",
    "12 km and 300 m",
    "10:30 a.m. on Monday",
    "all real numbers greater than 3",
    "Because the function is even, and the sum of two even functions is even",
    "x = 3, y = 4",
    "x=5 or x=7",
    "y = 2x + 3",
    "3+4=7",
    "1. 2. 3.",
    r"f(x)=0 \text{ for every } x \text{ and every one of the positive integers } n = 1",
    "\\begin{pmatrix}\n1 & 2 \\\\\n3 & 4\n\\end{pmatrix}",
    r"\frac{1}{2} = 0.5",
]


@pytest.mark.parametrize("text", WORKED)
def test_a_worked_solution_is_told_from_an_answer(text: str) -> None:
    assert is_worked(text)
    assert read_reference(text) == Reference(text.strip())


@pytest.mark.parametrize("text", ALONE)
def test_an_answer_is_not_taken_for_a_worked_solution(text: str) -> None:
    assert not is_worked(text)


@pytest.mark.parametrize(
    ("text", "decimal"),
    [
        ("1234.56005859375", "1234.56"),
        ("0.10000000149011612", "0.1"),
        ("-0.699999988079071", "-0.7"),
        ("98765.4296875", "98765.43"),
        ("9.999999747378752e-05", "0.0001"),
        ("0.5", ""),
        ("1234.5625", ""),
        ("3.141592653589793", ""),  # a double
        ("0.1428571428571428571428571428571428571428571428571428571428571428", ""),
        ("1.23456789e300", ""),
        ("16777216", ""),
        ("x", ""),
    ],
)
def test_float32_rounding_is_recognised(text: str, decimal: str) -> None:
    assert float32_noise(text) == decimal
