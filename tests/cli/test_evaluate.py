"""``edge-grpo eval`` and ``edge-grpo compare-models`` from the command line."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import Command

from edge_grpo.base.records import Problem
from edge_grpo.cli.evaluate import _overlapping
from edge_grpo.data.pictures import gradient
from edge_grpo.evaluation.store import read_answers

SMALL = ["reward.workers=1", "rollout.max_new_tokens=6"]


@pytest.fixture
def suite(tmp_path: Path) -> str:
    (tmp_path / "sums.jsonl").write_text(
        "".join(json.dumps({"problem": f"Compute {i}+1.", "answer": [i + 1, f"{i + 1}.0"]}) + "\n" for i in range(4))
    )
    long = " ".join(f"{i}+" for i in range(20))
    (tmp_path / "long.jsonl").write_text(json.dumps({"q": f"Compute {long}", "answer": "[bold]1[/bold]"}) + "\n")
    (tmp_path / "suite.yaml").write_text(
        "benchmarks:\n  Sums: sums.jsonl\n  Long: {path: long.jsonl, fields: {prompt: q}}\n"
    )
    (tmp_path / "train.jsonl").write_text(json.dumps({"problem": f"Evaluate {long}", "answer": "190"}) + "\n")
    return "suite.yaml"


def results(folder: str | Path) -> Any:
    return json.loads((Path(folder) / "results.json").read_text())


def test_a_suite_gives_a_table_and_json_and_resumes(command: Command, model: str, suite: str) -> None:
    words = ["eval", "--suite", suite, "--model", model, "--samples", "2", "--out", "e", *SMALL]
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    for shown in ("pass@1", "avg@2", "pass@2", "maj@2", "Sums", "Long", "problem-weighted", "macro", "truncated"):
        assert shown in out
    assert "entropy, nats" in out
    assert re.search(r" \d+\.\d - \d+\.\d%", out), "an interval has its unit"
    found = results("e")
    assert found["draws"]["samples"] == 2
    assert set(found["benchmarks"]["Sums"]["scores"]) == {
        "pass@1/greedy", "pass@1/sampled", "avg@2", "pass@2", "maj@2"
    }  # fmt: skip
    assert found["benchmarks"]["Sums"]["problems"] == 4
    assert set(found["benchmarks"]["Long"]["greedy"]) == {"answers", "entropy", "length", "truncated", "verdicts"}
    assert set(found["averages"]) == {"problem-weighted", "macro"}
    code, out, _ = command(*words)
    assert code == 0
    assert "15 of 15 answers already exist" in out
    assert results("e") == found
    code, _, err = command(*words, "eval.top_p=0.5")
    assert code == 2
    assert "e holds another evaluation (eval.top_p was 1.0, is 0.5)" in err


def test_the_default_folder_is_found_again(command: Command, model: str, suite: str) -> None:
    words = ["eval", "--suite", suite, "--model", model, *SMALL]
    assert command(*words)[0] == 0
    (folder,) = Path("runs/eval").iterdir()
    assert folder.name.startswith("tiny-")
    assert "5 of 5 answers already exist" in command(*words)[1]
    assert command(*words, "data.template=plain")[0] == 0
    assert len(list(Path("runs/eval").iterdir())) == 2


def test_overlaps_with_training_data_are_listed_and_excluded(command: Command, model: str, suite: str) -> None:
    words = ["eval", "--suite", suite, "--model", model, "--out", "e", *SMALL]
    code, out, _ = command(*words, "--decontaminate", "train.jsonl")
    assert code == 0
    assert "1 problems share over 30 % of their word 13-grams with a row of train.jsonl" in out
    assert "[bold]1[/bold]" in out
    assert "without them" in out
    found = results("e")
    (row,) = found["contamination"]["overlaps"]
    assert (row["benchmark"], row["problem"], row["index"]) == ("Long", "long:1", 0)
    assert (row["train"], row["train_answers"]) == ("train:1", ["190"])
    assert row["share"] == 8 / 9  # 21 words are 9 runs, one of them with another first word
    assert found["decontaminated"]["benchmarks"]["Long"]["problems"] == 0
    assert found["decontaminated"]["averages"]["macro"]["problems"] == 4
    code, out, _ = command(*words, "--decontaminate", "sums.jsonl")
    assert "4 problems share" in out
    Path("other.jsonl").write_text('{"problem": "Something else.", "answer": 1}\n')
    code, out, _ = command(*words, "--decontaminate", "other.jsonl")
    assert "0 problems share" in out
    assert results("e")["decontaminated"]["benchmarks"]["Long"]["problems"] == 1


def test_problems_overlap_only_if_their_images_are_the_same() -> None:
    def problem(name: str, text: str, side: int) -> Problem:
        return Problem(name, f"<image>{text}", ("1",), images=(gradient(side, side),))

    asked = [problem("t:1", "how many dots are there", 20), problem("t:2", "how many dots are there", 30)]
    benchmark = SimpleNamespace(name="T", problems=[SimpleNamespace(problem=each) for each in asked])
    train = [problem("a", "how many dots are there", 40), problem("b", "how many dots are there", 30)]
    (row,) = _overlapping([benchmark], {each.id: each for each in train})
    assert (row["problem"], row["index"], row["train"], row["train_index"]) == ("t:2", 1, "b", 1)


def test_two_models_are_compared_problem_by_problem(command: Command, model: str, suite: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    words = ["--suite", suite, *SMALL]
    assert command("eval", "--model", model, "--out", "e", *words)[0] == 0
    code, out, err = command("compare-models", "e", str(other), *words, "--out", "d.json")
    assert (code, err) == (0, "")
    assert "5 problems in common, 0 unpaired ones dropped" in out
    found = json.loads(Path("d.json").read_text())
    d = found["differences"]["macro"]["pass@1/greedy"]
    assert (d["value"], d["a_ahead"], d["b_ahead"]) == (0.0, 0, 0)
    code, _, err = command("compare-models", "e", model, *words, "data.template=plain")
    assert code == 2
    assert "evaluated differently (data.template is 'chat' and 'plain')" in err
    code, _, err = command("compare-models", "e", model, "--suite", "train.jsonl", *SMALL)
    assert code == 2
    assert "no problems in common" in err


def test_names_are_printed_verbatim(command: Command, model: str, suite: str) -> None:
    Path("suite.yaml").write_text('benchmarks: {"MATH[/i]": sums.jsonl, "a[red]b": sums.jsonl}')
    code, out, err = command("eval", "--suite", suite, "--model", model, "--out", "e", *SMALL)
    assert (code, err) == (0, "")
    assert "MATH[/i]" in out
    assert "a[red]b" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "--suite", "nowhere.yaml"], "nowhere.yaml: no such configuration file"),
        (["eval", "--suite", "sums.jsonl", "--decontaminate", "gone.jsonl"], "gone.jsonl: no such file"),
        (["eval", "--suite", "sums.jsonl", "--samples", "-1"], "'--samples'"),
        (["eval", "--suite", "sums.jsonl", "--out", "sums.jsonl"], "--out: sums.jsonl cannot be written"),
        (["compare-models", "./gone", "sums.jsonl"], "model.path: no such folder: './gone'"),
        (["compare-models", "bundled"], "Missing argument 'B'"),
    ],
)
def test_a_mistake_is_reported_in_one_line(command: Command, suite: str, words: list[str], message: str) -> None:
    code, _, err = command(*words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_killed_evaluation_resumes_without_repeating_answers(model: str, tmp_path: Path) -> None:
    lines = (json.dumps({"problem": f"Compute {i}+{i % 7}.", "answer": i + i % 7}) + "\n" for i in range(60))
    (tmp_path / "sums.jsonl").write_text("".join(lines))
    program = Path(sys.executable).with_name("edge-grpo")
    words = [program, "eval", "--suite", "sums.jsonl", "--model", model, "--samples", "2", "reward.workers=1",
             "rollout.max_new_tokens=64", "rollout.max_rows=4"]  # fmt: skip

    def run(folder: str, kill_with: int = 0) -> str:
        with subprocess.Popen([*words, "--out", folder], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            answers = tmp_path / folder / "answers.jsonl"
            while kill_with and process.poll() is None:
                if answers.exists() and answers.read_bytes().count(b"\n") >= kill_with:
                    process.kill()
                    break
                time.sleep(0.01)
            return process.communicate()[0]

    assert "already" not in run("whole")
    for lines_before in (1, 50, 120):
        run("cut", kill_with=lines_before)
    out = run("cut")
    found = int(re.search(r"(\d+) of 180 answers already exist", out)[1])
    assert 120 <= found < 180
    whole, cut = (read_answers(tmp_path / name)[1] for name in ("whole", "cut"))
    whole, cut = (
        sorted((one.problem, one.decoding, one.number, one.completion) for one in own) for own in (whole, cut)
    )
    assert whole == cut
    assert results(tmp_path / "whole")["benchmarks"] == results(tmp_path / "cut")["benchmarks"]


def test_references_are_checked_before_anything_is_asked(command: Command, model: str, tmp_path: Path) -> None:
    prose = "Ann had $100. She spent $30 and $20. She has 50 left."
    rows = [{"problem": f"Compute {i}+1.", "answer": f"{i}+1={i + 1}.\n#### {i + 1}"} for i in range(2)]
    file = tmp_path / "mixed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"problem": "Left?", "answer": prose}]))
    code, out, _ = command("eval", "--suite", "mixed.jsonl", "--model", model, "--out", "e", *SMALL)
    assert code == 0
    assert "mixed: 2 answers read after the last '####'" in out
    assert "mixed: 1 of 3 answers are worked solutions or sentences" in out
    assert {each.gold for each in read_answers(Path("e"))[1]} == {("1",), ("2",), (prose,)}
    file.write_text(json.dumps({"problem": "Left?", "answer": prose}) + "\n")
    for words in (["eval", "--suite", "mixed.jsonl"], ["screen", "mixed.jsonl"]):
        code, _, err = command(*words, "--model", model, *SMALL)
        assert (code, err.count("\n")) == (2, 1)
        assert "mixed: none of 1 reference answers is usable" in err
