r"""Read reference answers: an answer alone, one that is marked or boxed in a worked solution, or neither.

Everything here takes time linear in the length of the text, except a pattern of the user's, which has a deadline.
"""

import math
import re
import struct
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from edge_grpo.base.errors import DataError
from edge_grpo.rewards.answers.extract import boxed_answer

__all__ = [
    "Found",
    "Reference",
    "boxed_solution",
    "compiled",
    "float32_noise",
    "is_plain",
    "is_worked",
    "read_reference",
]

MARK = "####"  # before the answer, in the solutions of GSM8K
PATTERN_S = 1.0  # seconds that a pattern may take on one text
MAX_PATTERN = 1000  # characters
MAX_REPEATS = 10_000  # the product of all counts {m,n}: compiling unrolls them
COUNTS = re.compile(r"\{(\d*)(?:,(\d*))?\}")

LATEX = re.compile(r"\\(?:text|mbox|mathrm|operatorname|begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+")
WORD = re.compile(r"[^\W\d_]{2,}")
ALPHANUMERIC = re.compile(r"[^\W_]")
NUMERAL = re.compile(r"\d+(?:[.,]\d+)*")
BREAK = re.compile(r"[.!?]\s+\S|\n\s*\S")  # between sentences or lines
SUM = re.compile(r"\d\s*=\s*[-+$]*\d")
CONCLUSION = re.compile(r"\b(?:answer|because|hence|so|therefore|thus)\b", re.IGNORECASE)
CALCULATOR = re.compile(r"<<[^<>]*>>")  # annotations of GSM8K
SENTENCE_WORDS, STORY_WORDS, STORY_NUMBERS, PROSE_WORDS = 4, 10, 3, 20

NUMBER = re.compile(r"[+-]?\d*\.?\d+(?:e[+-]?\d+)?", re.IGNORECASE)
NOISY_DIGITS, FLOAT32_DIGITS = 9, 7


class Found(StrEnum):
    """How an answer was read from a text."""

    ALONE = "alone"  # the text is the answer
    MARKED = "marked"  # after the last '####'
    BOXED = "boxed"  # the last box
    MATCHED = "matched"  # by the user's pattern


class Reference(NamedTuple):
    """A reference answer, how it was read, and the worked solution it was read from (empty if there is none)."""

    answer: str
    found: Found = Found.ALONE
    worked: str = ""


def read_reference(text: str, pattern: str = "") -> Reference:
    r"""The answer in a reference, and the worked solution around it.

    The first rule that applies: the last non-empty match of ``pattern`` (its group, if it has one); what follows the
    last ``####``, on the same line; the content of the last box, if it has words around it; the whole text.

    Args:
        text: the reference.
        pattern: a regular expression with at most one group; empty = none.

    Raises:
        ValueError: the pattern matches nothing.
        DataError: the pattern takes too long.

    Example:
        >>> read_reference("3+4=7 pens.\n#### 7")
        Reference(answer='7', found=<Found.MARKED: 'marked'>, worked='3+4=7 pens.\n\\boxed{7}')
        >>> read_reference(r"So $a$ is \boxed{170}.").answer, read_reference("7 pens", r"\d+").answer
        ('170', '7')
    """
    if pattern:
        return Reference(_matched(pattern, text), Found.MATCHED, text if is_worked(text) else "")
    if marked := _marked(text):
        return Reference(marked[1], Found.MARKED, boxed_solution(text) if marked[0] else "")
    boxed = boxed_answer(text) or ""
    around = text.replace(f"\\boxed{{{boxed}}}", "")
    if boxed.strip() and ALPHANUMERIC.search(around):
        return Reference(boxed.strip(), Found.BOXED, text if is_worked(text) else "")
    return Reference(text.strip())


def boxed_solution(text: str) -> str:
    r"""A worked solution whose last line is ``#### ANSWER``, with that line as a box; any other text is unchanged.

    Example:
        >>> boxed_solution("3+4=7 pens.\n#### 7")
        '3+4=7 pens.\n\\boxed{7}'
    """
    marked = _marked(text)
    return f"{marked[0]}\n\\boxed{{{marked[1]}}}".lstrip() if marked else text


