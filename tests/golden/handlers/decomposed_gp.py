"""Gaussian processes of parts and of the whole."""

from typing import Any

import torch
from golden.cases import Case
from torch import Tensor

from edge_grpo.tune.acquisition import beta_finite, confidence_bound
from edge_grpo.tune.composition import (
    delta_width,
    exact_product,
    jacobian,
    plug_in_mean,
    safe_width,
    safe_width_cauchy,
    unsafe_width,
)
from edge_grpo.tune.kernels import KernelSettings, make_kernel
from edge_grpo.tune.loop import search
from edge_grpo.tune.posterior import Decomposed, Mixed, Part, Posterior, aggregate


def parts_of(case: Case, dims: int) -> list[Part]:
    from pydantic import TypeAdapter

    kernels = [TypeAdapter(KernelSettings).validate_python(spec) for spec in case.value("kernels")]
    priors = zip(kernels, case.value("prior_mean"), case.value("noise_var"), strict=True)
    return [Part(make_kernel(kernel, dims=dims), mean, noise) for kernel, mean, noise in priors]


def told(posterior: Posterior, points: Tensor, weights: Tensor) -> dict[str, Any]:
    parts, whole = posterior.parts_at(points), posterior.whole_at(points, weights)
    return {
        "mean_sub": [part.mean for part in parts],
        "var_sub": [part.variance for part in parts],
        "mean": whole.mean,
        "var": whole.variance,
        "cov": whole.covariance,
    }


def composed(case: Case) -> dict[str, Any]:
    """A nonlinear composition of parts that are observed separately."""
    compositions = {
        "product": lambda f: f[0] * f[1],
        "square_sum": lambda f: f[0] ** 2 + f[1] ** 2 / 2 - f[2],
    }
    points, name = case.tensor("Xs"), case.value("composition")
    case.value("weights_X"), case.value("weights_Xs")  # all ones, irrelevant here
    composition = compositions[name]
    parts = Decomposed(parts_of(case, points.shape[1]), case.tensor("X"), case.tensor("y_sub")).parts_at(points)
    bounds, step, delta = case.value("lipschitz"), case.value("t"), case.value("delta")
    widths = {
        "l1": safe_width(parts, bounds),
        "cauchy": safe_width_cauchy(parts, bounds),
        "rss": unsafe_width(parts, bounds),
        "delta_method": delta_width(composition, parts),
    }
    beta = beta_finite(len(points), step, delta=delta)
    union = beta_finite(len(points), step, delta=delta, parts=len(parts))
    mean = plug_in_mean(composition, parts)
    betas = {"l1": union, "cauchy": union, "rss": beta, "delta_method": beta}
    bound = {kind: confidence_bound(mean, widths[kind], betas[kind]) for kind in widths}
    exact: dict[str, Any] = {}
    if name == "product":
        exact["exact_mean"], exact["exact_var"] = exact_product(*parts)
    else:
        one, two, three = parts
        exact["exact_mean"] = one.mean**2 + one.variance + (two.mean**2 + two.variance) / 2 - three.mean
    return {
        "mean_sub": [part.mean for part in parts],
        "var_sub": [part.variance for part in parts],
        "plug_in_mean": mean,
        "jacobian": jacobian(composition, parts),
        "sigma": widths,
        "beta_t": beta,
        "beta_t_union": union,
        "ucb": bound,
        "argmax": {kind: int(own.argmax()) for kind, own in bound.items()},
        **exact,
    }


