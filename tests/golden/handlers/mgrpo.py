"""Multi-Layer GRPO: advantages of both layers, filters, both losses, and transitions between right and wrong."""

from dataclasses import replace
from typing import Any

import torch
from golden.cases import Case, tensor
from golden.rollouts import scored_rollouts
from torch import Tensor

from edge_grpo.base.metrics import means
from edge_grpo.base.records import Grade, Group, Problem, Rollout, Row, Segment, Span, Verdict
from edge_grpo.base.tensors import Scored, Signal, Totals
from edge_grpo.methods.mgrpo import Mgrpo
from edge_grpo.training.batching import collate, loss_inputs

STD: dict[int, Any] = {0: "population", 1: "sample"}
ROLLOUT = {"reward", "correct", "logp_new", "logp_old", "logp_ref"}
TEMPLATE = "[bos] question [sep] response [sep] phrase [sep] revision"
NAMES = {"bos": "bos", "sep": "sep", "question": "question", "q": "question", "response": "response", "o_i": "response"}
NAMES |= {"phrase": "phrase", "c": "phrase", "revision": "revision", "o'": "revision", "o'_ih": "revision"}


class Step:
    """All rollouts of the file as one step: for every question its answers, then the revisions of each answer."""

    def __init__(self, questions: list[dict[str, Any]], dtype: torch.dtype) -> None:
        self.rollouts: list[dict[str, Any]] = []
        self.places: list[tuple[int, ...]] = []  # (question, answer) or (question, answer, revision)
        columns: dict[str, list[int]] = {name: [] for name in ("group", "family", "layer", "parent")}
        groups = 0
        for b, question in enumerate(questions):
            assert set(question) == {"l1", "l2"}, f"unknown inputs of a question: {set(question)}"
            first = len(self.rollouts)
            layers = [(1, -1, question["l1"], ()), *((2, first + i, own, (i,)) for i, own in enumerate(question["l2"]))]
            for layer, parent, own, place in layers:
                for index, rollout in enumerate(own):
                    assert set(rollout) <= ROLLOUT, f"unknown inputs of a rollout: {set(rollout) - ROLLOUT}"
                    self.rollouts.append(rollout)
                    self.places.append((b, *place, index))
                    for name, value in (("group", groups), ("family", b), ("layer", layer), ("parent", parent)):
                        columns[name].append(value)
                groups += 1
        lengths = torch.tensor([len(rollout["logp_new"]) for rollout in self.rollouts])
        self.mask = torch.arange(int(lengths.max())) < lengths[:, None]
        self.dtype = dtype
        self.new = self.table("logp_new").requires_grad_()
        batch = scored_rollouts(
            self.mask,
            torch.zeros(self.mask.shape, dtype=dtype),
            rewards=tensor([rollout["reward"] for rollout in self.rollouts], dtype),
            group=torch.tensor(columns["group"]),
            old=self.table("logp_old"),
            ref=self.table("logp_ref"),
        )
        del columns["group"]
        correct = torch.tensor([bool(rollout["correct"]) for rollout in self.rollouts])
        relations = {name: torch.tensor(values) for name, values in columns.items()}
        self.batch: Scored = replace(batch, correct=correct, **relations)

    def table(self, name: str) -> Tensor:
        """A value per token; a missing reference equals the policy."""
        values = torch.zeros(self.mask.shape, dtype=self.dtype)
        lines = [rollout["logp_new"] if rollout.get(name) is None else rollout[name] for rollout in self.rollouts]
        values[self.mask] = tensor([value for line in lines for value in line], self.dtype)
        return values

    def nested(self, values: list[Any], layer: int) -> list[Any]:
        """A value per rollout as the file nests the rollouts of a layer."""
        nest: dict[Any, Any] = {}
        for place, value in zip(self.places, values, strict=True):
            if len(place) == layer + 1:
                inner = nest
                for index in place[:-1]:
                    inner = inner.setdefault(index, {})
                inner[place[-1]] = value
        return listed(nest)


def listed(nest: Any) -> Any:
    return [listed(nest[key]) for key in sorted(nest)] if isinstance(nest, dict) else nest


