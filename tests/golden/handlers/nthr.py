"""Negative Token Hidden Reward: scores, thresholds, selection, weighted losses; GWHES."""

from dataclasses import replace
from typing import Any

import torch
from golden.cases import Case, tensor
from golden.handlers.wording import meaning
from golden.rollouts import scored_rollouts
from torch import Tensor

from edge_grpo.base.tensors import Scored, Totals
from edge_grpo.functional import token_weights
from edge_grpo.functional.logits import logprobs_and_entropy
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.functional.ops import group_mean, row_mean
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.nthr import Nthr
from edge_grpo.training.batching import loss_inputs

ETA: dict[str, Any] = {
    "2abs": "balance",
    "2|0.5-p|": "balance",
    "balance": "balance",
    "p": "p",
    "1-p": "1-p",
    "one_minus_p": "1-p",
}
STD: dict[int, Any] = {0: "population", 1: "sample"}
VOCABULARY: dict[str, Any] = {"full": "full", "response": "responses", "restricted": "responses"}
GROUP = {"rewards", "mask", "tokens", "hidden", "logits_old", "logp_new", "logp_ref"}


class Question:
    """One group of the file, its tokens flattened, without padding."""

    def __init__(self, content: dict[str, Any], dtype: torch.dtype) -> None:
        assert set(content) <= GROUP, f"unknown inputs of a group: {set(content) - GROUP}"
        self.rewards = tensor(content["rewards"], dtype)
        tokens = content["tokens"]
        masks = content.get("mask", [[1] * len(line) for line in tokens])
        self.kept = [[k for k, flag in enumerate(line) if flag] for line in masks]
        self.lengths = [len(line) for line in self.kept]

        def flat(name: str) -> Tensor:
            values = content[name]
            return tensor([values[i][k] for i, line in enumerate(self.kept) for k in line], dtype)

        self.ids = flat("tokens").long()
        self.hidden, self.logits = flat("hidden"), flat("logits_old")
        self.new = flat("logp_new")
        self.old, _ = logprobs_and_entropy(self.logits, self.ids, temperature=1.0)
        self.ref = flat("logp_ref") if content.get("logp_ref") is not None else self.new
        self.row = torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))
        self.correct = self.rewards > 0

    def scores(self, anchors: Tensor, vocabulary: Tensor | None) -> Tensor:
        """Token scores where the logits are given instead of computed from a matrix and the hidden states."""
        return token_weights.token_scores(
            self.hidden, self.ids, self.logits.T, anchors[self.row], vocabulary=vocabulary, head_input=self.eye
        )

    def own_scores(self, vocabulary: Tensor | None) -> Tensor:
        return token_weights.own_scores(
            self.hidden, self.ids, self.logits.T, self.row, self.correct, vocabulary=vocabulary, head_input=self.eye
        )

    @property
    def eye(self) -> Tensor:
        return torch.eye(len(self.ids), dtype=self.hidden.dtype)

    def lines(self, values: Tensor) -> list[Tensor]:
        """A value per token as one tensor per response."""
        return list(values.split(self.lengths))


def nthr(case: Case) -> dict[str, Any]:
    method = method_of(case)
    questions = [Question(content, case.dtype) for content in case.value("groups")]
    vocabularies = [
        torch.arange(q.logits.shape[-1]) if method.vocabulary == "full" else q.ids.unique() for q in questions
    ]
    right = [q.scores(q.correct, v) for q, v in zip(questions, vocabularies, strict=True)]
    batch = whole(questions, right)
    signal = method.signal(batch)

    drop = case.setting("drop_zero_variance")
    collapsed = [bool(q.rewards.max() == q.rewards.min()) for q in questions]
    kept = [index for index, flat in enumerate(collapsed) if not (drop and flat)]
    rows = torch.isin(batch.group, torch.tensor(kept)).nonzero().squeeze(-1)
    versions = {
        "nthr": method,
        "grpo": replace(method, eta=1.0),
        "pos_only": replace(method, threshold="all", eta=0.0),
    }
    start, groups = 0, []
    for q, vocabulary, scores in zip(questions, vocabularies, right, strict=True):
        mine = slice(start, start + len(q.lengths))
        start = mine.stop
        groups.append(
            {
                "advantages": signal.row_advantages[mine],
                "n_pos": int(q.correct.sum()),
                "n_neg": int((~q.correct).sum()),
                "p": q.correct.to(case.dtype).mean(),
                "logp_old": q.lines(q.old),
                "vocab_star": vocabulary,
                "selected": cut(method.selected(batch)[mine], q),
                "token_adv": cut(signal.advantages[mine], q),
                **treatment(method, batch, mine, q, scores, vocabulary),
            }
        )
    losses = {name: update(version, batch, questions, rows, kept) for name, version in versions.items()}
    return {"groups": groups, **losses}


def method_of(case: Case) -> Nthr:
    eta = case.setting("eta_mode")
    beta = case.setting("beta")
    clip = case.setting("clip_eps")
    return Nthr(
        threshold="all" if float(beta) == -torch.inf else float(beta),
        eta=meaning(eta, ETA, "eta_mode") if isinstance(eta, str) else eta,
        std=STD[case.setting("adv_ddof")],
        std_eps=case.setting("adv_eps"),
        vocabulary=meaning(case.setting("vocab"), VOCABULARY, "vocab", begins=True),
        clip_low=clip,
        clip_high=clip,
        beta=case.setting("kl_coef"),
    )


