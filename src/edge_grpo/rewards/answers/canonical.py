r"""One spelling for answers that differ only in notation: strings in, strings out, nothing is evaluated.

`spelled` unifies marks of other scripts, synonymous commands, fonts, spacing and thousands separators, and puts what
stood in ``\text{...}`` into double quotes, so that the words of an answer stay apart from its variables. Nothing that
carries meaning is dropped: units, percent signs, letter case and brackets remain for `reading` to interpret.

Source:
    The notations follow those of the MATH grader (Hendrycks et al. 2021, arXiv:2103.03874) and of the PRM800K grader
    (Lightman et al. 2023, arXiv:2305.20050), which EDGE-GRPO's release applies; the rules and the code are our own.
"""

import re
import unicodedata

from edge_grpo.rewards.answers.words import number_word

__all__ = ["canonical", "spelled", "value_spelling"]

MARKS = {
    **dict.fromkeys("−–—‐‑‒﹣", "-"),
    **dict.fromkeys("‘’′", "'"),
    **dict.fromkeys("“”„", '"'),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("⟨〈", r"\langle "),
    **dict.fromkeys("⟩〉", r"\rangle "),
    **dict.fromkeys("\u2009\u202f\u2008\u2006", r"\,"),
    **dict.fromkeys("、，", ","),
    "×": r"\times ",
    "÷": "/",
    "⁄": "/",
    "∕": "/",
    "∶": ":",
    "。": ".",
    "…": r"\dots ",
    "⋯": r"\dots ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "≤": r"\le ",
    "⩽": r"\le ",
    "≥": r"\ge ",
    "⩾": r"\ge ",
    "≦": r"\le ",
    "≧": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "≡": r"\equiv ",
    "∈": r"\in ",
    "∞": r"\infty ",
    "∅": r"\emptyset ",
    "ø": r"\emptyset ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∖": r"\setminus ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "π": r"\pi ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "→": r"\to ",
    "∠": r"\angle ",
    "∣": "|",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "√": "√",
    "∛": "∛",
    "∑": r"\sum ",
    "∫": r"\int ",
    "∏": r"\prod ",
    "∗": "*",
    "∘": r"^\circ ",
    "【": "[",
    "】": "]",
    "「": "[",
    "」": "]",
    "\u200b": "",
    "\ufeff": "",
    "￥": "¥",
    "℃": r"^\circ C",
}
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
GREEK_MARKS = dict(zip("αβγδεζηθικλμνξοπρστυφχψωΓΔΘΛΞΠΣΦΨΩ", GREEK.split(), strict=True))
RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻ⁿ]+")
LOWERED = re.compile("[₀-₉₊₋]+")
ROOT = re.compile(r"([√∛])\s*(\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z])|(?=[({\\]))")

