"""The unlikeliness reward: advantages, losses, updates, group filter and the figures of its paper."""

from dataclasses import replace
from typing import Any

import torch
from golden.cases import Case, tensor
from golden.handlers.wording import aggregation, numbered, require_unbiased
from golden.rollouts import scored_rollouts
from torch import Tensor

from edge_grpo.base.records import Grade, Group, Problem, Rollout, Row, Segment, Span, Verdict
from edge_grpo.base.tensors import LossInputs, Totals
from edge_grpo.functional import losses
from edge_grpo.functional.coverage import block_pass_at_k, pass_at_k, uplift_rate
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.functional.ops import masked_mean, masked_std, row_mean
from edge_grpo.functional.ranks import unlikeliness_reward
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.unlikeliness import Unlikeliness
from edge_grpo.training.batching import loss_inputs


class Release:
    """A case's rollouts with their shaped rewards and advantages."""

    def __init__(self, case: Case) -> None:
        self.case = case
        require_unbiased(case.setting("std", "unbiased"))
        self.method = Unlikeliness(
            penalty=case.setting("beta_rank"),
            reward_values="run",
            aggregation=aggregation(case.setting("aggregation", "token_level")),
            std_eps=case.setting("eps", 1e-6),
            clip_low=case.setting("clip_low", 0.2),
            clip_high=case.setting("clip_high", 0.2),
            beta=case.setting("kl_coef", 0.0),
        )
        old = case.tensor("old_log_probs")
        self.batch = scored_rollouts(
            case.tensor("response_mask").bool(),
            torch.zeros_like(old),
            rewards=case.tensor("reward"),
            group=numbered(case.value("uid")),
            old=old,
            ref=case.tensor("ref_log_probs") if "ref_log_probs" in case.inputs else None,
        )
        batch, method = self.batch, self.method
        self.scores = row_mean(batch.old_logprobs, batch.mask)
        self.shaped = unlikeliness_reward(
            batch.reward, self.scores, batch.group, batch.scorable, penalty=method.penalty, first_rank=method.first_rank
        )
        self.advantages = self.advantages_of(method, self.shaped)
        self.signal = pg.spread(
            batch, method, raw=batch.reward, advantages=self.advantages, keep=batch.scorable, mask=batch.mask
        )

    def advantages_of(self, method: Unlikeliness, rewards: Tensor) -> Tensor:
        """The method's advantages; lone answers, which it drops, keep their reward."""
        signal = method.signal(self.batch)
        return torch.where(signal.keep, signal.row_advantages, rewards / (1 + method.std_eps))

    @property
    def token_advantages(self) -> Tensor:
        return self.signal.advantages

    def inputs(self, rows: Tensor, logprobs: Tensor) -> LossInputs:
        """Some rows as a micro-batch."""
        entropy, width = self.batch.entropy[rows], self.batch.mask.shape[1]
        return loss_inputs(self.batch, self.signal, rows, width, logprobs=logprobs[rows], entropy=entropy)

    def losses(self, x: LossInputs) -> tuple[Tensor, Tensor, Tensor]:
        """Policy loss, KL (always by tokens in the release), and their sum, of a single micro-batch."""
        totals = Totals(float(len(x.mask)), float(x.mask.sum()), 1)
        policy = replace(self.method, beta=0.0).loss(x, totals)
        if not self.method.needs.reference:
            return policy, policy.new_zeros(()), policy
        kl = mean_over_tokens(
            pg.reference_kl(x, pg.log_ratio(x, self.method.ratio_level), self.method), x.mask, tokens=totals.tokens
        )
        if self.method.aggregation == "rows":
            return policy, kl, policy + self.method.beta * kl
        return policy, kl, self.method.loss(x, totals)

    def clip_fraction(self, x: LossInputs) -> Tensor:
        """Share of tokens whose clipped loss is the larger."""
        ratio = pg.log_ratio(x, self.method.ratio_level)
        low = losses.clipped_low(ratio, x.advantages, clip_low=self.method.clip_low)
        high = losses.clipped_high(ratio, x.advantages, clip_high=self.method.clip_high)
        return masked_mean((low | high).to(self.case.dtype), x.mask)


def unlikeliness_advantage(case: Case) -> dict[str, Any]:
    release = Release(case)
    plain = release.advantages_of(replace(release.method, penalty=0.0), release.batch.reward)
    return {
        "mean_old_log_prob": release.scores,
        "shaped_reward": release.shaped,
        "sequence_advantage": release.advantages,
        "token_advantage": release.token_advantages,
        "plain_grpo_token_advantage": plain[:, None] * release.batch.mask,
    }


def ppo_loss(case: Case) -> dict[str, Any]:
    release = Release(case)
    logprobs = case.tensor("log_probs").requires_grad_()
    x = release.inputs(torch.arange(len(logprobs)), logprobs)
    policy, kl, total = release.losses(x)
    return {
        "shaped_reward": release.shaped,
        "sequence_advantage": release.advantages,
        "token_advantage": release.token_advantages,
        "pg_loss": policy,
        "clip_fraction": release.clip_fraction(x),
        "ppo_kl": masked_mean(-pg.log_ratio(x, release.method.ratio_level), x.mask),
        "kl_loss": kl,
        "total_loss": total,
        "grad_pg_loss": torch.autograd.grad(policy, logprobs, retain_graph=True)[0],
        "grad_total_loss": torch.autograd.grad(total, logprobs)[0],
    }


