"""Injecting text after a completion."""

from edge_grpo.base.records import Rollout, Segment, Span
from edge_grpo.rollout.engine import inject


def test_inject_after_a_finished_completion_drops_its_stop_token() -> None:
    first = Rollout((1, 2), (Span((5, 6, 9), Segment.SAMPLED, (-1.0, -2.0, -3.0), (0.1, 0.2, 0.3)),), finished=True)
    new = inject(first, (7, 8, 9), finished=True)
    assert new.completion_ids == (5, 6, 7, 8, 9)
    assert new.spans[0] == Span((5, 6), Segment.WRONG_PREFIX, (-1.0, -2.0), (0.1, 0.2))
    assert new.spans[1] == Span((7, 8, 9), Segment.INJECTED)
    assert new.finished
    assert first.completion_ids == (5, 6, 9)


def test_inject_after_a_lone_stop_token_leaves_no_empty_span() -> None:
    first = Rollout((1,), (Span((9,), Segment.SAMPLED, (-1.0,), (0.1,)),), finished=True)
    assert [span.segment for span in inject(first, (7,), finished=False).spans] == [Segment.INJECTED]


def test_inject_after_a_stop_string_keeps_its_tokens() -> None:
    first = Rollout((1,), (Span((5, 6), Segment.SAMPLED, (-1.0, -2.0), (0.1, 0.2)),), finished=True, ends_in_text=True)
    new = inject(first, (7, 9), finished=True)
    assert new.completion_ids == (5, 6, 7, 9)
    assert new.spans[0] == Span((5, 6), Segment.WRONG_PREFIX, (-1.0, -2.0), (0.1, 0.2))
    assert (new.finished, new.ends_in_text) == (True, False)
