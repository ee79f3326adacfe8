"""Entropy-driven advantage and guided error correction."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from golden.cases import Case, tensor
from golden.handlers.rewards import rewards_of
from golden.handlers.wording import meaning
from golden.rollouts import scored_rollouts
from support import Judge
from torch import Tensor

from edge_grpo.base.records import Grade, Group, Problem, Prompt, Rollout, Segment, Span, Verdict
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.data.prompts import encode_prompt
from edge_grpo.data.settings import DataSettings
from edge_grpo.functional.advantages import group_centered, group_normalized
from edge_grpo.functional.logits import logprobs_and_entropy
from edge_grpo.functional.ops import row_mean
from edge_grpo.functional.shaping import relative_entropy
from edge_grpo.methods._edge import entropy_driven
from edge_grpo.methods.base import Method, Repair
from edge_grpo.methods.bnpo import Bnpo
from edge_grpo.methods.dr_grpo import DrGrpo
from edge_grpo.methods.edge_grpo import Correction, EdgeGrpo, EntropyAdvantage
from edge_grpo.methods.grpo import Grpo
from edge_grpo.rollout.engine import Continuation, Request, Sampling, inject
from edge_grpo.rollout.sampler import Sampler
from edge_grpo.training.batching import collate, scored
from edge_grpo.training.collect import Collector

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
            acting=self.mask,
            segment=torch.full(self.mask.shape, int(Segment.SAMPLED)),
            keep=torch.ones(rows, dtype=torch.bool),
            group=torch.zeros(rows, dtype=torch.long),
            family=torch.zeros(rows, dtype=torch.long),
            layer=torch.ones(rows, dtype=torch.long),
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
    case.setting("num_iterations", 1)  # only visible in old_per_token_logps
    width = max(rank.mask.shape[1] for rank in ranks)
    rewards = case.tensor("rewards")
    group = torch.arange(len(rewards)) // size
    raw = case.tensor("advantages", None) if "advantages" in case.inputs else None
    computed = group_normalized(rewards, group) if scale else group_centered(rewards, group)
    raw = computed if raw is None else raw
    entropy, mask = (torch.cat(columns) for columns in zip(*(_padded(rank, width) for rank in ranks), strict=True))
    batch = scored_rollouts(mask, entropy, rewards=rewards, group=group)

    everything = torch.ones(len(rewards), dtype=torch.bool)
    relative = relative_entropy(batch.entropy, batch.mask, group)
    enabled = case.setting("EDA")
    method = EdgeGrpo(eda=EntropyAdvantage(enabled=enabled))
    advantages = entropy_driven(batch, raw, everything, method.eda)
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


STOP = 256  # the byte tokenizer's


class Bytes:
    """A tokenizer with one token per byte and the chat template of the files."""

    chat_template = "<u>...<a>"

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(text.encode())

    def batch_decode(
        self, ids: list[list[int]], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool
    ) -> list[str]:
        assert not skip_special_tokens
        return [bytes(own).decode(errors="replace") for own in ids]

    def get_vocab(self) -> dict[str, int]:
        return {chr(byte): byte for byte in range(256)}

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool, **arguments: object
    ) -> str:
        (turn,) = conversation
        return f"<u>{turn['content']}<a>"


def text_of(rollout: Rollout) -> str:
    """The text of a completion; a stop token anywhere but at the end is an error."""
    ids = rollout.completion_ids
    return bytes(ids[:-1] if rollout.finished else ids).decode(errors="replace")


class ScriptedEngine:
    """Samples the first texts of a file, then its continuations; ``endless`` texts never stop on their own.

    Both are cut to their budgets.
    """

    exact = True

    def __init__(self, first: list[str], endless: list[int], continuations: list[str]) -> None:
        self.first = first
        self.endless = endless
        self.continuations = continuations
        self.sampled: list[Rollout] = []

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        (request,) = requests
        assert len(request.seeds) == len(self.first) == len(self.endless) == len(self.continuations)
        for text, endless in zip(self.first, self.endless, strict=True):
            span = _span(text, Segment.SAMPLED, sampling.max_new_tokens, stops=not endless)
            self.sampled.append(Rollout(request.prompt_ids, (span,), STOP in span.token_ids))
        return [tuple(self.sampled)]

    def resume(self, continuations: Sequence[Continuation], sampling: Sampling) -> list[Rollout]:
        return [self._resume(item) for item in continuations]

    def _resume(self, item: Continuation) -> Rollout:
        (row,) = (i for i, rollout in enumerate(self.sampled) if rollout is item.rollout)
        start = inject(item.rollout, item.injected_ids, finished=False)
        budget = item.budget - len(item.injected_ids)
        span = _span(self.continuations[row], Segment.CONTINUED, budget, stops=True)
        return Rollout(start.prompt_ids, (*start.spans, span), STOP in span.token_ids)

    def sync(self, policy: object, version: int) -> None:
        pass

    def close(self) -> None:
        pass


def _span(text: str, segment: Segment, budget: int, *, stops: bool) -> Span:
    ids = (*text.encode(), *([STOP] if stops else []))[:budget]
    return Span(ids, segment, (-1.0,) * len(ids), (0.5,) * len(ids))


class Draws(random.Random):
    """A random generator whose draws make the released probabilities choose the strategies of a script."""

    def __init__(self, strategies: list[str]) -> None:
        super().__init__(0)
        self.left = list(strategies)

    def random(self) -> float:
        return meaning(self.left.pop(0), {"reflect": 0.25, "answer": 0.6, "reference": 0.9}, "strategy", begins=True)


class ScriptedPlan(Method):
    """EDGE-GRPO with scripted draws."""

    def __init__(self, method: EdgeGrpo, draws: Draws) -> None:
        self.method = method
        self.draws = draws

    def plan(self, groups: Sequence[Group], rng: random.Random) -> list[Repair]:
        return self.method.plan(groups, self.draws)

    def signal(self, batch: Scored) -> Signal:
        return self.method.signal(batch)

    def loss(self, x: LossInputs, totals: Totals) -> Tensor:
        return self.method.loss(x, totals)


def guided_error_correction(case: Case) -> dict[str, Any]:
    names = case.setting("reward_functions")
    size = case.setting("num_generations")
    problem = Problem("0", case.value("problem"), (case.value("answer"),), case.value("reference_solution"))
    guided, forced, script = case.setting("GEC"), case.setting("force_reflection"), case.value("strategies")
    method = EdgeGrpo(
        scale="group" if case.setting("scale_rewards", True) else "none",
        correction=Correction(
            **({} if guided else {"reflect": 1.0, "answer": 0.0, "reference": 0.0}),
            amount="all" if guided or forced else "none",
            guard=False,
            max_new_tokens=case.setting("second_max_new_tokens"),  # here the phrase counts too; the texts are short
            max_prompt_tokens=case.setting("prompt_length_limit"),
        ),
        eda=EntropyAdvantage(enabled=False),
    )
    draws = Draws(script if guided else ["reflect"] * size)

    def judge(problem: Problem, text: str) -> Grade:
        parts = rewards_of(names, text, problem.answers)
        verdict = Verdict.CORRECT if sum(parts) == len(names) else Verdict.WRONG
        return Grade(verdict, sum(parts), dict(zip(names, parts, strict=True)))

    engine = ScriptedEngine(
        case.value("first_completions"), case.value("truncated", [0] * size), case.value("second_continuations")
    )
    tokenizer = Bytes()
    collector = Collector(
        Sampler(engine=engine, grader=Judge(judge), tokenizer=tokenizer, data=DataSettings(), stop_ids=(STOP,)),
        ScriptedPlan(method, draws),
        sampling=Sampling(case.setting("first_max_new_tokens")),
        group_size=size,
        seed=0,
    )
    prompted = Prompt(problem, encode_prompt(tokenizer, problem.prompt, DataSettings(template="chat")))
    groups = method.arrange(collector.collect(iter([prompted]), step=0, num_groups=1).groups)
    assert not guided or not draws.left, "strategies were left over"

    batch = collate(groups, parts=names, weights=[1.0] * len(names), pad_id=STOP)
    nothing = torch.zeros(batch.mask.shape)
    signal = method.signal(scored(batch, old_logprobs=nothing, entropy=nothing, ref_logprobs=None))
    (group,) = groups
    # What the file's description requires of a correct implementation beyond its numbers.
    injected = batch.segment == int(Segment.INJECTED)
    assert torch.equal(injected.any(-1), batch.corrected)
    assert all(row.first is not None or row.rollout is engine.sampled[i] for i, row in enumerate(group.rows))
    return {
        "first_rewards": [list(row.first_grade.parts.values()) for row in group.rows],
        "final_texts": [text_of(row.rollout) for row in group.rows],
        "final_rewards_per_func": batch.reward_parts,
        "advantages": signal.row_advantages,
    }


HANDLERS = {
    "edge_grpo.entropy_driven_advantage": entropy_driven_advantage,
    "edge_grpo.guided_error_correction": guided_error_correction,
}
