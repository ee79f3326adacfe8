r"""Units and other words after a number: read into powers of base units with a factor, so that 1.2 km equals 1200 m."""

import re
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

__all__ = ["PERCENT", "Unit", "is_known", "read_unit", "scale_of"]

LENGTHS = "m:1 mi:1609.344 mile:1609.344 yd:.9144 yard:.9144 ft:.3048 foot:.3048 feet:.3048 inch:.0254 in:.0254"
MASSES = "kg:1 g:.001 gm:.001 lb:.45359237 oz:.028349523125 ounce:.028349523125 tonne:1000"
TIMES = "s:1 sec:1 second:1 min:60 minute:60 h:3600 hr:3600 hour:3600 day:86400 week:604800"
AREAS = "hectare:10000 ha:10000 acre:4046.8564224"
VOLUMES = "l:.001 L:.001"
NAMED = (
    "meter:m metre:m gram:g gramme:g liter:l litre:l joule:J newton:N watt:W volt:V ampere:A amp:A kelvin:K pascal:Pa "
    "hertz:Hz calorie:cal"
)
SYMBOLS = ("m", "g", "s", "N", "J", "W", "V", "A", "K", "Pa", "Hz", "mol", "eV", "L", "l", "C", "F", "T", "cal", "Wb")
OTHERS = (
    "$:dollar USD:dollar usd:dollar dollar:dollar €:euro eur:euro euro:euro £:pound ¥:yen yen:yen "
    "₹:rupee Rs:rupee rupee:rupee month:month degree:degree deg:degree radian:radian rad:radian %:% percent:% pct:%"
)
PREFIXES = {"k": 3, "M": 6, "G": 9, "T": 12, "d": -1, "c": -2, "m": -3, "u": -6, "n": -9, "p": -12}
LONG_PREFIXES = {"kilo": 3, "mega": 6, "giga": 9, "deci": -1, "centi": -2, "milli": -3, "micro": -6, "nano": -9}
SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALES |= {"mln": 10**6, "bn": 10**9, "lakh": 10**5, "crore": 10**7}
_NO_UNITS = (
    "or and not no if than least most about approximately when where for with else thus is are therefore so "
    "tenths hundredths thousandths thirds fifths but mod i less fewer greater between from minus plus negative e"
)
NO_UNITS = frozenset(_NO_UNITS.split())
PIECE = re.compile(r"[A-Za-zµμ]+|[一-鿿]+|[$€£¥₹%¢]|\^ ?\\circ|\^ ?\{? ?(?:-?\d) ?\}?|[/*-]|\\mu ?|(?P<other>[^\s.~,])")
RAISED = {"squared": 2, "cubed": 3}
_JOINING = "/ per * - the of an a more old long tall high deep wide away"
JOINING = frozenset(_JOINING.split())
BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}


class Unit(NamedTuple):
    """Powers of base units, sorted by name, and the factor that converts a value to them."""

    powers: tuple[tuple[str, int], ...]
    factor: Fraction = Fraction(1)
    known: bool = True

    def named(self, name: str) -> bool:
        """Whether it is this one base unit."""
        return self.powers == ((name, 1),)


PERCENT = Unit((("%", 1),))


class Entry(NamedTuple):
    """What a unit's name stands for."""

    base: str
    factor: Fraction = Fraction(1)
    power: int = 1
    known: bool = True


def _table() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for text, base in ((LENGTHS, "m"), (MASSES, "kg"), (TIMES, "s")):
        found |= {name: Entry(base, Fraction(factor)) for name, factor in _pairs(text)}
    for text, power in ((AREAS, 2), (VOLUMES, 3)):
        found |= {name: Entry("m", Fraction(factor), power) for name, factor in _pairs(text)}
    for symbol in SYMBOLS:
        entry = found.setdefault(symbol, Entry(symbol))
        for prefix, exponent in PREFIXES.items():
            found.setdefault(prefix + symbol, entry._replace(factor=entry.factor * Fraction(10) ** exponent))
    for name, symbol in _pairs(NAMED):
        found[name] = entry = found[symbol]
        for prefix, exponent in LONG_PREFIXES.items():
            found[prefix + name] = entry._replace(factor=entry.factor * Fraction(10) ** exponent)
    found |= {name: Entry(base) for name, base in _pairs(OTHERS)}
    hundredth = Entry("dollar", Fraction(1, 100))
    return found | {"cent": hundredth, "¢": hundredth, "year": Entry("month", Fraction(12))}


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (pair.partition(":") for pair in text.split())]


