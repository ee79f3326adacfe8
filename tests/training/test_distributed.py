"""One process is its own world."""

from edge_grpo.training.distributed import World


def test_sums_of_one_process_are_its_own() -> None:
    assert World().sum({"rows": 3.0}) == {"rows": 3.0}
    assert World().any(True)
    assert not World().any(False)
