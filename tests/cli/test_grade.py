"""``edge-grpo grade``: the verdicts of training for a file, its table, its output, and bad rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support import Command

from edge_grpo.base.records import Problem
from edge_grpo.cli import grade as module
from edge_grpo.rewards import Rewards, RewardSettings

ROWS: list[dict[str, Any]] = [
    {"text": r"so \boxed{2}", "gold": "2"},
    {"text": r"so \boxed{x+1}", "gold": ["y", "1+x"]},
    {"text": "so 3", "gold": 3},
    {"text": r"so \boxed{3}", "gold": 3.5, "note": "extra columns are ignored"},
    {"text": r"so \boxed{\frac{7}{2}}", "gold": 3.5},
    {"text": "", "gold": 10**400},
    {"text": "\\boxed{\ud800}", "gold": "5"},
]


@pytest.fixture(name="command")
def grade_command(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *words: command("grade", *map(str, words))


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_table_and_the_output(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    code, out, err = command("rows.jsonl", "--out", "out.jsonl", "reward.workers=1")
    assert (code, err) == (0, "")
    head, below, _, counts, shares = [line.split() for line in out.splitlines() if line.strip()][:5]
    assert head == ["seconds", "seconds"]
    assert below == ["rows", "correct", "wrong", "unparsed", "timeout", "error", "p50", "p99"]
    assert counts[:6] == ["7", "3", "2", "2", "0", "0"]
    assert shares[:2] == ["42.9%", "28.6%"]
    assert 0 < float(counts[6]) <= float(counts[7]) < 10
    assert max(map(len, out.splitlines())) <= 80
    assert "3 by text, 2 by worker" in out
    written = read(tmp_path / "out.jsonl")
    assert [row["verdict"] for row in written] == [
        "correct", "correct", "unparsed", "wrong", "correct", "unparsed", "wrong",
    ]  # fmt: skip
    assert [row["reward"] for row in written] == [2.0, 2.0, 0.0, 1.0, 2.0, 0.0, 1.0]
    assert [row["formatted"] for row in written] == [True, True, False, True, True, False, True]
    assert all(row["seconds"] >= 0 for row in written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_they_are_the_verdicts_of_training(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS[:5])
    words = ["reward.format=think", "reward.format_weight=0.25", "reward.accuracy_weight=3"]
    command("rows.jsonl", "--out", "out.jsonl", *words)
    problems = [Problem("p", "", ("2",)), Problem("p", "", ("y", "1+x")), *[Problem("p", "", ("3.5",))] * 3]
    with Rewards(RewardSettings(format="think", format_weight=0.25, accuracy_weight=3.0)) as rewards:
        wanted = rewards.grade(problems, [row["text"] for row in ROWS[:5]], [True] * 5)
    found = read(tmp_path / "out.jsonl")
    assert [(row["verdict"], row["reward"]) for row in found] == [(one.verdict.value, one.reward) for one in wanted]


def test_a_custom_reward_sees_the_columns(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def reward(completions, problems, finished):\n"
        "    return [{'x': p.meta['weight'] + len(p.prompt), 'correct': f}\n"
        "            for p, f in zip(problems, finished)] if 'boom' not in completions else 1\n"
    )
    rows = [
        {"answer_text": "a", "weight": 1, "problem": "ab"},
        {"answer_text": "b", "weight": 2, "finished": False},
    ]
    write(tmp_path / "rows.jsonl", rows)
    words = ["rows.jsonl", "--text-field", "answer_text", "--out", "out.jsonl", "reward.function=mine.py:reward"]
    assert command(*words)[0] == 0
    assert [(row["verdict"], row["reward"], row["formatted"]) for row in read(tmp_path / "out.jsonl")] == [
        ("correct", 3.0, False),
        ("wrong", 2.0, False),
    ]
    write(tmp_path / "rows.jsonl", [{"answer_text": "boom", "weight": 1}])
    code, out, err = command(*words)  # every row has its verdict, even if none could be scored
    assert (code, err) == (0, "")
    assert "1 rows could not be graded; the first: the function returned a int, want a list of 1" in out
    assert read(tmp_path / "out.jsonl")[0]["verdict"] == "error"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"gold": "2"}', "row 2, field 'text': missing; the row has 'gold'"),
        (b'{"text": "2"}', "row 2, field 'gold': missing; the row has 'text'"),
        (b'{"text": 5, "gold": "2"}', "row 2, field 'text': "),
        (b'{"text": "2", "gold": null}', "row 2, field 'gold': "),
        (b'{"text": "2", "gold": []}', "row 2, field 'gold': an empty list"),
        (b'{"text": "2", "gold": ["2", {}]}', "row 2, field 'gold': "),
        (b'{"text": "2", "gold": " "}', "row 2, field 'gold': "),
        (b'{"text": "2", "gold": NaN}', "row 2, field 'gold': "),
        (b'{"text": "2", "gold": true}', "row 2, field 'gold': "),
        (b'{"text": "2", "gold": 1' + b"0" * 5000 + b"}", "row 2, an integer with too many digits"),
        (b'{"text": "2", "gold": "2", "finished": 1}', "row 2, field 'finished': "),
        (b'{"text": "2"', "row 2, column 13: not JSON"),
        (b"[1, 2]", "row 2, holds "),
        (b'{"text": "\xff", "gold": "2"}', "row 2, byte 11: not UTF-8 text"),
        (b"[" * 100_000, "row 2, column 1: lists or objects are nested too deeply"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_a_bad_row_stops_the_command_before_grading(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, message: str
) -> None:
    monkeypatch.setattr(module, "_grades", lambda *_: pytest.fail("graded"))
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "1", "gold": 1}\n' + line + b"\n")
    code, out, err = command("rows.jsonl", "--out", "out.jsonl")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"rows.jsonl, {message}" in err
    assert "data.bad_rows=skip" in err
    assert not (tmp_path / "out.jsonl").exists()


def test_bad_rows_may_be_skipped_and_are_still_answered_in_order(command: Command, tmp_path: Path) -> None:
    lines = ['{"text": "\\\\boxed{1}", "gold": 1}', "oops", "", '{"text": "\\\\boxed{2}", "gold": 1}']
    (tmp_path / "rows.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    code, out, _ = command("rows.jsonl", "data.bad_rows=skip", "--out", "out.jsonl")
    assert code == 0
    first, bad, last = read(tmp_path / "out.jsonl")
    assert (first["verdict"], last["verdict"]) == ("correct", "wrong")
    assert bad == {
        "verdict": "error",
        "reward": None,
        "formatted": False,
        "seconds": 0.0,
        "note": "column 1: not JSON: Expecting value",
    }
    assert "mean reward 1.5" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.jsonl"], "none.jsonl: no such file"),
        (["."], ".: is a folder"),
        (["empty.jsonl"], "empty.jsonl: no rows"),
        (["rows.jsonl", "--out", "rows.jsonl"], "--out: rows.jsonl is the input file"),
        (["rows.jsonl", "--out", "link.jsonl"], "--out: link.jsonl is the input file"),
        (["rows.jsonl", "--out", "no/where.jsonl"], "--out: no such folder"),
        (["rows.jsonl", "--out", "."], "--out: . is not a regular file"),
        (["rows.jsonl", "reward.timeout=3"], "did you mean"),
        (["rows.jsonl", "reward.timeout_s=-3"], "reward.timeout_s"),
        (["rows.jsonl", "reward.function=none.py:f"], "none.py"),
    ],
)
def test_mistakes_are_one_line(command: Command, tmp_path: Path, words: list[str], said: str) -> None:
    write(tmp_path / "rows.jsonl", ROWS[:1])
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "link.jsonl").symlink_to("rows.jsonl")
    before = (tmp_path / "rows.jsonl").read_text()
    code, out, err = command(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert (tmp_path / "rows.jsonl").read_text() == before


def test_late_rows_and_rows_of_ten_megabytes(command: Command, tmp_path: Path) -> None:
    hanging = r"\boxed{\int_0^1 \sin(x^{x^{x}}) e^{-x^{x}} dx}"
    rows = [{"text": hanging, "gold": r"\pi"}, {"text": "x " * 5_000_000 + r"\boxed{3}", "gold": "3"}]
    write(tmp_path / "rows.jsonl", rows)
    code, _, _ = command("rows.jsonl", "reward.timeout_s=0.5", "--out", "out.jsonl")
    assert code == 0
    late, long = read(tmp_path / "out.jsonl")
    assert (late["verdict"], late["reward"]) == ("timeout", 1.0)
    assert 0.5 <= late["seconds"] < 10.0
    assert "killed after" in late["note"]
    assert long["verdict"] == "correct"


def test_chunks_are_short_and_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [module._Row(Problem(str(n), "", ("1",)), "x" * n, finished=True) for n in range(10)]
    monkeypatch.setattr(module, "CHUNK_ROWS", 4)
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 10)
    chunks = list(module._chunks(rows))
    assert [row for chunk in chunks for row in chunk] == rows
    assert [len(chunk) for chunk in chunks] == [4, 3, 2, 1]


def test_an_interrupted_command_leaves_no_draft(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    write(tmp_path / "rows.jsonl", ROWS)
    monkeypatch.setattr(module, "_output_row", stop)
    assert command("rows.jsonl", "--out", "out.jsonl")[0] == 130
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_what_prompts_opened_goes_before_every_completion(command: Command, tmp_path: Path) -> None:
    write(
        tmp_path / "rows.jsonl", [{"text": r"1+1</think>\boxed{2}", "gold": "2"}, {"text": r"\boxed{2}", "gold": "2"}]
    )
    words = ("rows.jsonl", "--out", "out.jsonl", "reward.workers=1", "reward.format=think")
    for prefix, formatted, verdicts in (
        ((), [False, False], ["correct", "correct"]),
        (("--prefix", "<think>"), [True, False], ["correct", "unparsed"]),
    ):
        assert command(*words, *prefix)[0] == 0
        written = read(tmp_path / "out.jsonl")
        assert [row["formatted"] for row in written] == formatted
        assert [row["verdict"] for row in written] == verdicts


def test_a_worked_solution_as_reference_is_read_by_its_mark_or_refused(command: Command, tmp_path: Path) -> None:
    marked = "Ann had $100. She spent $30 and $20, so $<<100-30-20=50>>50.\n#### 50"
    texts = [r"\boxed{50}", r"\boxed{100}", r"\boxed{20}"]
    write(tmp_path / "rows.jsonl", [{"text": text, "gold": marked} for text in texts])
    code, out, _ = command("rows.jsonl", "--out", "out.jsonl", "reward.workers=1")
    assert code == 0
    assert [row["verdict"] for row in read(tmp_path / "out.jsonl")] == ["correct", "wrong", "wrong"]
    assert "3 answers read after the last '####'" in out

    unmarked = "Ann had $100. She spent $30 and $20. She has 50 left."
    write(tmp_path / "rows.jsonl", [{"text": r"\boxed{50}", "gold": unmarked}])
    code, _, err = command("rows.jsonl")
    assert (code, err.count("\n")) == (2, 1)
    assert "row 1, field 'gold': a worked solution or a sentence, 'Ann had" in err
    code, _, _ = command("rows.jsonl", "--out", "out.jsonl", r"data.answer_pattern=has (\d+) left", "reward.workers=1")
    assert code == 0
    assert read(tmp_path / "out.jsonl")[0]["verdict"] == "correct"
    code, _, err = command("rows.jsonl", "data.answer_pattern=has no (.+)")
    assert code == 2
    assert "data.answer_pattern matches nothing in 'Ann had" in err


def test_nested_golds_and_conversations_reach_a_reward_written_for_trl(command: Command, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(
        "def reward(prompts, completions, reward_model, **kwargs):\n"
        "    assert prompts == [[{'role': 'user', 'content': '1+1?'}], ''], prompts\n"
        "    texts = [completions[0][0]['content'], completions[1]]\n"
        "    return [float(own['gold'] in text) for own, text in zip(reward_model, texts)]\n"
    )
    rows = [
        {"text": "2", "problem": [{"role": "user", "content": "1+1?"}], "reward_model": {"gold": "2"}},
        {"text": "3", "problem": 7, "reward_model": {"gold": "2"}},
    ]
    words = ("--gold-field", "reward_model.gold", "--out", "out.jsonl", "reward.function=theirs.py:reward")
    code, _, err = command(write(tmp_path / "rows.jsonl", rows), *words, "reward.function_style=trl")
    assert (code, err) == (0, "")
    assert [row["reward"] for row in read(tmp_path / "out.jsonl")] == [1.0, 0.0]


def test_a_missing_column_offers_the_option_that_names_it(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [{"response": r"\boxed{2}", "answer": "2"}])
    code, _, err = command("rows.jsonl")
    assert (code, err.strip().endswith("the row has 'response', 'answer'. Add --text-field response")) == (2, True)
    code, _, err = command("rows.jsonl", "--text-field", "response")
    assert (code, err.strip().endswith("Add --gold-field answer")) == (2, True)
