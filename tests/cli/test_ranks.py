"""``edge-grpo eval``, ``screen`` and ``compare-models`` in two processes, against the same commands in one.

Two ranks start once and run every command line in turn.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support import Command, save_tiny

from edge_grpo.base.ranks import RENDEZVOUS
from edge_grpo.cli.main import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no gloo over files")

SMALL = ("reward.workers=1", "rollout.max_new_tokens=6")
EVAL = ("eval", "--model", "model", "--suite", "suite.yaml", "--samples", "3", *SMALL, "rollout.max_rows=4")
SCREEN = ("screen", "sums.jsonl", "--model", "model", "--samples", "4", "--keep-rate", "0:1", *SMALL)
RANKED = {
    "two": (*EVAL, "--out", "two"),
    "half": (*EVAL, "--out", "half"),
    "other": (*EVAL, "--out", "two", "eval.top_p=0.5"),
    "screen": (*SCREEN, "--out", "kept.jsonl"),
    "compare": ("compare-models", "two", "model", "--suite", "suite.yaml", "--samples", "3", *SMALL, "--out", "d.json"),
    "no suite": ("eval", "--model", "model", "--suite", "missing.yaml", *SMALL),
    "no folder": (*EVAL, "--out", "sums.jsonl"),
}

SCRIPT = """
import json, os, sys, time
from edge_grpo.base.world import join_world, leave
from edge_grpo.cli.main import main

written = set()

def watch(event, args):
    if event == "open" and isinstance(args[0], (str, os.PathLike)) and args[2] & (os.O_WRONLY | os.O_RDWR):
        written.add(str(args[0]))

sys.addaudithook(watch)

for name, words in json.load(open("commands.json")).items():
    print(f"# {name}", flush=True)
    print(f"# {name}", file=sys.stderr, flush=True)
    sys.argv = ["edge-grpo", *words]
    try:
        main()
    except SystemExit as end:
        print(f"exit {end.code}", flush=True)
began = time.monotonic()
join_world().in_turn(lambda: time.sleep(0.05))
print("# turns", flush=True)
print(time.monotonic() - began, flush=True)
print("# files")
print(*sorted(written - {os.devnull}), flush=True)
leave(0)
"""


def sections(text: str) -> dict[str, str]:
    """What each command line printed."""
    parts = (part.partition("\n") for part in text.split("# ")[1:])
    return {name: body for name, _, body in parts}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a suite, and an evaluation by one process; another one is cut off in the middle."""
    root = tmp_path_factory.mktemp("ranks")
    save_tiny(root / "model")
    (root / "sums.jsonl").write_text(
        "".join(json.dumps({"problem": f"Compute {i}+1.", "answer": i + 1}) + "\n" for i in range(5))
    )
    (root / "more.jsonl").write_text(json.dumps({"problem": "Compute 2+2, please.", "answer": 4}) + "\n")
    (root / "suite.yaml").write_text("benchmarks:\n  Sums: sums.jsonl\n  More: more.jsonl\n")
    return root


