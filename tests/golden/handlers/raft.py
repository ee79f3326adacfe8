"""RAFT, RAFT++, Reinforce-Rej and the GRPO baseline of the same release."""

from dataclasses import replace
from typing import Any

import torch
from golden.cases import Case
from golden.handlers.wording import aggregation, meaning, numbered
from golden.rollouts import scored_rollouts
from torch import Tensor

from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional import losses
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.functional.ops import group_size, where_mask
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.raft import Raft
from edge_grpo.methods.raft_pp import RaftPp
from edge_grpo.methods.reinforce import Reinforce
from edge_grpo.methods.reinforce_rej import ReinforceRej
from edge_grpo.training.batching import loss_inputs

Rewarded = Raft | RaftPp | Reinforce | ReinforceRej


class Release:
    """A case as the release would run it: rejected rows stay with advantage 0, the run's own rewards."""

    def __init__(self, case: Case, *, policy_by_tokens: bool = False) -> None:
        self.case = case
        self.aggregation = aggregation(case.setting("loss_agg_mode", "token-mean"))
        self.eps = case.setting("mask_mean_eps")
        self.clip_low, self.clip_high = case.setting("clip_low"), case.setting("clip_high")
        self.dual = case.setting("dual_clip_c", 3.0)
        self.weights = {"beta": case.setting("kl_loss_coef", 0.0), "entropy_coef": case.setting("entropy_coeff", 0.0)}
        meaning(case.setting("kl_loss_type", "low_var_kl"), {"low_var_kl": "k3", "k3": "k3"}, "kl_loss_type")
        self.shared = {
            "reward_values": "run",
            "aggregation": "tokens" if policy_by_tokens else self.aggregation,
            **self.weights,
        }
        self.logprobs = case.tensor("log_prob").requires_grad_()
        self.entropy = case.tensor("entropy", torch.zeros_like(self.logprobs).tolist()).requires_grad_()
        self.batch = self._batch()
        self.shaper = self._shaper(case.setting("adv_estimator"))
        self.method = self._surrogate(case.setting("policy_loss"))
        self.signal = self._signal()

    def _batch(self) -> Scored:
        case = self.case
        reward = case.tensor("reward")
        batch = scored_rollouts(
            case.tensor("mask").bool(),
            self.entropy.detach(),
            rewards=reward,
            group=numbered(case.value("prompt_id")),
            old=case.tensor("old_log_prob"),
            ref=case.tensor("ref_log_prob") if "ref_log_prob" in case.inputs else None,
        )
        return replace(batch, correct=reward > 0)

    def _shaper(self, estimator: str) -> Rewarded:
        clip = {"clip_low": self.clip_low, "clip_high": self.clip_high, "delta": self.dual}
        if estimator == "raft":
            return RaftPp(**self.shared, rejected="zero_advantage", accept="positive", clip_high=self.clip_high)
        if estimator == "reinforce_rej":
            return ReinforceRej(**self.shared, rejected="zero_advantage", **clip)
        if estimator == "reinforce":
            return Reinforce(**self.shared, **clip)
        assert estimator == "grpo", f"unknown estimator {estimator}"
        return Reinforce(**self.shared, **clip, center=True, scale=True)

    def _surrogate(self, policy_loss: str) -> Rewarded:
        if policy_loss == "vanilla":
            return Raft(**self.shared)
        assert policy_loss == "plusplus", f"unknown policy loss {policy_loss}"
        return self.shaper

    def _signal(self) -> Signal:
        """The method's signal; a prompt with one answer keeps its reward, which the package rejects or drops."""
        batch = self.batch
        paired = group_size(batch.group, batch.scorable) > 1
        advantages = batch.reward / (1 + 1e-6) if self.case.setting("adv_estimator") == "grpo" else batch.reward.clone()
        if self.case.setting("adv_estimator") == "raft":
            paired = torch.ones_like(paired)
        if paired.any():
            shared = self.batch_of(paired)
            advantages = advantages.index_put(
                (paired.nonzero().squeeze(-1),), self.shaper.signal(shared).row_advantages
            )
        return pg.spread(
            batch, self.shaper, raw=batch.reward, advantages=advantages, keep=batch.scorable, mask=batch.mask
        )

    def batch_of(self, rows: Tensor) -> Scored:
        columns = {name: getattr(self.batch, name) for name in vars(self.batch)}
        return replace(
            self.batch,
            **{n: c[rows] for n, c in columns.items() if isinstance(c, Tensor) and n != "reward_weights"},
        )

    def inputs(self, rows: Tensor) -> LossInputs:
        """Some rows as a micro-batch."""
        width = self.batch.mask.shape[1]
        return loss_inputs(
            self.batch, self.signal, rows, width, logprobs=self.logprobs[rows], entropy=self.entropy[rows]
        )

    def totals(self, x: LossInputs) -> Totals:
        """Totals of a single micro-batch, with the release's epsilon."""
        extra = {name: count + self.eps for name, count in self.method.totals(x).items()}
        return Totals(float(len(x.mask)), float(x.mask.sum()) + self.eps, 1, extra)

    def loss(self, x: LossInputs) -> Tensor:
        """The loss of a micro-batch; a row's own mean has the epsilon too."""
        if self.shared["aggregation"] == "rows":
            lengths = x.mask.sum(-1, keepdim=True)
            x = replace(x, advantages=x.advantages * lengths / (lengths + self.eps))
        return self.method.loss(x, self.totals(x))

    def policy_loss(self, x: LossInputs) -> Tensor:
        """The same without the KL and entropy terms."""
        bare = replace(self.method, beta=0.0, entropy_coef=0.0)
        return bare.loss(x, self.totals(x))

    def total(self, x: LossInputs) -> Tensor:
        """The loss of the actor, whose policy term is averaged over tokens: ``loss_agg_mode`` affects only the rest."""
        if self.aggregation == "tokens":
            return self.loss(x)
        total = self.policy_loss(x) - self.weights["entropy_coef"] * self.aggregated(x.entropy, x.mask)
        if not self.method.needs.reference:
            return total
        return total + self.weights["beta"] * self.aggregated(self.kl(x), x.mask)

    def kl(self, x: LossInputs) -> Tensor:
        """The KL of each token."""
        return pg.reference_kl(x, pg.log_ratio(x, self.method.ratio_level), self.method)

    def aggregated(self, values: Tensor, mask: Tensor) -> Tensor:
        """The release's mean, according to ``loss_agg_mode``."""
        if self.aggregation == "tokens":
            return self.mean(values, mask)
        return (where_mask(values, mask).sum(-1) / (mask.sum(-1) + self.eps)).mean()

    def mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """The release's mean over tokens."""
        return mean_over_tokens(values.to(self.case.dtype), mask, tokens=float(mask.sum()) + self.eps)

    def clip_shares(self, x: LossInputs) -> tuple[Tensor, Tensor, Tensor]:
        """Shares of clipped and of dual-clipped tokens, and the mean drift."""
        log_ratio = losses.log_ratio(x.logprobs, x.old_logprobs, x.mask).detach()
        low = losses.clipped_low(log_ratio, x.advantages, clip_low=self.clip_low)
        high = losses.clipped_high(log_ratio, x.advantages, clip_high=self.clip_high)
        dual = losses.clipped_high(log_ratio, -x.advantages, clip_high=self.dual - 1)
        return self.mean(low | high, x.mask), self.mean(dual, x.mask), self.mean(-log_ratio, x.mask)


