"""What policy-gradient methods share: filters, weights, KL and entropy terms, the clipped ratio, and their settings."""

from abc import abstractmethod
from typing import Literal

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional import advantages as adv
from edge_grpo.functional import corrections, filters, losses, means, terms
from edge_grpo.functional.ops import masked_sum, where_mask
from edge_grpo.methods.base import Method, TopUp

__all__ = ["Clipped", "PolicyGradient"]


@settings
class PolicyGradient(Method):
    """Policy gradient on the tokens of a step; a subclass says what a token costs and how tokens are averaged.

    The names of TRL's settings stand in brackets. ``ratio_level`` (``importance_sampling_level``): GSPO's ratio of
    whole rows. ``beta``, ``kl_bias_correction`` (``use_bias_correction_kl``), ``kl_max`` (the most that one token's
    estimate counts; None = no bound): KL to the reference. ``off_policy_threshold`` (``off_policy_mask_threshold``):
    None = off. ``entropy_quantile`` (``top_entropy_quantile``): share of tokens, those of highest entropy in the step,
    with a policy-gradient term. ``entropy_coef``: entropy bonus. ``sampler_correction`` and ``sampler_clip_max``
    (``vllm_importance_sampling_mode`` and ``_clip_max``): for engines whose numbers differ from the policy's.
    ``mask_unfinished`` (``mask_truncated_completions``). ``top_up``: dynamic sampling, off by default.

    Source:
        The defaults are those of TRL 1.16.0; each modifier's paper stands with its function in ``functional``.
    """

    ratio_level: Literal["token", "sequence"] = "token"
    beta: float = Field(default=0.0, ge=0)
    kl_bias_correction: bool = True
    kl_max: float | None = Field(default=None, gt=0)
    off_policy_threshold: float | None = Field(default=None, ge=0)
    entropy_quantile: float = Field(default=1.0, gt=0, le=1)
    entropy_coef: float = Field(default=0.0, ge=0)
    sampler_correction: Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "none"
    sampler_clip_max: float = Field(default=3.0, gt=0)
    mask_unfinished: bool = False
    top_up: TopUp = Field(default_factory=TopUp)

    @property
    def uses_reference(self) -> bool:
        """Whether ``ref_logprobs`` are needed."""
        return self.beta > 0

    @property
    def entropy_gradient(self) -> bool:
        """Whether the loss differentiates through the entropy."""
        return self.entropy_coef > 0

    @property
    def dynamic_sampling(self) -> TopUp | None:
        """How to draw further prompts; None = never."""
        return self.top_up if self.top_up.max_rounds else None

    def spread(
        self,
        batch: Scored,
        *,
        raw: Float[Tensor, " rows"],
        advantages: Float[Tensor, " rows"],
        keep: Bool[Tensor, " rows"],
        mask: Bool[Tensor, "rows tokens"],
    ) -> Signal:
        """The signal in which each kept token of ``mask`` has its row's advantage."""
        if self.mask_unfinished:
            mask = mask & batch.finished[:, None]
        chosen = mask & keep[:, None]
        trained = chosen.any(-1)
        if self.entropy_quantile < 1:
            chosen = filters.high_entropy(batch.entropy, chosen, top=self.entropy_quantile)
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

    @abstractmethod
    def token_losses(self, x: LossInputs, log_ratio: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens"]:
        """The policy-gradient loss of each token; 0 outside ``x.mask``."""

    @abstractmethod
    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """One number from a value per token."""

    def totals(self, x: LossInputs) -> dict[str, float]:
        """Tokens that an entropy bonus is averaged over."""
        return {"acting_tokens": float(x.acting.sum())} if self.entropy_coef > 0 else {}

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """Policy-gradient term with its filters and weights, plus KL, minus entropy bonus."""
        log_ratio = self.log_ratio(x)
        values = self.token_losses(x, log_ratio)
        if self.off_policy_threshold is not None:
            near = filters.near_policy(
                x.advantages, x.logprobs, x.sampling_logprobs, x.mask, threshold=self.off_policy_threshold
            )
            values = where_mask(values, near)
        values = self.corrected_for_sampler(x, values)
        if self.beta > 0:
            values = values + self.beta * self.kl(x, log_ratio)
        loss = self.average(values, x.mask, totals)
        if self.entropy_coef > 0:
            bonus = means.mean_over_tokens(x.entropy, x.acting, tokens=totals.extra["acting_tokens"])
            loss = loss - self.entropy_coef * bonus
        return loss

    def log_ratio(self, x: LossInputs) -> Float[Tensor, "rows tokens"]:
        """Logarithm of the ratio at the level of the settings."""
        log_ratio = losses.log_ratio(x.logprobs, x.old_logprobs, x.mask)
        return losses.sequence_log_ratio(log_ratio, x.mask) if self.ratio_level == "sequence" else log_ratio

    def kl(self, x: LossInputs, log_ratio: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens"]:
        """Divergence from the reference at each token."""
        assert x.ref_logprobs is not None, "uses_reference asks for them"
        kl = terms.k3_kl(x.logprobs, x.ref_logprobs, x.mask)
        if self.kl_max is not None:
            kl = kl.clamp(max=self.kl_max)
        return terms.bias_corrected(kl, log_ratio) if self.kl_bias_correction else kl

    def corrected_for_sampler(
        self, x: LossInputs, values: Float[Tensor, "rows tokens"]
    ) -> Float[Tensor, "rows tokens"]:
        """Token losses times the sampler correction of the settings."""
        if self.sampler_correction == "none":
            return values
        return values * self.sampler_weights(x)

    def sampler_weights(self, x: LossInputs) -> Float[Tensor, "rows tokens"]:
        """Importance weights of the policy before the step's updates against the sampler."""
        log_weights = corrections.sampler_log_weights(x.old_logprobs, x.sampling_logprobs, x.mask)
        if self.sampler_correction.startswith("sequence"):
            log_weights = corrections.sequence_log_weights(log_weights, x.mask)
        limited = corrections.truncated if self.sampler_correction.endswith("truncate") else corrections.masked_weights
        return limited(log_weights, clip_max=self.sampler_clip_max)

    def observe(self, x: LossInputs) -> Metrics:
        """Drift from the policy before the updates (mean of old - new, nats) and from the reference."""
        count, log_ratio = float(x.mask.sum()), self.log_ratio(x)
        metrics: Metrics = {"kl/old": (-float(masked_sum(log_ratio.detach(), x.mask)), count)}
        if self.beta > 0:
            metrics["kl/reference"] = (float(masked_sum(self.kl(x, log_ratio).detach(), x.mask)), count)
        return metrics


@settings
class Clipped(PolicyGradient):
    """Policy gradient with PPO's clipped ratio; ``delta`` caps the ratio where the advantage is negative.

    Source:
        Schulman et al. 2017, PPO, arXiv:1707.06347, section 6.1 (0.2); delta: INTELLECT-2, arXiv:2505.07291.
    """

    clip_low: float = Field(default=0.2, ge=0, le=1)
    clip_high: float = Field(default=0.2, ge=0)
    delta: float | None = Field(default=None, gt=0)

    def token_losses(self, x: LossInputs, log_ratio: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens"]:
        """The clipped surrogate."""
        return losses.clipped_loss(
            log_ratio, x.advantages, x.mask, clip_low=self.clip_low, clip_high=self.clip_high, delta=self.delta
        )

    def observe(self, x: LossInputs) -> Metrics:
        """Adds the shares of tokens whose ratio left the clip range on the side where the gradient vanishes."""
        log_ratio = self.log_ratio(x)
        count = float(x.mask.sum())
        low = losses.clipped_low(log_ratio, x.advantages, clip_low=self.clip_low) & x.mask
        high = losses.clipped_high(log_ratio, x.advantages, clip_high=self.clip_high) & x.mask
        return {**super().observe(x), "clip/low": (float(low.sum()), count), "clip/high": (float(high.sum()), count)}
