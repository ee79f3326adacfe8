"""Random and hostile texts through extraction and all of grading: no crash, no error, no deadline missed."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_grpo.base.records import Problem, Verdict
from edge_grpo.rewards import Rewards, RewardSettings, boxed_answer
from edge_grpo.rewards.answers.comparer import How

VECTORS = Path(__file__).parents[1] / "golden" / "vectors"
BATCH = 50  # rows graded together
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


def golden_references() -> list[str]:
    """The reference answers of the golden rows."""
    cases = [
        case for path in sorted(VECTORS.glob("grader_case*.json")) for case in json.loads(path.read_text())["cases"]
    ]
    golds = [case["inputs"]["gold"] for case in cases]
    return sorted({gold.strip() for gold in golds if isinstance(gold, str) and gold.strip() and len(gold) < 300})


def golden_texts() -> list[str]:
    """The contents of the boxes of the golden rows, and their references."""
    texts: set[str] = set()
    for path in sorted(VECTORS.glob("grader*.json")):
        for case in json.loads(path.read_text())["cases"]:
            gold = case["inputs"]["gold"]
            texts.update(str(one) for one in (gold if isinstance(gold, list) else [gold]) if one is not None)
            texts.add(boxed_answer(case["inputs"].get("text") or "") or "")
    return sorted(text for text in texts if len(text) < 300)


GOLDEN_TEXTS = golden_texts()
GOLDEN = st.sampled_from(GOLDEN_TEXTS)
REFERENCES = golden_references()


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A golden text with one to four places changed."""
    text = draw(GOLDEN)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from([*PIECES, ""])) + text[place + draw(st.integers(0, 2)) :]
    return text


ANSWERS = st.one_of(LATEX, mutated(), mutated(), UNICODE, NESTED, HUGE)
ROWS = st.lists(st.tuples(ANSWERS, st.one_of(GOLDEN, ANSWERS), st.just(False)), min_size=BATCH, max_size=BATCH)


def random_answer(rng: random.Random) -> str:
    """Like the strategies above, but rarely the same twice."""
    kind = rng.randrange(6)
    if kind == 0:
        return "".join(rng.choices(PIECES, k=rng.randint(1, 25)))
    if kind == 1:
        return "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randint(1, 30)))
    if kind == 2:
        opening, closing = rng.choice([("{", "}"), ("(", ")"), (r"\sqrt{", "}"), (r"\frac{1}{", "}"), ("2^{", "}")])
        depth = rng.randint(1, 300)
        return opening * depth + rng.choice(["7", "x", r"\pi"]) + closing * (depth - rng.choice([0, 0, 0, 1]))
    if kind == 3:
        one, two = ("".join(rng.choices("0123456789", k=rng.randint(1, 40))) for _ in range(2))
        return rng.choice(["{0}.{1}", "{0}/{1}", "{0}^{{{1}}}", "{0}**{1}", "{0}!", "{0}e{1}"]).format(one, two)
    text = rng.choice(GOLDEN_TEXTS)
    for _ in range(rng.randint(1, 4)):
        place = rng.randint(0, len(text))
        text = text[:place] + rng.choice([*PIECES, ""]) + text[place + rng.randint(0, 2) :]
    return text


def random_rows(seed: int) -> list[tuple[str, str, bool]]:
    """Answers with a reference; every tenth is the reference, respaced or in dollar signs, and must be right."""
    rng, rows = random.Random(seed), []
    for number in range(BATCH):
        gold = rng.choice(GOLDEN_TEXTS) if rng.random() < 0.8 else random_answer(rng)
        if number % 10:
            rows.append((random_answer(rng), gold, False))
        else:
            gold = rng.choice(REFERENCES)
            wrapped = f"${gold}$" if "$" not in gold and rng.random() < 0.5 else f" {gold}  "
            rows.append((wrapped, gold, True))
    return rows


@pytest.fixture(scope="module")
def rewards() -> Iterator[Rewards]:
    with Rewards(RewardSettings(timeout_s=DEADLINE_S, memory_mb=1024)) as shared:
        yield shared


def check(rewards: Rewards, rows: Sequence[tuple[str, str, bool]], seen: set[tuple[str, ...]]) -> None:
    """Nine in ten answers are boxed."""
    texts = [answer if n % 10 == 9 else f"so \\boxed{{{answer}}}." for n, (answer, *_) in enumerate(rows)]
    problems = [Problem(str(number), "?", (gold,)) for number, (_, gold, _) in enumerate(rows)]
    grades = rewards.grade(problems, texts, [True] * len(rows))
    for text, problem, grade, (_, _, same) in zip(texts, problems, grades, rows, strict=True):
        shown = (text[:200], problem.answers, grade.note)
        assert grade.verdict is not Verdict.ERROR, shown
        assert grade.seconds <= DEADLINE_S + 1.0, (grade.seconds, shown)
        assert (grade.verdict is Verdict.UNPARSED) == (boxed_answer(text) is None), shown
        assert "died" not in grade.note, shown
        assert grade.correct or not same, shown
        seen.add((text, *problem.answers))


def fuzz(rewards: Rewards, *, examples: int, seeds: int) -> int:
    """Hypothesis covers odd cases, the random rows volume."""
    seen = set()
    look = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    look(given(ROWS)(lambda rows: check(rewards, rows, seen)))()
    for seed in range(seeds):
        check(rewards, random_rows(seed), seen)
    return len(seen)


def test_some_inputs(rewards: Rewards) -> None:
    assert fuzz(rewards, examples=1, seeds=2) >= 2 * BATCH


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_thousand_inputs(rewards: Rewards) -> None:
    before = rewards.decided.get(How.WORKER, 0)
    assert fuzz(rewards, examples=60, seeds=440) >= 20_000  # different ones
    assert rewards.decided[How.WORKER] - before >= 10_000  # that went through every stage