TABLE = _table()
SPEEDS = {"mph": "mile/hour", "kmph": "km/h", "kph": "km/h", "kmh": "km/h", "rpm": "revolution/minute", "fps": "ft/s"}


def read_unit(text: str) -> Unit | None:
    r"""A unit such as ``cm^{2}``, ``km/h``, ``square feet``, ``%`` or a noun; None for words that say anything else.

    Example:
        >>> read_unit("km") == Unit((("m", 1),), Fraction(1000)), read_unit("apples").powers, read_unit("or 6")
        (True, (('apple', 1),), None)
    """
    factors = _factors(_pieces(text))
    if not factors:
        return None
    powers: Counter[str] = Counter()
    factor = Fraction(1)
    for entry, exponent in factors:
        powers[entry.base] += entry.power * exponent
        factor *= entry.factor**exponent
    scales = {"degree C", "degree F"} & {f"degree {name[:1].upper()}" for name in powers}
    if "degree" in powers and len(powers) == 2 and scales:  # a temperature
        powers = Counter(scales)
    if "unit" in powers:  # square units are units
        powers["unit"] = 1
    named = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(named, factor, all(entry.known for entry, _ in factors))


def _factors(pieces: Iterable[str]) -> list[tuple[Entry, int]]:
    """The units of a product with their exponents; none if a piece belongs to no unit."""
    factors: list[tuple[Entry, int]] = []
    sign, power, raisable = 1, 1, False
    for piece in pieces:
        if piece in JOINING:
            sign, raisable = -1 if piece in ("/", "per") else sign, False
        elif piece in BEFORE:
            power = BEFORE[piece]
        elif piece in RAISED or piece.startswith("^"):
            if not raisable:
                return []
            entry, exponent = factors[-1]
            raised = RAISED[piece] if piece in RAISED else int(re.sub(r"[^\d-]", "", piece))
            factors[-1] = entry, exponent + sign * (raised - 1)
        elif piece in NO_UNITS or piece == "?":
            return []
        else:
            factors.append((_known(piece) or Entry(_noun(piece), known=False), sign * power))
            power, raisable = 1, True
    return factors


def _pieces(text: str) -> list[str]:
    """Words, signs and powers; "?" for anything else."""
    text = text.replace('"', " ").replace("\\%", "%")
    for name, spelling in SPEEDS.items():
        text = re.sub(rf"\b{name}\b", spelling, text)
    pieces = []
    for match in PIECE.finditer(text):
        word = match[0].replace(" ", "")
        if word.endswith("circ"):
            word = "degree"
        elif word in ("µ", "μ", "\\mu"):
            word = "u"
        elif word.isalpha() and len(word) > 3:
            word = word.lower()
        elif match["other"]:
            word = "?"
        pieces.append(word)
    return pieces


def _known(word: str) -> Entry | None:
    low = word.lower()
    for name in (word, low, word.removesuffix("s"), low.removesuffix("es"), low.removesuffix("s")):
        if name in TABLE and (len(name) > 1 or name == word):
            return TABLE[name]
    return None


def is_known(word: str) -> bool:
    """Whether a word names a unit, rather than anything that is counted."""
    return _known(word) is not None or word in SPEEDS


def _noun(word: str) -> str:
    """An unknown noun, in the singular, is a unit of its own."""
    return word.lower().removesuffix("s") if len(word) > 3 else word


def scale_of(text: str) -> tuple[int, str]:
    """The number that leading words such as "million" stand for, and the rest of the words.

    Example:
        >>> scale_of("million dollars"), scale_of("cm")
        ((1000000, 'dollars'), (1, 'cm'))
    """
    scale, rest = 1, text.strip()
    while (match := re.match(r"[A-Za-z]+", rest)) and match[0].lower() in SCALES:
        scale *= SCALES[match[0].lower()]
        rest = rest[match.end() :].strip()
    return scale, rest
