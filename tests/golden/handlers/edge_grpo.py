"""Entropy-driven advantage and guided error correction."""

import random
from typing import Any

import torch
from golden.cases import Case, tensor
from golden.handlers.rewards import rewards_of
from torch import Tensor

from edge_grpo.functional.advantages import group_centered, group_normalized
from edge_grpo.functional.logits import logprobs_and_entropy
from edge_grpo.functional.ops import row_mean
from edge_grpo.functional.shaping import relative_entropy
from edge_grpo.methods import Bnpo, Correction, DrGrpo, EdgeGrpo, EntropyAdvantage, Grpo
from edge_grpo.records import Grade, Group, Problem, Rollout, Row, Segment, Strategy, Verdict
from edge_grpo.tensors import LossInputs, Scored, Totals

LOSSES = {"grpo": Grpo, "bnpo": Bnpo, "dr_grpo": DrGrpo}


class Rank:
    """The rollouts of one process: logits of the prompt's last token and of each completion token."""

    def __init__(self, content: dict[str, Any], case: Case) -> None:
        self.case = case
        self.logits = tensor(content["logits"], case.dtype).requires_grad_()
        self.mask = tensor(content["completion_mask"], case.dtype).bool()
        self.ids = tensor(content["completion_ids"], case.dtype).long()
        self.logprobs, self.entropy = logprobs_and_entropy(
            self.logits[:, :-1], self.ids, temperature=case.setting("temperature")
        )
        old, ref = (content.get(f"{name}_per_token_logps") for name in ("old", "ref"))
        self.old = self.logprobs.detach() if old is None else tensor(old, case.dtype)
        self.ref = None if ref is None else tensor(ref, case.dtype)
        known = {"logits", "completion_mask", "completion_ids", "old_per_token_logps", "ref_per_token_logps"}
        assert set(content) <= known, f"unknown inputs of a rank: {set(content) - known}"

    def loss(self, advantages: Tensor) -> dict[str, Tensor]:
        """The loss of this process alone and its gradient, as the release computes them."""
        rows = len(self.mask)
        x = LossInputs(
            logprobs=self.logprobs,
            entropy=self.entropy,
            old_logprobs=self.old,
            sampling_logprobs=self.old,
            ref_logprobs=self.ref,
            advantages=advantages[:, None].expand_as(self.logprobs),
            likelihood=None,
            mask=self.mask,
            segment=torch.full(self.mask.shape, int(Segment.SAMPLED)),
            keep=torch.ones(rows, dtype=torch.bool),
            group=torch.zeros(rows, dtype=torch.long),
            reward=torch.zeros(rows, dtype=self.case.dtype),
            correct=torch.zeros(rows, dtype=torch.bool),
        )
        low, high = self.case.setting("epsilon"), self.case.setting("epsilon_high", None)
        method = LOSSES[self.case.setting("loss_type")](
            clip_low=low,
            clip_high=low if high is None else high,
            delta=self.case.setting("delta", None),
            beta=self.case.setting("beta"),
            kl_bias_correction=False,
        )
        budget = self.case.setting("max_completion_length", 1)
        loss = method.loss(x, Totals(float(rows), float(self.mask.sum()), budget))
        (gradient,) = torch.autograd.grad(loss, self.logits, retain_graph=True)
        return {"loss": loss, "grad_logits": gradient}


def entropy_driven_advantage(case: Case) -> dict[str, Any]:
    ranks = [Rank(content, case) for content in case.value("ranks")]
    size, scale = case.setting("num_generations"), case.setting("scale_rewards", True)
    case.setting("num_iterations", 1)  # shows only in old_per_token_logps
    width = max(rank.mask.shape[1] for rank in ranks)
    rewards = case.tensor("rewards")
    group = torch.arange(len(rewards)) // size
    raw = case.tensor("advantages", None) if "advantages" in case.inputs else None
    computed = group_normalized(rewards, group) if scale else group_centered(rewards, group)
    raw = computed if raw is None else raw
    batch = scored([_padded(rank, width) for rank in ranks], rewards, group)

    everything = torch.ones(len(rewards), dtype=torch.bool)
    relative = relative_entropy(batch.entropy, batch.mask, group)
    enabled = case.setting("EDA")
    method = EdgeGrpo(eda=EntropyAdvantage(enabled=enabled))
    advantages = method.entropy_driven(batch, raw, everything)
    unclamped = raw / relative if enabled else raw
    starts = torch.tensor([0] + [len(rank.mask) for rank in ranks]).cumsum(0).tolist()

    def per_rank(values: Tensor) -> list[dict[str, Tensor]]:
        return [rank.loss(values[a:b]) for rank, a, b in zip(ranks, starts, starts[1:], strict=False)]

    return {
        "entropy": row_mean(batch.entropy, batch.mask),
        "normalised_entropy": relative,
        "advantages": advantages,
        "advantages_unclamped": unclamped,
        "ranks": per_rank(advantages),
        "ranks_unclamped": per_rank(unclamped),
        "ranks_without_eda": per_rank(raw),
    }


