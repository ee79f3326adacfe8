r"""One spelling for answers that differ only in how they are written: strings in, strings out, nothing is evaluated.

What is dropped or unified, because reference answers and models write it either way: blanks and spacing commands,
``$`` signs, per cent and degree signs, units behind a number, ``\text{...}`` and font commands, thousands separators,
upper case, ``k = `` before a value, the several commands for one symbol, braces around single characters.

Source:
    The facts are those of the string stages of the MATH grader (Hendrycks et al. 2021, arXiv:2103.03874) and of the
    PRM800K grader (Lightman et al. 2023, arXiv:2305.20050), which EDGE-GRPO's release applies; the code is our own.
    Different on purpose: a unit is dropped only behind a number, never a lone letter inside an expression (the
    release finds ``a + b`` equal to ``c + b``), and a fraction keeps the extent of its numerator (the release finds
    ``\frac{a+1}{b}`` equal to ``a + \frac{1}{b}``).
"""

import re

__all__ = ["canonical", "canonical_number", "split_elements"]

SPACING = re.compile(r"\\(?:[,;:!> ]|q?quad(?![a-zA-Z])|left(?![a-zA-Z])|right(?![a-zA-Z])|displaystyle(?![a-zA-Z]))|~")
THOUSANDS = re.compile(r"\{,\}|,\\!|\\,(?=\d{3}(?!\d))")
WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|cal|bb)?|mbox|operatorname|emph)\s*\{([^{}]*)\}"
)
TRAILING_TEXT = re.compile(
    r"(?<=[^\s,;(\[{])\s*\\(?:text|mbox|mathrm|textrm)\s*\{[^{}]*\}\s*(?:\^\s*\{?\s*\d\s*\}?)?\s*$"
)
DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])|°")
SYNONYMS = (
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"),
    (re.compile(r"\\neq(?![a-z])"), r"\\ne"),
    (re.compile(r"\\leq(?:slant)?(?![a-z])"), r"\\le"),
    (re.compile(r"\\geq(?:slant)?(?![a-z])"), r"\\ge"),
    (re.compile(r"\\(?:times|cdot)(?![a-z])|·|×"), "*"),
    (re.compile(r"\\lbrace(?![a-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-z])"), r"\\}"),
    (re.compile(r"\\begin\s*\{array\}\s*\{[^{}]*\}"), r"\\begin{pmatrix}"),
    (re.compile(r"\\end\s*\{array\}"), r"\\end{pmatrix}"),
    (re.compile(r"[bv]matrix"), "pmatrix"),
)
CONJUNCTION = re.compile(r"\s*,?\s+(?:or|and)\s+")
SCALES = (
    (re.compile(r"\s*trillion"), "*10^12"),
    (re.compile(r"\s*billion"), "*10^9"),
    (re.compile(r"\s*million"), "*10^6"),
)
UNIT_NAMES = (
    r"degree|deg|mile|mph|kmph|kph|km|kilomet(?:er|re)|cm|centimet(?:er|re)|mm|millimet(?:er|re)|met(?:er|re)|m|inch|in|"
    r"foot|feet|ft|yard|yd|gram|kilogram|kg|g|mg|pound|lb|ounce|oz|ton|second|sec|s|minute|min|hour|hr|h|day|week|month|"
    r"year|yr|dollar|cent|euro|rupee|percent|lit(?:er|re)|l|ml|gallon|acre|hectare|unit|square|sq|cubic|cu|point|way|"
    r"digit|integer|number|edge|student|people|person|men|women|apple|coin|mark|rad|radian"
)
UNIT = re.compile(
    rf"(?<=[\d)}}])(?:\s+per\s+|\s*/\s*|\s*)(?:{UNIT_NAMES})(?:e?s)?\.?\s*(?:\^\s*\{{?\s*\d\s*\}}?)?\s*$",
    re.IGNORECASE,
)
ASSIGNMENT = re.compile(r"\s*(?:\\[a-z]+|[A-Za-z])\s*=([^=]*)")
COMMA_IN_NUMBER = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
BARE_ROOT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
BARE_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))")
SIMPLE_RATIO = re.compile(r"([+-]?\d+)/(\d+)")
SINGLE_IN_BRACES = re.compile(r"\{([0-9A-Za-z])\}")
NUMBER = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:e([+-]?\d{1,3}))?")
MAX_EXPONENT = 300


def canonical(text: str) -> str:
    r"""One spelling of an answer, to be compared with that of another.

    Args:
        text: the content of a box, or a reference answer.

    Returns:
        The spelling: lower case, no blanks; not meant to be shown.

    Source:
        The module's docstring.

    Example:
        >>> canonical(r"$\dfrac12\text{ cm}$"), canonical(r"\frac{1}{2}"), canonical("025"), canonical("x = 1{,}000")
        ('\\frac{1}{2}', '\\frac{1}{2}', '25', '1000')
    """
    text = THOUSANDS.sub(",", text.strip())
    for spelling in (r"\$", "$", r"\%", "%"):
        text = text.replace(spelling, "")
    text = DEGREES.sub("", SPACING.sub(" ", text)).replace("\n", " ")
    for pattern, replacement in SYNONYMS:
        text = pattern.sub(replacement, text)
    text = WRAPPER.sub(r"\1", TRAILING_TEXT.sub("", text)).strip()
    text = CONJUNCTION.sub(",", text)
    for pattern, replacement in SCALES:
        text = pattern.sub(replacement, text)
    text = _without_units(text)
    if assigned := ASSIGNMENT.fullmatch(text):
        text = assigned.group(1)
    text = BARE_ROOT.sub(r"\\sqrt{\1}", text)
    text = BARE_FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2] or ''}}}{{{m[3] or m[4] or ''}}}", text)
    text = re.sub(r"\s+", "", text).lower()
    text = _without_outer_braces(text)
    text = COMMA_IN_NUMBER.sub("", text)
    if ratio := SIMPLE_RATIO.fullmatch(text):
        text = rf"\frac{{{ratio[1]}}}{{{ratio[2]}}}"
    text = re.sub(r"([_^])\{([0-9a-z])\}", r"\1\2", text)
    return canonical_number(text) or text


def canonical_number(text: str) -> str | None:
    """A decimal number without sign +, leading and trailing zeros and (within bounds) exponent; None for other text.

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


def _without_units(text: str) -> str:
    text = text.rstrip().removesuffix(".").rstrip() if not text.endswith("..") else text
    for _ in range(4):  # "3 square miles per hour"
        shorter = UNIT.sub("", text)
        if shorter == text:
            break
        text = shorter
    return text


def _without_outer_braces(text: str) -> str:
    while text.startswith("{") and text.endswith("}") and _balanced(text[1:-1]):
        text = text[1:-1]
    return text
