"""Digests of records: the same in every process, whatever a data row holds."""

from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np

from edge_grpo.base.digests import digest_each
from edge_grpo.base.records import Picture


@dataclass(frozen=True)
class Item:
    name: str
    more: dict[str, Any] = field(default_factory=dict)
    added_later: tuple[str, ...] = ()


def test_records_and_their_order_count() -> None:
    assert digest_each([Item("a"), Item("b")]) == digest_each(iter([Item("a"), Item("b")]))
    assert digest_each([Item("a"), Item("b")]) != digest_each([Item("b"), Item("a")])
    assert digest_each([]) != digest_each([Item("a")])
    assert digest_each([(1, 2), (3,)]) != digest_each([(1,), (2, 3)])


def test_an_empty_field_does_not_count() -> None:
    @dataclass(frozen=True)
    class Older:
        name: str

    assert digest_each([Item("a")]) == digest_each([Older("a")])
    assert digest_each([Item("a", added_later=("x",))]) != digest_each([Older("a")])


def test_values_that_json_lacks_are_the_same_in_every_process() -> None:
    def of(value: object) -> str:
        return digest_each([Item("a", {"column": value})])

    assert of(object()) == of(object()), "no address of an object in memory"
    for one, other in ((b"a", b"b"), (np.arange(3), np.arange(4)), (date(2020, 1, 1), date(2020, 1, 2))):
        assert of(one) == of(one)
        assert of(one) != of(other)


def test_where_a_file_lies_does_not_count() -> None:
    one = Picture("figure", "0123", (2, 3), path="here/a.png")
    assert digest_each([one]) == digest_each([replace(one, path="there/a.png")])
    assert digest_each([one]) != digest_each([replace(one, digest="4567")])
