"""One spelling for answers that differ only in notation."""

import time

import pytest

from edge_grpo.rewards.answers.canonical import canonical, spelled


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (r"\dfrac{1}{2}", r"\frac12"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"90^{\circ}", r"90^\circ"),
        ("1{,}000", "1000"),
        (r"1,\!000", "1000"),
        (r"10\,000", "10000"),
        ("1 000", "1000"),
        (r"x \leq 3", r"x \le 3"),
        (r"\text{Evelyn}", "evelyn"),
        (r"\sqrt{2}\\", r"\sqrt{2}"),
        (r"\boldsymbol{7}", "7"),
        (r"(0,1) U (2,3)", r"(0,1)\cup(2,3)"),
        (r"\dbinom{5}{2}", r"\binom{5}{2}"),
        (r"x \equiv 3 \pmod 7", r"x\equiv 3 \mod 7"),
        ("x≤3", r"x \leq 3"),
        ("１２", "12"),
        ("−5", "-5"),
        ("（3，4）", "(3,4)"),
        ("x²", "x^{2}"),
        ("½", r"\frac{1}{2}"),
        ("√13", r"\sqrt{13}"),
        ("2π", r"2\pi"),
        ("025", "25"),
        ("2.50", "2.5"),
        ("x**2", "x^2"),
        ("7.", "7"),
    ],
)
def test_spellings_of_one_answer_agree(one: str, two: str) -> None:
    assert canonical(one) == canonical(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("a+b", "c+b"),
        (r"\frac{a+1}{b}", r"a+\frac1b"),
        ("1,2", "12"),
        ("1 2", "12"),
        ("-3", "3"),
        ("2^{10}", "210"),
        ("R-r", "r-R"),
        (r"50\%", "50"),
        (r"5\text{ cm}", "5"),
        ("(0, 100)", "[0, 100]"),
        ("(3,400)", "(3400)"),
        ("1.9999999", "2"),
    ],
)
def test_different_answers_stay_apart(one: str, two: str) -> None:
    assert canonical(one) != canonical(two)


@pytest.mark.parametrize("text", ["", " ", "{", r"\frac{", "\\", "x" * 5000, "🙂", "1" * 3000])
def test_any_text_has_a_spelling(text: str) -> None:
    assert isinstance(canonical(text), str)
    assert canonical(canonical(text)) == canonical(text)


def test_words_are_quoted_and_upright_numbers_are_not() -> None:
    assert spelled(r"5\text{ cm}") == '5"cm"'
    assert spelled(r"3\mathrm{i}") == "3i"
    assert spelled(r"\mathrm{e}^3") == "e^{3}"


def test_a_determinant_is_not_a_matrix() -> None:
    one, two = (rf"\begin{{{kind}}}1&2\\3&4\end{{{kind}}}" for kind in ("pmatrix", "vmatrix"))
    assert canonical(one) != canonical(two)


def test_a_long_run_of_spaces_is_spelled_at_once() -> None:
    began = time.process_time()
    assert spelled("{" + "~" * 4000) == "{"
    assert time.process_time() - began < 2
