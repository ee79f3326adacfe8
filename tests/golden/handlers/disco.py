"""DisCO and DisCO-b: loss of a micro-batch, and gradients accumulated over an optimizer step."""

import re
from dataclasses import replace
from typing import Any

import torch
from golden.cases import Case
from golden.handlers.wording import meaning, numbered, squeezed
from golden.rollouts import scored_rollouts
from torch import Tensor

from edge_grpo.base.tensors import LossInputs, Totals
from edge_grpo.methods._discriminative import mean_drift
from edge_grpo.methods.disco import Disco
from edge_grpo.methods.disco_b import DiscoB
from edge_grpo.training.batching import loss_inputs

SCORES = {"logl": "log_likelihood", "lratio": "likelihood_ratio"}
ESTIMATORS: dict[str, Any] = {"kl": "k1", "k1": "k1", "low_var_kl": "k3", "k3": "k3"}


def make_method(case: Case) -> Disco | DiscoB:
    """The method for the release's names."""
    name = re.fullmatch(r"(discob?)(logl|lratio)", squeezed(case.variant))
    assert name, f"unknown variant '{case.variant}'"
    tau = case.setting("tau", None)
    shared: dict[str, Any] = {
        "score": SCORES[name[2]],
        "delta": case.setting("delta"),
        "beta": case.setting("beta"),
        "kl_estimator": meaning(case.setting("kl_type"), ESTIMATORS, "kl_type"),
    }
    return Disco(**shared, tau=tau) if name[1] == "disco" else DiscoB(**shared)


def micro_batch(case: Case, method: Disco | DiscoB, logprobs: Tensor, rows: Tensor) -> tuple[LossInputs, Totals]:
    """Some rows as a separate update, as in the release, whose micro-batches are independent."""
    mask = case.tensor("mask").bool()
    reward = case.tensor("reward")
    batch = scored_rollouts(
        mask,
        torch.zeros_like(logprobs.detach()),
        rewards=reward,
        group=numbered(case.value("uid")),
        old=case.tensor("old_log_prob"),
    )
    neither = (reward != 0) & (reward != 1)
    signal = method.signal(replace(batch, correct=reward == 1, scorable=~neither))
    signal = replace(signal, keep=torch.ones_like(neither))  # such rows still count in the release's drift
    x = loss_inputs(batch, signal, rows, mask.shape[1], logprobs=logprobs[rows], entropy=batch.entropy[rows])
    return x, Totals(float(len(rows)), float(x.mask.sum()), 1, method.totals(x))


def loss(case: Case) -> dict[str, Any]:
    method = make_method(case)
    logprobs = case.tensor("log_prob").requires_grad_()
    x, totals = micro_batch(case, method, logprobs, torch.arange(len(logprobs)))
    value = method.loss(x, totals)
    value.backward()
    return {
        "loss": value,
        "ppo_kl": mean_drift(totals),
        "constraint_violated": violated(method, x, totals),
        "grad_log_prob": logprobs.grad,
    }


def update(case: Case) -> dict[str, Any]:
    method = make_method(case)
    logprobs = case.tensor("log_prob")
    size, micro = case.setting("mini_batch_rows"), case.setting("micro_batch_rows")
    drifts, flags, gradients = [], [], []
    for step in torch.arange(len(logprobs)).split(size):
        held = logprobs.clone().requires_grad_()
        for rows in step.split(micro):
            x, totals = micro_batch(case, method, held, rows)
            (method.loss(x, totals) * len(rows) / size).backward()
            drifts.append(mean_drift(totals))
            flags.append(violated(method, x, totals))
        gradients.append(held.grad)
    return {
        "grad_log_prob_per_optimizer_step": gradients,
        "micro_batch_ppo_kl": drifts,
        "micro_batch_constraint_violated": flags,
    }


def violated(method: Disco | DiscoB, x: LossInputs, totals: Totals) -> bool:
    """Whether the drift exceeds its limit."""
    return bool(method.observe(x, totals)["kl/violated"][0])


HANDLERS = {"disco.loss": loss, "disco.update": update}
