r"""One spelling for answers that differ only in notation: strings in, strings out, nothing is evaluated.

Dropped or unified, because reference answers and models vary in it: whitespace and spacing commands, ``$`` signs,
percent and degree signs, units after a number, ``\text{...}`` and font commands, thousands separators, upper case,
``k = `` before a value, synonymous commands, braces around single characters.

Source:
    The rules follow the string stages of the MATH grader (Hendrycks et al. 2021, arXiv:2103.03874) and of the
    PRM800K grader (Lightman et al. 2023, arXiv:2305.20050), which EDGE-GRPO's release applies; the code is our own.
    Deliberate differences: a unit is dropped only after a number, never a lone letter inside an expression (the
    release finds ``a + b`` equal to ``c + b``), and braces keep what they group, a numerator or an exponent (the
    release finds ``\frac{a+1}{b}`` equal to ``a + \frac{1}{b}``, and ``2^{n-1}`` to ``2^n-1``).
"""

import re
import unicodedata

__all__ = ["canonical", "canonical_number", "split_elements"]

DIGIT = re.compile(r"\d")  # of any script
NEGATIVE_SPACE = re.compile(r"\\!")
SPACING = re.compile(
    r"(?<!\d)\\[,;:> ]|\\[,;:> ](?!\d)|\\(?:q?quad|left|right|displaystyle)(?![a-zA-Z])|\\[\[\]()](?![a-zA-Z])|~"
)
THOUSANDS = re.compile(r"\{,\}|,\\!")
FONTS = r"text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|cal|bb)|boldsymbol|mbox|fbox|operatorname|emph|underline"
WRAPPER = re.compile(rf"\\(?:{FONTS})\s*\{{([^{{}}]*)\}}|\\overline\s*\{{([A-Za-z]+)\}}")
WRAPPED_LETTER = re.compile(r"\\math(?:rm|bf|it|sf|cal|bb)\s+([A-Za-z])(?![A-Za-z])")
COLOR = re.compile(r"\\color\s*\{[a-z]+\}")
TRAILING_TEXT = re.compile(
    r"(?<=[^\s,;(\[{])\s*\\(?:text|mbox|mathrm|textrm)\s*\{[^{}]*\}\s*(?:\^\s*\d|\^\s*\{\s*\d\s*\})?\s*$"
)
WHOLE_TEXT = re.compile(rf"\\(?:{FONTS})\s*\{{(.*)\}}", re.DOTALL)
DEGREES = re.compile(r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])|\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])|°")
SYNONYMS = (
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"),
    (re.compile(r"\\neq(?![a-z])"), r"\\ne"),
    (re.compile(r"\\leq(?:slant)?(?![a-z])"), r"\\le"),
    (re.compile(r"\\geq(?:slant)?(?![a-z])"), r"\\ge"),
    (re.compile(r"\\(?:times|cdot)(?![a-z])|·|×"), "*"),
    (re.compile(r"\\lbrace(?![a-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-z])"), r"\\}"),
    (re.compile(r"\\(?:mid|[lr]?vert)(?![a-z])"), "|"),
    (re.compile(r"\\(?:l|c)?dots(?![a-z])"), r"\\dots"),
    (re.compile(r"\\varnothing(?![a-z])"), r"\\emptyset"),
    (re.compile(r"\\begin\s*\{array\}\s*\{[^{}]*\}"), r"\\begin{pmatrix}"),
    (re.compile(r"\\end\s*\{array\}"), r"\\end{pmatrix}"),
    (re.compile(r"bmatrix"), "pmatrix"),
    (re.compile(r"(?<=[)\]])\s*[U∪]\s*(?=[(\[])"), r"\\cup"),
    (re.compile(r"\\[dt]binom(?![a-z])"), r"\\binom"),
    (re.compile(r"\\[pb]?mod\s*(?:\{\s*([0-9a-zA-Z]+)\s*\}|([0-9a-zA-Z]+))"), r"\\pmod{\1\2}"),
    (re.compile(r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sin|cos|tan|log|ln)(?![A-Za-z])"), r"\\\1"),
    (re.compile("≤"), r"\\le "),
    (re.compile("≥"), r"\\ge "),
)
CONJUNCTION = re.compile(r"\s*,?\s+(?:or|and)\s+")
SCALES = (
    (re.compile(r"\s*trillion"), "*10^12"),
    (re.compile(r"\s*billion"), "*10^9"),
    (re.compile(r"\s*million"), "*10^6"),
)
UNIT_WORDS = (
    r"degree|deg|mile|mph|kmph|kmh|km|kilomet(?:er|re)|cm|centimet(?:er|re)|mm|millimet(?:er|re)|met(?:er|re)|inch|foot|"
    r"feet|ft|yard|kg|gm|lb|second|sec|minute|min|hour|hr|day|week|month|year|yr|rupee|percent|lit(?:er|re)|gal|gallon|"
    r"acre|hectare|unit|square|sq|cubic|cu|coin|apple"
)
UNIT_LETTERS = "[mglsh]"  # treated as units only after a number and a space: "5 m", not "5m"
POWER = r"(?:\^\s*\d|\^\s*\{\s*\d\s*\})?"
UNITS = re.compile(
    rf"(?<=[\d)}}])\s*(?:{UNIT_WORDS})(?:e?s)?(?:\s*(?:per\s+|/\s*)?(?:{UNIT_WORDS})(?:e?s)?)*\.?\s*{POWER}\s*$"
    rf"|(?<=\d)\s+{UNIT_LETTERS}\s*{POWER}\s*$"
)
ASSIGNMENT = re.compile(r"\s*[A-Za-z]\s*=([^=]*)")
BLANKS = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|\s+")  # the space after a command ends its name
COMMA_IN_NUMBER = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
MIXED_NUMBER = re.compile(r"(?<![\w.^/])([0-9]+)(?:\s|\\ )+([0-9]+)\s*/\s*([0-9]+)(?![\w.^])")
BARE_ROOT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
BARE_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))")
SIMPLE_RATIO = re.compile(r"([+-]?[0-9]+)/([0-9]+)")
SCRIPT_IN_BRACES = re.compile(r"([_^])\{([0-9a-z])\}")
NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:e([+-]?[0-9]{1,3}))?")
MAX_EXPONENT = 300
EXACT_DIGITS = 15  # of a whole number that a float represents exactly
NEAR_INTEGER = 1e-7  # compared as floats, as in the release: 0.9999999 is 1, 1.9999999 is not 2


