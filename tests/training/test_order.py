"""The order in which problems are drawn: epochs, positions, weights."""

import itertools
from collections import Counter

from support import PROBLEM

from edge_grpo.base.records import Prompt
from edge_grpo.training.collect import epoch, stream


def test_the_stream_shuffles_every_epoch_and_starts_anywhere() -> None:
    items = [Prompt(PROBLEM, (i,)) for i in range(7)]
    whole = [p.prompt_ids[0] for p, _ in zip(stream(items, seed=1, start=0), range(28), strict=False)]
    for number in range(4):
        assert sorted(whole[7 * number : 7 * number + 7]) == list(range(7))
    assert whole[:7] != whole[7:14]
    for start in (3, 7, 12):
        part = [p.prompt_ids[0] for p, _ in zip(stream(items, seed=1, start=start), range(10), strict=False)]
        assert part == whole[start : start + 10]
    other = [p.prompt_ids[0] for p, _ in zip(stream(items, seed=2, start=0), range(7), strict=False)]
    assert other != whole[:7]


def test_weights_say_how_often_items_are_drawn_per_epoch() -> None:
    weights = [1.0] * 4 + [2.5] * 4 + [0.25] * 8
    items, size = range(16), 4 + 10 + 2
    whole = list(itertools.islice(stream(items, seed=1, start=0, weights=weights), 8 * size))
    for start in (3, size, 2 * size + 5):
        part = itertools.islice(stream(items, seed=1, start=start, weights=weights), 20)
        assert [*part] == whole[start : start + 20]
    for number in range(8):
        counts = Counter(whole[number * size : (number + 1) * size])
        assert [counts[item] for item in range(4)] == [1] * 4
        assert sorted(counts[item] for item in range(4, 8)) == [2, 2, 3, 3]
        assert sum(counts[item] for item in range(8, 16)) == 2
    drawn = Counter(whole)
    assert {drawn[item] for item in range(4, 8)} == {20}
    assert {drawn[item] for item in range(8, 16)} == {2}
    assert whole[:size] != sorted(whole[:size])


def test_a_small_weight_is_never_nothing_and_equal_weights_are_a_concatenation() -> None:
    assert sorted(epoch([1.0, 1.0, 0.001], seed=0, number=3)) == [0, 1, 2]
    plain = list(itertools.islice(stream(range(7), seed=1, start=0), 21))
    assert list(itertools.islice(stream(range(7), seed=1, start=0, weights=[1.0] * 7), 21)) == plain
