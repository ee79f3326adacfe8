"""What the evaluating commands ask with, and how they show it."""

from rich.console import Console

from edge_grpo.commands.asking import _Shown, config_for, draws_of
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


def test_progress_is_a_line_now_and_then_where_no_terminal_is(capsys, monkeypatch):
    monkeypatch.setattr("edge_grpo.commands.asking._EVERY_S", -1.0)
    with _Shown(Console()) as shown:
        shown(2, 9)
        shown(9, 9)
    assert capsys.readouterr().out == "2 of 9 answers are there already\n2/9 answers\n9/9 answers\n"