WORDS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up|sc)?|mbox|hbox|emph|mathrm|operatorname\*?|unit|rm)\s*\{"
    r"([^{}]*(?:\^\s*\{\s*-?\d+\s*\}[^{}]*)*)\}"
)
UPRIGHT_UNIT = re.compile(r"(?<=[\d})])(?:\\,|~|\s)*\\mathrm\s*\{[\s~]*([mgshLJNVWK])\s*\}(?=[\s$.]*$)")
WHOLE = re.compile(r"\\(?:text|mbox|mathrm)\s*\{(.*)\}", re.DOTALL)  # a formula in text braces
FONTS = re.compile(
    r"\\(?:math(?:bf|it|sf|cal|tt|frak|scr)|boldsymbol|bm|underline|boxed|fbox|phantom|ensuremath)\s*\{([^{}]*)\}"
)
FONT_LETTER = re.compile(r"\\math(?:rm|bf|it|sf|cal)\s+([A-Za-z])(?![A-Za-z])")
INVISIBLE = re.compile(r"\\(?:left|right)\s*\.")
SWITCH = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|bigg?[lrm]?|Bigg?[lrm]?|rm|bf|it|mathstrut|strut|nolimits|"
    r"boldmath|small|large|Large|quad|qquad|checkmark|square|blacksquare|qed|hfill|newline|thinspace|space|hspace\*?\{[^{}]*\})(?![a-zA-Z])"
)
COLOR = re.compile(r"\\(?:text)?color\s*\{[a-zA-Z]+\}")
SPACE = r"(?:\\[,;:!> ]|~|\s|\\(?:thinspace|space)(?![a-zA-Z]))"
THOUSANDS = re.compile(rf"(?<![\d.,_^])(\d{{1,3}})((?:(?:\{{,\}}|,\\! ?|{SPACE}{{1,2}})\d{{3}})+)(?![\d])(?!\s*/)")
DOTTED_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?![\d.,])")
DECIMAL_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d{1,2}(?!\d))")
SYNONYMS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:[dtc]frac|sfrac|nicefrac)(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\(?:neq|not\s*=)(?![a-zA-Z])", r"\\ne "),
        (r"\\leq(?:slant|q)?(?![a-zA-Z])|<=", r"\\le "),
        (r"\\geq(?:slant|q)?(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"!=(?!=)", r"\\ne "),
        (r"\\(?:lbrace)(?![a-zA-Z])", r"\\{"),
        (r"\\(?:rbrace)(?![a-zA-Z])", r"\\}"),
        (r"\\(?:lbrack)(?![a-zA-Z])", "["),
        (r"\\(?:rbrack)(?![a-zA-Z])", "]"),
        (r"\\(?:mid|[lr]?[vV]ert)(?![a-zA-Z])|(?<!\\)\\\|", "|"),
        (r"\\(?:l|c|v|d)?dots[a-z]?(?![a-zA-Z])|\.\.\.+", r"\\dots "),
        (r"\\(?:varnothing|empty)(?![a-zA-Z])", r"\\emptyset "),
        (r"\\backslash(?![a-zA-Z])", r"\\setminus "),
        (r"\\var(epsilon|phi|theta|rho|sigma|pi)(?![a-zA-Z])", r"\\\1 "),
        (
            r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\^\s*\\circ(?![a-zA-Z])|\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])",
            r"^\\circ ",
        ),
        (r"\^\s*\{\s*(?:\\prime\s*|')\}|\^\s*\\prime(?![a-zA-Z])", "'"),
        (r"\\(?:times|cdot|ast)(?![a-zA-Z])", "*"),
        (r"\\div(?![a-zA-Z])", "/"),
        (r"\{([^{}\\]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"\(([0-9A-Z]+)\)\s*(?=_)", r"\1"),
        (r"\*\*", "^"),
        (r"(?<=\d) ?[xX] ?(?=10 ?\^)", "*"),
        (
            r"(?<![\w}])(?:\{ ?\} ?)?[\^_] ?(?:\{ ?(\w+) ?\}|(\w)) ?C ?_ ?(?:\{ ?(\w+) ?\}|(\w))",  # {}_5C_2
            r"\\binom{\1\2}{\3\4}",
        ),
        (r"\\begin\s*\{array\}\s*(?:\{[^{}]*\})?", r"\\begin{pmatrix}"),
        (r"\\end\s*\{array\}", r"\\end{pmatrix}"),
        (r"\{(?:bmatrix|matrix|smallmatrix)\}", "{pmatrix}"),
        (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
        (r"\\(?:union|bigcup)(?![a-zA-Z])", r"\\cup "),
        (r"\\[pb]?mod(?![a-zA-Z])|\(\s*mod\s+(?=\w+\s*\))", r"\\mod "),
        (r"\\(?:text)?percent(?![a-zA-Z])|\\%", "%"),
        (r"\\textdollar(?![a-zA-Z])", "¤"),
        (r"\\(?:euro|texteuro)(?![a-zA-Z])", "€"),
        (r"\\(?:pounds|textsterling)(?![a-zA-Z])", "£"),
        (r"\\(?:mathbb|mathbf|bf|Bbb)\s*\{?\s*([RZNQC])\s*\}?(?![a-zA-Z])", r"\\mathbb{\1}"),
        (r"\\(?:imaginaryI|imath)(?![a-zA-Z])", "i"),
        (r"\\(?:ge|le|ne)(?=\d)", r"\g<0> "),
    )
)
BASE_WORD = re.compile(r'_\s*\{\s*"(\w+)"\s*\}')
OUTWARD = re.compile(r"(^|\\(?:cup|in)(?![a-zA-Z]) ?|= ?)([\[\]])([^\[\]()]*[,;][^\[\]()]*)([\[\]])(?= ?(?:$|\\cup))")
DOLLAR_AMOUNT = re.compile(r"^\s*\$\s*(?=[\d.])(?!.*\$)")
BARE = r"(?:\{([^{}]*)\}|(\d)|([A-Za-z])|(\\[a-zA-Z]+)(?![a-zA-Z{]))"
BARE_FRACTION = re.compile(
    r"\\frac\s*(?:\{([^{}]*)\}|([0-9A-Za-z])|(\\pi(?![a-zA-Z])))\s*(?:\{([^{}]*)\}|([0-9A-Za-z])|(\\pi(?![a-zA-Z])))"
)
BARE_ROOT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
MIXED = re.compile(r"(?<![\w.^/)])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\w.^])")
LOG_BASE = re.compile(r"(\\log\s*_)\s*(\d)")
SCRIPT = re.compile(r"([_^])\s*(-?\d+|[A-Za-z])")
BRACED_SCRIPT = re.compile(r"([_^])\s*\{\s*([^{}]*?)\s*\}")
_FUNCTION_NAMES = (
    "lg ln log sin cos tan cot sec csc arcsin arccos arctan arctg tg ctg sinh cosh tanh gcd lcm max min exp"
)
FUNCTION_NAMES = frozenset(_FUNCTION_NAMES.split())
UNIT_AFTER = re.compile(r'(?<=[\w)}\]]) ?(?:"[^"]*"(?:\^\{\d\})?|%|\^\\circ) ?$')
APPLIED = re.compile(r"\s*[({^_\\A-Za-z]")  # a function, else the unit of time
LETTERS = {"e", "i"}  # written upright, yet numbers


