"""The settings tree of a run: read from YAML and ``a.b=value``, checked, explained, written back, hashed."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from edge_grpo.base.digests import digest
from edge_grpo.base.errors import ConfigError
from edge_grpo.base.settings import settings
from edge_grpo.base.text import lone_surrogate
from edge_grpo.config.explain import explain_all, shortened
from edge_grpo.config.sections import BUNDLED, EvalSettings, ModelSettings, RolloutSettings, RunSettings, TrainSettings
from edge_grpo.data.settings import DataSettings
from edge_grpo.methods import METHODS, EdgeGrpo, Method, MethodConfig
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
]


@settings
class Config:
    """Everything a run depends on. All defaults together: the bundled model, built-in arithmetic, EDGE-GRPO."""

    method: MethodConfig = Field(default_factory=EdgeGrpo)
    model: ModelSettings = Field(default_factory=ModelSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    reward: RewardSettings = Field(default_factory=RewardSettings)
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    eval: EvalSettings = Field(default_factory=EvalSettings)
    run: RunSettings = Field(default_factory=RunSettings)


T = TypeVar("T")
_ADAPTER: TypeAdapter[Config] = TypeAdapter(Config)


def load_config(
    path: str | None = None, overrides: Sequence[str] = (), *, base: Mapping[str, Any] | None = None
) -> Config:
    """Read a YAML file, put ``a.b=value`` overrides on top, and check the result.

    ``method=KIND`` replaces the whole method section by that method's defaults; later ``method.x=...`` refine it.

    Args:
        path: the YAML file; None = all defaults.
        overrides: as typed on the command line; values are YAML.
        base: a tree to start from in place of a file (the run's own, on resume).
    Raises:
        ConfigError: no such file, not YAML, or a setting that is unknown or has a wrong value.
    """
    tree = read_yaml(path) if path else copy.deepcopy(dict(base or {}))
    for text in overrides:
        _override(tree, text)
    return parse_tree(tree)


def split_words(words: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """The words of a command line as a YAML file, if the first one is no setting, and the settings on top of it.

    Raises:
        ConfigError: a later word is no setting.
    """
    rest = list(words or [])
    path = rest.pop(0) if rest and "=" not in rest[0] else None
    for word in rest:
        if "=" not in word:
            raise ConfigError(
                f"'{shortened(word)}': wanted key=value behind the configuration file, for example train.steps=7"
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
        method = {"kind": EdgeGrpo.kind, **method}
        cls = METHODS.get(method["kind"]) if isinstance(method["kind"], str) else None
        if cls:
            method = _over(cls(), method)
            plain["train"] = {**cls.train_defaults, **train} if isinstance(train, Mapping) else train
    plain["method"] = method
    try:
        return _ADAPTER.validate_python(plain)
    except ValidationError as error:
        raise ConfigError(explain_all(list(map(dict, error.errors())), Config, cls)) from None


def parse_settings(cls: type[T], words: Sequence[str]) -> T:
    """One settings class from ``key=value`` words alone.

    Raises:
        ConfigError: a setting is unknown or has a wrong value.
    """
    tree: dict[str, Any] = {}
    for text in words:
        _override(tree, text)
    try:
        return TypeAdapter(cls).validate_python(tree)
    except ValidationError as error:
        raise ConfigError(explain_all(list(map(dict, error.errors())), cls)) from None


def to_tree(config: Config) -> dict[str, Any]:
    """The resolved settings as plain values; ``parse_tree`` makes the same configuration of them again."""
    tree: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    tree["method"] = {"kind": tree["method"]["kind"], **tree["method"]}  # the name first
    return tree


def located(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with absolute paths in place of relative ones, so that it means the same in every folder.

    ``model.path``, ``data.path``, ``data.eval_path``, ``data.pairs`` change where such a file or folder is there (a hub
    name stays as it was typed), ``reward.function`` where it lies in a file or in the current folder.

    Raises:
        ConfigError: ``reward.function`` names a file that is not there.
    """
    found = copy.deepcopy(dict(tree))
    for section, name in (("model", "path"), ("data", "path"), ("data", "eval_path"), ("data", "pairs")):
        path = found[section][name]
        if path and path != BUNDLED:
            found[section][name] = _absolute(path)
    if found["reward"]["function"]:
        found["reward"]["function"] = own.locate(found["reward"]["function"])
    return found


def to_yaml(tree: Mapping[str, Any]) -> str:
    """A settings tree as YAML, in the order of declaration."""
    text: str = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=120)
    return text


def config_hash(tree: Mapping[str, Any]) -> str:
    """Twelve hex digits that change with any setting but ``run.dir``."""
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


def _over(default: Any, given: Any) -> Any:
    """User values over a method's own defaults, whose sections may differ from their classes' defaults."""
    if not dataclasses.is_dataclass(default) or not isinstance(given, Mapping):
        return given
    own = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    return own | {name: _over(own.get(name), value) for name, value in given.items()}


def _absolute(path: str) -> str:
    try:
        place = Path(path).expanduser()
        return str(place.resolve()) if place.exists() else path
    except (OSError, RuntimeError, ValueError):  # no such user, a folder that may not be read: told where it is read
        return path


class _NotYamlError(Exception):
    """What is wrong with a text that should be YAML; ``line`` where it is known, else 0."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, in which a key that is given twice and half a character are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                name = self.construct_object(key)
                if name in seen:
                    raise _NotYamlError(f"the key '{shortened(str(name))}' is given twice", key.start_mark.line + 1)
                seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if isinstance(node, yaml.ScalarNode) and (broken := lone_surrogate(node.value)):
            raise _NotYamlError(broken, node.start_mark.line + 1)
        return super().construct_scalar(node)


def _yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        _NotYamlError: it is not YAML, has a key twice, or cannot be held.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise _NotYamlError(f"not YAML ({shortened(str(error.problem))})", line) from None
    except yaml.YAMLError as error:
        raise _NotYamlError(f"not YAML ({shortened(' '.join(str(error).split()))})") from None
    except RecursionError:
        raise _NotYamlError("lists or sections are nested too deeply to be read") from None
    except ValueError as error:  # a date that does not exist, a number of thousands of digits
        raise _NotYamlError(f"not YAML ({shortened(str(error))})") from None


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; an empty file is an empty one.

    Raises:
        ConfigError: no such file, not YAML, or something else than a mapping.
    """
    try:
        tree = _yaml(Path(path).expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except _NotYamlError as error:
        place = f"{path}, line {error.line}" if error.line else path
        raise ConfigError(f"{place}: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds {type(tree).__name__}, wanted sections such as 'train:' with settings below")
    return tree


def _override(tree: dict[str, Any], text: str) -> None:
    name, separator, value = text.partition("=")
    keys = name.split(".")
    if not separator or not all(keys):
        raise ConfigError(f"'{shortened(text)}': wanted section.setting=value, for example train.steps=7")
    try:
        parsed = _yaml(value) if value else ""
    except _NotYamlError as error:
        raise ConfigError(f"'{shortened(text)}': {error}; put quotes around the value if it is meant as text") from None
    section = tree
    for depth, key in enumerate(keys[:-1]):
        below = section.get(key, {})
        if isinstance(below, str) and key == "method" and depth == 0:
            below = {"kind": below}
        if not isinstance(below, dict):
            raise ConfigError(f"{shortened(name)}: '{'.'.join(keys[: depth + 1])}' is a value, not a section")
        section[key] = dict(below)
        section = section[key]
    section[keys[-1]] = parsed
