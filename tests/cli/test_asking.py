"""What the evaluating commands ask with."""

from edge_grpo.cli.asking import config_for


def test_a_named_model_replaces_the_configured_one():
    assert config_for(["model.path=a"], "").model.path == "a"
    assert config_for(["model.path=a"], "b").model.path == "b"
