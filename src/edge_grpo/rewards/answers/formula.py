r"""Expressions parsed into trees, without evaluating anything: ``2\frac{\pi}{3}``, ``0.\overline{36}``, ``\log_2 8``.

Recursive descent over the tokens of a `canonical.spelled` text. A text is read whole or not at all, and no part of it
is executed. A product may be implicit, a run of two or three letters is a product of variables, ``e`` and ``i`` are
numbers.
"""

from edge_grpo.rewards.answers.tokens import FUNCTIONS, SEVERAL, Node, Token, UnreadableError, number, tokens_of

__all__ = ["MAX_TEXT", "parse"]

MAX_TEXT = 1000  # characters of an expression that is read
MAX_DEPTH = 60

ALIASES = {"arctg": "arctan", "tg": "tan", "ctg": "cot", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar infty dots"
)
GREEK = frozenset(_GREEK.split())
_ACCENTS = "vec hat bar overline widehat overrightarrow tilde dot ddot angle triangle"
ACCENTS = frozenset(_ACCENTS.split())
CLOSING = {"(": ")", "[": "]", "{": "}", "lfloor": "rfloor", "lceil": "rceil"}


def parse(text: str) -> Node:
    r"""The tree of an expression.

    Raises:
        UnreadableError: the text is anything else, too long, or nested too deeply.

    Example:
        >>> parse("2+x").op, parse(r"1\frac{1}{2}") == parse(r"1+\frac{1}{2}")
        ('+', True)
        >>> parse("4(x")
        Traceback (most recent call last):
        ...
        edge_grpo.rewards.answers.tokens.UnreadableError: '(' is not closed
    """
    if len(text) > MAX_TEXT:
        raise UnreadableError("too long")
    return _Reader(tokens_of(text)).read()


def _fraction(name: str, above: Node, below: Node) -> Node:
    if _first(above) == _first(below) == "d":  # a derivative, whose d does not cancel
        return Node("name", leaf=f"{above} over {below}")
    return Node("/" if name == "frac" else name, (above, below))


def _first(tree: Node) -> str:
    """The name of the first factor."""
    while tree.op == "*":
        tree = tree.args[0]
    return str(tree.leaf)


def _selections(kind: str, total: int, chosen: int) -> Node:
    r"""Combinations ``C_5^2`` or arrangements ``A_5^2`` of ``chosen`` out of ``total``."""
    if kind == "C":
        return Node("binom", (number(total), number(chosen)))
    return Node("/", (Node("!", (number(total),)), Node("!", (number(total - chosen),))))