def ppo_epochs_update(case: Case) -> dict[str, Any]:
    release = Release(case)
    mini, micro, rate = (case.setting(name) for name in ("mini_batch", "micro_batch", "lr"))
    table = release.batch.old_logprobs.clone()
    gradients, policy_losses, clipped = [], [], []
    for _ in range(case.setting("ppo_epochs")):
        for rows in torch.arange(len(table)).split(mini):
            leaf = table.clone().requires_grad_()
            for piece in rows.split(micro):
                x = release.inputs(piece, leaf)
                policy, _, total = release.losses(x)
                (total / (mini // micro)).backward()
                policy_losses.append(policy.detach())
                clipped.append(release.clip_fraction(x))
            assert leaf.grad is not None
            gradients.append(leaf.grad)
            table = table - rate * leaf.grad
    return {
        "token_advantage": release.token_advantages,
        "grads": gradients,
        "pg_loss_per_microbatch": policy_losses,
        "clip_fraction_per_microbatch": clipped,
        "final_log_probs": table,
    }


def group_filter(case: Case) -> list[dict[str, Any]]:
    window = case.setting("response_window")
    successes, lengths = case.value("success_matrix"), case.value("response_lengths")
    groups = [
        Group(Problem(f"u{number}", "", ("",)), tuple(map(as_row, right, length, [window] * len(right))))
        for number, (right, length) in enumerate(zip(successes, lengths, strict=True))
    ]
    return [selected(groups, dict(settings)) for settings in case.setting("settings")]


def as_row(success: int, length: int, window: int) -> Row:
    rollout = Rollout((0,), (Span((1,) * length, Segment.SAMPLED),), finished=length < window)
    return Row(rollout, Grade(Verdict.CORRECT if success else Verdict.WRONG, float(success)))


def selected(groups: list[Group], settings: dict[str, Any]) -> dict[str, Any]:
    method = Unlikeliness(
        wrong_rows="dropped" if settings.pop("rejection_sampling", False) else "compared",
        drop_uniform=settings.pop("advantage_threshold", False),
        max_rows=settings.pop("max_samples", None),
    )
    assert not settings, f"unknown settings {settings}"
    arranged = method.arrange(groups)
    kept = [(group.problem.id, row) for group in arranged for row in group.rows]
    by_id = {group.problem.id: (number, group) for number, group in enumerate(groups)}

    def sample(name: str, row: Row) -> int:
        return next(i for i, other in enumerate(by_id[name][1].rows) if other is row)

    every = [row for group in groups for row in group.rows]
    passed = [pass_at_k(len(g.rows), sum(row.grade.correct for row in g.rows), len(g.rows)) for g in groups]
    return {
        "selected_problem": [by_id[name][0] for name, _ in kept],
        "selected_sample": [sample(name, row) for name, row in kept],
        "reward": [row.grade.reward for _, row in kept],
        "truncated": [not row.rollout.finished for _, row in kept],
        "uid": [name for name, _ in kept],
        "batch_reward": sum(row.grade.reward for row in every) / len(every),
        "batch_pass": sum(passed) / len(passed),
        "num_accepted": len(kept),
        "num_rejected": len(every) - len(kept),
    }


def pass_at_n(case: Case) -> dict[str, Any]:
    correct = case.tensor("success_matrix").bool()
    samples = case.setting("num_samples")
    assert correct.shape[1] == samples
    counts = correct.sum(-1).tolist()
    blocks = {str(n): block_pass_at_k(correct, k=n) for n in range(1, samples + 1)}
    return {
        "table": [pass_at_k(row["attempts"], row["successes"], row["n"]) for row in case.value("table", [])],
        "pass_at_n": {
            str(n): sum(pass_at_k(samples, c, n) for c in counts) / len(counts) for n in range(1, samples + 1)
        },
        "block_pass_at_n_mean": {n: shares.mean() for n, shares in blocks.items()},
        "block_pass_at_n_std": {n: masked_std(s, torch.ones_like(s, dtype=torch.bool)) for n, s in blocks.items()},
    }


def uplift(case: Case) -> dict[str, Any]:
    correct = case.tensor("correct").bool()
    assert correct.shape[1] == case.setting("samples_per_problem")
    before, after = (tensor(case.value(f"log_prob_{name}"), case.dtype) for name in ("before", "after"))
    rose, fell = uplift_rate(correct, before, after)
    return {"correct_increase": rose, "wrong_decrease": fell}


HANDLERS = {
    "unlikeliness.unlikeliness_advantage": unlikeliness_advantage,
    "unlikeliness.ppo_loss_with_unlikeliness_advantage": ppo_loss,
    "unlikeliness.ppo_epochs_update": ppo_epochs_update,
    "unlikeliness.group_filter": group_filter,
    "unlikeliness.pass_at_n": pass_at_n,
    "unlikeliness.uplift_rate": uplift,
}
