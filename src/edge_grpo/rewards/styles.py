"""How reward functions are called: with this package's signature, TRL's or verl's."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from edge_grpo.base.records import Problem

__all__ = ["STYLES", "Batch", "Style"]

WANTED = "(completions, problems) and optionally 'finished'"
_FOREIGN = {"prompts", "completions", "problems", "solution_str"}
_TRL_OWN = ("prompt", "completion", "completion_ids")  # columns that TRL never passes
_NEVER_PASSED = ("trainer_state", "log_extra", "log_metric", "environments")  # by TRL, but not here


@dataclass(frozen=True)
class Batch:
    """The rows of one call, each a completion of the problem at the same position; ``token_ids``: empty if unknown."""

    completions: Sequence[str]
    problems: Sequence[Problem]
    finished: Sequence[bool]
    token_ids: Sequence[Sequence[int]] = ()

    def row(self, number: int) -> "Batch":
        """One of them, as a batch of its own."""
        one = slice(number, number + 1)
        return Batch(self.completions[one], self.problems[one], self.finished[one], self.token_ids[one])


class Style(NamedTuple):
    """One calling convention.

    ``call``: the function's result for a batch. ``complaint``: what is wrong with a signature; empty if nothing is.
    ``entry``: a row's entry in the terms of this package.
    """

    call: Callable[[Callable[..., Any], Batch], object]
    complaint: Callable[[inspect.Signature], str]
    entry: Callable[[object], object] = lambda entry: entry


def _own(function: Callable[..., Any], batch: Batch) -> object:
    extra = {"finished": batch.finished} if "finished" in inspect.signature(function).parameters else {}
    return function(batch.completions, batch.problems, **extra)


def _own_complaint(signature: inspect.Signature) -> str:
    names = tuple(signature.parameters)
    if names[:2] != ("completions", "problems") and _FOREIGN & set(names):
        return (
            f"it takes {signature}, but is called with {WANTED}; a row's prompt, answers and other columns are "
            "problem.prompt, .answers and .meta. A function written for TRL or verl needs reward.function_style=trl or "
            "verl: see docs/coming_from.md"
        )
    try:
        signature.bind([], [], **({"finished": []} if "finished" in names else {}))
    except TypeError:
        return f"it takes {signature}, want {WANTED}"
    return ""


def _trl(function: Callable[..., Any], batch: Batch) -> object:
    """Call a function as TRL 1.16 does: prompts, completions and every other column as keyword arguments.

    Source:
        TRL's ``GRPOTrainer``; there, the arguments in ``_NEVER_PASSED`` are passed, too.
    """
    given = _columns(batch.problems) | {
        "prompts": [_messages(problem) if problem.as_messages else problem.prompt for problem in batch.problems],
        "completions": [
            [{"role": "assistant", "content": text}] if problem.as_messages else text
            for text, problem in zip(batch.completions, batch.problems, strict=True)
        ],
    }
    if batch.token_ids:
        given["completion_ids"] = [list(ids) for ids in batch.token_ids]
    signature = inspect.signature(function)
    missing = [name for name in _required(signature) if name not in given]
    if missing:
        raise TypeError(f"it takes {', '.join(map(repr, missing))}, but is called with {', '.join(map(repr, given))}")
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        given = {name: values for name, values in given.items() if name in signature.parameters}
    return function(**given)


def _trl_complaint(signature: inspect.Signature) -> str:
    names = _required(signature)
    if tuple(signature.parameters)[:2] == ("completions", "problems"):
        return f"it takes {signature}, the signature of reward.function_style=own; set that"
    unknown = [name for name in names if name in _NEVER_PASSED]
    if unknown:
        return f"it takes {signature}, but {', '.join(unknown)} cannot be passed; give each a default, such as None"
    return ""


def _verl(function: Callable[..., Any], batch: Batch) -> object:
    """Call a function as verl's naive reward manager does: once per row."""
    return [
        function(
            data_source=problem.columns.get("data_source"),
            solution_str=text,
            ground_truth=_ground_truth(problem),
            extra_info=problem.columns.get("extra_info"),
        )
        for text, problem in zip(batch.completions, batch.problems, strict=True)
    ]


def _verl_complaint(signature: inspect.Signature) -> str:
    wanted = ("data_source", "solution_str", "ground_truth", "extra_info")
    try:
        signature.bind(**dict.fromkeys(wanted))
    except TypeError as error:
        return f"it takes {signature}, want ({', '.join(wanted)}): {error}"
    return ""


def _verl_entry(entry: object) -> object:
    """A number, or a mapping whose ``score`` is the reward and whose ``acc`` says whether the answer is right."""
    if not isinstance(entry, Mapping):
        return entry
    if "score" not in entry:
        return f"a mapping without 'score': {sorted(map(str, entry))}"
    return {"reward": entry["score"], **({"correct": entry["acc"]} if "acc" in entry else {})}


STYLES: Final[Mapping[str, Style]] = {
    "own": Style(_own, _own_complaint),
    "trl": Style(_trl, _trl_complaint),
    "verl": Style(_verl, _verl_complaint, _verl_entry),
}
"""The calling conventions, by the values of ``reward.function_style``."""


def _required(signature: inspect.Signature) -> list[str]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        name
        for name, parameter in signature.parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind not in variadic
    ]


def _messages(problem: Problem) -> list[dict[str, str]]:
    """The conversation as the row has it."""
    turns = [{"role": "system", "content": problem.system}] if problem.system else []
    roles = ("user", "assistant")
    return turns + [
        {"role": roles[number % 2], "content": text} for number, text in enumerate((*problem.earlier, problem.prompt))
    ]


def _columns(problems: Sequence[Problem]) -> dict[str, list[object]]:
    """The rows' columns but the prompt's, as read; ``answer``, ``solution`` and ``images`` under any name."""
    rows = [_usual(problem) | dict(problem.meta) | dict(problem.columns) for problem in problems]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names if name not in _TRL_OWN}


def _usual(problem: Problem) -> dict[str, object]:
    usual: dict[str, object] = {"answer": problem.answer} if problem.answers else {}
    if problem.solution:
        usual["solution"] = problem.solution
    if problem.images:
        usual["images"] = [{"path": each.path or None, "bytes": each.content or None} for each in problem.images]
    return usual


def _ground_truth(problem: Problem) -> object:
    model = problem.columns.get("reward_model")
    if isinstance(model, Mapping) and "ground_truth" in model:
        return model["ground_truth"]
    return problem.answer if problem.answers else None
