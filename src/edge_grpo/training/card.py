"""The model card in ``final/``: what was trained, how, and with what result. Facts of the run's record, no claims."""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

import edge_grpo
from edge_grpo.data.settings import named, sources

__all__ = ["write_cards"]

_HUB_NAME: Final = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_MOST_EVALUATIONS: Final = 12
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
    versions: Mapping[str, str] | None = None,
    license_name: str = "",
    repository: str = "",
) -> None:
    """Write ``README.md`` into a model folder and its ``adapter/``.

    Args:
        folder: the model's.
        tree: the run's settings.
        method: its kind, or the class of a custom one.
        step: steps done.
        tokens: tokens sampled.
        rows: the run's metrics; evaluations and collapse up to this step are taken from them, as far as measured.
        versions: of the packages that the run used.
        license_name: the model's, as the hub spells it; empty = not said.
        repository: ``OWNER/NAME`` where the folder will be, for the snippet that loads it; empty = unknown.
    Raises:
        OSError: the disk is full or not writable.
    """
    done = [row for row in rows if row["step"] <= step]
    facts = _facts(tree, method, step, tokens, done)
    base = _name(tree["model"]["path"])
    tail = [*_evaluations(done), *_collapse(done), *_settings(tree["method"]), *_versions(versions or {})]
    images = _reads_images(folder)
    cards = {
        ".": ("transformers", f"Model trained with edge-grpo from {base}", _load_model(repository, images=images)),
        "adapter": (
            "peft",
            f"LoRA adapter trained with edge-grpo on {base}",
            _load_adapter(repository, _hub_name(tree["model"]["path"]), images=images),
        ),
    }
    for place, (library, title, load) in cards.items():
        if (folder / place).is_dir():
            head = _front_matter(tree, method, library, license_name)
            text = "\n".join([head, _card(title, facts, load), *tail])
            (folder / place / "README.md").write_text(text, "utf-8")


def _load_model(repository: str, *, images: bool) -> str:
    """Code that loads the model, from the hub if its repository is known."""
    place = repository or "path/to/this/folder"
    model, tokenizer = _classes(images=images)
    name = "processor" if images else "tokenizer"
    return f"""from transformers import {model}, {tokenizer}

model = {model}.from_pretrained("{place}")
{name} = {tokenizer}.from_pretrained("{place}")
"""


def _load_adapter(repository: str, base: str, *, images: bool) -> str:
    """Code that loads the adapter onto its base."""
    model, _ = _classes(images=images)
    place = f'"{repository}", subfolder="adapter"' if repository else '"path/to/this/folder"'
    return f"""from peft import PeftModel
from transformers import {model}

base = {model}.from_pretrained("{base or "path/to/the/base/model"}")
model = PeftModel.from_pretrained(base, {place})
"""


def _classes(*, images: bool) -> tuple[str, str]:
    """The classes that load a model, and what prepares its inputs."""
    if images:
        return "AutoModelForImageTextToText", "AutoProcessor"
    return "AutoModelForCausalLM", "AutoTokenizer"


def _reads_images(folder: Path) -> bool:
    """Whether the model in a folder reads images: its configuration has a part for them, and a processor is there."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    processors = ("processor_config.json", "preprocessor_config.json")
    return "vision_config" in config and any((folder / name).is_file() for name in processors)


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
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    return f"# {title}\n\n| | |\n|---|---|\n{table}\n\n```python\n{load}```\n"


def _front_matter(tree: Mapping[str, Any], method: str, library: str, license_name: str) -> str:
    """What the hub reads: library, base model, data and tags; nothing that is not known."""
    data = tree["data"]["path"]
    named_data = [one for one in sources(tuple(data) if isinstance(data, list) else data) if _HUB_NAME.fullmatch(one)]
    fields = {
        "library_name": library,
        "license": license_name,
        "base_model": _hub_name(tree["model"]["path"]),
        "datasets": [one for one in named_data if not Path(one).exists()],
        "tags": [*dict.fromkeys(("edge-grpo", "reinforcement-learning", method.rpartition(".")[2].replace("_", "-")))],
    }
    text = yaml.safe_dump({name: value for name, value in fields.items() if value}, sort_keys=False)
    return f"---\n{text}---\n"


def _evaluations(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The held-out accuracy at every evaluation, with its interval; at most twelve, first and last among them."""
    found = [row for row in rows if row.get("eval/accuracy") is not None]
    if not found:
        return []
    count = min(len(found), _MOST_EVALUATIONS)
    shown = [found[round(place * (len(found) - 1) / max(1, count - 1))] for place in range(count)]
    lines = ["## Held-out problems", "", "| step | accuracy | 95 % interval | problems |", "|---|---|---|---|"]
    for row in shown:
        low, high = (row.get(f"eval/accuracy_{end}") for end in ("low", "high"))
        interval = f"{low:.1%} to {high:.1%}" if low is not None and high is not None else ""
        lines.append(f"| {row['step']} | {row['eval/accuracy']:.1%} | {interval} | {row['eval/problems']:.0f} |")
    left = f"{count} of {len(found)} evaluations are shown." if count < len(found) else ""
    return [*lines, "", *([left, ""] if left else [])]


def _collapse(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The mean share of collapsed groups over the steps, as sampled and as trained."""
    pairs = [(row.get("collapse/before"), row.get("collapse/after")) for row in rows if row["step"] > 0]
    known = [(before, after) for before, after in pairs if before is not None and after is not None]
    if not known:
        return []
    before, after = (sum(column) / len(known) for column in zip(*known, strict=True))
    share = f"{before:.1%} as sampled, {after:.1%} as trained"
    return [
        "## Advantage collapse",
        "",
        f"Groups whose rewards are all equal, mean of {len(known)} steps: {share}.",
        "",
    ]


def _settings(method: Mapping[str, Any]) -> list[str]:
    """The method's settings as YAML, in a fence that no text in them closes."""
    text = yaml.safe_dump(dict(method), sort_keys=False).rstrip()
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return ["## Settings of the method", "", f"{fence}yaml", text, fence, ""]


def _versions(versions: Mapping[str, str]) -> list[str]:
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    return [f"Versions: {told}.", ""] if told else []


def _data(value: Any) -> str:
    return named(tuple(value) if isinstance(value, list) else value, name=_name)


def _cell(value: str) -> str:
    """A value that stays in its cell of a table, whatever it holds."""
    return " ".join(html.escape(value, quote=False).replace("|", "&#124;").split())


def _hub_name(path: str) -> str:
    """A name on the hub; empty if it is a folder, or no such name."""
    return path if _HUB_NAME.fullmatch(path) and not Path(path).exists() else ""


def _name(path: str) -> str:
    """A hub name as it is; of a path, the last part that tells something, because the rest is the user's own."""
    place = Path(path)
    if not place.is_absolute() and not path.startswith(("~", ".")):
        return path
    return next((part for part in reversed(place.parts) if part not in ("final", "adapter")), path)
