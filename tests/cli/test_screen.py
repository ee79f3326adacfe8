"""``edge-grpo screen`` from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import Command

SMALL = ["reward.workers=1", "rollout.max_new_tokens=6", "--samples", "4"]


@pytest.fixture
def judge(tmp_path: Path) -> list[str]:
    """A reward that always marks the first problems correct and never the last ones."""
    (tmp_path / "d.jsonl").write_text(
        "".join(json.dumps({"problem": f"Compute {i}+1.", "answer": i + 1, "level": i}) + "\n" for i in range(6))
    )
    (tmp_path / "judge.py").write_text(
        "def reward(completions, problems):\n"
        "    return [{'r': 1.0, 'correct': p.meta['level'] < 3 or p.meta['level'] == 3 and i % 4 == 0}\n"
        "            for i, p in enumerate(problems)]\n"
    )
    return ["reward.function=judge.py:reward"]


def kept(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_second_band_reuses_the_answers(command: Command, model: str, judge: list[str]) -> None:
    words = ["screen", "d.jsonl", "--model", model, *SMALL, *judge]
    code, out, err = command(*words, "--keep-rate", "0:0.25", "--out", "hard.jsonl")
    assert (code, err) == (0, "")
    assert "3 of 6 problems kept: hard.jsonl" in out
    rows = kept("hard.jsonl")
    assert [(row["level"], row["correctness_rate"]) for row in rows] == [(3, 0.25), (4, 0.0), (5, 0.0)]
    assert list(rows[0]) == ["problem", "answer", "level", "correctness_rate"]
    for shown in ("pass rate", "0.250", "33.3%", "50.0%", "collapsed groups, expected", "all wrong"):
        assert shown in out
    assert "of the answers were cut at rollout.max_new_tokens=6 tokens, before they ended; raise it" in out
    code, out, _ = command(*words, "--keep-rate", "1:1", "--out", "easy.jsonl")
    assert "24 of 24 answers already exist" in out
    assert len(kept("easy.jsonl")) == 3
    code, out, _ = command(*words)
    assert code == 0
    assert "rates.jsonl" in out


def test_an_empty_band_writes_no_file(command: Command, model: str, judge: list[str]) -> None:
    code, _, err = command(
        "screen", "d.jsonl", "--model", model, *SMALL, *judge, "--keep-rate", "0.5:0.75", "--out", "x.jsonl"
    )
    assert code == 2
    assert "no problem has a pass rate in 0.5:0.75; x.jsonl is not written" in err
    assert not Path("x.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["screen", "gone.jsonl"], "gone.jsonl: no such file"),
        (["screen", "d.jsonl", "--keep-rate", "1:0"], "--keep-rate: got '1:0', wanted LOW:HIGH"),
        (["screen", "d.jsonl", "--out", "./d.jsonl"], "--out: ./d.jsonl is the input file"),
        (["screen", "d.jsonl", "--out", "gone/x.jsonl"], "--out: no such folder"),
        (["screen", "d.jsonl", "--samples", "0"], "'--samples'"),
    ],
)
def test_a_mistake_is_reported_in_one_line(command: Command, judge: list[str], words: list[str], message: str) -> None:
    code, _, err = command(*words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
