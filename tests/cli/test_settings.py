"""The settings of the commands that query a model."""

from edge_grpo.cli.settings import config_for


def test_the_model_option_overrides_the_setting() -> None:
    assert config_for(["model.path=a"], "").model.path == "a"
    assert config_for(["model.path=a"], "b").model.path == "b"
