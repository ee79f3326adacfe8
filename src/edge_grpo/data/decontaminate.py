"""Finds test problems that also occur in the training data, by the word n-grams they share."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["MIN_SHARE", "NUM_WORDS", "Overlap", "overlaps", "word_grams"]

NUM_WORDS = 13
MIN_SHARE = 0.3
_MIN_WORDS = 4  # fewest words to search for inside longer texts; a shorter text must match a whole one
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Overlap:
    """A test text, the training text it overlaps most (both numbered from 0), and the share of its 13-grams there."""

    test: int
    train: int
    share: float


def word_grams(text: str, size: int = NUM_WORDS) -> frozenset[tuple[str, ...]]:
    """All word n-grams of length ``size`` in a text; a shorter text is one n-gram.

    Words are letters and digits in lower case: LaTeX commands and names count, symbols do not.

    Example:
        >>> sorted(word_grams("Let $x_1=2$. Find", size=3))
        [('1', '2', 'find'), ('let', 'x', '1'), ('x', '1', '2')]
    """
    words = _WORD.findall(text.lower())
    return frozenset(tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1)) if words)


def overlaps(tests: Sequence[str], trains: Iterable[str], *, min_share: float = MIN_SHARE) -> list[Overlap]:
    r"""Test texts with more than ``min_share`` of their word 13-grams in one training text.

    .. math:: \max_t \frac{|G(\text{test}) \cap G(t)|}{|G(\text{test})|} > \text{min\_share}

    A text of fewer than 13 words is one n-gram, searched for in the training texts at its own length.

    Args:
        tests: the texts to search for.
        trains: the texts to search in.
        min_share: 0 to 1.

    Returns:
        in the order of ``tests``; among several training texts, the first with the largest share.

    Source:
        13-grams: Brown et al. 2020, arXiv:2005.14165, appendix C.

    Example:
        >>> overlaps(["one two three"], ["zero", "One, two: three!"])
        [Overlap(test=0, train=1, share=1.0)]
    """
    grams = [word_grams(text) for text in tests]
    wanted: dict[tuple[str, ...], list[int]] = {}
    for test, own in enumerate(grams):
        for gram in own:
            wanted.setdefault(gram, []).append(test)
    sizes = {NUM_WORDS, *(len(gram) for gram in wanted if len(gram) >= _MIN_WORDS)}
    best: dict[int, Overlap] = {}
    for train, text in enumerate(trains):
        found_here = frozenset().union(*(word_grams(text, size) for size in sizes))
        shared = Counter(test for gram in found_here for test in wanted.get(gram, ()))
        for test, count in shared.items():
            found = Overlap(test, train, count / len(grams[test]))
            if found.share > min_share and (test not in best or found.share > best[test].share):
                best[test] = found
    return [best[test] for test in sorted(best)]