@pytest.fixture(scope="module")
def ranked(place: Path) -> list[tuple[Mapping[str, str], Mapping[str, str]]]:
    """What each of two ranks wrote on stdout and stderr, by command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("sys.argv", ["edge-grpo", *EVAL, "--out", "one"])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    shutil.copytree(place / "one", place / "half")
    lines = (place / "one/answers.jsonl").read_bytes().splitlines(keepends=True)
    (place / "half/answers.jsonl").write_bytes(b"".join(lines[:10]) + lines[10][:20])
    (place / "commands.json").write_text(json.dumps(RANKED))
    ranks = []
    for rank in range(2):
        job = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environment = os.environ | job | {RENDEZVOUS: str(place / "rendezvous"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SCRIPT]
        pipe = subprocess.PIPE
        ranks.append(subprocess.Popen(command, cwd=place, env=environment, stdout=pipe, stderr=pipe, text=True))
    found = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], found
    return [(sections(out), sections(err)) for out, err in found]


def answers(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    for row in rows:
        row["entropy"] = round(row["entropy"], 5)
    return sorted(rows, key=lambda row: [str(row[key]) for key in ("benchmark", "problem", "decoding", "number")])


def scores(folder: Path) -> Any:
    found = json.loads((folder / "results.json").read_text())
    return {name: own["scores"] for name, own in found["benchmarks"].items()}


def test_two_ranks_give_the_answers_of_one(ranked: object, place: Path) -> None:
    assert answers(place / "two") == answers(place / "one")
    assert scores(place / "two") == scores(place / "one")


def test_ranks_finish_what_one_process_began_and_the_reverse(
    ranked: list[tuple[Mapping[str, str], Mapping[str, str]]],
    place: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "9 of 24 answers already exist" in ranked[0][0]["half"]
    assert answers(place / "half") == answers(place / "one")
    monkeypatch.chdir(place)
    rows = (place / "two/answers.jsonl").read_bytes().splitlines(keepends=True)
    shutil.copytree(place / "two", place / "back")
    (place / "back/answers.jsonl").write_bytes(b"".join(rows[:10]))
    code, out, _ = command(*EVAL, "--out", "back")
    assert code == 0
    assert "of 24 answers already exist" in out
    assert answers(place / "back") == answers(place / "one")


def test_only_rank_0_speaks(ranked: list[tuple[Mapping[str, str], Mapping[str, str]]]) -> None:
    (first_out, _), (other_out, other_err) = ranked
    assert "pass@1" in first_out["two"]
    assert "collapsed groups, expected" in first_out["screen"]
    assert "5 of 5 problems kept: kept.jsonl" in first_out["screen"]
    assert "6 problems in common" in first_out["compare"]
    assert [other_out[name] for name in ("two", "half", "screen", "compare")] == ["exit 0\n"] * 4
    assert not any(other_err.values())


def test_only_rank_0_writes(ranked: list[tuple[Mapping[str, str], Mapping[str, str]]]) -> None:
    first, other = ({name for name in out["files"].split() if "__pycache__" not in name} for out, _ in ranked)
    assert {"two/answers.jsonl", "two/.lock"} <= first
    assert other == set()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other", "two holds another evaluation (eval.top_p was 1.0, is 0.5)"),
        ("no suite", "missing.yaml"),
        ("no folder", "--out: sums.jsonl cannot be written"),
    ],
)
def test_a_mistake_is_one_line_for_all_ranks(
    ranked: list[tuple[Mapping[str, str], Mapping[str, str]]], name: str, message: str
) -> None:
    for out, _ in ranked:
        assert "exit 2" in out[name]
    told = [line for _, err in ranked for line in err[name].splitlines()]
    assert len(told) == 1
    assert told[0].startswith("edge-grpo: ")
    assert "rank" not in told[0]
    assert message in told[0]


def test_screening_keeps_the_rows_that_one_process_keeps(
    ranked: object, place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    ours = (place / "kept.jsonl").read_text()
    shutil.move(place / "runs/screen", place / "screened")
    code, _, _ = command(*SCREEN, "--out", "alone.jsonl")
    assert code == 0
    assert (place / "alone.jsonl").read_text() == ours
    assert [path.name for path in (place / "runs/screen").iterdir()] == [
        path.name for path in (place / "screened").iterdir()
    ]


def test_ranks_of_a_machine_take_turns(ranked: list[tuple[Mapping[str, str], Mapping[str, str]]]) -> None:
    assert all(float(out["turns"]) >= 0.1 for out, _ in ranked)


@pytest.mark.slow
def test_the_processes_option_starts_them(ranked: object, place: Path) -> None:
    words = [sys.executable, "-m", "edge_grpo", *EVAL, "--out", "launched", "--processes", "2"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("answers and results.json") == 1
    assert answers(place / "launched") == answers(place / "one")
