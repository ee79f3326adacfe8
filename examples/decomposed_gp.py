"""Find the maximum of a sum of two measured parts sooner by observing the parts; no language model involved.

Run it as a script, or cell by cell in an editor that supports `# %%`:

    python examples/decomposed_gp.py [FOLDER]

It needs the 'tune' extra, takes a few seconds, and writes three plots to FOLDER (default: the current folder).
"""

# %% The parts: a slow and a fast wave, each measured with noise; one measurement of a point returns both.
import sys
from pathlib import Path

import torch

from edge_grpo.tune import Decomposed, StationarySettings, aggregate, fit_prior, make_part, search
from edge_grpo.tune.plots import plot_curves, plot_posterior

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
NOISE = 0.01  # variance
NAMES = ("slow", "fast")
grid = torch.linspace(0, 1, 201, dtype=torch.float64)[:, None]
truth = torch.stack([torch.sin(5 * grid[:, 0]), 0.5 * torch.sin(40 * grid[:, 0] + 1)])
best = truth.sum(0).max()


def measured(index: int, generator: torch.Generator) -> torch.Tensor:
    """A noisy measurement of both parts at one grid point."""
    return truth[:, index] + NOISE**0.5 * torch.randn(2, generator=generator, dtype=torch.float64)


# %% Fit a kernel to each part separately, from 40 measurements at random points that are used for nothing else.
generator = torch.Generator().manual_seed(0)
seen = torch.randperm(201, generator=generator)[:40].tolist()
values = torch.stack([measured(index, generator) for index in seen], dim=1)
kernel = StationarySettings(type="rbf")
priors = [fit_prior(grid[seen], own, kernel=kernel, noise=NOISE) for own in values]
for name, prior in zip(NAMES, priors, strict=True):
    (lengthscale,) = prior.kernel.lengthscale
    print(f"{name}: variance {prior.kernel.variance:.2f}, lengthscale {lengthscale:.3f}, mean {prior.mean:.2f}")
parts = [make_part(prior, dims=1) for prior in priors]

# %% What nine new measurements reveal about each part and the whole, and what their sums alone would reveal.
nine = list(range(5, 200, 24))
values = torch.stack([measured(index, generator) for index in nine], dim=1)
fine = Decomposed(parts, grid[nine], values)
coarse = aggregate(parts, grid[nine], values.sum(0))
for name, model in (("from the parts", fine), ("from the sum alone", coarse)):
    whole = model.whole_at(grid)
    error = (whole.mean - truth.sum(0)).square().mean().sqrt()
    print(f"{name}: mean variance {whole.variance.mean():.4f}, root mean squared error {error:.4f}")
picture = {"observed": (grid[nine], values), "truth": truth, "names": NAMES}
plot_posterior(FOLDER / "parts.png", fine, grid, baseline=coarse, **picture)

# %% Search: D-GPUCB against GP-UCB, from ten different starting points, with the same noise for both.
ROUNDS, DRAWS = 25, 10
curves = {}
for name, decomposed in (("D-GPUCB", True), ("GP-UCB", False)):
    rows = []
    for draw in range(DRAWS):
        noise = torch.Generator().manual_seed(draw)
        first = int(torch.randint(201, (), generator=noise))
        found = search(
            parts,
            grid,
            lambda index, noise=noise: measured(index, noise),
            start=[first],
            rounds=ROUNDS,
            decomposed=decomposed,
            scale=5.0,
        )
        regret = best - truth.sum(0)[[each.chosen for each in found]]
        rows.append(regret.cumsum(0) / torch.arange(1, ROUNDS + 1))
    curves[name] = torch.stack(rows)
    print(f"{name}: average regret after {ROUNDS} rounds {curves[name][:, -1].mean():.3f} ({DRAWS} draws)")
plot_curves(FOLDER / "regret.png", curves, ylabel="average regret")

# %% One search by parts: where it looks, what it measures there, and the posterior at the end.
noise, looked, values = torch.Generator().manual_seed(DRAWS), [], []


def recorded(index: int) -> torch.Tensor:
    """A measurement that is recorded."""
    looked.append(index)
    values.append(measured(index, noise))
    return values[-1]


search(parts, grid, recorded, start=[100], rounds=ROUNDS, scale=5.0)
seen = (grid[looked], torch.stack(values, dim=1))
plot_posterior(FOLDER / "search.png", Decomposed(parts, *seen), grid, observed=seen, truth=truth, names=NAMES)
print(f"plots: {', '.join(str(FOLDER / name) for name in ('parts.png', 'regret.png', 'search.png'))}")
