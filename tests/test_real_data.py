"""Real input: the paper's configuration on 1,000 competition problems, with a small model made on the spot."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from edge_grpo.base.records import Problem, Verdict
from edge_grpo.cli import main as cli
from edge_grpo.rewards import Rewards, RewardSettings
from edge_grpo.rewards.answers.equality import same_answer

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("EDGE_GRPO_DATA", ROOT.parent / "shared/data"))
DATA = FOLDER / "deepscaler_hard_1k.jsonl"
SUITES = {"aime24": 30, "amc23": 83, "math500": 500, "minerva": 272, "olympiad_bench": 675, "deepscaler_hard_1k": 1000}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.exists(), reason=f"set EDGE_GRPO_DATA to a folder with {DATA.name}"),
]


def make_model(folder: Path, lines: Sequence[str]) -> None:
    """A byte-level BPE tokenizer of the problems, and a random Qwen2 of the same vocabulary."""
    backend = ByteLevelBPETokenizer()
    texts = [json.loads(line)[name] for line in lines for name in ("problem", "solution")]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend.train_from_iterator(texts, vocab_size=2000, special_tokens=specials)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_the_papers_configuration_trains_on_competition_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = DATA.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1000
    make_model(tmp_path / "model", lines)
    words = [
        "edge-grpo",
        "train",
        str(ROOT / "configs/edge_grpo_qwen2.5_math_1.5b.yaml"),
        f"model.path={tmp_path / 'model'}",
        f"data.path={DATA}",
        "train.steps=3",
        f"run.dir={tmp_path / 'run'}",
    ]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    out = capsys.readouterr().out
    assert "step 3/3" in out
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["eval/accuracy"] == 0.0
    strategies = [
        line["strategy"]
        for file in sorted((tmp_path / "run/rollouts").glob("*.parquet"))
        for line in pq.read_table(file).to_pylist()
    ]
    assert len(strategies) == 24
    assert "reference" in strategies
    assert all(row["collapse/before"] == 1.0 for row in rows[1:])
    assert min(row["collapse/after"] for row in rows[1:]) == 0.0
    AutoModelForCausalLM.from_pretrained(tmp_path / "run/final")


def lines_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def golds_of(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row.get("answers") or [row["answer"]])


def test_every_gold_answer_is_graded_as_correct_against_itself() -> None:
    rows = [row for name, count in SUITES.items() for row in check_count(lines_of(name), count)]
    problems = [Problem(str(number), "?", golds_of(row)) for number, row in enumerate(rows)]
    assert len(problems) == 2560
    texts = [f"\\boxed{{{problem.answers[0]}}}" for problem in problems]
    with Rewards(RewardSettings()) as rewards:
        grades = rewards.grade(problems, texts, [True] * len(texts))
    assert [text for text, grade in zip(texts, grades, strict=True) if not grade.correct] == []


def check_count(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    assert len(rows) == count
    return rows


def test_every_gold_answer_equals_itself_written_a_little_differently() -> None:
    """With whitespace around it and dollar signs: text alone does not decide these."""
    golds = dict.fromkeys(golds_of(row)[0] for name in SUITES for row in lines_of(name))
    assert [gold for gold in golds if "$" not in gold and not same_answer(f"$ {gold} $", gold)] == []


def test_reference_solutions_are_graded_as_by_the_official_grader() -> None:
    """The official grader accepts 970 of 1,000 (README of the data)."""
    rows = lines_of("deepscaler_hard_1k")
    problems = [Problem(str(number), "?", golds_of(row)) for number, row in enumerate(rows)]
    with Rewards(RewardSettings()) as rewards:
        grades = rewards.grade(problems, [row["solution"] for row in rows], [True] * len(rows))
    right = sum(grade.correct for grade in grades)
    assert right >= 970, f"{right} of {len(rows)}"
    assert {grade.verdict for grade in grades} == {Verdict.CORRECT, Verdict.WRONG}
    assert max(grade.seconds for grade in grades) < RewardSettings().timeout_s + 1.0
