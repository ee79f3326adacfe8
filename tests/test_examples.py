"""The examples that no other test runs."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_advantages_train_another_trainers_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert runpy.run_path(str(EXAMPLES / "in_your_trainer.py"))["main"]() > 0.9
    assert "right, advantages" in capsys.readouterr().out


@pytest.mark.slow
def test_one_step_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "one_step.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "a corrected completion:" in printed
    assert "grad_norm" in printed
