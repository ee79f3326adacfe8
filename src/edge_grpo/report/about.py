"""What a run was: method, model, data, the settings that matter most, when it started, and on what."""

from edge_grpo.base.text import on_one_line
from edge_grpo.report.run import Run
from edge_grpo.runs import starts

__all__ = ["about"]

_SETTINGS = {
    "method": "method.kind",
    "model": "model.path",
    "data": "data.path",
    "prompts per step": "rollout.prompts_per_step",
    "group size": "rollout.group_size",
    "most new tokens": "rollout.max_new_tokens",
    "temperature": "rollout.temperature",
    "learning rate": "train.learning_rate",
    "seed": "train.seed",
}
_LONG = 120  # characters of a value


def about(run: Run) -> dict[str, str]:
    """Facts about a run, by what they are called; those that its folder does not tell are left out."""
    found = {}
    for title, name in _SETTINGS.items():
        value: object = run.tree
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value not in (None, ""):
            found[title] = on_one_line(str(value), _LONG)
    if "data" not in found:
        found["data"] = "built in"
    begun = starts.read(run.path)
    if begun:
        found["started"] = str(begun[0].get("at", ""))
        versions = begun[-1].get("versions")
        known = versions.items() if isinstance(versions, dict) else ()
        found["versions"] = on_one_line(", ".join(f"{name} {version}" for name, version in known))
    return {title: value for title, value in found.items() if value}
