"""What policy-gradient methods share: their common settings, and the pieces of signal, loss and metrics made from them.

A method declares the settings of ``Modifiers`` itself and calls these functions by name; they see nothing of a method
beyond these settings.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional import advantages as adv
from edge_grpo.functional import corrections, filters, losses, means, terms
from edge_grpo.functional.ops import masked_sum, where_mask
from edge_grpo.methods._fields import Aggregation, Objectives, RatioLevel, SamplerCorrection, Scale
from edge_grpo.methods.base import Needs, TopUp

__all__ = [
    "ClippedModifiers",
    "GroupModifiers",
    "Modifiers",
    "entropy_bonus",
    "group_advantages",
    "group_signal",
    "log_ratio",
    "mean_over",
    "near_policy",
    "needs_of",
    "observe_clipped",
    "observe_clipping",
    "observe_drift",
    "off_policy_corrected",
    "reference_kl",
    "sampler_weights",
    "spread",
]


@runtime_checkable
class Modifiers(Protocol):
    """The settings that every policy-gradient method has, documented here once; TRL's names in brackets.

    Source:
        The defaults are those of TRL 1.16.0 unless the method says otherwise; each modifier's paper is cited at its
        function in ``functional``.
    """

    @property
    def ratio_level(self) -> RatioLevel:
        """One ratio per token, or per sequence as in GSPO (``importance_sampling_level``)."""

    @property
    def beta(self) -> float:
        """Weight of the KL to the reference (``beta``)."""

    @property
    def kl_bias_correction(self) -> bool:
        """Whether that estimate is multiplied by the ratio (``use_bias_correction_kl``)."""

    @property
    def kl_max(self) -> float | None:
        """Upper bound on one token's estimate, nats; None = no bound."""

    @property
    def off_policy_threshold(self) -> float | None:
        """Mean drift of a row, nats per token, above which negative advantages are dropped; None = off.

        TRL: ``off_policy_mask_threshold``.
        """

    @property
    def entropy_quantile(self) -> float:
        """Share of the step's tokens, those of highest entropy, that keep an advantage (``top_entropy_quantile``)."""

    @property
    def entropy_coef(self) -> float:
        """Weight of the entropy bonus (``entropy_coef``)."""

    @property
    def sampler_correction(self) -> SamplerCorrection:
        """Correction for engines whose log-probs differ from the policy's (``vllm_importance_sampling_mode``)."""

    @property
    def sampler_clip_max(self) -> float:
        """Cap of its weights (``vllm_importance_sampling_clip_max``)."""

    @property
    def mask_unfinished(self) -> bool:
        """Whether unfinished completions are masked (``mask_truncated_completions``)."""

    @property
    def top_up(self) -> TopUp:
        """Dynamic sampling; off by default."""


@runtime_checkable
class ClippedModifiers(Modifiers, Protocol):
    """The settings of methods with PPO's clipped ratio."""

    @property
    def clip_low(self) -> float:
        """How far below 1 the ratio may fall before its gradient vanishes."""

    @property
    def clip_high(self) -> float:
        """How far above 1 it may rise."""


@runtime_checkable
class GroupModifiers(Modifiers, Protocol):
    """The settings of methods that compare the answers of a group."""

    @property
    def scale(self) -> Scale:
        """What a difference from the group's mean is divided by (``scale_rewards``)."""

    @property
    def objectives(self) -> Objectives:
        """How several rewards become one advantage (``multi_objective_aggregation``)."""


def needs_of(method: Modifiers) -> Needs:
    """What the modifiers need."""
    return Needs(
        every_row=method.beta > 0 or method.entropy_coef > 0,
        reference=method.beta > 0,
        entropy_gradient=method.entropy_coef > 0,
        top_up=method.top_up,
    )


# --- signal -----------------------------------------------------------------------------------------------------------


def group_advantages(batch: Scored, scorable: Bool[Tensor, " rows"], method: GroupModifiers) -> Float[Tensor, " rows"]:
    """How much better than its group each rollout was; 0 for rows that are not ``scorable``.

    Source:
        Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, eq. 3. ``scale`` and ``objectives`` as in TRL 1.16.0
        (``scale_rewards``, ``multi_objective_aggregation``).
    """
    if method.objectives == "normalize_then_sum":
        parts = torch.where(scorable[:, None], batch.reward_parts, torch.nan)
        return adv.normalized_then_summed(parts, batch.reward_weights, batch.group)
    scaled = {"group": adv.group_normalized, "batch": adv.batch_scaled, "none": adv.group_centered}[method.scale]
    return scaled(batch.reward, batch.group, scorable)


def spread(
    batch: Scored,
    method: Modifiers,
    *,
    raw: Float[Tensor, " rows"],
    advantages: Float[Tensor, " rows"],
    keep: Bool[Tensor, " rows"],
    mask: Bool[Tensor, "rows tokens"] | None = None,
) -> Signal:
    """The signal in which each kept token of ``mask`` (None = the batch's) has its row's advantage."""
    mask = batch.mask if mask is None else mask
    if method.mask_unfinished:
        mask = mask & batch.finished[:, None]
    chosen = mask & keep[:, None]
    trained = chosen.any(-1)
    if method.entropy_quantile < 1:
        chosen = filters.high_entropy(batch.entropy, chosen, top=method.entropy_quantile)
    metrics: Metrics = {
        "advantage/variance_before": (float(adv.group_variance(raw, batch.group, trained)), 1.0),
        "advantage/variance": (float(adv.group_variance(advantages, batch.group, trained)), 1.0),
        "advantage/max_abs": (float(where_mask(advantages, trained).abs().max()), 1.0),
        "rows/trained": (float(trained.sum()), float(trained.numel())),
    }
    return Signal(
        advantages=where_mask(advantages[:, None].expand_as(batch.old_logprobs), chosen),
        mask=mask,
        acting=chosen,
        keep=keep,
        raw_advantages=raw,
        row_advantages=advantages,
        metrics=metrics,
    )


