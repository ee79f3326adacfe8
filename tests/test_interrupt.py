"""Signals drop a step before its first update and wait for it afterwards."""

import os
import signal

import pytest

from edge_grpo.interrupt import Interruption, StepDropped


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


def test_a_second_signal_ends_at_once_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interruption():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
