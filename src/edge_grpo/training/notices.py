"""What a surprising step means: one line for each kind of surprise, with the settings that help."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edge_grpo.base.records import Group
from edge_grpo.config.tree import Config
from edge_grpo.methods._edge import Guidance
from edge_grpo.methods.base import Method
from edge_grpo.rewards.formats import PLACES
from edge_grpo.training.described import GAP_BOUND

__all__ = ["first_failure", "notices"]

_MANY = 0.5  # the share of completions cut, or without a readable answer, that explains a poor step
_APART = 0.01  # the share of tokens on which sampler and policy may disagree
_ZERO = 1e-6  # a loss below this is 0 but for rounding

_WHY_SKIPPED = {
    "prompt": "the prompt has {prompt} tokens or more; raise it",
    "budget": "the text does not fit {budget} tokens; raise it",
    "context": "the corrected completion would pass the model's context; lower {budget} or rollout.max_new_tokens",
    "reference": "the reference does not grade right; the lines before the first step show examples",
    "empty": "the text has no tokens; check the references",
    "vocabulary": "the text has a token that the model does not have; check the tokenizer",
}
"""The reasons of ``correction/skipped_*`` (see :class:`edge_grpo.training.corrections.Corrector`), with a remedy."""


@dataclass(frozen=True)
class _Step:
    """A row of metrics with what it came from; a figure that is missing or undefined reads as 0."""

    row: Mapping[str, float | None]
    config: Config
    method: Method
    failure: str

    def __getitem__(self, name: str) -> float:
        value = self.row.get(name)
        return 0.0 if value is None or math.isnan(value) else value

    def has(self, name: str) -> bool:
        """Whether the figure was measured."""
        value = self.row.get(name)
        return value is not None and not math.isnan(value)


def notices(row: Mapping[str, float | None], config: Config, method: Method, *, failure: str = "") -> dict[str, str]:
    """Explain what is surprising about a step.

    Args:
        row: the step's metrics; None or NaN = undefined.
        config: the run's settings.
        method: the method in use.
        failure: why the first completion that could not be graded failed.
    Returns:
        One line per kind of surprise, the likely cause before its effects; empty for a step as it should be.
    """
    step = _Step(row, config, method, failure)
    return {kind: line for kind, explain in _KINDS.items() if (line := explain(step))}


def first_failure(groups: Sequence[Group]) -> str:
    """The grader's remark on the first completion that it failed on or gave up."""
    grades = (grade for group in groups for row in group.rows for grade in (row.first_grade, row.grade))
    return next((grade.note for grade in grades if grade.verdict in ("error", "timeout") and grade.note), "")


def _cut(step: _Step) -> str:
    if step["length/unfinished"] < _MANY:
        return ""
    budget = step.config.rollout.max_new_tokens
    return (
        f"{step['length/unfinished']:.0%} of the completions were cut at rollout.max_new_tokens={budget} tokens, "
        "before they ended; raise it, or ask for shorter answers (data.system_prompt)"
    )


def _cut_in_evaluation(step: _Step) -> str:
    if not step.has("eval/finished") or step["eval/finished"] > 1 - _MANY:
        return ""
    name = "eval.max_new_tokens" if step.config.eval.max_new_tokens else "rollout.max_new_tokens"
    budget = step.config.eval.max_new_tokens or step.config.rollout.max_new_tokens
    return (
        f"{1 - step['eval/finished']:.0%} of the held-out answers were cut at {name}={budget} tokens, before they "
        "ended; raise it"
    )


def _failing(step: _Step) -> str:
    error, timeout = step["verdict/error"], step["verdict/timeout"]
    if not error and not timeout:
        return ""
    shares = [f"{error:.1%} failed and are dropped"] if error else []
    shares += [f"{timeout:.1%} took too long and earned 0"] if timeout else []
    reason = f"; the first: {step.failure}" if step.failure else ""
    return f"of the completions, {' and '.join(shares)} in the reward{reason}"


def _unreadable(step: _Step) -> str:
    if step["verdict/unparsed"] < _MANY or _cut(step):
        return ""
    return (
        f"{step['verdict/unparsed']:.0%} of the completions hold no readable answer in "
        f"{PLACES[step.config.reward.format]}; ask for one in data.system_prompt, or set reward.function"
    )


