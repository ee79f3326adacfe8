"""One process is its own world; several agree on results, sums and errors."""

from collections.abc import Callable

import pytest
import rank_jobs
import torch
from rank_pool import Pool

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.world import World, reports

Pools = Callable[[int], Pool]


def test_a_single_process_works_by_itself() -> None:
    world = World()
    assert world.is_first
    assert world.sum({"rows": 3.0}) == {"rows": 3.0}
    assert world.any(True)
    assert not world.any(False)
    assert world.share([1, 2, 3], lambda own: [2 * each for each in own]) == [2, 4, 6]
    assert world.share([], lambda own: own) == []
    assert world.first(lambda: "once") == "once"
    assert world.in_turn(lambda: "once") == "once"
    assert world.gather(lambda: "all") == ["all"]
    assert world.each(lambda: "own") == "own"
    tensor = torch.ones(2)
    world.add([tensor])
    assert tensor.tolist() == [1.0, 1.0]


def test_errors_of_a_single_process_are_its_own() -> None:
    def fail() -> None:
        raise ConfigError("no")

    for call in (World().gather, World().each, World().first):
        with pytest.raises(ConfigError, match=r"^no$") as caught:
            call(fail)
        assert reports(caught.value)
    with pytest.raises(RuntimeError, match="connection closed"), World().unbroken():
        raise RuntimeError("connection closed by peer")


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_work_in_the_order_of_items(pool: Pools, size: int) -> None:
    for count in (0, 1, 2, 5):
        assert pool(size).call(rank_jobs.shared, count) == [[(item, item % size) for item in range(count)]] * size


def test_ranks_gather_and_add(pool: Pools) -> None:
    found = pool(3).call(rank_jobs.gathered)
    for rank, (everyone, own, first, sums, flag, added) in enumerate(found):
        assert everyone == [0, 10, 20]
        assert own == rank
        assert first == "rank 0"
        assert sums == {"all": 6.0, "last": 5.0}  # a name that others lack counts as 0 there
        assert flag is True
        assert added == [[6.0, 6.0], [3.0]]


@pytest.mark.parametrize("way", ["gather", "each", "share"])
def test_what_one_rank_raises_all_raise(pool: Pools, way: str) -> None:
    for kind, text, shared in pool(2).call(rank_jobs.failed, way, 1):
        assert (kind, text, shared) == ("ConfigError", "rank 1: no", True)


def test_what_all_ranks_raise_is_said_once(pool: Pools) -> None:
    assert pool(2).call(rank_jobs.failed, "gather", -1) == [("ConfigError", "no", True)] * 2
    assert pool(2).call(rank_jobs.failed, "first", 0) == [("ConfigError", "no", True)] * 2


def test_an_error_that_cannot_travel_arrives_as_text(pool: Pools) -> None:
    found = pool(2).call(rank_jobs.failed_strangely)
    assert found[0] == ("RuntimeError", "_Strange: 1 and 2", True)
    assert found[1] == ("RuntimeError", "_Strange: 1 and 2", True)