def group_signal(batch: Scored, method: GroupModifiers) -> Signal:
    """The signal of GRPO: each token has its row's group advantage, in groups with at least two scorable rows."""
    raw = group_advantages(batch, batch.scorable, method)
    return spread(batch, method, raw=raw, advantages=raw, keep=filters.comparable(batch.group, batch.scorable))


# --- loss -------------------------------------------------------------------------------------------------------------


def log_ratio(x: LossInputs, level: RatioLevel) -> Float[Tensor, "rows tokens"]:
    """Log-ratio, log w, of the current policy to the policy before the step's updates, nats, per token or sequence."""
    per_token = losses.log_ratio(x.logprobs, x.old_logprobs, x.mask)
    return losses.sequence_log_ratio(per_token, x.mask) if level == "sequence" else per_token


def near_policy(
    values: Float[Tensor, "rows tokens"], x: LossInputs, threshold: float | None
) -> Float[Tensor, "rows tokens"]:
    """Token losses without those of negative advantages on rows that drifted beyond ``threshold``; None = all."""
    if threshold is None:
        return values
    near = filters.near_policy(x.advantages, x.logprobs, x.sampling_logprobs, x.mask, threshold=threshold)
    return where_mask(values, near)


def sampler_weights(x: LossInputs, method: Modifiers) -> Float[Tensor, "rows tokens"]:
    """Importance weights of the policy before the step's updates against the sampler; 1 without a correction."""
    if method.sampler_correction == "none":
        return torch.ones_like(x.old_logprobs)
    log_weights = corrections.sampler_log_weights(x.old_logprobs, x.sampling_logprobs, x.mask)
    if method.sampler_correction.startswith("sequence"):
        log_weights = corrections.sequence_log_weights(log_weights, x.mask)
    truncate = method.sampler_correction.endswith("truncate")
    limited = corrections.truncated if truncate else corrections.masked_weights
    return limited(log_weights, clip_max=method.sampler_clip_max)


def off_policy_corrected(
    values: Float[Tensor, "rows tokens"], x: LossInputs, method: Modifiers
) -> Float[Tensor, "rows tokens"]:
    """Token losses as ``off_policy_threshold`` and ``sampler_correction`` leave them; unchanged by default."""
    return near_policy(values, x, method.off_policy_threshold) * sampler_weights(x, method)


def reference_kl(x: LossInputs, log_w: Float[Tensor, "rows tokens"], method: Modifiers) -> Float[Tensor, "rows tokens"]:
    """Estimated divergence from the reference at each token, nats; 0 where ``beta`` is 0."""
    if method.beta == 0:
        return torch.zeros_like(x.old_logprobs)
    assert x.ref_logprobs is not None, "needs.reference asks for them"
    kl = terms.k3_kl(x.logprobs, x.ref_logprobs, x.mask)
    if method.kl_max is not None:
        kl = kl.clamp(max=method.kl_max)
    return terms.bias_corrected(kl, log_w) if method.kl_bias_correction else kl


def mean_over(
    aggregation: Aggregation, values: Float[Tensor, "rows tokens"], x: LossInputs, totals: Totals
) -> Float[Tensor, ""]:
    """Mean over ``rows`` of each row's mean over tokens, or mean over all ``tokens``."""
    if aggregation == "rows":
        return means.mean_over_rows(values, x.mask, rows=totals.rows)
    return means.mean_over_tokens(values, x.mask, tokens=totals.tokens)


def entropy_bonus(x: LossInputs, totals: Totals, method: Modifiers) -> Float[Tensor, ""]:
    """``entropy_coef`` times the mean entropy of the acting tokens; 0 without a bonus."""
    if method.entropy_coef == 0:
        return x.entropy.new_zeros(())
    mean = means.mean_over_tokens(x.entropy, x.acting, tokens=totals.extra["acting_tokens"])
    return method.entropy_coef * mean


# --- metrics ----------------------------------------------------------------------------------------------------------


def observe_drift(x: LossInputs, log_w: Float[Tensor, "rows tokens"], method: Modifiers) -> Metrics:
    """Drift from the policy before the updates (mean of old - new, nats) and from the reference."""
    count = float(x.mask.sum())
    metrics: Metrics = {"kl/old": (-float(masked_sum(log_w.detach(), x.mask)), count)}
    if method.beta > 0:
        metrics["kl/reference"] = (float(masked_sum(reference_kl(x, log_w, method).detach(), x.mask)), count)
    return metrics


def observe_clipping(
    x: LossInputs, log_w: Float[Tensor, "rows tokens"], *, clip_low: float, clip_high: float
) -> Metrics:
    """Shares of tokens whose ratio left the clip range on the side where the gradient vanishes."""
    count = float(x.mask.sum())
    low = losses.clipped_low(log_w, x.advantages, clip_low=clip_low) & x.mask
    high = losses.clipped_high(log_w, x.advantages, clip_high=clip_high) & x.mask
    return {"clip/low": (float(low.sum()), count), "clip/high": (float(high.sum()), count)}


def observe_clipped(x: LossInputs, method: ClippedModifiers) -> Metrics:
    """Drift from the old policy and the reference, and the shares of clipped tokens."""
    log_w = log_ratio(x, method.ratio_level)
    clipping = observe_clipping(x, log_w, clip_low=method.clip_low, clip_high=method.clip_high)
    return observe_drift(x, log_w, method) | clipping