def spelled(text: str) -> str:
    r"""The answer in one notation, its words in double quotes.

    Example:
        >>> spelled(r"$\dfrac12\text{ cm}$"), spelled("x²≥１"), spelled(r"10\,000")
        ('\\frac{1}{2}"cm"', 'x^{2}\\ge 1', '10000')
    """
    text = _ascii(text).strip()
    if marked := re.fullmatch(r"(\*\*|[*`'])([^*`']+)\1", text):  # of Markdown, or quoted
        text = marked[2]
    text = text.rstrip("\\ \n")
    while (whole := WHOLE.fullmatch(text)) and "\\" in whole[1] and not _closes_early(whole[1]):
        text = whole[1].strip()
    text = DOLLAR_AMOUNT.sub(r"\\$", text)
    text = THOUSANDS.sub(lambda match: match[1] + re.sub(r"\D", "", match[2]), text)
    text = DOTTED_THOUSANDS.sub(lambda match: match[0].replace(".", ""), text)
    text = DECIMAL_COMMA.sub(".", text)
    text = re.sub(r"\\\$", "¤", text.replace('"', "''") if "\\text" in text else text.replace('"', " "))
    text = re.sub(r"(?<!\\)\\[()\[\]]|\$", " ", text)
    text = FONT_LETTER.sub(r"\1", COLOR.sub("", text))
    for _ in range(3):
        text = FONTS.sub(r"\1", text)
    text = FONTS.sub(r"\1", WORDS.sub(_quoted, UPRIGHT_UNIT.sub(r'"\1"', text)))
    text = INVISIBLE.sub(" ", text)
    text = SWITCH.sub(" ", re.sub(r"(?<!\\)\\!", "", text))
    text = re.sub(r"(?:(?<!\\)\\[,;:> ]|~|\s)+", " ", text)
    for pattern, replacement in SYNONYMS:
        text = pattern.sub(replacement, text)
    text = OUTWARD.sub(_inward, BASE_WORD.sub(_base, text))
    text = MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = BARE_ROOT.sub(r"\\sqrt{\1}", text)
    text = BARE_FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2] or m[3] or ''}}}{{{m[4] or m[5] or m[6] or ''}}}", text)
    text = BRACED_SCRIPT.sub(r"\1{\2}", SCRIPT.sub(r"\1{\2}", LOG_BASE.sub(r"\1{\2}", text)))
    text = re.sub(r"\s+", " ", text.replace("¤", "\\$")).strip()
    return re.sub(r' ?" ?([^"]*?) ?" ?', r'"\1"', text)