def whole(questions: list[Question], scores: list[Tensor]) -> Scored:
    """All questions as one step; column 0 is a prompt."""
    lengths = torch.tensor([n for q in questions for n in q.lengths])
    mask = torch.arange(int(lengths.max()) + 1) < lengths[:, None] + 1
    mask = mask & (torch.arange(mask.shape[1]) > 0)

    def table(parts: list[Tensor]) -> Tensor:
        values = torch.zeros(mask.shape, dtype=parts[0].dtype)
        values[mask] = torch.cat(parts)
        return values

    batch = scored_rollouts(
        mask,
        torch.zeros(mask.shape, dtype=questions[0].hidden.dtype),
        rewards=torch.cat([q.rewards for q in questions]),
        group=torch.cat([torch.full((len(q.lengths),), index) for index, q in enumerate(questions)]),
        old=table([q.old for q in questions]),
        ref=table([q.ref for q in questions]),
    )
    return replace(batch, correct=torch.cat([q.correct for q in questions]), token_scores=table(scores))


def treatment(
    method: Nthr, batch: Scored, mine: slice, q: Question, scores: Tensor, vocabulary: Tensor
) -> dict[str, Any]:
    """What is computed for groups with right and wrong responses only."""
    names = ["p_plus", "p_minus", "eta", "tau", "tau_exclude_self", "s_bar", "s_bar_exclude_self", "scores_pos"]
    names += ["scores_neg", "gwhes", "gwhes_neg_term", "gwhes_pos_term", "gwhes_mean", "gwhes_neg_response"]
    good, bad = q.correct, ~q.correct
    if not (good.any() and bad.any()):
        return {"treated": False, **dict.fromkeys(names)}
    wrong = q.scores(bad, vocabulary)
    negative, positive = token_weights.gwhes(scores, wrong, q.row, good)
    # a right response with one token, score 1, next to a wrong one: the terms are the factors themselves
    unit = (torch.ones_like(scores), torch.ones_like(scores), q.row, good)
    p_minus, p_plus = (term[good][0] / q.lengths[int(good.nonzero()[0])] for term in token_weights.gwhes(*unit))
    s_bar = row_mean(batch.token_scores, batch.mask)[mine]
    others = scores - q.own_scores(vocabulary)
    s_bar_others = torch.stack([line.mean() for line in q.lines(others)])
    one_group = batch.group[mine]
    factor = -torch.inf if method.threshold == "all" else method.threshold
    tau = method.thresholds(batch)[mine][0]
    tau_others = token_weights.score_threshold(s_bar_others, one_group, good, factor=factor)[0]
    share = group_mean(good.to(scores.dtype), one_group, torch.ones_like(good))
    alone = int(good.sum()) == 1
    wrong_tokens = scores[bad[q.row]]
    means = group_mean(negative - positive, one_group, good)
    return {
        "treated": True,
        "p_plus": p_plus,
        "p_minus": p_minus,
        "pos_index": good.nonzero().squeeze(-1),
        "neg_index": bad.nonzero().squeeze(-1),
        "eta": method.factor(share)[0],
        "tau": tau,
        "tau_exclude_self": None if alone else tau_others,
        "s_bar": s_bar[good],
        "s_bar_exclude_self": None if alone else s_bar_others[good],
        "scores_pos": [line for line, flag in zip(q.lines(scores), good, strict=True) if flag],
        "scores_neg": [line for line, flag in zip(q.lines(scores), good, strict=True) if not flag],
        "gwhes": (negative - positive)[good],
        "gwhes_neg_term": negative[good],
        "gwhes_pos_term": positive[good],
        "gwhes_mean": means[0],
        "gwhes_neg_response": [line.sum() for line, flag in zip(q.lines(scores), good, strict=True) if not flag],
        "selection_margin": None if factor == -torch.inf else (wrong_tokens - tau).abs().min(),
    }


def update(method: Nthr, batch: Scored, questions: list[Question], rows: Tensor, kept: list[int]) -> dict[str, Any]:
    """The loss over the kept groups, and its gradient for every token of the file."""
    new = torch.zeros_like(batch.old_logprobs)
    new[batch.mask] = torch.cat([q.new for q in questions])
    new.requires_grad_()
    signal = method.signal(batch)
    x = loss_inputs(batch, signal, rows, new.shape[1], logprobs=new[rows], entropy=batch.entropy[rows])
    totals = Totals(float(x.keep.sum()), float(x.mask.sum()), 1)
    total = method.loss(x, totals)
    policy = replace(method, beta=0.0).loss(x, totals)
    kl = mean_over_tokens(pg.reference_kl(x, pg.log_ratio(x, method.ratio_level), method), x.mask, tokens=totals.tokens)
    (gradient,) = torch.autograd.grad(total, new)
    start, gradients = 0, []
    for q in questions:
        gradients.append(cut(gradient[start : start + len(q.lengths)], q))
        start += len(q.lengths)
    return {
        "n_tokens": int(totals.tokens),
        "kept_groups": kept,
        "loss_policy": policy,
        "loss_kl": kl,
        "loss": total,
        "grad_logp_new": gradients,
    }


def cut(table: Tensor, q: Question) -> list[Tensor]:
    """The rows of a padded table, cut to the lengths of the responses."""
    return [line[1 : length + 1] for line, length in zip(table, q.lengths, strict=True)]


HANDLERS = {"nthr": nthr}
