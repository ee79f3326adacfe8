"""A signal drops a step before its first update and waits for it afterwards."""

import os
import signal
import threading
import time

import pytest

from edge_grpo.base.interrupt import Interruption, StepDropped, Terminated, terminable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drops_a_step_at_once(number: int) -> None:
    with Interruption() as stop:
        with pytest.raises(StepDropped), stop.droppable():
            os.kill(os.getpid(), number)
            pytest.fail("the step continued")
        assert stop.signal == number


def test_a_signal_during_updates_waits_for_the_next_step() -> None:
    with Interruption() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(StepDropped), stop.droppable():
            pytest.fail("the next step started")


def test_no_except_exception_swallows_a_dropped_step() -> None:
    assert not issubclass(StepDropped, Exception)


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_exits_at_once_with_its_own_code_and_handlers_are_restored(
    first: int, second: int, code: int
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Terminated) as stop, terminable(), Interruption():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)
        pytest.fail("the process continued")
    assert stop.value.code == code
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_ctrl_c_ends_a_process_started_with_it_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), Interruption():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_a_command_a_second_ctrl_c_is_a_keyboard_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), Interruption() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.signal:  # if both were pending, the lower number would be delivered first
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_exits_cleanly_and_no_except_exception_swallows_it(number: int, code: int) -> None:
    closed = []
    with pytest.raises(Terminated) as stop, terminable():
        try:
            os.kill(os.getpid(), number)
        except Exception:  # noqa: BLE001
            pytest.fail("swallowed")
        finally:
            closed.append(True)
    assert (stop.value.code, closed) == (code, [True])


def test_another_thread_catches_nothing() -> None:
    def inside() -> None:
        with terminable(), Interruption() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.signal))

    seen: list[tuple[object, int]] = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(before, 0)]