def canonical(text: str, *, keep_text: bool = False) -> str:
    r"""The canonical spelling of an answer, to be compared with another's.

    Args:
        text: the content of a box, or a reference answer.
        keep_text: whether a ``\text{...}`` after something else is part of the answer ("p is prime") rather than a
            unit or remark to drop.

    Returns:
        The spelling: lower case, no whitespace; not meant for display.

    Source:
        See the module docstring.

    Example:
        >>> canonical(r"$\dfrac12\text{ cm}$"), canonical(r"\frac{1}{2}"), canonical("025"), canonical("x = 1{,}000")
        ('\\frac{1}{2}', '\\frac{1}{2}', '25', '1000')
    """
    if not text.isascii():
        text = DIGIT.sub(lambda match: str(unicodedata.decimal(match[0])), text)
    text = THOUSANDS.sub(",", _without_line_ends(text))
    for spelling in (r"\$", "$", r"\%", "%"):
        text = text.replace(spelling, "")
    text = COLOR.sub("", NEGATIVE_SPACE.sub("", text))
    text = DEGREES.sub("", SPACING.sub(" ", text)).replace("\n", " ")
    for pattern, replacement in SYNONYMS:
        text = pattern.sub(replacement, text)
    if not keep_text:
        text = TRAILING_TEXT.sub("", text)
    while (whole := WHOLE_TEXT.fullmatch(text.strip())) and _balanced(whole[1]):
        text = whole[1]
    text = WRAPPED_LETTER.sub(r"\1", WRAPPER.sub(r"\1\2", text)).strip()
    text = CONJUNCTION.sub(",", text)
    for pattern, replacement in SCALES:
        text = pattern.sub(replacement, text)
    text = UNITS.sub("", text)
    if assigned := ASSIGNMENT.fullmatch(text):
        text = assigned.group(1)
    text = MIXED_NUMBER.sub(r"(\1+\2/\3)", text)
    text = BARE_ROOT.sub(r"\\sqrt{\1}", text)
    text = BARE_FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2] or ''}}}{{{m[3] or m[4] or ''}}}", text)
    text = BLANKS.sub(lambda m: f"{m[1]} " if m[1] else "", text).lower()
    text = _without_outer_braces(text)
    text = COMMA_IN_NUMBER.sub("", text)
    if ratio := SIMPLE_RATIO.fullmatch(text):
        text = rf"\frac{{{ratio[1]}}}{{{ratio[2]}}}"
    text = SCRIPT_IN_BRACES.sub(r"\1\2", text)
    return canonical_number(text) or text


