r"""Sets of real numbers as unions of intervals: ``x \ge 3``, ``(-1, 2] \cup \{5\}``, ``x \ne 0``."""

from functools import cmp_to_key
from typing import NamedTuple

from edge_grpo.rewards.answers.tokens import Node, UnreadableError
from edge_grpo.rewards.answers.value import is_constant, same_formula, sign_of

__all__ = ["EVERYTHING", "Piece", "complement", "joined", "point", "same_pieces"]


class Piece(NamedTuple):
    """An interval; an endpoint of None is infinite, a single point has both ends closed."""

    low: Node | None
    low_closed: bool
    high: Node | None
    high_closed: bool


EVERYTHING = Piece(None, False, None, False)
Pieces = tuple[Piece, ...]


def point(value: Node) -> Piece:
    """A set of one number."""
    return Piece(value, True, value, True)


def _constant(pieces: Pieces) -> bool:
    return all(end is None or is_constant(end) for piece in pieces for end in (piece.low, piece.high))


def _by_low(one: Piece, two: Piece) -> int:
    if one.low is None or two.low is None:
        return (one.low is not None) - (two.low is not None)
    return sign_of(one.low, two.low) or two.low_closed - one.low_closed


def joined(pieces: Pieces) -> Pieces:
    """Sorted, with overlapping and touching intervals merged; unchanged if an endpoint is not a constant.

    Raises:
        UnreadableError: an interval is empty, or an endpoint is not real.
    """
    if not _constant(pieces):
        return pieces
    merged: list[Piece] = []
    for piece in sorted(pieces, key=cmp_to_key(_by_low)):
        if piece.low is not None and piece.high is not None:
            order = sign_of(piece.low, piece.high)
            if order > 0 or (order == 0 and not (piece.low_closed and piece.high_closed)):
                raise UnreadableError("an empty interval")
        last = merged[-1] if merged else None
        if last is None or not _touch(last, piece):
            merged.append(piece)
        elif last.high is not None and _reaches_further(piece, last):
            merged[-1] = last._replace(high=piece.high, high_closed=piece.high_closed)
    return tuple(merged)


def _touch(last: Piece, piece: Piece) -> bool:
    if last.high is None or piece.low is None:
        return True
    order = sign_of(piece.low, last.high)
    return order < 0 or (order == 0 and (piece.low_closed or last.high_closed))


def _reaches_further(piece: Piece, last: Piece) -> bool:
    if piece.high is None or last.high is None:
        return piece.high is None
    order = sign_of(piece.high, last.high)
    return order > 0 or (order == 0 and piece.high_closed and not last.high_closed)


def complement(pieces: Pieces) -> Pieces:
    """All other real numbers.

    Raises:
        UnreadableError: an endpoint is not a real constant.
    """
    if not _constant(pieces):
        raise UnreadableError("a complement of unknown endpoints")
    rest: list[Piece] = []
    low, closed = None, False
    open_ended = True
    for piece in joined(pieces):
        if piece.low is not None:
            rest.append(Piece(low, closed, piece.low, not piece.low_closed))
        low, closed, open_ended = piece.high, not piece.high_closed, piece.high is not None
    if open_ended:
        rest.append(Piece(low, closed, None, False))
    return tuple(rest)


def same_pieces(left: Pieces, right: Pieces) -> bool:
    """Whether two unions are the same set; those with unknown endpoints must agree interval by interval."""
    left, right = joined(left), joined(right)
    return len(left) == len(right) and all(map(_same_piece, left, right))


def _same_piece(one: Piece, two: Piece) -> bool:
    if (one.low_closed, one.high_closed) != (two.low_closed, two.high_closed):
        return False
    for left, right in ((one.low, two.low), (one.high, two.high)):
        if (left is None) != (right is None) or (
            left is not None and right is not None and not same_formula(left, right)
        ):
            return False
    return True
