"""Signals drop a step before its first update and wait for it afterwards."""

import os
import signal
import threading
import time

import pytest

from edge_grpo.base.interrupt import Interruption, StepDropped, Terminated, terminable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drops_a_step_at_once(number):
    with Interruption() as stop:
        with pytest.raises(StepDropped), stop.droppable():
            os.kill(os.getpid(), number)
            pytest.fail("the step went on")
        assert stop.signal == number


def test_a_signal_during_updates_waits_for_the_next_step():
    with Interruption() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(StepDropped), stop.droppable():
            pytest.fail("the next step began")


def test_no_except_exception_swallows_a_dropped_step():
    assert not issubclass(StepDropped, Exception)


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_by_its_own_number_and_handlers_come_back(first, second, code):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Terminated) as stop, terminable(), Interruption():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)
        pytest.fail("the process went on")
    assert stop.value.code == code
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_ctrl_c_ends_a_process_that_was_started_with_it_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), Interruption():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_a_command_a_second_ctrl_c_is_a_keyboard_interrupt():
    with pytest.raises(KeyboardInterrupt), Interruption() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.signal:  # of two that are pending the lower number would come first
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_an_orderly_exit_and_no_except_exception_swallows_it(number, code):
    closed = []
    with pytest.raises(Terminated) as stop, terminable():
        try:
            os.kill(os.getpid(), number)
        except Exception:  # noqa: BLE001
            pytest.fail("swallowed")
        finally:
            closed.append(True)
    assert (stop.value.code, closed) == (code, [True])


def test_another_thread_catches_nothing():
    def inside():
        with terminable(), Interruption() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.signal))

    seen, before = [], signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(before, 0)]