def is_worked(text: str) -> bool:
    r"""Whether a text is a worked solution, or a sentence about the answer, rather than an answer alone.

    Prose around numbers: a calculator annotation (``<<3+4=7>>``), 20 words, 10 words with 3 numbers, 4 words in several
    sentences or lines, a sum between words, or a concluding word such as "answer". Text without a number is an answer
    in words.

    Example:
        >>> is_worked("She had $100 and spent $50, so 100-50=50."), is_worked("5 million US dollars")
        (True, False)
    """
    if MARK in text or CALCULATOR.search(text):
        return True
    if not (" " in text or "\n" in text):
        return False
    plain = LATEX.sub(" ", text)
    numbers, words = len(NUMERAL.findall(plain)), len(WORD.findall(plain))
    if not numbers:
        return False
    return (
        words >= PROSE_WORDS
        or (words >= STORY_WORDS and numbers >= STORY_NUMBERS)
        or (words >= SENTENCE_WORDS and BREAK.search(plain.strip()) is not None)
        or (words >= 2 and SUM.search(plain) is not None)
        or CONCLUSION.search(plain) is not None
    )


def is_plain(answer: str) -> bool:
    """Whether a reference may be shown to the policy as an answer: neither a worked solution nor float32 rounding."""
    return not (is_worked(answer) or float32_noise(answer))


def float32_noise(answer: str) -> str:
    """The decimal of at most 7 digits that was rounded to float32 and printed with more; empty if this is none.

    Example:
        >>> float32_noise("1234.56005859375"), float32_noise("1234.5625"), float32_noise("3.14159265358979")
        ('1234.56', '', '')
    """
    mantissa = answer.lower().partition("e")[0]
    digits = sum(each.isdigit() for each in mantissa.lstrip("+-0."))
    if not NOISY_DIGITS <= digits <= 60 or "." not in mantissa or not NUMBER.fullmatch(answer):
        return ""
    value = float(answer)
    try:
        if struct.unpack("f", struct.pack("f", value))[0] != value:
            return ""
        forms = (f"{value:.{count}g}" for count in range(1, FLOAT32_DIGITS + 1))
        return next((form for form in forms if struct.pack("f", float(form)) == struct.pack("f", value)), "")
    except OverflowError:  # too large for a float32
        return ""


@lru_cache(maxsize=8)
def compiled(pattern: str) -> Any:
    """A pattern, ready to search.

    Raises:
        ValueError: it is not a regular expression, has several groups, or is too long.
    """
    import regex  # noqa: PLC0415 (only where a pattern is set; unlike ``re``, it can be given a deadline)

    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"{len(pattern)} characters, at most {MAX_PATTERN} are allowed")
    counts = (max(int(one or 1) for one in match.groups("1")) for match in COUNTS.finditer(pattern))
    if math.prod(counts) > MAX_REPEATS:
        raise ValueError(f"{pattern[:80]!r} repeats more than {MAX_REPEATS:,} times; write + or * instead")
    try:
        found = regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"{pattern[:80]!r} is not a regular expression: {error}") from None
    if found.groups > 1:
        raise ValueError(f"{pattern!r} has {found.groups} groups, wanted at most one; write the others as (?:...)")
    return found


def _matched(pattern: str, text: str) -> str:
    found = compiled(pattern)
    try:
        matches = [match[found.groups] for match in found.finditer(text, timeout=PATTERN_S)]
    except TimeoutError:
        raise DataError(
            f"data.answer_pattern: {pattern!r} takes more than {PATTERN_S:g} s on {text[:60]!r}...; simplify it (no "
            "repetition inside a repetition)"
        ) from None
    for match in reversed(matches):
        if match and match.strip():
            return str(match.strip())
    raise ValueError("matches nothing")


def _marked(text: str) -> tuple[str, str] | None:
    """What comes before the last ``####`` and the answer on the rest of its line; None without such a line."""
    before, mark, after = text.rpartition(MARK)
    answer = after.strip()
    if not mark or not answer or before.endswith("#") or answer.startswith("#") or "\n" in answer:
        return None
    return before.rstrip(), (boxed_answer(answer) or answer).strip()
