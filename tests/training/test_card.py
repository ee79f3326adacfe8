"""The model card states what was trained, and no more."""

from pathlib import Path
from typing import Any

import yaml

import edge_grpo
from edge_grpo.config.tree import load_config, to_tree
from edge_grpo.training.card import write_cards

VERSIONS = {"python": "3.11", "torch": "2.13"}
ROWS: list[dict[str, Any]] = [
    {
        "step": 2,
        "collapse/before": 1.0,
        "collapse/after": 0.25,
        "eval/accuracy": 0.1,
        "eval/accuracy_low": 0.0,
        "eval/accuracy_high": 0.2,
        "eval/problems": 50.0,
    },
    {
        "step": 3,
        "collapse/before": 0.5,
        "collapse/after": 0.0,
        "eval/accuracy": 0.5,
        "eval/accuracy_low": 0.4,
        "eval/accuracy_high": 0.6,
        "eval/problems": 50.0,
    },
]


def card(folder: Path, *words: str, step: int = 3) -> str:
    write_cards(
        folder, to_tree(load_config(None, words)), method="grpo", step=step, tokens=12345, rows=ROWS, versions=VERSIONS
    )
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


def front_matter(text: str) -> dict[str, Any]:
    _, head, _ = text.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def test_the_hub_reads_only_what_is_known(tmp_path: Path) -> None:
    text = card(tmp_path, "model.path=org/model", "data.path=[org/data, FILE.jsonl]")
    assert front_matter(text) == {
        "library_name": "transformers",
        "base_model": "org/model",
        "datasets": ["org/data"],
        "tags": ["edge-grpo", "reinforcement-learning", "grpo"],
    }
    assert "base_model" not in front_matter(card(tmp_path, "model.path=bundled"))


def test_it_has_the_curve_up_to_the_step_the_collapse_the_method_and_the_versions(tmp_path: Path) -> None:
    text = card(tmp_path, step=3)
    assert "| 2 | 10.0% | 0.0% to 20.0% | 50 |\n| 3 | 50.0% | 40.0% to 60.0% | 50 |\n" in text
    assert "mean of 2 steps: 75.0% as sampled, 12.5% as trained." in text
    assert "Versions: python 3.11, torch 2.13." in text
    assert "kind: edge_grpo\n" in text
    earlier = card(tmp_path, step=2)
    assert "| 3 |" not in earlier
    assert "mean of 1 steps: 100.0% as sampled, 25.0% as trained." in earlier


def test_text_of_the_user_stays_in_its_cell(tmp_path: Path) -> None:
    text = card(tmp_path, "data.path=org/a|b<script>")
    assert "| `data.path` | org/a&#124;b&lt;script&gt; |" in text


def test_what_was_not_measured_is_left_out_and_local_paths_are_not_told(tmp_path: Path) -> None:
    text = card(tmp_path, "model.path=/secret/place/mine/final/adapter", "data.path=/secret/d.jsonl", step=4)
    assert "held-out accuracy |" not in text
    assert "secret" not in text
    assert "| base model | mine |" in text
    assert "| `data.path` | d.jsonl |" in text


def test_several_files_are_listed_with_their_weights(tmp_path: Path) -> None:
    assert "| `data.path` | a.jsonl, b.jsonl |" in card(tmp_path, "data.path=[/secret/a.jsonl, /secret/b.jsonl]")
    weighed = card(tmp_path, "data.path={/secret/a.jsonl: 2, org/data: 0.5}")
    assert "| `data.path` | a.jsonl x 2, org/data x 0.5 |" in weighed


def loading(text: str) -> str:
    """The snippet that loads the model; it must compile."""
    code = text.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")
    return code


def test_how_to_load_it_names_the_repository_where_that_is_known(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    tree = to_tree(load_config(None, ["model.path=org/base"]))
    write_cards(tmp_path, tree, method="grpo", step=3, tokens=1, rows=ROWS, repository="me/mine")
    code = loading((tmp_path / "README.md").read_text())
    assert code.count('from_pretrained("me/mine")') == 2
    adapter = loading((tmp_path / "adapter/README.md").read_text())
    assert 'AutoModelForCausalLM.from_pretrained("org/base")' in adapter
    assert 'PeftModel.from_pretrained(base, "me/mine", subfolder="adapter")' in adapter
    assert loading(card(tmp_path)).count('from_pretrained("path/to/this/folder")') == 2


def test_a_model_that_reads_images_is_loaded_as_one(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "config.json").write_text('{"vision_config": {}}')
    assert "AutoModelForCausalLM" in loading(card(tmp_path)), "without a processor it takes text alone"
    (tmp_path / "preprocessor_config.json").write_text("{}")
    code = loading(card(tmp_path))
    assert "from transformers import AutoModelForImageTextToText, AutoProcessor\n" in code
    assert "processor = AutoProcessor.from_pretrained(" in code
    assert "AutoModelForImageTextToText" in loading((tmp_path / "adapter/README.md").read_text())


def test_an_adapter_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/README.md").write_text("peft's own")
    card(tmp_path)
    text = (tmp_path / "adapter/README.md").read_text()
    assert "\n# LoRA adapter trained with edge-grpo on bundled\n" in text
    assert front_matter(text)["library_name"] == "peft"
    assert "PeftModel.from_pretrained" in text
