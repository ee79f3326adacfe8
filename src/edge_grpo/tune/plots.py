"""Plots of posteriors and of searches, drawn with matplotlib and saved to a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.errors import ConfigError, ShapeError
from edge_grpo.tune.posterior import Gaussian, Posterior

__all__ = ["plot_curves", "plot_posterior"]

_SUFFIXES = (".png", ".svg", ".pdf")
_COLORS = ("#1f77b4", "#ff7f0e")


def plot_posterior(
    path: Path | str,
    posterior: Posterior,
    at: Float[Tensor, "points 1"],
    *,
    observed: tuple[Float[Tensor, "n 1"], Float[Tensor, "parts n"]] | None = None,
    truth: Float[Tensor, "parts points"] | None = None,
    baseline: Posterior | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Plot every part and the (unweighted) whole over one dimension: means, and bands of two standard deviations.

    Args:
        path: output file: PNG, SVG or PDF by its suffix; its folder is created.
        posterior: the posterior to plot.
        at: points along the horizontal axis, in order.
        observed: where the parts were observed, and their values.
        truth: true values of the parts, if known.
        baseline: a second posterior, drawn behind the first, such as the aggregate.
        names: names of the parts.

    Raises:
        ConfigError: the suffix is unknown, or the 'tune' extra is not installed.
        ShapeError: the points have more than one dimension, or the numbers of names and parts differ.
    """
    if at.ndim != 2 or at.shape[1] != 1:
        raise ShapeError(f"plot_posterior: got points of shape {tuple(at.shape)}, wanted one dimension: (points, 1)")
    parts = posterior.parts_at(at)
    titles = [*(names or [f"part {index}" for index in range(1, len(parts) + 1)]), "whole"]
    if len(titles) != len(parts) + 1:
        raise ShapeError(f"plot_posterior: got {len(titles) - 1} names for {len(parts)} parts")
    behind = [] if baseline is None else [*baseline.parts_at(at), baseline.whole_at(at)]
    figure, axes = _panels(path, len(titles))
    for index, (axis, title, known) in enumerate(zip(axes, titles, [*parts, posterior.whole_at(at)], strict=True)):
        if behind:
            _band(axis, at, behind[index], _COLORS[1], "from the sum alone")
        _band(axis, at, known, _COLORS[0], "from the parts" if behind else "posterior")
        if truth is not None:
            axis.plot(at[:, 0], _row(truth, index), color="black", linestyle="--", linewidth=1, label="truth")
        if observed is not None:
            axis.plot(observed[0][:, 0], _row(observed[1], index), "k.", markersize=7, label="observed")
        axis.set_title(title)
    axes[-1].legend(fontsize=8)
    figure.savefig(path)


def plot_curves(
    path: Path | str,
    curves: Mapping[str, Float[Tensor, "draws rounds"]],
    *,
    ylabel: str = "regret",
    xlabel: str = "round",
    title: str = "",
) -> None:
    """Plot each curve's mean over draws, with a band of two standard errors.

    Args:
        path: output file: PNG, SVG or PDF by its suffix; its folder is created.
        curves: by name; one row per draw, one column per round, from round 1.
        ylabel: label of the vertical axis.
        xlabel: label of the horizontal axis.
        title: title of the plot.

    Raises:
        ConfigError: the suffix is unknown, or the 'tune' extra is not installed.
    """
    figure, (axis,) = _panels(path, 1)
    for name, rows in curves.items():
        rounds = range(1, rows.shape[1] + 1)
        middle, error = rows.mean(0), rows.std(0) / len(rows) ** 0.5 if len(rows) > 1 else torch.zeros(rows.shape[1])
        (line,) = axis.plot(rounds, middle, label=f"{name} ({len(rows)} draws)")
        axis.fill_between(rounds, middle - 2 * error, middle + 2 * error, color=line.get_color(), alpha=0.2)
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axis.legend()
    figure.savefig(path)


def _band(axis: Any, at: Tensor, known: Gaussian, color: str, label: str) -> None:
    half = 2 * known.variance.clamp(min=0).sqrt()
    axis.fill_between(at[:, 0], known.mean - half, known.mean + half, color=color, alpha=0.25, linewidth=0)
    axis.plot(at[:, 0], known.mean, color=color, label=label)


def _row(parts: Tensor, index: int) -> Tensor:
    """The numbers of one part; past the last part, their sum."""
    return parts[index] if index < len(parts) else parts.sum(0)


def _panels(path: Path | str, count: int) -> tuple[Any, list[Any]]:
    """A figure without a window, and its panels, stacked vertically."""
    if Path(path).suffix not in _SUFFIXES:
        raise ConfigError(f"{path}: got the suffix '{Path(path).suffix}', wanted one of {', '.join(_SUFFIXES)}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - in the extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise ConfigError("plots need the 'tune' extra: pip install 'edge-grpo[tune]'") from None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(7, 2.2 * count if count > 1 else 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(count, 1, squeeze=False, sharex=True)[:, 0])
