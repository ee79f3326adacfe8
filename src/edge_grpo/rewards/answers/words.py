"""Answers in words: what they mean if they mean a value, the letters of choices, and numbers written out."""

import re

__all__ = ["bare", "choice_of", "meaning_of", "number_word", "words_of"]

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
NUMBERS = tuple(_NUMBERS.split())
TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100}
EMPTY = re.compile(
    r"无解|無解|空集|(?:there (?:is|are) )?(?:no|null|empty)(?: (?:real|integer|such|possible|positive))*"
    r" (?:solutions?|roots?|set|numbers?|values?|integers?)(?: exists?)?|none|no such \w+ exists?|(?:the )?empty set"
)
ALL = re.compile(r"(?:all|any|every)(?: of)?(?: the)? reals?(?: numbers?)?|(?:the )?reals|(?:the )?real numbers")
UNDEFINED = re.compile(r"d\.?n\.?e|(?:the limit )?do(?:es)? not exist|does ?n.?t exist|undefined")
CHOICE = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer|statement|graph|figure)(?:\s+is)?\s*:?\s*)?(\(|\[)?\s*([A-J]|(?<=\()[a-j])\s*([)\]]?\s*[.):]?)\s*(.*)",
    re.I | re.S,
)
ANOTHER = re.compile(r"(?:or|and|nor|[,/&])\W|\(?[A-J][).](?:\s|$)")  # (A) or (B) is no choice
CHOICE_WORD = re.compile(r"\s*(?:the\s+)?(?:correct\s+)?(?:option|choice|statement|graph|figure)\b", re.I)
KNOWN = {"no", "yes", "so", "up", "am", "pm"}
FUNCTION_WORDS = re.compile(r"\\[a-zA-Z]+|sqrt|arc(?:sin|cos|tan)|sinh?|cosh?|tanh?|log|ln|exp|max|min|gcd|lcm")


def bare(text: str) -> str:
    """The words alone: lower case, single spaces, without quotes and final stops."""
    return " ".join(text.replace('"', " ").lower().split()).strip(" .,;:!")


def meaning_of(plain: str) -> str:
    """Which set or value the words name: "empty", "all" or "infinity", or nothing."""
    if EMPTY.fullmatch(plain):
        return "empty"
    if ALL.fullmatch(plain):
        return "all"
    return "infinity" if plain in ("infinity", "infinite", "positive infinity", "infinitely many") else ""


def number_word(plain: str) -> int | None:
    """The number that a word such as "seven" or "twenty-five" names.

    Example:
        >>> number_word("seven"), number_word("twenty-five"), number_word("even")
        (7, 25, None)
    """
    if plain in NUMBERS:
        return NUMBERS.index(plain)
    first, _, last = plain.replace("-", " ").partition(" ")
    tens = 20 if first == "twenty" else TENS.get(first)
    if tens is None or (last and (last not in NUMBERS[1:10] or tens == 100)):
        return None
    return tens + (NUMBERS.index(last) if last else 0)


def choice_of(text: str) -> tuple[str, str] | None:
    r"""The letter of a choice and what follows its label.

    Example:
        >>> choice_of('"(C)" 12'), choice_of("B."), choice_of("Option A"), choice_of("A+B")
        (('C', '12'), ('B', ''), ('A', ''), None)
    """
    plain = text.replace('"', " ").strip()
    match = CHOICE.fullmatch(plain)
    if match is None:
        return None
    opening, letter, label, rest = match[1] or "", match[2], match[3].strip(), match[4].strip().rstrip(".")
    word = bool(CHOICE_WORD.match(plain))
    if bool(opening) != (label[:1] in (")", "]")) and not (not opening and label[:1] == ")"):
        return None
    if letter.islower() and not (opening or word or '"' in text):
        return None
    if rest and (not label or rest[0] in "+*/^=_!" or ANOTHER.match(rest)):
        return None
    return letter.upper(), rest


def words_of(text: str) -> str:
    """The answer's words in one spelling if it is made of words, else nothing."""
    plain = bare(text)
    if re.search(r"[\\^_=+*/|<>{}\[\]]", text) or not re.match(r"[a-z(]|\d+:\d", plain):
        return ""
    runs = re.findall(r"[a-z]+", FUNCTION_WORDS.sub(" ", plain))
    if not ('"' in text and runs) and not any(len(run) > 2 or run in KNOWN for run in runs):
        return ""
    if UNDEFINED.fullmatch(plain):
        return "does not exist"
    plain = re.sub(r"^(?:the|a|an|it is|they are) (?=\w)", "", plain)
    if answer := re.match(r"(yes|no),? (?:it|they|he|she|there|this|that|we) \w+$", plain):
        return answer[1]
    return re.sub(r"[^a-z0-9,()]+", "", plain)
