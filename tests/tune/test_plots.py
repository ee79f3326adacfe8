"""Plots show the right things, and the example runs."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from tune.priors import draw, part

from edge_grpo.base.errors import ConfigError, ShapeError
from edge_grpo.tune.plots import plot_curves, plot_posterior
from edge_grpo.tune.posterior import Decomposed, Mixed, aggregate

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "decomposed_gp.py"
AT = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]


def models() -> tuple[Decomposed, Mixed, tuple[torch.Tensor, torch.Tensor]]:
    priors = [part("rbf", lengthscale=0.3), part("matern52", lengthscale=0.1)]
    points, values = draw(0, 5, 1), draw(1, 2, 5)
    return Decomposed(priors, points, values), aggregate(priors, points, values.sum(0)), (points, values)


def test_a_plot_shows_every_part_and_the_whole(tmp_path: Path) -> None:
    fine, coarse, observed = models()
    path = tmp_path / "all.svg"
    names = ["one & <two>", "three"]
    plot_posterior(path, fine, AT, observed=observed, truth=draw(2, 2, 30), baseline=coarse, names=names)
    text = path.read_text(encoding="utf-8")
    for shown in (
        "one &amp; &lt;two&gt;",
        "three",
        "whole",
        "from the parts",
        "from the sum alone",
        "truth",
        "observed",
    ):
        assert f"<!-- {shown} -->" in text
    assert text.count('id="axes_') == 3


def test_a_posterior_is_plotted_alone(tmp_path: Path) -> None:
    plot_posterior(tmp_path / "a.png", models()[0], AT)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_curves_are_labelled_with_their_number_of_draws(tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    plot_curves(path, {"D-GPUCB": draw(0, 7, 12), "one draw": draw(1, 1, 12)}, title="a title")
    text = path.read_text(encoding="utf-8")
    for shown in ("D-GPUCB (7 draws)", "one draw (1 draws)", "a title", "round", "regret"):
        assert f"<!-- {shown} -->" in text


def test_bad_input_is_rejected_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine, *_ = models()
    with pytest.raises(ConfigError, match=r"got the suffix '.gif', wanted one of .png, .svg, .pdf"):
        plot_posterior(tmp_path / "a.gif", fine, AT)
    with pytest.raises(ShapeError, match="got 1 names for 2 parts"):
        plot_posterior(tmp_path / "a.png", fine, AT, names=["one"])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="plots need the 'tune' extra"):
        plot_posterior(tmp_path / "a.png", fine, AT)
    assert list(tmp_path.iterdir()) == []


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["decomposed_gp.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    regrets = [float(line.split()[-3]) for line in printed.splitlines() if "average regret" in line]
    assert len(regrets) == 2
    assert all(0 <= regret < 1 for regret in regrets)
    for name in ("parts.png", "regret.png", "search.png"):
        assert (tmp_path / name).stat().st_size > 10_000
