"""What is said before a second look."""

from edge_grpo.data.phrases import REVISION_PHRASES


def test_phrases_differ_and_give_nothing_away():
    assert len(set(REVISION_PHRASES)) == len(REVISION_PHRASES) >= 5
    assert not any(word in phrase.lower() for phrase in REVISION_PHRASES for word in ("correct answer is", "boxed"))