def closed_loop(case: Case) -> dict[str, Any]:
    """Both searches with the same functions and the same noise."""
    candidates, table, noise = case.tensor("candidates"), case.tensor("sub_function_table"), case.tensor("noise_table")
    weights = case.tensor("weights")[:, None].expand_as(table)
    maximize, rounds = case.value("maximize"), case.value("rounds")
    whole = (weights * table).sum(0)
    best = whole.max() if maximize else whole.min()

    def run(*, decomposed: bool) -> dict[str, Any]:
        looks = iter(range(rounds + 1))
        found = search(
            parts_of(case, candidates.shape[1]),
            candidates,
            lambda index: table[:, index] + noise[:, next(looks)],
            start=[case.value("initial_index")],
            rounds=rounds,
            decomposed=decomposed,
            weights=weights,
            maximize=maximize,
            delta=case.value("delta"),
        )
        regrets = [float(abs(best - whole[each.chosen])) for each in found]
        steps = [
            {
                "t": each.step,
                "beta_t": each.beta,
                "chosen": each.chosen,
                "acquisition_max": each.bound,
                "regret": regret,
            }
            for each, regret in zip(found, regrets, strict=True)
        ]
        return {"chosen": [each.chosen for each in found], "steps": steps, "cumulative_regret": sum(regrets)}

    return {"decomposed": run(decomposed=True), "aggregate": run(decomposed=False)}


def mixed(case: Case) -> dict[str, Any]:
    """Readings of single parts among readings of the whole."""
    points, weights = case.tensor("Xs"), case.tensor("weights_Xs")
    parts = parts_of(case, points.shape[1])
    rows = case.value("rows")

    def posterior(chosen: list[dict[str, Any]]) -> Mixed:
        units = torch.eye(len(parts), dtype=case.dtype)
        own = [torch.tensor(row["w"], dtype=case.dtype) if row["type"] == "agg" else units[row["j"]] for row in chosen]
        at = torch.tensor([row["x"] for row in chosen], dtype=case.dtype)
        return Mixed(parts, at, torch.stack(own, 1), torch.tensor([row["y"] for row in chosen], dtype=case.dtype))

    assert {row["type"] for row in rows} <= {"agg", "sub"}, "unknown kind of row"
    return {
        "mixed": told(posterior(rows), points, weights),
        "aggregate_rows_only": told(posterior([row for row in rows if row["type"] == "agg"]), points, weights),
    }


def linear(case: Case) -> dict[str, Any]:
    points, at, weights = case.tensor("Xs"), case.tensor("X"), case.tensor("weights_X")
    parts, to = parts_of(case, points.shape[1]), case.tensor("weights_Xs")
    noise = case.value("agg_noise_var", None)
    fine = Decomposed(parts, at, case.tensor("y_sub"))
    coarse = aggregate(
        parts, at, case.tensor("y_agg"), weights=weights, noise=None if noise is None else case.tensor("agg_noise_var")
    )
    one, two = told(fine, points, to), told(coarse, points, to)
    beta = beta_finite(len(points), case.value("t"), delta=case.value("delta"))
    bounds = [confidence_bound(each["mean"], each["var"].clamp(min=0).sqrt(), beta) for each in (one, two)]
    gain = two["var"] - one["var"]
    return {
        "decomposed": {
            **one,
            "log_marginal_likelihood": float(fine.log_marginal_likelihood),
            "info_gain_sub": [float(each) for each in fine.information_gains],
        },
        "aggregate": {
            **two,
            "noise_var": coarse.noise,
            "log_marginal_likelihood": float(coarse.log_marginal_likelihood),
            "info_gain": float(coarse.information_gain),
        },
        "beta_t": beta,
        "ucb_decomposed": bounds[0],
        "ucb_aggregate": bounds[1],
        "argmax_decomposed": int(bounds[0].argmax()),
        "argmax_aggregate": int(bounds[1].argmax()),
        "min_variance_reduction": float(gain.min()),
        "max_variance_reduction": float(gain.max()),
        "min_eig_cov_difference": float(torch.linalg.eigvalsh(two["cov"] - one["cov"]).min()),
    }


@torch.no_grad()
def decomposed_gp(case: Case) -> dict[str, Any]:
    if "rounds" in case.inputs:
        return closed_loop(case)
    if "composition" in case.inputs:
        return composed(case)
    return mixed(case) if "rows" in case.inputs else linear(case)


HANDLERS = {"decomposed_gp": decomposed_gp}
