"""Text with lone surrogates."""

from edge_grpo.base.text import lone_surrogate


def test_a_lone_surrogate_is_reported_with_its_position() -> None:
    assert lone_surrogate("ok") == lone_surrogate("\U0001f600") == ""
    assert "position 1" in lone_surrogate("a\ud83d")