def mgrpo(case: Case) -> dict[str, Any]:
    method = method_of(case)
    step = Step(case.value("questions"), case.dtype)
    batch = step.batch
    signal = with_single_rows(method, batch)
    loss_of = Losses(method, step, signal)
    used = [bool(keep and line.any()) for keep, line in zip(signal.keep, signal.mask & step.mask, strict=True)]
    kept = step.nested(signal.keep.tolist(), 2)
    total = loss_of.method.loss(loss_of.x, loss_of.totals)
    (gradient,) = torch.autograd.grad(total, step.new)
    gradients = [line[: int(own.sum())] for line, own in zip(gradient, step.mask, strict=True)]
    shown = means(signal.metrics)
    kept_groups = [[any(flags) for flags in question] for question in kept]
    results = {
        "adv_l1": step.nested(signal.row_advantages.tolist(), 1),
        "adv_l2": step.nested(signal.row_advantages.tolist(), 2),
        "used_l2": step.nested(used, 2),
        "kept_groups": kept_groups,
        "n_kept_groups": sum(map(sum, kept_groups)),
        "loss": total,
        "grad_logp_new_l1": step.nested(gradients, 1),
        "grad_logp_new_l2": step.nested(gradients, 2),
        "metrics": {
            "acc_t1": shown["mgrpo/acc_t1"],
            "acc_t1_pairs": shown["mgrpo/acc_t1_pairs"],
            "acc_t2": shown["mgrpo/acc_t2"],
            "delta": shown["mgrpo/delta"],
            "delta_i_to_c": shown["mgrpo/wrong_to_right"],
            "delta_c_to_i": shown["mgrpo/right_to_wrong"],
        },
    }
    for layer in (1, 2):
        results |= {f"loss{layer}{name}": value for name, value in loss_of.parts(layer).items()}
    if case.value("prompt_case", None) is not None:
        results["prompt_case"] = prompt_case(case.value("prompt_case"))
    return results


def method_of(case: Case) -> Mgrpo:
    ddof = case.setting("adv_ddof", 1)
    return Mgrpo(
        std=STD[ddof] if case.setting("std_normalize", True) else "none",
        std_eps=case.setting("adv_eps", 1e-6),
        clip_low=case.setting("clip_eps_low"),
        clip_high=case.setting("clip_eps_high"),
        beta=case.setting("kl_coef"),
        lambda2=case.setting("lambda2"),
        l2_filter=case.setting("l2_filter") or "none",
        l2_grouping=case.setting("l2_grouping"),
    )


def with_single_rows(method: Mgrpo, batch: Scored) -> Signal:
    """The signal, where rollouts with nothing to compare with still count, as in the files."""
    signal = method.signal(batch)
    return replace(signal, keep=(batch.layer == 1) | method.passing(batch))


class Losses:
    """The loss of the whole step and its parts."""

    def __init__(self, method: Mgrpo, step: Step, signal: Signal) -> None:
        self.method = method
        everything = torch.arange(len(step.rollouts))
        width = step.mask.shape[1]
        self.x = loss_inputs(
            step.batch, signal, everything, width, logprobs=step.new, entropy=torch.zeros_like(step.new)
        )
        self.totals = Totals(float(self.x.keep.sum()), float(self.x.mask.sum()), width, method.totals(self.x))

    def parts(self, layer: int) -> dict[str, Tensor]:
        """A layer's term, and its two parts without their weights."""
        policy, kl = (replace(self.method, beta=beta).layer_loss(self.x, self.totals, layer) for beta in (0.0, 1.0))
        return {"": self.method.layer_loss(self.x, self.totals, layer), "_policy": policy, "_kl": kl - policy}


def prompt_case(content: dict[str, Any]) -> dict[str, Any]:
    """A revision and its prompt from token ids, as the collector puts them together."""
    known = {"bos", "sep", "question", "response", "phrase", "revision", "template"}
    assert set(content) <= known, f"unknown inputs: {set(content) - known}"
    words = [word.strip("[],+|<>") for word in content.get("template", TEMPLATE).lower().split()]
    assert set(words) <= set(NAMES), f"unknown parts of the template: {set(words) - set(NAMES)}"
    *parts, last = [content[NAMES[word]] for word in words]
    assert NAMES[words[-1]] == "revision", "a template ends with the revision"
    assert last is content["revision"]
    prompt = [token for part in parts for token in (part if isinstance(part, list) else [part])]
    rollout = Rollout(tuple(prompt), (Span(tuple(content["revision"]), Segment.SAMPLED),), finished=False)
    row = Row(rollout, Grade(Verdict.CORRECT, 1.0))
    group = Group(Problem("p", "?", ("",)), (row,), family=0, layer=2, parent=0)
    batch = collate([group], parts=[], weights=[], pad_id=0)
    return {
        "sequence": batch.input_ids[0],
        "loss_mask": batch.mask[0].int(),
        "predicted_from_position": batch.mask[0].nonzero().squeeze(-1) - 1,
    }


HANDLERS = {"mgrpo": mgrpo}
