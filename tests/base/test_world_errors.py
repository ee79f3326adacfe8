"""What one of two processes raises, both raise; what a process that ended breaks is named."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from processes import until

from edge_grpo.base.errors import DataError, EdgeGrpoError
from edge_grpo.base.interrupt import Interruption, StepDropped
from edge_grpo.base.ranks import RENDEZVOUS
from edge_grpo.base.world import World

Work = Callable[[World], Any]


class Odd(Exception):
    """Cannot be made again from its message alone, as pickle does."""

    def __init__(self, one: str, *, two: str) -> None:
        super().__init__(one + two)


def among(folder: Path, *works: Work) -> list[Any]:
    """What each process says of its work: the result, or the class, text and notes of what it raised."""
    pids = set()
    for number, work in enumerate(works):
        if (pid := os.fork()) == 0:
            _rank(folder, number, len(works), work)
        pids.add(pid)

    def ended() -> bool:
        pids.difference_update([pid for pid in pids if os.waitpid(pid, os.WNOHANG)[0]])
        return not pids

    until(ended)
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(len(works))]


def _rank(folder: Path, number: int, size: int, work: Work) -> None:
    """Join, work, tell; never return into the test."""
    said: Any = None
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=size)
        world = World(number, size, size, group=dist.group.WORLD)
        places = world.gather(lambda: (socket.gethostname(), os.getpid()))
        said = work(replace(world, places=tuple(places)))
    except BaseException as error:  # noqa: BLE001
        shared = bool(getattr(error, "shared", False))
        said = [type(error).__name__, str(error), shared, getattr(error, "__notes__", [])]
    finally:
        (folder / f"{number}.json").write_text(json.dumps(said))
        os._exit(0)


def fails(error: BaseException) -> Any:
    raise error


def test_what_one_rank_raises_all_raise_and_it_is_named(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        return world.gather(lambda: 1 if world.is_first else fails(DataError("no rows")))

    assert among(tmp_path, work, work) == [["DataError", "rank 1: no rows", True, []]] * 2


def test_what_all_ranks_raise_names_none(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        return world.each(lambda: fails(DataError("no rows")))

    assert among(tmp_path, work, work) == [["DataError", "no rows", True, []]] * 2


def test_what_rank_0_raises_alone_names_none(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        return world.first(lambda: fails(EdgeGrpoError("disk full")))

    assert among(tmp_path, work, work) == [["EdgeGrpoError", "disk full", True, []]] * 2


def test_a_bug_on_one_rank_is_shown_with_its_place(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        return world.share([1, 2], lambda own: [1 // (2 - one) for one in own])

    for name, text, shared, notes in among(tmp_path, work, work):
        assert (name, shared) == ("ZeroDivisionError", True)
        assert "division" in text
        assert "on rank 1:\nTraceback" in notes[0]
        assert "test_world_errors.py" in notes[0]


def test_an_error_that_cannot_travel_is_told_by_another(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        return world.gather(lambda: 1 if world.is_first else fails(Odd("a", two="b")))

    assert [told[:3] for told in among(tmp_path, work, work)] == [["RuntimeError", "Odd: ab", True]] * 2


def test_a_users_error_that_cannot_travel_stays_one(tmp_path: Path) -> None:
    class OddOfUser(EdgeGrpoError):
        def __init__(self, one: str, *, two: str) -> None:
            super().__init__(one + two)

    def work(world: World) -> Any:
        return world.first(lambda: fails(OddOfUser("a", two="b")))

    assert among(tmp_path, work, work) == [["EdgeGrpoError", "ab", True, []]] * 2


def test_an_error_comes_before_a_dropped_step(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        return world.gather(lambda: fails(StepDropped() if world.is_first else DataError("no rows")))

    assert [told[0] for told in among(tmp_path, work, work)] == ["DataError", "DataError"]


def droppable(world: World, begin: Callable[[], object], own: Callable[[], object]) -> tuple[list[str], int]:
    """What of a step was done before a signal dropped it, on this rank, and the signal that this rank got."""
    done: list[str] = []
    with Interruption(world.any) as stop:
        exposed = replace(world, exposed=stop.exposed)
        with pytest.raises(StepDropped), stop.droppable():
            begin()
            done.append("begun")
            exposed.each(lambda: (own(), done.append("work")))
            done.append("ended")
    return done, stop.signal


def stop_self() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def nothing() -> None:
    pass


@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_one_rank_drops_the_step_of_all(tmp_path: Path, signalled: int) -> None:
    """It interrupts that rank's own work only, and both learn of it at the end of the work."""

    def work(world: World) -> Any:
        return droppable(world, nothing, stop_self if world.rank == signalled else nothing)

    expected = [[["begun", "work"], 0], [["begun", "work"], 0]]
    expected[signalled] = [["begun"], 15]
    assert among(tmp_path, work, work) == expected


def test_a_signal_outside_own_work_waits_for_it(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        return droppable(world, nothing if world.is_first else stop_self, nothing)

    assert among(tmp_path, work, work) == [[["begun", "work"], 0], [["begun"], 15]]


def test_a_rank_that_ended_is_named(tmp_path: Path) -> None:
    def ends(world: World) -> Any:
        return "ended"

    def waits(world: World) -> Any:
        with world.unbroken(lambda: "resume it"):
            time.sleep(0.2)
            return world.any(True)

    names = among(tmp_path, waits, ends)
    assert names[0][:2] == ["RankLostError", "rank 1 of 2 ended; resume it"]


def test_an_error_of_the_user_that_sounds_like_a_lost_rank_stays(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        with world.unbroken(lambda: "resume it"):
            return world.each(lambda: fails(RuntimeError("connection refused by the reward's server")))

    assert [told[0] for told in among(tmp_path, work, work)] == ["RuntimeError", "RuntimeError"]


def test_a_single_process_names_no_rank() -> None:
    with pytest.raises(RuntimeError, match="timed out"), World().unbroken(lambda: "resume it"):
        raise RuntimeError("timed out")


def test_a_rank_leaves_without_taking_the_interpreter_apart(tmp_path: Path) -> None:
    """Exit functions run, what was printed arrives, and nothing is finalized: the last object would abort."""
    program = """
import atexit, os
from edge_grpo.base.world import join_world, leave

class Last:
    def __del__(self):
        os.abort()

last = Last()
atexit.register(print, "exit functions")
leave(1)
join_world()
print("joined")
leave(3)
"""
    job = {"RANK": "0", "WORLD_SIZE": "1", "OMP_NUM_THREADS": "1", RENDEZVOUS: str(tmp_path / "rendezvous")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | job, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "joined\nexit functions\n"), done.stderr