def loss(case: Case) -> dict[str, Any]:
    release = Release(case)
    x = release.inputs(torch.arange(len(release.batch.group)))
    value = release.loss(x)
    value.backward()
    clipped, dual, drift = release.clip_shares(x)
    advantages = release.signal.row_advantages
    return {
        "sequence_advantage": advantages,
        "kept_rows": (advantages != 0).nonzero().squeeze(-1),
        "loss": value,
        "clip_fraction": clipped,
        "dual_clip_fraction": dual,
        "approx_kl_k1": drift,
        "grad_log_prob": release.logprobs.grad,
    }


def update(case: Case) -> dict[str, Any]:
    release = Release(case, policy_by_tokens=True)
    mini, micro = case.setting("mini_batch_rows"), case.setting("micro_batch_rows")
    results: dict[str, list[Any]] = {name: [] for name in ("pg_loss", "entropy", "clip", "dual", "drift", "kl")}
    gradients: tuple[list[Tensor], list[Tensor]] = ([], [])
    for update_rows in torch.arange(len(release.batch.group)).split(mini):
        total = torch.zeros((), dtype=case.dtype)
        for rows in update_rows.split(micro):
            x = release.inputs(rows)
            total = total + release.total(x) / (mini // micro)
            clipped, dual, drift = release.clip_shares(x)
            kl = release.kl(x) if release.method.needs.reference else None
            found = {
                "pg_loss": release.policy_loss(x),
                "entropy": release.aggregated(x.entropy, x.mask),
                "clip": clipped,
                "dual": dual,
                "drift": drift,
                "kl": None if kl is None else release.aggregated(kl, x.mask),
            }
            for name, value in found.items():
                results[name].append(value)
        leaves = (release.logprobs, release.entropy)
        for kept, gradient in zip(gradients, torch.autograd.grad(total, leaves, allow_unused=True), strict=True):
            kept.append(torch.zeros_like(release.logprobs) if gradient is None else gradient)
    return {
        "sequence_advantage": release.signal.row_advantages,
        "micro_batch_pg_loss": results["pg_loss"],
        "micro_batch_entropy": results["entropy"],
        "micro_batch_clip_fraction": results["clip"],
        "micro_batch_dual_clip_fraction": results["dual"],
        "micro_batch_approx_kl_k1": results["drift"],
        "last_micro_batch_kl_loss": results["kl"][-1],
        "grad_log_prob_per_optimizer_step": gradients[0],
        "grad_entropy_per_optimizer_step": gradients[1],
    }


HANDLERS = {"raft.loss": loss, "raft.update": update}
