"""The meaning of descriptive words in the files: matched loosely, and rejected only on a real difference."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def meaning(word: Any, known: Mapping[str, T], what: str, *, begins: bool = False) -> T:
    """The entry of that name, or whose name starts the word; case, spaces, hyphens and underscores are ignored."""
    plain = squeezed(word)
    for name in known:
        if plain == squeezed(name) or (begins and plain.startswith(squeezed(name))):
            return known[name]
    raise ValueError(f"unknown {what} {word!r}; known: {', '.join(known)}")


def squeezed(word: Any) -> str:
    return re.sub(r"[\s_-]", "", str(word).lower())


def aggregation(word: Any) -> Literal["tokens", "rows"]:
    """Mean over all tokens, or over rows of the mean over tokens."""
    if "sum" in str(word).lower():
        raise ValueError(f"unknown aggregation {word!r}: only means are built")
    kinds: dict[str, Literal["tokens", "rows"]] = {"token": "tokens", "seq": "rows", "row": "rows", "per row": "rows"}
    return meaning(word, kinds, "aggregation", begins=True)


def require_unbiased(sentence: Any) -> None:
    """Reject a deviation that does not divide by n - 1."""
    plain = str(sentence).lower().replace(" ", "")
    sound = any(word in plain for word in ("unbiased", "n-1", "sample", "ddof=1", "ddof1", "bessel"))
    if not sound or "population" in plain or "biased" in plain.replace("unbiased", ""):
        raise ValueError(f"unknown deviation {sentence!r}: wanted the unbiased one")


def is_scaled(rule: str) -> bool:
    """Whether a described advantage rule divides by a deviation."""
    named = re.search(r"\b(std|stddev|deviation|sigma)", rule.lower())
    denied = re.search(r"\b(no|not|without)\b[^,;/]*\b(std|stddev|deviation|sigma)", rule.lower())
    return bool(named and not denied)


def numbered(names: Sequence[Any]) -> Tensor:
    """Names of groups, numbers or texts, as integers."""
    order = {name: number for number, name in enumerate(sorted(set(names)))}
    return torch.tensor([order[name] for name in names])