def canonical(text: str) -> str:
    r"""The spelling without whitespace, quotes and final stops: equal for answers that differ only in notation.

    Words lose their case, variables keep it.

    Example:
        >>> canonical(r"\frac 1 2."), canonical(r"\text{Evelyn}"), canonical("R - r"), canonical("025")
        ('\\frac{1}{2}', 'evelyn', 'R-r', '25')
    """
    text = spelled(text)
    if not re.search(r"[\\^_=+*/|<>(){}\[\]]", text) and re.search(r'"|[A-Za-z]{3}', text):
        text = text.lower()
    text = re.sub(r"(\\[A-Za-z]+) (?=[A-Za-z])", "\\1\0", text.replace('"', ""))
    text = re.sub(r"(?<=\d) (?=\d)", "\0", text).replace(" ", "").replace("\0", " ")
    text = text.rstrip(".,;:") or text
    return _plain_number(text)


def value_spelling(text: str) -> str:
    r"""The spelling of the value alone, without a name before it or a unit, percent or currency sign next to it.

    Example:
        >>> value_spelling("x = 5"), value_spelling(r"5\text{ cm}^2"), value_spelling(r"\$5"), value_spelling(r"5\%")
        ('5', '5', '5', '5')
    """
    text = re.sub(r"^[A-Za-z] ?= ?(?=[^=]*$)", "", spelled(text)).removeprefix("\\$")
    return canonical(UNIT_AFTER.sub("", text))


def _plain_number(text: str) -> str:
    match = re.fullmatch(r"([+-]?)0*(\d*)(?:\.(\d*))?", text, re.ASCII)
    if match is None or not re.search(r"\d", text):
        return text
    whole, decimals = match[2] or "0", (match[3] or "").rstrip("0")
    number = f"{whole}.{decimals}" if decimals else whole
    return f"-{number}" if match[1] == "-" and number != "0" else number


def _closes_early(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return True
    return depth != 0


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    text = RAISED.sub(lambda m: "^{" + unicodedata.normalize("NFKC", m[0]).replace("−", "-") + "}", text)
    text = LOWERED.sub(lambda m: "_{" + unicodedata.normalize("NFKC", m[0]).replace("−", "-") + "}", text)
    text = "".join(map(_mark, text))
    return ROOT.sub(lambda m: (r"\sqrt" if m[1] == "√" else r"\sqrt[3]") + (f"{{{m[2]}}}" if m[2] else ""), text)


def _mark(character: str) -> str:
    if character.isascii():
        return character
    if character in MARKS:
        return MARKS[character]
    if character in GREEK_MARKS:
        return f"\\{GREEK_MARKS[character]} "
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    plain = unicodedata.normalize("NFKC", character)
    if "⁄" in plain:
        above, below = plain.split("⁄")
        return rf"\frac{{{above}}}{{{below}}}" if above and below else character
    return plain if plain.isascii() else character


def _base(match: re.Match[str]) -> str:
    base = number_word(match[1].lower())
    return match[0] if base is None else f"_{{{base}}}"


def _inward(match: re.Match[str]) -> str:
    """``]1,2[`` as ``(1,2)``."""
    low, high = "(" if match[2] == "]" else "[", ")" if match[4] == "[" else "]"
    return f"{match[1]}{low}{match[3]}{high}"


def _quoted(match: re.Match[str]) -> str:
    words, upright = match[1].strip(" ~\n"), match[0].startswith(r"\mathrm")
    if upright and re.fullmatch(r"[A-Za-z]|[A-Z]+", words):
        apart = match[1][:1] in " ~" or match.string[match.start() - 1 : match.start()].isalpha()
        return f" {words}" if apart else words
    if "{" in words and words[0] in LETTERS:  # e^{2}
        return f" {words} "
    if re.fullmatch(r"[\d.,\s+\-*/^=()\[\]]*", words):  # a number, not words
        return f" {words} "
    if words in FUNCTION_NAMES and not (words in ("min", "sec") and not APPLIED.match(match.string, match.end())):
        return f"\\{words} "
    return f'"{words}"' if words else " "
