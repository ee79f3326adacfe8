"""Texts with half characters."""

from edge_grpo.data.texts import half_character


def test_half_a_character_is_found_where_it_stands():
    assert half_character("ok") == half_character("\U0001f600") == ""
    assert "position 1" in half_character("a\ud83d")
