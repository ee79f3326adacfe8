"""``edge-grpo diagnose``: what it prints, its JSON, its page, and its one-line errors."""

import json
import re
from pathlib import Path

import pytest
from made_runs import answer, group, make_run
from report.written import Rewards, jsonl, trl, verl
from support import Command

GROUPS: list[tuple[str, Rewards]] = [("1+1?", [1.0, 0.0]), ("2+2?", [0.0, 0.0]), ("3+3?", [1.0, 1.0])]


def test_a_table_of_steps_the_cost_and_the_remedies(tmp_path: Path, command: Command) -> None:
    for step in (1, 2):
        verl(tmp_path / "dump", step, GROUPS)
    code, out, err = command("diagnose", "dump")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert out.startswith("verl: 12 completions in 6 groups of 2, 2 files\n  reward: column 'score' (the format's)\n")
    row = ["33.3%", "33.3%", "33.3%", "33.3%", "66.7%"]
    assert ["1", "3", *row] in lines
    assert ["all", "6", *row] in lines
    assert "wasted characters: 64 of 96 (66.7%), those of dead groups; token counts are not known" in out
    assert "effective batch: 4 of 12 completions (33.3%), 2.0 a step" in out
    assert "always-dead prompts: 2 of 3 prompts, 2 of them seen more than once" in out
    assert "2 all right user 3+3? assistant" in " ".join(out.split())
    assert "1 dynamic sampling (DAPO) estimate 100.0% 4 6.0" in " ".join(out.split())
    assert "4 assuming that every group that is all wrong has a reference answer" in " ".join(out.split())


def test_json_is_all_that_is_printed(tmp_path: Path, command: Command) -> None:
    verl(tmp_path / "dump", 1, GROUPS)
    code, out, _ = command("diagnose", "dump", "--json", "--prompts", "1")
    content = json.loads(out)
    assert code == 0
    assert content["overall"]["dead"] == 2
    assert len(content["always_dead"]["first"]) == 1


