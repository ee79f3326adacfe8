"""GPG: resampling, the factor alpha and the losses of its trainers; simulates the rounds and ranks of the release."""

import re
from dataclasses import replace
from typing import Any

import torch
from golden.cases import Case
from golden.handlers.wording import is_scaled, squeezed
from golden.rollouts import scored_rollouts
from torch import Tensor

from edge_grpo.base.records import Grade, Group, Problem, Rollout, Row, Segment, Span, Verdict
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional import advantages as adv
from edge_grpo.functional.debiasing import debiasing_factor, useful_share
from edge_grpo.functional.means import mean_over_rows, mean_over_tokens
from edge_grpo.functional.terms import k3_kl
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.gpg import Gpg
from edge_grpo.training.batching import loss_inputs

Place = tuple[int, int]  # round and group


def as_group(answers: list[list[float]], place: Place) -> Group:
    """The answers (reward, length) of one prompt."""
    rows = tuple(
        Row(
            Rollout((0,), (Span((1,) * int(length), Segment.SAMPLED),), finished=True),
            Grade(Verdict.CORRECT if reward == 1 else Verdict.WRONG, reward),
        )
        for reward, length in answers
    )
    return Group(Problem(f"{place}", "", ("",)), rows)


class Rounds:
    """Rounds of sampling until enough groups are useful, from the view of one rank, as in the release."""

    def __init__(self, case: Case, method: Gpg) -> None:
        rounds, least = case.value("rounds"), case.setting("min_inverse_alpha")
        self.per_rank, ranks, rank = case.value("groups_per_rank"), case.setting("world_size"), case.setting("rank")
        self.wanted = self.per_rank * ranks
        self.groups = {
            (r, g): as_group(answers, (r, g)) for r, each in enumerate(rounds) for g, answers in enumerate(each)
        }
        useful = {place: method.useful(group) for place, group in self.groups.items()}
        own = range(rank * self.per_rank, (rank + 1) * self.per_rank)
        self.useful, self.used, buffer = 0, 0, list[Place]()
        while self.used < len(rounds) and (not self.used or self.useful < least * self.wanted):
            self.useful += sum(useful[self.used, g] for g in range(self.wanted))
            buffer += [(self.used, g) for g in own if useful[self.used, g]]
            self.used += 1
        self.last = [self.groups[self.used - 1, g] for g in range(self.wanted)]
        filler = [(self.used - 1, g) for g in own if not useful[self.used - 1, g]]
        self.kept = (buffer + filler)[: self.per_rank]

    def count_last(self, reward: float | None = None) -> int:
        """Collapsed groups of the last round; of that reward alone if given."""
        return sum(group.collapsed and (reward is None or group.rows[0].grade.reward == reward) for group in self.last)


def step(case: Case) -> dict[str, Any]:
    eps, adjust = case.setting("std_eps"), case.setting("adjust_gd_alpha")
    method = Gpg(scale="group" if case.setting("scale_rewards_std") else "none", debias="none")
    rounds = Rounds(case, method)
    inverse = useful_share(rounds.useful, rounds.wanted)  # the release's count: all rounds, all ranks
    alpha = debiasing_factor(inverse) if adjust else 1.0
    method = replace(method, beta=case.setting("kl_coef") * alpha)  # the whole loss is divided by inverse_alpha
    rows = [row for place in rounds.kept for row in rounds.groups[place].rows]
    size = case.setting("group_size")
    assert all(len(rounds.groups[place].rows) == size for place in rounds.kept)

    logprobs = case.tensor("log_prob_of_assembled_batch").requires_grad_()
    lengths = torch.tensor([len(row.rollout.completion_ids) for row in rows])
    mask = torch.arange(logprobs.shape[1]) < lengths[:, None]
    batch = scored_rollouts(
        mask,
        torch.zeros_like(logprobs.detach()),
        rewards=torch.tensor([row.grade.reward for row in rows], dtype=case.dtype),
        group=torch.arange(len(rows)) // size,
        old=logprobs.detach(),
        ref=case.tensor("ref_log_prob_of_assembled_batch") if method.beta else None,
    )
    raw = method.signal(batch).raw_advantages
    if method.scale == "group" and eps != 1e-4:  # the product has the release's
        raw = adv.group_normalized(batch.reward, batch.group, eps=eps)
    elif adjust and case.setting("world_size") == 1:  # the mean is over all groups, so the product's alpha is this one
        own = replace(method, debias="groups").signal(batch)
        assert torch.allclose(own.row_advantages, alpha * raw, rtol=1e-6, atol=1e-12)
    signal = pg.spread(batch, method, raw=raw, advantages=alpha * raw, keep=batch.scorable, mask=mask)
    value = total_loss(method, batch, signal, logprobs)
    value.backward()
    return {
        "rounds_used": rounds.used,
        "kept_samples": [[*place, i] for place in rounds.kept for i in range(size)],
        "rewards_assembled": batch.reward,
        "mask_assembled": mask.int(),
        "advantages": signal.raw_advantages,
        "inverse_alpha": inverse,
        "alpha": debiasing_factor(inverse),
        "loss": value,
        "grad_log_prob": logprobs.grad,
        "num_identical_groups_last_round_global": rounds.count_last(),
        "num_all_correct_last_round": rounds.count_last(1.0),
        "num_all_wrong_last_round": rounds.count_last(0.0),
    }


