"""The settings of the commands that query a model."""

import pytest

from edge_grpo.base.errors import ConfigError
from edge_grpo.cli.settings import config_for, model_first


def test_the_model_option_overrides_the_setting() -> None:
    assert config_for(["model.path=a"], "").model.path == "a"
    assert config_for(["model.path=a"], "b").model.path == "b"


def test_the_model_may_come_first() -> None:
    assert model_first(["runs/x/final", "c.yaml", "train.steps=1"], "") == (["c.yaml", "train.steps=1"], "runs/x/final")
    assert model_first(["Qwen/Qwen2.5-0.5B"], "") == ([], "Qwen/Qwen2.5-0.5B")
    assert model_first(["c.yaml"], "m") == (["c.yaml"], "m")
    assert model_first(["model.path=a"], "") == (["model.path=a"], "")
    assert model_first(None, "m") == ([], "m")
    with pytest.raises(ConfigError, match="two models: 'a' and --model b"):
        model_first(["a"], "b")
