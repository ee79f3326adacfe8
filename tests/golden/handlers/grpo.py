"""TRL's advantages and its family of losses, computed by the methods of that family."""

import math
import re
from dataclasses import replace
from typing import Any

import torch
from golden.cases import Case
from golden.rollouts import scored_rollouts
from torch import Tensor

from edge_grpo.base.tensors import Totals
from edge_grpo.functional import advantages as adv
from edge_grpo.functional import losses
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.functional.ops import group_size, group_std, masked_mean, masked_std, row_mean
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.bnpo import Bnpo
from edge_grpo.methods.cispo import Cispo
from edge_grpo.methods.dapo import Dapo
from edge_grpo.methods.dr_grpo import DrGrpo
from edge_grpo.methods.grpo import Grpo
from edge_grpo.methods.luspo import Luspo
from edge_grpo.methods.sapo import Sapo
from edge_grpo.methods.vespo import Vespo
from edge_grpo.training.batching import loss_inputs

Clipped = Grpo | Bnpo | DrGrpo | Dapo | Luspo
CLIPPED = {"grpo": Grpo, "bnpo": Bnpo, "dr_grpo": DrGrpo, "dapo": Dapo, "luspo": Luspo}


def group_advantage(case: Case) -> dict[str, Any]:
    parts = case.tensor("rewards_per_func")
    weights = torch.tensor(case.setting("reward_weights"), dtype=case.dtype)
    eps = case.setting("eps")
    group = torch.arange(len(parts)) // case.setting("num_generations")
    rewards = adv.weighted_reward(parts, weights)
    scorable = ~rewards.isnan()
    results: dict[str, Any] = {"collapse_ratio": adv.collapse_ratio(rewards, group, scorable)}

    group_deviation = group_std(rewards, group, scorable)
    flat_group = (group_deviation <= 1e-8) & (group_size(group, scorable) > 1)
    batch_deviation = masked_std(rewards, scorable)
    everything = torch.ones_like(rewards)
    plain_sum = rewards.nan_to_num(0.0)  # the EDGE-GRPO release has no unscored rows
    for key in case.expected:
        if match := re.fullmatch(r"trl_sum_then_normalize_(group|batch|none)", key):
            scaled, flat = {
                "group": (adv.group_normalized(rewards, group, scorable, eps=eps), flat_group),
                "batch": (adv.batch_scaled(rewards, group, scorable, eps=eps), everything * (batch_deviation <= 1e-8)),
                "none": (adv.group_centered(rewards, group, scorable), flat_group),
            }[match[1]]
        elif re.fullmatch(r"trl_normalize_then_sum_(group|batch|none)", key):
            scaled = adv.normalized_then_summed(parts, weights, group, eps=eps)
            whitened = masked_std(scaled, scorable)  # s / (s + eps) of the combined values' deviation s
            flat = everything * (eps * whitened / (1 - whitened) <= 1e-8)
        elif key in ("edge_scale_true", "edge_scale_false"):
            scale = key.endswith("true")
            results[key] = {
                "advantages": adv.group_normalized(plain_sum, group, eps=eps)
                if scale
                else adv.group_centered(plain_sum, group)
            }
            continue
        else:
            continue
        results[key] = {"advantages": scaled, "frac_reward_zero_std": flat.to(case.dtype).mean()}
    return results


def make_method(loss_type: str, case: Case, *, high: float | None) -> Clipped | Cispo | Sapo | Vespo:
    """The method for TRL's settings."""
    shared = {
        "ratio_level": case.setting("importance_sampling_level", "token"),
        "beta": case.setting("beta", 0.0),
        "kl_bias_correction": case.setting("use_bias_correction_kl", True),
        "off_policy_threshold": case.setting("off_policy_mask_threshold", None),
        "entropy_quantile": case.setting("top_entropy_quantile", 1.0),
        "entropy_coef": case.setting("entropy_coef", 0.0),
    }
    low, delta = case.setting("epsilon", 0.2), case.setting("delta", None)
    temperatures = {
        "temperature_positive": case.setting("sapo_temperature_pos", 1.0),
        "temperature_negative": case.setting("sapo_temperature_neg", 1.05),
    }
    shape = {
        "k_positive": case.setting("vespo_k_pos", 2.0),
        "lambda_positive": case.setting("vespo_lambda_pos", 3.0),
        "k_negative": case.setting("vespo_k_neg", 3.0),
        "lambda_negative": case.setting("vespo_lambda_neg", 2.0),
    }
    if loss_type == "cispo":
        return Cispo(**shared, cap=low if high is None else high)
    if loss_type == "sapo":
        return Sapo(**shared, **temperatures)
    if loss_type == "vespo":
        return Vespo(**shared, **shape)
    return CLIPPED[loss_type](**shared, clip_low=low, clip_high=low if high is None else high, delta=delta)


