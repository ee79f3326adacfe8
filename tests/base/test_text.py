"""Texts with half characters."""

from edge_grpo.base.text import lone_surrogate


def test_half_a_character_is_found_where_it_stands():
    assert lone_surrogate("ok") == lone_surrogate("\U0001f600") == ""
    assert "position 1" in lone_surrogate("a\ud83d")
