"""RPO: losses from log-probabilities of whole answers, and both forms of the likelihood term from logits."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from golden.cases import Case
from golden.handlers.wording import meaning
from golden.rollouts import scored_rollouts
from torch import Tensor

from edge_grpo.base.metrics import means
from edge_grpo.base.tensors import LossInputs, Totals
from edge_grpo.functional.logits import logprobs_and_entropy
from edge_grpo.functional.preference import implicit_reward
from edge_grpo.methods.rpo import Pairs, Rpo
from edge_grpo.training.batching import loss_inputs

LOSSES: dict[str, Literal["sigmoid", "hinge", "ipo", "robust"]] = {
    "sigmoid": "sigmoid",
    "dpo": "sigmoid",
    "hinge": "hinge",
    "ipo": "ipo",
    "robust": "robust",
}
KNOWN = {"beta", "eta", "loss_type", "label_smoothing", "rpo_alpha"}


def make_method(settings: Mapping[str, Any], **further: Any) -> Rpo:
    """The method for the release's names; its losses without smoothing ignore that setting."""
    assert set(settings) <= KNOWN, f"unknown settings: {set(settings) - KNOWN}"
    kind = meaning(settings.get("loss_type") or "sigmoid", LOSSES, "loss_type")
    smoothing = settings.get("label_smoothing") or 0.0
    return Rpo(
        beta=settings["beta"],
        eta=settings.get("eta") or 0.0,
        preference=kind,
        label_smoothing=smoothing if kind in ("sigmoid", "robust") else 0.0,
        rpo_alpha=settings.get("rpo_alpha") or 0.0,
        **further,
    )


def update(method: Rpo, logprobs: Tensor, ref: Tensor, mask: Tensor) -> tuple[LossInputs, Totals]:
    """An update of these pairs: all chosen answers, then all rejected ones."""
    group = torch.arange(len(mask)) % (len(mask) // 2)
    reward = (torch.arange(len(mask)) < len(mask) // 2).to(logprobs.dtype)
    batch = scored_rollouts(mask, torch.zeros_like(ref), rewards=reward, group=group, old=logprobs.detach(), ref=ref)
    batch = replace(batch, correct=reward > 0)
    x = loss_inputs(
        batch, method.signal(batch), torch.arange(len(mask)), mask.shape[1], logprobs=logprobs, entropy=batch.entropy
    )
    return x, Totals(float(len(mask)), float(mask.sum()), mask.shape[1], method.totals(x))


def from_sequence_logps(case: Case) -> list[dict[str, Any]]:  # a list of results, one for each setting
    return [of_setting(case, setting) for setting in case.setting("settings")]


def of_setting(case: Case, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Answers of one token each, so that its log-probability is the answer's."""
    method = make_method(setting)
    policy, ref = (
        torch.cat([case.tensor(f"{model}_{side}_logp") for side in ("chosen", "rejected")])[:, None]
        for model in ("policy", "ref")
    )
    policy.requires_grad_()
    x, totals = update(method, policy, ref, torch.ones_like(ref).bool())
    loss = method.loss(x, totals)
    loss.backward()
    assert policy.grad is not None
    chosen, rejected = policy.grad[:, 0].chunk(2)
    pairs = method.pairs(x)
    return {
        "losses": method.pair_losses(pairs),
        "mean_loss": loss,
        **rewards(method, pairs),
        "accuracy": means(method.observe(x, totals))["rewards/accuracies"],
        "grad_chosen_logp": chosen,
        "grad_rejected_logp": rejected,
    }


def rewards(method: Rpo, pairs: Pairs) -> dict[str, Tensor]:
    """Implicit rewards of the two sides."""
    return {
        "chosen_rewards": implicit_reward(pairs.chosen, pairs.ref_chosen, beta=method.beta),
        "rejected_rewards": implicit_reward(pairs.rejected, pairs.ref_rejected, beta=method.beta),
    }


def from_logits(case: Case, method: Rpo, padding: int) -> dict[str, Any]:
    """What both forms share."""
    ids, mask = case.tensor("input_ids").long(), case.tensor("response_mask_shifted").bool()
    labels = case.tensor("labels").long()
    assert torch.equal(labels[:, 1:] != padding, mask), "labels and mask cover the same tokens"
    assert torch.equal(labels[:, 1:][mask], ids[:, 1:][mask]), "labels are the tokens"
    logits = case.tensor("policy_logits").requires_grad_()
    logprobs, _ = logprobs_and_entropy(logits[:, :-1], ids[:, 1:], temperature=1.0)
    ref, _ = logprobs_and_entropy(case.tensor("ref_logits")[:, :-1], ids[:, 1:], temperature=1.0)
    x, totals = update(method, logprobs, ref, mask)
    loss = method.loss(x, totals)
    loss.backward()
    pairs, observed = method.pairs(x), means(method.observe(x, totals))
    return {
        "policy_token_logps": logprobs * mask,
        "policy_chosen_logp": pairs.chosen,
        "policy_rejected_logp": pairs.rejected,
        "ref_chosen_logp": pairs.ref_chosen,
        "ref_rejected_logp": pairs.ref_rejected,
        "chosen_token_mean_nll": observed["nll/chosen"],
        "loss": loss,
        "metrics": observed,
        "grad_policy_logits": logits.grad,
        "nll": -pairs.mean_chosen.mean(),
        "preference_loss": method.preference_losses(pairs).mean(),
        "accuracy": observed["rewards/accuracies"],
        "chosen_reward_mean": observed["rewards/chosen"],
        "rejected_reward_mean": observed["rewards/rejected"],
    }


def summed(case: Case) -> dict[str, Any]:
    settings = {name: case.setting(name, None) for name in KNOWN}
    method = make_method(settings, per_token=settings["loss_type"] == "ipo")
    results = from_logits(case, method, case.setting("label_pad", -100))
    if method.rpo_alpha:
        results["metrics"]["nll_loss"] = results["chosen_token_mean_nll"]
    return results


def averaged(case: Case) -> dict[str, Any]:
    settings = {name: case.setting(name, None) for name in ("beta", "eta", "label_smoothing")}
    kind = "ipo" if case.setting("ipo", False) else "sigmoid"
    mask = case.tensor("response_mask_shifted").bool()
    lengths = torch.tensor(case.value("prompt_lengths", mask[: len(mask) // 2].int().argmax(-1).add(1).tolist()))
    first = mask.int().argmax(-1)  # position t is about token t + 1
    assert torch.equal(first + 1, lengths.repeat(2)), "answers begin where prompts end"
    method = make_method({**settings, "loss_type": kind}, likelihood="averaged")
    return from_logits(case, method, case.setting("label_pad", -100))


HANDLERS = {
    "rpo.rpo_loss_from_sequence_logps": from_sequence_logps,
    "rpo.rpo_summed_sft_from_logits": summed,
    "rpo.rpo_averaged_sft_from_logits": averaged,
}
