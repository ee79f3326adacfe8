r"""One spelling for answers that differ only in notation."""

import pytest

from edge_grpo.rewards.answers.canonical import canonical, canonical_number, split_elements


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (r"\dfrac{1}{2}", r"\frac12"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"50\%", "50"),
        (r"90^\circ", "90"),
        (r"\$5", "5"),
        (r"5 \text{ cm}", "5"),
        ("1{,}000", "1000"),
        (r"x \leq 3", r"x \le 3"),
        (r"\text{Evelyn}", "evelyn"),
        ("k = 7", "7"),
        ("3 million", "3*10^6"),
    ],
)
def test_spellings_of_one_answer_agree(one: str, two: str) -> None:
    assert canonical(one) == canonical(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [("a+b", "c+b"), (r"\frac{a+1}{b}", r"a+\frac1b"), ("1,2", "12"), ("-3", "3"), ("2^{10}", "210"), ("m", "")],
)
def test_different_answers_stay_apart(one: str, two: str) -> None:
    assert canonical(one) != canonical(two)


@pytest.mark.parametrize("text", ["", " ", "{", r"\frac{", "\\", "x" * 5000, "🙂", "1" * 3000])
def test_any_text_has_a_spelling(text: str) -> None:
    assert isinstance(canonical(text), str)
    assert canonical(canonical(text)) == canonical(text)


def test_numbers_and_elements_are_normalized() -> None:
    assert canonical_number("025") == canonical_number("25")
    assert canonical_number("142.0") == canonical_number("142")
    assert split_elements("(1,2)") != split_elements("(2,1)")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (r"\sqrt{2}\\", r"\sqrt{2}"),
        (r"\boldsymbol{7}", "7"),
        (r"(0,1) U (2,3)", r"(0,1)\cup(2,3)"),
        (r"\dbinom{5}{2}", r"\binom{5}{2}"),
        ("1 000", "1000"),
    ],
)
def test_more_spellings_of_one_answer_agree(one: str, two: str) -> None:
    assert canonical(one) == canonical(two)


def test_a_determinant_is_not_a_matrix() -> None:
    one, two = (rf"\begin{{{kind}}}1&2\\3&4\end{{{kind}}}" for kind in ("pmatrix", "vmatrix"))
    assert canonical(one) != canonical(two)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("１２", "12"),
        (r"x \equiv 3 \pmod 7", r"x\equiv 3 \pmod{7}"),
        (r"x\equiv 3 \mod 7", r"x \equiv 3 \pmod 7"),
        (r"1\ 1/2", "1 1/2"),
        ("sin x", r"\sin x"),
        ("log 2", r"\log 2"),
        ("x≤3", r"x \leq 3"),
        ("0.9999999", "1"),
        ("2.0000001", "2"),
    ],
)
def test_equivalent_notations_agree(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


def test_a_number_near_an_integer_is_compared_as_a_float() -> None:
    assert canonical("1.9999999") != "2"
    assert canonical("5 sec") == "5"
