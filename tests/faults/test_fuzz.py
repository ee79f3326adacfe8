"""Random and hostile texts through extraction and the whole of grading: no crash, no error, no deadline missed."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_grpo.records import Problem, Verdict
from edge_grpo.rewards import Rewards, RewardSettings, boxed_answer

VECTORS = Path(__file__).parents[1] / "golden" / "vectors"
BATCH = 50  # rows in an example, so that 20,000 rows are 400 examples
DEADLINE_S = 2.0

PIECES = [
    *(r"\frac", r"\dfrac", r"\sqrt", r"\boxed", r"\text", r"\left", r"\right", r"\begin{pmatrix}", r"\end{pmatrix}"),
    *(r"\\", "&", r"\cdot", r"\times", r"\pi", r"\infty", r"\cup", r"\pm", r"\le", r"\sum_{i=1}^{n}", r"\int_0^1"),
    *(r"\binom", r"\log_", r"\sin", r"\lim_{x\to 0}", r"\mathbb{R}", r"\overline", r"\{", r"\}", r"\%", r"\$", "$"),
    *("{", "}", "(", ")", "[", "]", "^", "_", "+", "-", "*", "/", "=", "<", ">", ",", ".", "!", "|", ":", ";", "~"),
    *("0", "1", "2", "7", "9", "10", "3.5", "1e9", "x", "y", "n", "a", "e", "i", " ", "\n", "and", " or ", "cm", "%"),
]
LATEX = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
UNICODE = st.text(st.characters(), max_size=40)  # control characters and lone surrogates too
NESTED = st.builds(
    lambda opening, depth, inner, cut: (opening[0] * depth + inner + opening[1] * depth)[: cut or None],
    st.sampled_from(
        [("{", "}"), ("(", ")"), (r"\sqrt{", "}"), (r"\frac{1}{", "}"), ("[", "]"), ("-(", ")"), ("2^{", "}")]
    ),
    st.integers(1, 300),
    st.sampled_from(["7", "x", "", r"\pi"]),
    st.integers(-20, 0),
)
DIGITS = st.text("0123456789", min_size=1, max_size=200)
HUGE = st.builds(
    lambda form, a, b: form.format(a, b),
    st.sampled_from(
        ["{0}", "{0}.{1}", "{0}/{1}", r"\frac{{{0}}}{{{1}}}", "{0}^{{{1}}}", "{0}**{1}", "{0}!", "{0}e{1}"]
    ),
    DIGITS,
    DIGITS,
)


def golden_texts() -> list[str]:
    """The contents of the boxes of the golden rows, and their references."""
    texts: set[str] = set()
    for path in sorted(VECTORS.glob("grader*.json")):
        for case in json.loads(path.read_text())["cases"]:
            gold = case["inputs"]["gold"]
            texts.update(str(one) for one in (gold if isinstance(gold, list) else [gold]) if one is not None)
            texts.add(boxed_answer(case["inputs"].get("text") or "") or "")
    return sorted(text for text in texts if len(text) < 300)


GOLDEN = st.sampled_from(golden_texts())


@st.composite
def mutated(draw):
    """A golden text with one to four places changed."""
    text = draw(GOLDEN)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from([*PIECES, ""])) + text[place + draw(st.integers(0, 2)) :]
    return text


ANSWERS = st.one_of(LATEX, mutated(), mutated(), UNICODE, NESTED, HUGE)
ROWS = st.lists(st.tuples(ANSWERS, st.one_of(GOLDEN, ANSWERS), st.booleans()), min_size=BATCH, max_size=BATCH)


@pytest.fixture(scope="module")
def rewards():
    with Rewards(RewardSettings(timeout_s=DEADLINE_S, memory_mb=1024)) as shared:
        yield shared


def check(rewards, rows, seen):
    texts = [f"so \\boxed{{{answer}}} or \\boxed{{{answer}}}." if boxed else answer for answer, _, boxed in rows]
    problems = [Problem(str(number), "?", (gold,)) for number, (_, gold, _) in enumerate(rows)]
    grades = rewards.grade(problems, texts, [True] * len(rows))
    for text, problem, grade in zip(texts, problems, grades, strict=True):
        shown = (text[:200], problem.answers, grade.note)
        assert grade.verdict is not Verdict.ERROR, shown
        assert grade.seconds <= DEADLINE_S + 1.0, (grade.seconds, shown)
        assert (grade.verdict is Verdict.UNPARSED) == (boxed_answer(text) is None), shown
        assert "died" not in grade.note, shown
    seen.append(len(rows))


def fuzz(examples):
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=False, database=None
    )


def test_some_inputs(rewards):
    seen = []
    fuzz(4)(given(ROWS)(lambda rows: check(rewards, rows, seen)))()
    assert sum(seen) >= 4 * BATCH


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_thousand_inputs(rewards):
    seen = []
    fuzz(400)(given(ROWS)(lambda rows: check(rewards, rows, seen)))()
    assert sum(seen) >= 20_000
