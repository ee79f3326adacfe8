"""The settings tree of a run: read from YAML and ``a.b=value``, checked, explained, written back, hashed."""

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from edge_grpo.base.digests import digest
from edge_grpo.base.errors import ConfigError
from edge_grpo.base.settings import settings
from edge_grpo.config.explain import explain_all, shortened
from edge_grpo.config.sections import (
    BUNDLES,
    DistributedSettings,
    EvalSettings,
    ModelSettings,
    RolloutSettings,
    RunSettings,
    TrainSettings,
)
from edge_grpo.config.yaml_text import YamlError, parse_value, read_yaml
from edge_grpo.data.settings import DataSettings
from edge_grpo.methods import METHODS, Method, MethodConfig
from edge_grpo.methods.edge_grpo import EdgeGrpo
from edge_grpo.rewards import custom as own
from edge_grpo.rewards.builtin import RewardSettings

__all__ = [
    "Config",
    "changes",
    "config_hash",
    "load_config",
    "located",
    "parse_settings",
    "parse_tree",
    "read_yaml",
    "split_words",
    "to_tree",
    "to_yaml",
    "updated",
]


@settings
class Config:
    """Everything a run depends on. All defaults together: the bundled model, built-in arithmetic, EDGE-GRPO.

    ``method``: how rewards become updates, and which answers are corrected or sampled again before.
    """

    method: MethodConfig = Field(default_factory=EdgeGrpo)
    model: ModelSettings = Field(default_factory=ModelSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    reward: RewardSettings = Field(default_factory=RewardSettings)
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    eval: EvalSettings = Field(default_factory=EvalSettings)
    run: RunSettings = Field(default_factory=RunSettings)
    distributed: DistributedSettings = Field(default_factory=DistributedSettings)

    def __post_init__(self) -> None:
        """Reject a temperature at which the rollout engine cannot evaluate.

        Raises:
            ConfigError: names it.
        """
        warm = self.eval.temperature
        if self.rollout.engine.kind == "vllm" and warm and not 0.01 <= warm <= 2:
            raise ConfigError(f"eval.temperature: got {warm:g}, wanted 0, or 0.01 to 2, which vLLM can sample at")


T = TypeVar("T")
_ADAPTER: TypeAdapter[Config] = TypeAdapter(Config)
_CHOSEN_BY_KIND = ("method", "rollout.engine")  # a word alone names the kind


def load_config(source: str | Path | Mapping[str, Any] | None = None, overrides: Sequence[str] = ()) -> Config:
    """Take settings from a YAML file or a mapping, apply ``a.b=value`` overrides, and validate the result.

    ``method=KIND`` replaces the whole method section with that method's defaults; a later ``method.x=...`` refines it.

    Args:
        source: a YAML file, or a mapping of sections, of dotted names, or of both; None = all defaults.
        overrides: as typed on the command line; values are YAML.
    Raises:
        ConfigError: no such file, not YAML, or an unknown or invalid setting.
    Example:
        >>> config = load_config({"method": "grpo", "train": {"steps": 3}, "rollout.group_size": 4}, ["train.seed=7"])
        >>> config.method.kind, config.train.steps, config.train.seed, config.rollout.group_size
        ('grpo', 3, 7, 4)
    """
    tree = _nested(source or {}) if isinstance(source, Mapping | None) else read_yaml(str(source))
    for text in overrides:
        _override(tree, text)
    return parse_tree(tree)


def split_words(words: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """Split command-line words into an optional YAML file (first word, no ``=``) and the overrides that follow.

    Raises:
        ConfigError: a later word is not a ``key=value`` pair.
    """
    rest = list(words or [])
    path = rest.pop(0) if rest and "=" not in rest[0] else None
    for word in rest:
        if "=" not in word:
            raise ConfigError(
                f"'{shortened(word)}': wanted key=value after the configuration file, for example train.steps=7"
            )
    return path, rest


def parse_tree(tree: Mapping[str, Any]) -> Config:
    """Check a tree of plain values.

    Raises:
        ConfigError: one line per mistake.
    """
    plain = dict(tree)
    method, train = plain.get("method", {}), plain.get("train", {})
    cls: type[Method] | None = None
    if isinstance(method, str):
        method = {"kind": method}
    if isinstance(method, Mapping):
        method = {"kind": Config().method.kind, **method}
        cls = METHODS.get(method["kind"]) if isinstance(method["kind"], str) else None
        if cls:
            default = cls()
            method = {name: _over(getattr(default, str(name), None), value) for name, value in method.items()}
            plain["train"] = {**cls.train_defaults, **train} if isinstance(train, Mapping) else train
    plain["method"] = method
    plain["rollout"] = _with_engine(plain.get("rollout", {}))
    try:
        config = _ADAPTER.validate_python(plain)
    except ValidationError as error:
        raise ConfigError(explain_all(list(map(dict, error.errors())), Config, cls)) from None
    _reject_booleans(plain, config)
    return config


def _with_engine(rollout: Any) -> Any:
    """The rollout section with the kind of its engine: one word alone names it, and none means ``hf``."""
    if not isinstance(rollout, Mapping) or "engine" not in rollout:
        return rollout
    engine = rollout["engine"]
    if isinstance(engine, str):
        engine = {"kind": engine}
    return {**rollout, "engine": {"kind": "hf", **engine} if isinstance(engine, Mapping) else engine}


def parse_settings(cls: type[T], words: Sequence[str]) -> T:
    """Build one settings class from ``key=value`` words alone.

    Raises:
        ConfigError: an unknown or invalid setting.
    """
    tree: dict[str, Any] = {}
    for text in words:
        _override(tree, text)
    try:
        parsed = TypeAdapter(cls).validate_python(tree)
    except ValidationError as error:
        raise ConfigError(explain_all(list(map(dict, error.errors())), cls)) from None
    _reject_booleans(tree, parsed)
    return parsed


def to_tree(config: Config) -> dict[str, Any]:
    """The resolved settings as plain values; ``parse_tree`` turns them back into an equal configuration."""
    tree: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    tree["method"] = {"kind": tree["method"]["kind"], **tree["method"]}  # the name first
    return tree


def updated(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The stored settings of a run that an earlier version started, with the names that settings have now.

    Example:
        >>> updated({"run": {"tensorboard": True}})
        {'run': {'trackers': ['tensorboard']}}
    """
    run = dict(tree.get("run", {}))
    if "tensorboard" in run:
        run["trackers"] = ["tensorboard"] if run.pop("tensorboard") else []
    return {**tree, **({"run": run} if run else {})}


def located(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with absolute paths, so that it means the same from any working directory.

    ``model.path``, ``data.path``, ``data.eval_path`` and ``data.pairs`` change where that file or folder exists (hub
    names stay as typed), each one if there are several; ``reward.function`` changes where it is a file or a module in
    the current folder; ``rollout.engine.folder`` always changes.

    Raises:
        ConfigError: ``reward.function`` names a file that does not exist.
    """
    found = copy.deepcopy(dict(tree))
    for section, name in (("model", "path"), ("data", "path"), ("data", "eval_path"), ("data", "pairs")):
        path = found[section][name]
        if isinstance(path, Mapping):
            found[section][name] = {_absolute(each): weight for each, weight in path.items()}
        elif isinstance(path, list | tuple):
            found[section][name] = [_absolute(each) for each in path]
        elif path and path not in BUNDLES:
            found[section][name] = _absolute(path)
    if folder := found["rollout"]["engine"].get("folder"):
        found["rollout"]["engine"]["folder"] = str(Path(folder).expanduser().absolute())
    if found["reward"]["function"]:
        found["reward"]["function"] = own.locate(found["reward"]["function"])
    return found


def to_yaml(tree: Mapping[str, Any]) -> str:
    """A settings tree as YAML, in the order of declaration."""
    text: str = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=120)
    return text


def config_hash(tree: Mapping[str, Any]) -> str:
    """Twelve hex digits that depend on every setting except ``run.dir``."""
    bare = {name: section for name, section in tree.items() if name != "run"}
    bare["run"] = {name: value for name, value in tree.get("run", {}).items() if name != "dir"}
    return digest(yaml.safe_dump(bare, sort_keys=True))


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Settings whose values differ, by dotted name, as (old, new).

    Example:
        >>> changes({"train": {"steps": 1, "seed": 0}}, {"train": {"steps": 2, "seed": 0}})
        {'train.steps': (1, 2)}
    """
    found: dict[str, tuple[Any, Any]] = {}
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found |= changes(before, after, f"{prefix}{name}.")
        elif before != after:
            found[f"{prefix}{name}"] = (before, after)
    return found


def _reject_booleans(given: Mapping[Any, Any], used: object, prefix: str = "") -> None:
    """Reject true and false where a number is wanted, which would be read as 1 and 0.

    Raises:
        ConfigError: the first of them.
    """
    for name, value in given.items():
        own = used.get(name) if isinstance(used, Mapping) else getattr(used, str(name), None)
        if isinstance(value, Mapping):
            _reject_booleans(value, own, f"{prefix}{name}.")
        elif isinstance(value, bool) and isinstance(own, int | float) and not isinstance(own, bool):
            raise ConfigError(
                f"{prefix}{name}: got {value}, wanted a number (YAML reads yes, no, on and off as booleans)"
            )


def _over(default: Any, given: Any) -> Any:
    """User values over a section of a method's own defaults, which may differ from those of the section's class."""
    if not dataclasses.is_dataclass(default) or not isinstance(given, Mapping):
        return given
    own = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    return own | {name: _over(own.get(name), value) for name, value in given.items()}


def _absolute(path: str) -> str:
    try:
        place = Path(path).expanduser()
        return str(place.resolve()) if place.exists() else path
    except (OSError, RuntimeError, ValueError):  # no such user, an unreadable folder: reported when it is opened
        return path


def _nested(named: Mapping[str, Any]) -> dict[str, Any]:
    """Sections from a mapping of sections and dotted names; the latter win."""
    tree: dict[str, Any] = {}
    for name, value in sorted(named.items(), key=lambda item: str(item[0]).count(".")):
        _set(tree, str(name), _plain(value))
    return tree


def _plain(value: Any) -> Any:
    """The value as YAML would hold it: a path is text."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _override(tree: dict[str, Any], text: str) -> None:
    """Set one ``a.b=value`` in the tree, in place."""
    name, separator, value = text.partition("=")
    if not separator or not all(name.split(".")):
        raise ConfigError(f"'{shortened(text)}': wanted section.setting=value, for example train.steps=7")
    try:
        parsed = parse_value(value) if value else ""
    except YamlError as error:
        raise ConfigError(f"'{shortened(text)}': {error}; put quotes around the value if it is meant as text") from None
    _set(tree, name, parsed)


def _set(tree: dict[str, Any], name: str, value: Any) -> None:
    """Set ``a.b`` in the tree, in place."""
    section, keys = tree, name.split(".")
    for depth, key in enumerate(keys[:-1]):
        below = section.get(key, {})
        if isinstance(below, str) and ".".join(keys[: depth + 1]) in _CHOSEN_BY_KIND:
            below = {"kind": below}
        if not isinstance(below, dict):
            raise ConfigError(f"{shortened(name)}: '{'.'.join(keys[: depth + 1])}' is a value, not a section")
        section[key] = dict(below)
        section = section[key]
    if keys[-1] == "kind" and section.get("kind", value) != value:
        section.clear()  # another kind's settings
    section[keys[-1]] = value
