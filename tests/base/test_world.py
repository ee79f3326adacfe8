"""One process is its own world."""

from edge_grpo.base.world import World


def test_a_single_process_works_by_itself() -> None:
    world = World()
    assert world.sum({"rows": 3.0}) == {"rows": 3.0}
    assert world.any(True)
    assert not world.any(False)
    assert world.share([1, 2, 3], lambda own: [2 * each for each in own]) == [2, 4, 6]
    assert world.first(lambda: "once") == "once"
    assert world.in_turn(lambda: "once") == "once"