class _Reader:
    """Recursive descent over the tokens of one text."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.next = 0
        self.depth = 0
        self.bars = 0  # open absolute values

    def read(self) -> Node:
        value = self.sum()
        if self.next < len(self.tokens):
            raise UnreadableError(f"unexpected {self.peek().text!r}")
        return value

    def peek(self) -> Token:
        return self.tokens[self.next] if self.next < len(self.tokens) else Token("end", "")

    def take(self, *operators: str) -> str:
        token = self.peek()
        if token.kind in ("operator", "name") and token.text in operators:
            self.next += 1
            return token.text
        return ""

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deeply")
        value = self.product()
        while sign := self.take("+", "-"):
            value = Node(sign, (value, self.product()))
        self.depth -= 1
        return value

    def product(self) -> Node:
        negative = False
        while sign := self.take("+", "-"):
            negative ^= sign == "-"
        mixed = self.mixed()
        value = mixed or self.power()
        while True:
            if operator := self.take("*", "/"):
                inner = self.take("+", "-")
                factor = self.power()
                value = Node(operator, (value, Node("neg", (factor,)) if inner == "-" else factor))
            elif self.starts_factor():
                value = Node("*", (value, self.power()))
            else:
                return Node("neg", (value,)) if negative else value

    def mixed(self) -> Node | None:
        r"""A whole number before a proper fraction of whole numbers, ``2\frac{1}{3}``: their sum."""
        start = self.next
        whole, pieces = self.peek(), self.tokens[start + 1 : start + 8]
        if whole.kind != "number" or not whole.text.isdecimal() or [one.text for one in pieces[:2]] != ["frac", "{"]:
            return None
        texts = [one.text for one in pieces]
        if len(texts) < 7 or [texts[1], texts[3], texts[4], texts[6]] != ["{", "}", "{", "}"]:
            return None
        above, below = texts[2], texts[5]
        if not (above.isdecimal() and below.isdecimal() and int(above) < int(below)):
            return None
        self.next += 8
        fraction = Node("/", (number(int(above)), number(int(below))))
        return Node("+", (number(int(whole.text)), fraction))

    def starts_factor(self) -> bool:
        token = self.peek()
        if token.kind == "number":
            return self.tokens[self.next - 1].kind != "number"
        if token.kind == "name":
            return token.text not in ("rfloor", "rceil", "mod")
        return token.text in ("(", "[", "{") or (token.text == "|" and not self.bars)

    def power(self) -> Node:
        return self.raised(self.atom())

    def raised(self, base: Node) -> Node:
        while self.take("!"):
            if base.op == "!":
                raise UnreadableError("a double factorial")
            base = Node("!", (base,))
        if not self.take("^"):
            return base
        if self.take("circ"):
            return Node("*", (base, Node("degree")))
        raised = Node("^", (base, self.exponent()))
        return self.raised(raised) if self.peek().text == "!" else raised

    def exponent(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deeply")
        negative = self.take("+", "-") == "-"
        value = self.power()
        self.depth -= 1
        return Node("neg", (value,)) if negative else value

    def atom(self) -> Node:
        token = self.peek()
        self.next += 1
        if token.kind == "number" and token.node is not None:
            return token.node
        if token.kind == "name":
            return self.named(token.text)
        if token.text in ("(", "[", "{"):
            return self.group(token.text)
        if token.text == "|":
            self.bars += 1
            value = Node("abs", (self.sum(),))
            self.bars -= 1
            if not self.take("|"):
                raise UnreadableError("'|' is not closed")
            return value
        raise UnreadableError(f"unexpected {token.text!r}" if token.text else "unexpected end")

    def named(self, name: str) -> Node:
        name = ALIASES.get(name, name)
        if name in ("frac", "binom"):
            return _fraction(name, self.argument(), self.argument())
        if name == "sqrt":
            index = self.group("[") if self.take("[") else number(2)
            return Node("root", (self.argument(), index))
        if name in CLOSING:
            return Node(name, (self.group(name),))
        if name in FUNCTIONS:
            return self.several(name) if name in SEVERAL else self.function(name)
        if name in ACCENTS:
            letters = self.points() if name in ("angle", "triangle") else ""
            return self.symbol(f"{name} {min(letters, letters[::-1]) or self.raw()}")
        if len(name) > 1 and name not in GREEK and name != "pi":
            raise UnreadableError(f"unknown command {name}")
        return self.symbol(name)

    def symbol(self, name: str) -> Node:
        plain = name
        if self.take("_"):
            index = self.raw()
            name += "_" + index
            if plain in ("A", "C") and (chosen := self.chosen(index)):
                return _selections(plain, int(index), int(chosen))
        while self.take("'"):
            name += "'"
        return Node("name" if name != plain or name not in ("e", "i", "pi") else "constant", leaf=name)

    def chosen(self, index: str) -> str:
        """The upper index of ``C_{5}^{2}``, if both are numbers and the lower one is not smaller."""
        texts = [one.text for one in self.tokens[self.next : self.next + 4]]
        if len(texts) < 4 or [texts[0], texts[1], texts[3]] != ["^", "{", "}"]:
            return ""
        if not (index.isdecimal() and texts[2].isdecimal() and int(texts[2]) <= int(index)):
            return ""
        self.next += 4
        return texts[2]

    def points(self) -> str:
        """The capital letters that follow, which name points."""
        start = self.next
        while self.peek().kind == "name" and len(self.peek().text) == 1 and self.peek().text.isupper():
            self.next += 1
        return "".join(one.text for one in self.tokens[start : self.next])

    def function(self, name: str) -> Node:
        base = None
        if name == "log" and self.take("_"):
            base = self.argument()
        exponent = self.exponent() if self.take("^") else None
        if exponent == Node("neg", (number(1),)):
            name, exponent = f"arc{name}", None
        value = Node(name, (self.operand(),) if base is None else (self.operand(), base))
        return value if exponent is None else Node("^", (value, exponent))

    def operand(self) -> Node:
        """What a function applies to: a group, or the factors up to the next sign, bracket or function."""
        if self.peek().text in ("(", "[", "{", "|"):
            return self.raised(self.atom()) if self.peek().text != "(" else self.atom()
        negative = self.take("-")
        value = self.power()
        while self.starts_factor() and self.peek().text not in FUNCTIONS | {"(", "["}:
            value = Node("*", (value, self.power()))
        return Node("neg", (value,)) if negative else value

    def several(self, name: str) -> Node:
        braced = self.take(r"{") or self.take("(")
        if not braced:
            raise UnreadableError(f"{name} without brackets")
        values = [self.sum()]
        while self.take(","):
            values.append(self.sum())
        if not self.take(CLOSING[braced]):
            raise UnreadableError(f"{braced!r} is not closed")
        return Node(name, tuple(values))

    def group(self, opening: str) -> Node:
        bars, self.bars = self.bars, 0
        value = self.sum()
        self.bars = bars
        if not self.take(CLOSING[opening]):
            raise UnreadableError(f"{opening!r} is not closed")
        return value

    def argument(self) -> Node:
        return self.group("{") if self.take("{") else self.atom()

    def raw(self) -> str:
        """A subscript or the letters under an accent, as text."""
        if not self.take("{"):
            token = self.peek()
            self.next += 1
            return token.text
        start = self.next
        while self.peek().kind != "end" and self.peek().text not in ("{", "}"):
            self.next += 1
        if not self.take("}"):
            raise UnreadableError("a nested subscript")
        return "".join(one.text for one in self.tokens[start : self.next - 1])
