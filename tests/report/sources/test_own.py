"""This project's own rollouts: as sampled, before corrections, whatever the method then does with the groups."""

import json
from pathlib import Path

import pytest
from small_runs import SMALL

from edge_grpo.base.errors import DataError
from edge_grpo.config.tree import load_config
from edge_grpo.report.diagnosis import diagnose
from edge_grpo.report.sources import Asked, read_rollouts
from edge_grpo.runs import rollouts
from edge_grpo.runs.completions import table_of
from edge_grpo.trackers.console import Silent
from edge_grpo.training.loop import train

METHODS = {
    "edge_grpo": [],
    "dapo": [],
    "share_grpo": ["rollout.group_size=3"],
    "unlikeliness": [],
    "rpo": [],
}


def run(folder: Path, method: str, *settings: str) -> Path:
    short = [each for each in SMALL if not each.startswith(("method.", "train.steps"))]
    given = [f"method={method}", *short, "train.steps=2", "eval.every=0", "eval.at_start=false", "eval.at_end=false"]
    return train(load_config(None, [*given, *settings, f"run.dir={folder}"]), display=Silent()).folder


@pytest.mark.parametrize("method", METHODS)
def test_dead_groups_are_those_of_the_metrics(tmp_path: Path, method: str) -> None:
    folder = run(tmp_path / "run", method, *METHODS[method])
    found = diagnose(read_rollouts(folder, Asked({})))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    collapsed = [row["collapse/before"] for row in rows if row["step"]]
    assert found.rollouts.name == "edge-grpo"
    assert [span.tally.dead / span.tally.groups for span in found.spans] == pytest.approx(collapsed)
    assert diagnose(read_rollouts(folder / "rollouts", Asked({}))).overall == found.overall


def test_revisions_are_groups_of_their_own(tmp_path: Path) -> None:
    found = diagnose(read_rollouts(run(tmp_path / "run", "mgrpo"), Asked({})))
    assert found.overall.groups == 2 * (3 + 3 * 4)


def test_rewards_and_tokens_are_those_before_corrections(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "edge_grpo", "method.correction.max_new_tokens=110")
    table = rollouts(folder)
    before = sorted(table["reward_before"].to_pylist())
    found = read_rollouts(folder, Asked({})).completions
    assert sorted(one.reward for one in found if one.reward is not None) == before
    assert before != sorted(table["reward"].to_pylist())
    replaced = table["strategy"].to_pylist().count("reference")
    assert sum(one.tokens is None for one in found) == replaced
    longest = load_config(None, SMALL).rollout.max_new_tokens
    assert all(one.tokens <= longest for one in found if one.tokens is not None)


def test_an_error_of_the_grader_is_unscorable_and_copies_are_left_out(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    row = {"step": 1, "group": 0, "family": 0, "layer": 1, "parent": -1, "variant": 0, "source": 0, "problem": "p"}
    row |= {"prompt": "1+1?", "strategy": "none", "completion": "2", "completion_before": "", "reward_before": 0.0}
    spans = [{"origin": "sampled", "token_ids": [1, 2]}, {"origin": "injected", "token_ids": [3]}]
    reflected = [{"origin": each, "token_ids": [4, 5, 6]} for each in ("wrong_prefix", "injected", "continued")]
    rows = [
        row | {"verdict_before": "wrong", "spans": spans},
        row | {"verdict_before": "error", "spans": []},
        row | {"verdict_before": "correct", "reward_before": 2.0, "spans": spans[1:]},
        row | {"verdict_before": "correct", "variant": 1, "spans": spans},
        row | {"verdict_before": "wrong", "strategy": "reflect", "completion_before": "long", "spans": reflected},
    ]
    path = tmp_path / "step_000001.parquet"
    pq.write_table(table_of(rows), path)
    found = read_rollouts(path, Asked({}))
    assert [(one.reward, one.correct, one.tokens, one.characters) for one in found.completions] == [
        (0.0, False, 2, 1),
        (None, None, 0, 1),
        (2.0, True, 0, 1),
        (0.0, False, 3, 4),
    ]
    assert sorted(found.notes) == [
        "completions that were corrected afterwards, judged here as they were sampled: 1",
        "copies of answers under other phrasings left out: 1",
    ]


def test_stored_pairs_are_no_rollouts(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{i}+1=", "chosen": str(i + 1), "rejected": f"9{i}"} for i in range(4)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder = run(tmp_path / "run", "rpo", f"data.pairs={pairs}")
    for source in (folder, next((folder / "rollouts").iterdir())):
        with pytest.raises(DataError, match=r"groups are stored pairs \(data\.pairs\), of which nothing was sampled"):
            read_rollouts(source, Asked({}))