def canonical_number(text: str) -> str | None:
    """A decimal number without plus sign, leading or trailing zeros or (within bounds) exponent; None for other text.

    A number within 1e-7 of an integer (as floats) becomes that integer.

    Example:
        >>> canonical_number("+025"), canonical_number("2.50"), canonical_number("7."), canonical_number("x")
        ('25', '2.5', '7', None)
        >>> canonical_number("8.7e2"), canonical_number("-.0")
        ('870', '0')
    """
    match = NUMBER.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    sign, whole, decimals, exponent = match[1], match[2], match[3] or "", int(match[4] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    if exponent > 0:
        decimals = decimals.ljust(exponent, "0")
        whole, decimals = whole + decimals[:exponent], decimals[exponent:]
    elif exponent < 0:
        whole = whole.rjust(-exponent, "0")
        whole, decimals = whole[:exponent], whole[exponent:] + decimals
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    if decimals and len(whole) <= EXACT_DIGITS:
        value = float(f"{whole}.{decimals}")
        if abs(value - round(value)) <= NEAR_INTEGER:
            whole, decimals = str(round(value)), ""
    number = f"{whole}.{decimals}" if decimals else whole
    return f"-{number}" if sign == "-" and number != "0" else number


def split_elements(text: str) -> tuple[str, list[str], str]:
    """Opening bracket, elements, closing bracket of a canonical tuple, interval, set or bare list.

    Example:
        >>> split_elements("(1,f(2,3)]")
        ('(', ['1', 'f(2,3)'], ']')
        >>> split_elements("1,2")
        ('', ['1', '2'], '')
    """
    opening = closing = ""
    inner = text
    for left, right in ((r"\{", r"\}"), ("(", ")"), ("(", "]"), ("[", ")"), ("[", "]")):
        if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
            candidate = text[len(left) : len(text) - len(right)]
            if _balanced(candidate):
                opening, inner, closing = left, candidate, right
                break
    elements, depth, start = [], 0, 0
    for index, character in enumerate(inner):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            elements.append(inner[start:index])
            start = index + 1
    return opening, [*elements, inner[start:]], closing


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _without_line_ends(text: str) -> str:
    text = text.strip()
    while text.endswith(r"\\"):
        text = text[:-2].rstrip()
    return text


def _without_outer_braces(text: str) -> str:
    """Drop braces around the whole text: grouping braces, and those of a set, which is compared like a list."""
    while True:
        size = 1 if text.startswith("{") else 2
        if not (text.startswith(("{", r"\{")) and text.endswith(("}", r"\}")[size - 1]) and len(text) > 2 * size):
            return text
        if not _balanced(text[size:-size]):
            return text
        text = text[size:-size]
