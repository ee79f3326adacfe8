"""This project's own rollout files (``docs/rollouts.md``).

What was sampled is what counts, so rewards and verdicts are those before corrections, and a group is all completions of
a step that were sampled for one phrasing of a question (or to revise one answer), whether a method left some out or
not. Under Share-GRPO an answer also stands under phrasings that it was not sampled under, and ``grpo_matched`` trains
corrections beside the answers that they correct; both are left out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Verdict
from edge_grpo.report.sources.records import Completion, Ledger, Rollouts
from edge_grpo.report.sources.rows import Advance, parquet_batches

__all__ = ["FOLDER", "is_own", "read_own"]

FOLDER: Final = "rollouts"
"""Where a run keeps its files."""

_COLUMNS: Final = (
    *("step", "family", "layer", "parent", "variant", "source", "problem", "prompt", "strategy"),
    *("verdict_before", "reward_before", "completion", "completion_before"),
)
_GROUP: Final = "sampled_group"
_CORRECTED: Final = "completions that were corrected afterwards, judged here as they were sampled"
_SPANS: Final = ("spans.list.element.origin", "spans.list.element.token_ids")
_BY_POLICY: Final = ("sampled", "wrong_prefix")
_STORED: Final = ("injected",)


def is_own(names: Sequence[str]) -> bool:
    """Whether a file with these columns is this project's."""
    return {*_COLUMNS, "spans"} <= set(names)


def read_own(files: Sequence[Path], advance: Advance) -> Rollouts:
    """The completions of rollout files, as they were sampled.

    Raises:
        DataError: a file cannot be read, or the groups are stored pairs, of which nothing was sampled.
    """
    ledger = Ledger()
    groups: dict[Any, int] = {}
    prompts: dict[str, str] = {}
    completions = []
    stored = 0
    for file in files:
        for row in _rows(file, advance):
            step, family, layer, parent, variant, source, problem, prompt, strategy, verdict, reward = row[:11]
            *_, tokens, injected, sampled_group = row
            if variant != source:
                ledger.counts["copies of answers under other phrasings left out"] += 1
                continue
            if sampled_group == -1:
                ledger.counts["corrections beside the answers that they correct left out"] += 1
                continue
            stored += strategy == "none" and not tokens and injected > 0
            ledger.counts[_CORRECTED] += strategy != "none"
            text = row[12] if strategy != "none" else row[11]
            key = (family, layer, parent, source) if sampled_group is None else sampled_group
            question = f"{problem}: {prompt}"
            completions.append(
                Completion(
                    step,
                    groups.setdefault((step, key), len(groups)),
                    prompts.setdefault(question, question),
                    None if verdict == Verdict.ERROR else reward,
                    None if verdict == Verdict.ERROR else verdict == Verdict.CORRECT,
                    None if strategy == "reference" else tokens,
                    len(text),
                    hash(text),
                )
            )
    if completions and stored == len(completions):
        where = files[0] if len(files) == 1 else files[0].parent
        raise DataError(
            f"{where}: the run's groups are stored pairs (data.pairs), of which nothing was sampled, so there is "
            "nothing to diagnose; name a run that samples its groups"
        )
    return Rollouts("edge-grpo", len(files), (), ledger.sentences(), completions)


def _rows(file: Path, advance: Advance) -> Iterator[tuple[Any, ...]]:
    """The values of all columns, how many of its tokens were sampled before any correction and injected, and the group.

    An answer that was replaced (strategy ``reference``) has no such tokens left; files of earlier versions name no
    sampled group.
    """
    for part in parquet_batches(file, [*_COLUMNS, _GROUP, *_SPANS], advance, batch=2048):
        columns = [part.column(name).to_pylist() for name in _COLUMNS]
        groups = part.column(_GROUP).to_pylist() if _GROUP in part.schema.names else [None] * part.num_rows
        spans = part.column("spans")
        yield from zip(*columns, _tokens(spans, _BY_POLICY), _tokens(spans, _STORED), groups, strict=True)


def _tokens(spans: Any, origins: Sequence[str]) -> list[int]:
    """How many tokens of each row of a column of spans have one of the origins."""
    import numpy as np  # noqa: PLC0415 - slow imports, needed here only
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    inside = spans.flatten()
    lengths = pc.list_value_length(inside.field("token_ids")).to_numpy(zero_copy_only=False)
    counted = pc.is_in(inside.field("origin"), pa.array(origins)).to_numpy(zero_copy_only=False)
    sums = np.concatenate([[0], np.cumsum(np.where(counted, lengths, 0))])
    ends = np.cumsum(pc.list_value_length(spans).to_numpy(zero_copy_only=False))
    found: list[int] = (sums[ends] - sums[np.concatenate([[0], ends[:-1]])]).astype(int).tolist()
    return found
