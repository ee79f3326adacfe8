"""The model card states what was trained, and no more."""

from pathlib import Path
from typing import Any

import edge_grpo
from edge_grpo.config.tree import load_config, to_tree
from edge_grpo.training.card import write_cards

ROWS: list[dict[str, Any]] = [
    {"step": 2, "eval/accuracy": 0.1, "eval/accuracy_low": 0.0, "eval/accuracy_high": 0.2, "eval/problems": 50.0},
    {"step": 3, "eval/accuracy": 0.5, "eval/accuracy_low": 0.4, "eval/accuracy_high": 0.6, "eval/problems": 50.0},
]


def card(folder: Path, *words: str, step: int = 3) -> str:
    write_cards(folder, to_tree(load_config(None, words)), method="grpo", step=step, tokens=12345, rows=ROWS)
    return (folder / "README.md").read_text()


def test_it_lists_base_method_steps_tokens_accuracy_settings_and_version(tmp_path: Path) -> None:
    text = card(tmp_path, "model.path=org/model", "train.learning_rate=0.5")
    for line in (
        "# Model trained with edge-grpo from org/model",
        "| base model | org/model |",
        "| method | grpo |",
        "| steps | 3 |",
        "| sampled tokens | 12,345 |",
        "| held-out accuracy | 50.0% of 50 problems, 95 % interval 40.0% to 60.0% |",
        "| `train.learning_rate` | 0.5 |",
        f"| edge-grpo | {edge_grpo.__version__} |",
        "AutoModelForCausalLM.from_pretrained",
    ):
        assert line in text


def test_what_was_not_measured_is_left_out_and_local_paths_are_not_told(tmp_path: Path) -> None:
    text = card(tmp_path, "model.path=/secret/place/mine/final/adapter", "data.path=/secret/d.jsonl", step=4)
    assert "accuracy" not in text
    assert "secret" not in text
    assert "| base model | mine |" in text
    assert "| `data.path` | d.jsonl |" in text


def test_several_files_are_listed_with_their_weights(tmp_path: Path) -> None:
    assert "| `data.path` | a.jsonl, b.jsonl |" in card(tmp_path, "data.path=[/secret/a.jsonl, /secret/b.jsonl]")
    weighed = card(tmp_path, "data.path={/secret/a.jsonl: 2, org/data: 0.5}")
    assert "| `data.path` | a.jsonl x 2, org/data x 0.5 |" in weighed


def test_an_adapter_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/README.md").write_text("peft's own")
    card(tmp_path)
    text = (tmp_path / "adapter/README.md").read_text()
    assert text.startswith("# LoRA adapter trained with edge-grpo on bundled\n")
    assert "PeftModel.from_pretrained" in text