def total_loss(method: Gpg, batch: Scored, signal: Signal, logprobs: Tensor) -> Tensor:
    """The loss of a batch that forms a whole update."""
    x = inputs(batch, signal, logprobs)
    return method.loss(x, Totals(float(len(x.mask)), float(x.mask.sum()), 1))


def inputs(batch: Scored, signal: Signal, logprobs: Tensor) -> LossInputs:
    rows = torch.arange(len(logprobs))
    return loss_inputs(batch, signal, rows, logprobs.shape[1], logprobs=logprobs, entropy=batch.entropy)


def trainer(case: Case) -> str:
    """The trainer of the release that a case tests."""
    names = {
        "gpgstd": "std",
        "visual": "visual",
        "r1v": "visual",
        "pgname=gpg": "visual",
        "openr1": "language",
        "gpg7b": "language",
        "openrs": "rs",
        "gpgrs": "rs",
        "gpgtrainer": "rs",
    }
    for name, known in names.items():
        if name in squeezed(case.variant):
            return known
    raise ValueError(f"unknown variant {case.variant!r}")


def loss(case: Case) -> dict[str, Any]:
    kind, adjust = trainer(case), case.setting("adjust_gd_alpha", False)
    logprobs, mask = case.tensor("log_prob").requires_grad_(), case.tensor("mask").bool()
    alpha = 1.0
    if adjust:
        eps = case.setting("alpha_eps", 1e-5 if kind == "visual" else 0.0)
        alpha = debiasing_factor(case.setting("inverse_alpha"), eps=eps)
    else:
        case.setting("inverse_alpha", None)
        case.setting("alpha_eps", None)
    weight = case.setting("kl_coef", 0.0)
    method = Gpg(
        aggregation="rows" if kind == "visual" else "tokens",
        beta={"std": weight, "language": weight * alpha}.get(kind, 0.0),  # others log it at most
    )
    group = torch.arange(len(mask)) // case.setting("group_size", len(mask))
    raw = advantages_of(case, group, scaled=kind == "visual" and not adjust)
    ref = case.tensor("ref_log_prob") if "ref_log_prob" in case.inputs else None
    batch = scored_rollouts(
        mask, torch.zeros_like(logprobs.detach()), rewards=raw, group=group, old=logprobs.detach(), ref=ref
    )
    signal = pg.spread(batch, method, raw=raw, advantages=alpha * raw, keep=batch.scorable, mask=mask)
    value = total_loss(method, batch, signal, logprobs)
    value.backward()
    results: dict[str, Any] = {"advantages": raw, "loss": value, "grad_log_prob": logprobs.grad}
    if ref is not None:
        kl = k3_kl(logprobs.detach(), ref, mask)
        results["logged_kl"] = (
            mean_over_tokens(kl, mask, tokens=float(mask.sum()))
            if kind == "std"
            else mean_over_rows(kl, mask, rows=float(len(mask)))
        )
    return results


def advantages_of(case: Case, group: Tensor, *, scaled: bool) -> Tensor:
    """The given advantages, or those that the named rule derives from the rewards."""
    if "advantages" in case.inputs:
        return case.tensor("advantages")
    rule, eps = case.setting("advantage", None), case.setting("std_eps", 1e-4)
    if rule is not None:
        if "mean" not in rule.lower():
            raise ValueError(f"unknown advantage rule {rule!r}")
        scaled = is_scaled(rule)
    elif trainer(case) != "visual" and is_scaled(case.variant):
        rule, scaled = case.variant, True
    rewards = case.tensor("rewards")
    if scaled and rule is not None and re.search(r"batch[ -]*(std|dev)|(std|deviation) of the batch", rule.lower()):
        return adv.batch_scaled(rewards, group, eps=eps)
    return adv.group_normalized(rewards, group, eps=eps) if scaled else adv.group_centered(rewards, group)


HANDLERS = {"gpg.step": step, "gpg.loss": loss}