def loss(case: Case) -> dict[str, Any]:
    loss_type, level = case.setting("loss_type"), case.setting("importance_sampling_level", "token")
    mask = case.tensor("completion_mask").bool() & case.tensor("tool_mask", [[1]]).bool()
    logprobs = case.tensor("per_token_logps").requires_grad_()
    entropy = case.tensor("entropies").requires_grad_()
    old, ref, sampling = (
        case.tensor(f"{name}_per_token_logps", logprobs.tolist()) for name in ("old", "ref", "sampling")
    )
    given = case.tensor("advantages")
    advantages = given[:, None].expand_as(logprobs) if given.dim() == 1 else given
    old = old if case.setting("use_old", True) else logprobs.detach()
    sampling = sampling if case.setting("use_sampling_logps", False) else old

    train = case.setting("mode", "train") == "train"
    accumulated = case.setting("gradient_accumulation_steps", 1)
    parts = accumulated if train else 1
    steps = case.setting("steps_per_generation", 1)
    share = accumulated / steps if train else 1.0
    by_tokens = loss_type in ("dapo", "cispo", "vespo")
    items = max(float(case.value("num_items_in_batch", mask.sum())), 1.0) * share
    totals = Totals(
        rows=float(len(mask) * parts),
        tokens=items if by_tokens else max(float(mask.sum()), 1.0) * parts,
        max_new_tokens=case.setting("max_completion_length", 512),
    )
    method = make_method(loss_type, case, high=case.setting("epsilon_high", None))
    group = torch.zeros(len(mask), dtype=torch.long)
    batch = scored_rollouts(
        mask, entropy.detach(), rewards=advantages[:, 0], group=group, old=old, sampling=sampling, ref=ref
    )
    rows = given if given.dim() == 1 else torch.ones_like(given[:, 0])
    signal = pg.spread(batch, method, raw=rows, advantages=rows, keep=batch.scorable, mask=mask)
    if given.dim() > 1:
        signal = replace(signal, advantages=signal.advantages * given)
    x = loss_inputs(batch, signal, torch.arange(len(mask)), mask.shape[1], logprobs=logprobs, entropy=entropy)

    acting_tokens = max(float(x.acting.sum()), 1.0) * parts  # TRL's bonus is a mean over each micro-batch
    total = method.loss(x, replace(totals, extra={"acting_tokens": acting_tokens}))
    total.backward()

    ratio = pg.log_ratio(x, method.ratio_level).detach()
    by_row = level == "sequence" and given.dim() == 1
    metrics: dict[str, Any] = {"entropy": masked_mean(entropy, mask)}
    if method.entropy_coef:
        bonus = mean_over_tokens(entropy, x.acting, tokens=acting_tokens)
        metrics["policy_loss"] = (total + method.entropy_coef * bonus) * (1 if by_tokens else parts)
        if train:
            metrics["entropy_coef"] = method.entropy_coef
    if method.needs.reference:
        metrics["kl"] = masked_mean(pg.reference_kl(x, ratio, method), mask)
    if isinstance(method, Clipped):
        metrics |= clip_metrics(method, ratio, advantages, mask, by_row=by_row)
    if isinstance(method, Cispo):
        clipped = losses.clipped_high(ratio, advantages, clip_high=method.cap - 1).to(case.dtype)
        metrics["cispo_clip_ratio"] = clipped[:, 0].mean() if by_row else masked_mean(clipped, mask)
    if isinstance(method, Vespo):
        phi = losses.vespo_weight(
            ratio,
            advantages,
            mask,
            k_positive=method.k_positive,
            lambda_positive=method.lambda_positive,
            k_negative=method.k_negative,
            lambda_negative=method.lambda_negative,
        )
        metrics["vespo/phi_seq_mean"] = phi[:, 0].mean() if given.dim() == 1 else masked_mean(phi, mask)
    return {
        "loss": total,
        "grad_per_token_logps": logprobs.grad,
        "grad_entropies": entropy.grad,
        "metrics": metrics,
    }


def clip_metrics(
    method: Clipped, ratio: Tensor, advantages: Tensor, mask: Tensor, *, by_row: bool
) -> dict[str, Tensor]:
    """Clip shares: over rows if the ratio is per row, over tokens otherwise."""
    capped = ratio if method.delta is None else ratio.clamp(max=math.log(method.delta))
    low = losses.clipped_low(capped, advantages, clip_low=method.clip_low).to(ratio.dtype)
    high = losses.clipped_high(capped, advantages, clip_high=method.clip_high).to(ratio.dtype)
    rows = torch.ones(len(mask), dtype=torch.bool) if by_row else mask.any(-1)

    def mean(flags: Tensor) -> Tensor:
        return flags[:, 0].mean() if by_row else masked_mean(flags, mask)

    def each_row(flags: Tensor) -> Tensor:
        return (flags[:, 0] if by_row else row_mean(flags, mask))[rows]

    return {
        "clip_ratio/low_mean": mean(low),
        "clip_ratio/high_mean": mean(high),
        "clip_ratio/region_mean": mean(low + high),
        "clip_ratio/low_min": each_row(low).min(),
        "clip_ratio/high_max": each_row(high).max(),
    }


HANDLERS = {"grpo.group_advantage": group_advantage, "grpo.loss": loss}