def test_options_name_columns(tmp_path: Path, command: Command) -> None:
    rows = [{"q": i // 2, "a": i, "b": 0, "ok": i % 2, "n": 4} for i in range(4)]
    jsonl(tmp_path / "rows.jsonl", rows)
    code, _, err = command("diagnose", "rows.jsonl")
    assert (code, err.count("\n")) == (2, 1)
    assert "no column of rewards among q, a, b, ok, n; name it: --reward COLUMN" in err
    options = ("--reward", "b", "--reward", "ok", "--group", "q", "--correct", "ok", "--tokens", "n")
    content = json.loads(command("diagnose", "rows.jsonl", *options, "--json")[1])
    assert content["overall"]["kinds"]["useful"] == 2
    assert content["unit"] == "tokens"
    assert {"role": "tokens", "column": "n", "how": "given"} in content["columns"]


def test_prompts_cannot_reach_the_terminal_or_the_page_as_anything_but_text(tmp_path: Path, command: Command) -> None:
    wicked = "[red]a[/red]\x1b[31m\r\u202e<script>alert(1)</script>"
    rows = [{"prompt": wicked, "reward": 0, "completion": "x"}, {"prompt": wicked, "reward": 0, "completion": "x"}]
    jsonl(tmp_path / "rows.jsonl", rows)
    code, out, _ = command("diagnose", "rows.jsonl", "--html", "page.html")
    assert code == 0
    assert not {"\x1b", "\r", "\u202e"} & set(out)
    assert "[red]a[/red][U+001B][31m [U+202E]<script>" in out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere",), "nowhere: no such file or folder"),
        (("runs",), "runs: holds the rollouts of 2 runs, such as a; name one run"),
        (("dump", "--reward", "x"), "--reward: dump/1.jsonl has no column 'x'; it has input, output"),
        (("dump", "--html", "no/page.html"), "--html: no such folder"),
        (("dump/1.jsonl", "--html", "dump/1.jsonl"), "--html: dump/1.jsonl is the input file"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, command: Command, words: tuple[str, ...], told: str) -> None:
    verl(tmp_path / "dump", 1, GROUPS)
    for name in "ab":
        make_run(tmp_path / "runs" / name, {1: group(1, 0, [answer(0), answer(1)])})
    code, out, err = command("diagnose", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_what_was_guessed_and_left_out_is_said(tmp_path: Path, command: Command) -> None:
    trl(tmp_path / "run", 1, GROUPS)
    trl(tmp_path / "run", 2, GROUPS)
    out = command("diagnose", "run")[1]
    assert "note: files left out because they repeat the rows of the file before: 1" in out
    assert "note: the reward is the sum of 2 columns, unweighted" in out


def test_rollouts_without_steps_have_one_row(tmp_path: Path, command: Command) -> None:
    jsonl(tmp_path / "rows.jsonl", [{"prompt": "p", "reward": i} for i in range(2)])
    out = command("diagnose", "rows.jsonl", "--prompts", "0")[1]
    assert next(line.split()[0] for line in out.splitlines() if "100.0%" in line) == "all"
    assert "always-dead prompts: 0 of 1 prompt" in out


def test_a_long_run_is_shown_in_ranges_unless_every_step_is_asked_for(tmp_path: Path, command: Command) -> None:
    rows = [{"prompt": f"p{s}", "step": s, "reward": i} for s in range(1, 26) for i in range(2)]
    jsonl(tmp_path / "rows.jsonl", rows)
    short = command("diagnose", "rows.jsonl")[1]
    assert "25 steps in 20 ranges (--every-step shows each)" in short
    assert re.search(r"^24-25 +2 ", short, re.MULTILINE)
    whole = command("diagnose", "rows.jsonl", "--every-step", "--html", "page.html")[1]
    assert "ranges" not in whole
    assert [line.split()[0] for line in whole.splitlines() if "0.0%" in line][:25] == [str(s) for s in range(1, 26)]
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count('<th scope="row">') == 25 + 1 + 6
    assert len(json.loads(command("diagnose", "rows.jsonl", "--json")[1])["steps"]) == 25


def test_the_table_of_steps_fits_80_columns_with_all_kinds(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    made: list[Rewards] = [[0, 0], [1, 1], [0, 1], [0.001, 0], [0.5, 0.5], [1, None]]
    rows = [
        {"prompt": f"{step} {kind}", "step": step, "reward": reward, "completion": "x" * i}
        | {"correct": reward if reward in (0, 1) else None}
        for step in range(1001, 1026)
        for kind, rewards in enumerate(made)
        for i, reward in enumerate(rewards)
    ]
    jsonl(tmp_path / "rows.jsonl", rows)
    lines = command("diagnose", "rows.jsonl")[1].splitlines()
    titles = next(line for line in lines if line.startswith("step "))
    assert titles.split()[-3:] == ["able", "batch", "characters"]
    assert len(titles.rstrip()) <= 80
    assert re.search(r"^1024-1025( +12)( +16\.7%){6} +33\.3% +66\.7%$", "\n".join(map(str.rstrip, lines)), re.MULTILINE)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\n" * 3, b"[" * 100_000 + b"\n" + b"{\n" * 2])
def test_unreadable_files_are_not_called_empty(tmp_path: Path, command: Command, content: bytes) -> None:
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "2.jsonl").write_bytes(content)
    (tmp_path / "dump" / "3.jsonl").write_bytes(b"")
    code, out, err = command("diagnose", "dump")
    assert (code, out, err.count("\n")) == (2, "", 1)
    told = "1 file without a readable row (3 unreadable lines, the first: 2.jsonl, line 1: "
    assert f"dump: no rollouts: 1 empty file; {told}" in err
    verl(tmp_path / "dump", 1, GROUPS)
    out = command("diagnose", "dump")[1]
    assert "note: 1 empty file left out\n" in out
    assert f"note: {told}" in out