def _padded(rank: Rank, width: int) -> tuple[Tensor, Tensor]:
    missing = width - rank.mask.shape[1]
    pad = torch.nn.functional.pad
    return pad(rank.entropy.detach(), (0, missing), value=torch.nan), pad(rank.mask, (0, missing), value=False)


def scored(ranks: list[tuple[Tensor, Tensor]], rewards: Tensor, group: Tensor) -> Scored:
    """What the product would hold of these rollouts."""
    entropy, mask = (torch.cat(columns) for columns in zip(*ranks, strict=True))
    flags = torch.ones(len(rewards), dtype=torch.bool)
    return Scored(
        input_ids=torch.zeros(mask.shape, dtype=torch.long),
        attention=mask,
        mask=mask,
        segment=mask.long() * int(Segment.SAMPLED),
        group=group,
        reward=rewards,
        reward_parts=rewards[:, None],
        reward_weights=rewards.new_ones(1),
        correct=flags,
        scorable=flags,
        finished=flags,
        corrected=~flags,
        sampling_logprobs=torch.zeros_like(entropy),
        old_logprobs=torch.zeros_like(entropy),
        entropy=entropy,
    )


STRATEGIES = {
    "reflect": Strategy.REFLECT,
    "answer_injection": Strategy.ANSWER,
    "reference_solution": Strategy.REFERENCE,
}


class Scripted(random.Random):
    """A random generator whose draws make the released probabilities choose the strategies of a script."""

    def __init__(self, strategies: list[str]) -> None:
        super().__init__(0)
        self.left = list(strategies)

    def random(self) -> float:
        return {"reflect": 0.25, "answer_injection": 0.6, "reference_solution": 0.9}[self.left.pop(0)]


def guided_error_correction(case: Case) -> dict[str, Any]:
    names = case.setting("reward_functions")
    problem = Problem("0", case.value("problem"), (case.value("answer"),), case.value("reference_solution"))
    prompt = tuple(f"<u>{problem.prompt}<a>".encode())
    first = [_cut(text, case.setting("first_max_new_tokens")) for text in case.value("first_completions")]
    assert len(case.value("truncated", [0] * len(first))) == len(first) == case.setting("num_generations")
    first_rewards = [rewards_of(names, text, problem.answers) for text in first]

    guided, forced = case.setting("GEC"), case.setting("force_reflection")
    script = case.value("strategies")
    rng = Scripted(script if isinstance(script, list) else [])
    probabilities = {"reflect": 0.5, "answer": 0.25, "reference": 0.25}
    if not guided:
        probabilities = {"reflect": 1.0, "answer": 0.0, "reference": 0.0}
        rng = Scripted(["reflect"] * len(first))
    method = EdgeGrpo(
        correction=Correction(
            **probabilities,
            amount="all" if guided or forced else "none",
            guard=False,
            max_prompt_tokens=case.setting("prompt_length_limit"),
        )
    )
    right = [sum(parts) == len(names) for parts in first_rewards]
    rows = [
        Row(Rollout(prompt, (), finished=True), Grade(Verdict.CORRECT if good else Verdict.WRONG, sum(parts)))
        for good, parts in zip(right, first_rewards, strict=True)
    ]
    texts = list(first)
    continuations = case.value("second_continuations")
    budget = case.setting("second_max_new_tokens")
    for repair in method.plan([Group(problem, tuple(rows))], rng):
        if repair.strategy is Strategy.REFERENCE:
            texts[repair.row] = repair.text
        else:
            texts[repair.row] += repair.text
        if repair.strategy is Strategy.REFLECT:
            texts[repair.row] += _cut(continuations[repair.row], budget)
    assert not guided or not rng.left, "strategies were left over"

    final = [rewards_of(names, text, problem.answers) for text in texts]
    total = torch.tensor([sum(parts) for parts in final], dtype=case.dtype)
    group = torch.zeros(len(total), dtype=torch.long)
    scale = case.setting("scale_rewards", True)
    return {
        "first_rewards": first_rewards,
        "final_texts": texts,
        "final_rewards_per_func": final,
        "advantages": group_normalized(total, group) if scale else group_centered(total, group),
    }


def _cut(text: str, tokens: int) -> str:
    """The first tokens of a text under the byte tokenizer."""
    return text.encode()[:tokens].decode(errors="replace")


HANDLERS = {
    "edge_grpo.entropy_driven_advantage": entropy_driven_advantage,
    "edge_grpo.guided_error_correction": guided_error_correction,
}
