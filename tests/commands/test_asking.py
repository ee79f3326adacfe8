"""What the evaluating commands ask with."""

from edge_grpo.commands.asking import config_for, draws_of, training_draws
from edge_grpo.config import load_config


def drawn(*words, samples=None):
    draws = draws_of(load_config(None, list(words)), samples)
    return draws.samples, draws.temperature, draws.max_new_tokens


def test_samples_come_from_the_option_or_from_the_eval_section():
    assert drawn() == (0, 1.0, 96)
    assert drawn(samples=4) == (4, 1.0, 96)
    assert drawn("eval.samples=8") == (8, 1.0, 96)
    assert drawn("eval.samples=8", samples=0) == (0, 1.0, 96)
    assert drawn("eval.samples=8", "eval.temperature=0.6", "eval.max_new_tokens=7") == (8, 0.6, 7)
    assert drawn("eval.temperature=0.1") == (1, 0.1, 96)
    assert drawn("rollout.temperature=0.5", "rollout.max_new_tokens=9", samples=2) == (2, 0.5, 9)


def test_a_named_model_replaces_the_configured_one():
    assert config_for(["model.path=a"], "").model.path == "a"
    assert config_for(["model.path=a"], "b").model.path == "b"


def test_screening_draws_as_training_does():
    config = load_config(None, ["eval.temperature=0.3", "eval.top_p=0.5", "eval.max_new_tokens=7", "rollout.top_k=9"])
    draws = training_draws(config, 4)
    assert (draws.greedy, draws.samples, draws.temperature, draws.top_p, draws.top_k) == (False, 4, 1.0, 1.0, 9)
    assert draws.max_new_tokens == config.rollout.max_new_tokens
