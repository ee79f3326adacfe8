"""prime-rl: the traces of a run.

``OUTPUT_DIR/rollouts/step_12/train/all/traces.jsonl`` (also below ``run_default/``), one verifiers trace per line:
``task`` (the row being solved), ``nodes`` (messages; ``sampled`` tells the model's own, whose ``mask`` is true for each
sampled token), ``calls`` (with ``usage``), ``rewards`` (by name, a number or ``{"score", "weight"}``, null if scoring
did not run), ``ok`` or ``errors``, and ``group_id``, which is in ``info`` or, in older ones, beside it. In the newest,
a line may be an episode with its ``traces``. ``all`` has every completion, ``effective`` only those that filters left
in the batch: where both are there, ``all`` is read. Errored traces are unscorable; those of agents that are not
trained, such as judges, are left out.

Source: PrimeIntellect-ai/prime-rl, src/prime_rl/orchestrator/types.py (``Rollout.to_dict``) and train_sink.py (commit
004274e), utils.py (``save_rollouts``); PrimeIntellect-ai/verifiers, verifiers/v1/trace.py (commit 00eee6c) and graph.py
(commit 0184474).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edge_grpo.report.sources.columns import step_in
from edge_grpo.report.sources.records import Completion, Ledger, Rollouts
from edge_grpo.report.sources.rows import Advance, json_rows, message_text, number

__all__ = ["FILE", "is_prime_rl", "read_prime_rl"]

FILE: Final = "traces.jsonl"
"""The name of every file of traces."""

_Row = Mapping[str, Any]


def is_prime_rl(first: Mapping[str, Any]) -> bool:
    """Whether a first row is a trace, or an episode of traces."""
    traces = first.get("traces")
    return _is_trace(traces[0] if isinstance(traces, list) and traces else first)


def _is_trace(row: object) -> bool:
    return isinstance(row, dict) and isinstance(row.get("nodes"), list) and isinstance(row.get("rewards"), dict)


def read_prime_rl(files: Sequence[Path], advance: Advance) -> Rollouts:
    """The completions of prime-rl's traces.

    Raises:
        DataError: a file cannot be read.
    """
    ledger = Ledger()
    groups: dict[Any, int] = {}
    prompts: dict[str, str] = {}
    completions = []
    for file in files:
        named = step_in(file)
        for trace in _traces(file, ledger, advance):
            prompt = _prompt(trace)
            group = _dict(trace, "info").get("group_id") or trace.get("group_id")
            step = number(_dict(trace, "run").get("step"))
            key = group if isinstance(group, str | int) else (named, prompt)
            if not isinstance(group, str | int):
                ledger.counts["traces without a group_id, grouped by step and prompt"] += 1
            text = _completion(trace)
            completions.append(
                Completion(
                    named if named is not None or step is None else int(step),
                    groups.setdefault(key, len(groups)),
                    prompts.setdefault(prompt, prompt),
                    _reward(trace, ledger),
                    tokens=_tokens(trace),
                    characters=len(text),
                    text=hash(text),
                )
            )
    notes = ledger.sentences()
    if any("effective" in file.parts for file in files):
        notes.append("only the traces that filters left in the batch (effective) are here: dead groups may be missing")
    return Rollouts("prime-rl traces", len(files), (), notes, completions)


def _traces(file: Path, ledger: Ledger, advance: Advance) -> Iterator[_Row]:
    for row in json_rows(file, ledger, advance):
        episode = row.get("traces")
        for trace in episode if isinstance(episode, list) else [row]:
            if not _is_trace(trace):
                ledger.counts["rows that are no traces left out"] += 1
            elif _dict(trace, "agent").get("trainable") is False:
                ledger.counts["traces of agents that are not trained left out"] += 1
            else:
                yield {**trace, "info": {**_dict(row, "info"), **_dict(trace, "info")}}


def _dict(row: _Row, name: str) -> _Row:
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def _reward(trace: _Row, ledger: Ledger) -> float | None:
    failed = not trace["ok"] if "ok" in trace else bool(trace.get("errors"))
    values = [number(_weighed(value)) for value in trace["rewards"].values()]
    scored = [value for value in values if value is not None]
    if failed or not scored:
        ledger.counts["traces that failed or were not scored, so are unscorable"] += 1
        return None
    return sum(scored)


def _weighed(value: object) -> object:
    """A reward as a number: newer traces have its score and weight."""
    if not isinstance(value, dict):
        return value
    score, weight = number(value.get("score")), number(value.get("weight", 1.0))
    return None if score is None or weight is None else score * weight


def _sampled(trace: _Row) -> list[_Row]:
    return [node for node in trace["nodes"] if isinstance(node, dict) and node.get("sampled")]


def _prompt(trace: _Row) -> str:
    """The task's own prompt; otherwise the messages before the first one that was sampled."""
    task = _dict(trace, "task")
    for holder in (_dict(task, "data"), task):
        for name in ("prompt", "question", "problem"):
            if holder.get(name):
                return message_text(holder[name])
    messages = []
    for node in trace["nodes"]:
        if not isinstance(node, dict) or node.get("sampled"):
            break
        messages.append(node.get("message"))
    return message_text(messages) if messages else message_text(task.get("key") or task.get("hash") or task.get("idx"))


def _completion(trace: _Row) -> str:
    return "\n".join(message_text(_dict(node, "message").get("content")) for node in _sampled(trace))


def _tokens(trace: _Row) -> int | None:
    """Sampled tokens: by the masks of the nodes or, without them, as the provider counted them."""
    masks = [node["mask"] for node in _sampled(trace) if isinstance(node.get("mask"), list) and node["mask"]]
    if masks:
        return sum(map(sum, masks))
    calls = trace.get("calls")
    counts = (
        [number(_dict(call, "usage").get("completion_tokens")) for call in calls] if isinstance(calls, list) else []
    )
    known = [count for count in counts if count is not None]
    return int(sum(known)) if known else None
