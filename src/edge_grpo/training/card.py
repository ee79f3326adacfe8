"""The model card in ``final/``: what was trained, how, and with what result. Facts of the run's record, no claims."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import edge_grpo
from edge_grpo.data.settings import named

__all__ = ["write_cards"]

_SETTINGS = (
    "model.dtype",
    "model.lora.rank",
    "data.path",
    "rollout.prompts_per_step",
    "rollout.group_size",
    "rollout.max_new_tokens",
    "rollout.temperature",
    "train.learning_rate",
    "train.schedule",
    "train.seed",
)


def write_cards(
    folder: Path,
    tree: Mapping[str, Any],
    *,
    method: str,
    step: int,
    tokens: int,
    rows: Iterable[Mapping[str, Any]],
) -> None:
    """Write ``README.md`` into a model folder and its ``adapter/``.

    Args:
        folder: the model's.
        tree: the run's settings.
        method: its kind, or the class of a custom one.
        step: steps done.
        tokens: tokens sampled.
        rows: the run's metrics; the held-out accuracy at this step is taken from them, if it was measured.
    Raises:
        OSError: the disk is full or not writable.
    """
    facts = _facts(tree, method, step, tokens, rows)
    base = _name(tree["model"]["path"])
    (folder / "README.md").write_text(_card(f"Model trained with edge-grpo from {base}", facts, _LOAD_MODEL), "utf-8")
    if (folder / "adapter").is_dir():
        title = f"LoRA adapter trained with edge-grpo on {base}"
        (folder / "adapter" / "README.md").write_text(_card(title, facts, _LOAD_ADAPTER), "utf-8")


_LOAD_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
"""

_LOAD_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("path/to/the/base/model")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
"""


def _facts(
    tree: Mapping[str, Any], method: str, step: int, tokens: int, rows: Iterable[Mapping[str, Any]]
) -> dict[str, str]:
    """What the card lists, by name."""
    facts = {
        "base model": _name(tree["model"]["path"]),
        "method": method,
        "steps": str(step),
        "sampled tokens": f"{tokens:,}",
    }
    for row in rows:
        if row["step"] == step and row.get("eval/accuracy") is not None:
            low, high = (row.get(f"eval/accuracy_{end}") for end in ("low", "high"))
            interval = f", 95 % interval {low:.1%} to {high:.1%}" if low is not None and high is not None else ""
            facts["held-out accuracy"] = f"{row['eval/accuracy']:.1%} of {row['eval/problems']:.0f} problems{interval}"
    for name in _SETTINGS:
        value: Any = tree
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value not in (None, ""):
            facts[f"`{name}`"] = _data(value) if name == "data.path" else str(value)
    return facts | {"edge-grpo": edge_grpo.__version__}


def _card(title: str, facts: Mapping[str, str], load: str) -> str:
    table = "\n".join(f"| {name} | {value.replace('|', '&#124;')} |" for name, value in facts.items())
    return f"# {title}\n\n| | |\n|---|---|\n{table}\n\n```python\n{load}```\n"


def _data(value: Any) -> str:
    return named(tuple(value) if isinstance(value, list) else value, name=_name)


def _name(path: str) -> str:
    """A hub name as it is; of a path, the last part that tells something, because the rest is the user's own."""
    place = Path(path)
    if not place.is_absolute() and not path.startswith(("~", ".")):
        return path
    return next((part for part in reversed(place.parts) if part not in ("final", "adapter")), path)