def _empty(step: _Step) -> str:
    if step["empty_steps"]:
        if rounds := step.method.needs.top_up.max_rounds:
            return (
                f"no group was left to train on: dynamic sampling found no useful one among "
                f"{step['dynamic/prompts']:.0f} prompts; raise method.top_up.max_rounds (now {rounds}), or change the "
                "difficulty of the problems (edge-grpo screen)"
            )
        return (
            "no group was left to train on: the method dropped them all; raise rollout.prompts_per_step, or change the "
            "difficulty of the problems (edge-grpo screen)"
        )
    if not step["empty_updates"] and (not step.has("rows/trained") or step["rows/trained"]):
        return ""
    if getattr(step.method, "mask_unfinished", False) and step["length/unfinished"] == 1:
        return "no row was trained: method.mask_unfinished leaves out completions that were cut, and all of them were"
    return (
        "no row was left in an update: the method's filters, or a failing reward, left out every one; `dropped` in the "
        "rollouts says which"
    )


def _collapsed(step: _Step) -> str:
    signal = "advantage/max_abs" if step.has("advantage/max_abs") else "grad_norm"
    if step["collapse/after"] < 1 or not step.has(signal) or step[signal] or _empty(step):
        return ""
    rest = "; only the other terms of the loss train" if step["grad_norm"] else ""
    wrong, right = step["collapse/after_all_wrong"], step["collapse/after_all_right"]
    if wrong == 1:
        why = "all answers are wrong. Choose easier problems (edge-grpo screen), raise rollout.group_size"
        fixes = isinstance(getattr(step.method, "correction", None), Guidance)
        why += "" if fixes else ", or set method=edge_grpo, which corrects some of them"
        if step.config.reward.function:
            why += f". If {step.config.reward.function} should have told them apart, check what it returns"
    elif right == 1:
        why = "all answers are right. Choose harder problems (edge-grpo screen --keep-rate 0:0.5)"
    else:
        why = (
            f"{wrong:.0%} of them all wrong, {right:.0%} all right. Raise rollout.group_size or rollout.temperature, "
            "choose other problems (edge-grpo screen)"
        )
        if hasattr(step.method, "top_up") and not step.method.needs.top_up.max_rounds:
            why += ", or draw more prompts (method.top_up.max_rounds=3)"
    return f"no gradient{rest}: the rewards are equal in every group, so there is nothing to compare: {why}"


def _uncorrected(step: _Step) -> str:
    correction = getattr(step.method, "correction", None)
    if not isinstance(correction, Guidance) or correction.amount == "none":
        return ""
    if not step["correction/skipped"] or step["correction/rows"]:
        return ""
    most = max(_WHY_SKIPPED, key=lambda reason: step[f"correction/skipped_{reason}"])
    why = _WHY_SKIPPED[most].format(
        prompt=f"method.correction.max_prompt_tokens={correction.max_prompt_tokens}",
        budget=f"method.correction.max_new_tokens={correction.max_new_tokens}",
    )
    return (
        f"no wrong answer was corrected: {step['correction/skipped']:.0f} corrections were skipped, "
        f"{step[f'correction/skipped_{most}']:.0f} of them because {why} (correction/skipped_{most})"
    )


def _skipped(step: _Step) -> str:
    if not step["skipped_updates"]:
        return ""
    most = step.config.train.max_skipped_updates
    return (
        f"{step['skipped_updates']:.0%} of the updates were skipped, because their gradients were not finite; lower "
        f"train.learning_rate if this goes on ({most} in a row end the run: train.max_skipped_updates)"
    )


def _gap(step: _Step) -> str:
    if step["sampler/gap_beyond"] < _APART:
        return ""
    remedy = "compare its dtype with the policy's"
    if getattr(step.method, "sampler_correction", "") == "none":
        remedy = "method.sampler_correction=token_truncate corrects for it"
    return (
        f"the sampler's log-probs differ from the policy's by {step['sampler/gap']:.2g} nats per token, and by more "
        f"than {GAP_BOUND:g} on {step['sampler/gap_beyond']:.1%} of the tokens; {remedy}"
    )


def _zero_loss(step: _Step) -> str:
    train = step.config.train
    one_update = train.passes * train.mini_batches == 1
    if not one_update or not step.has("loss") or abs(step["loss"]) >= _ZERO or not step["grad_norm"]:
        return ""
    return (
        "the loss is 0 by construction: with one update per step the ratio is 1, and the advantages of a group sum to "
        f"0. Its gradient is not (grad_norm {step['grad_norm']:.3g}); watch accuracy and reward/before"
    )


_KINDS: Mapping[str, Callable[[_Step], str]] = {
    "cut": _cut,
    "cut in evaluation": _cut_in_evaluation,
    "failing": _failing,
    "unreadable": _unreadable,
    "empty": _empty,
    "uncorrected": _uncorrected,
    "collapsed": _collapsed,
    "skipped": _skipped,
    "gap": _gap,
    "zero loss": _zero_loss,
}
