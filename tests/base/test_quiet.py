"""Other libraries' log records: shown after success, dropped after failure."""

import logging

import pytest

from edge_grpo.base.quiet import quiet_failures


def attempt(*, fails: bool) -> None:
    with quiet_failures():
        logging.getLogger("huggingface_hub.utils").warning("retrying")
        logging.getLogger("elsewhere").warning("other")
        if fails:
            raise ValueError("no")


def test_records_are_shown_after_success_and_dropped_after_failure(caplog: pytest.LogCaptureFixture) -> None:
    attempt(fails=False)
    assert caplog.messages == ["other", "retrying"]
    caplog.clear()
    before = logging.getLogger("huggingface_hub").handlers
    with pytest.raises(ValueError, match="no"):
        attempt(fails=True)
    assert caplog.messages == ["other"]
    assert logging.getLogger("huggingface_hub").handlers is before
