"""YAML text as plain values: PyYAML's safe subset without duplicate keys, its errors as one line with a line number."""

from pathlib import Path
from typing import Any

import yaml

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.text import lone_surrogate
from edge_grpo.config.explain import shortened

__all__ = ["YamlError", "parse_value", "parse_yaml", "read_yaml"]


class YamlError(Exception):
    """What is wrong with a YAML text; ``line`` counts from 1, 0 = unknown."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, which also rejects duplicate keys and lone surrogates."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                name = self.construct_object(key)
                if name in seen:
                    raise YamlError(f"the key '{shortened(str(name))}' is given twice", key.start_mark.line + 1)
                seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if isinstance(node, yaml.ScalarNode) and (broken := lone_surrogate(node.value)):
            raise YamlError(broken, node.start_mark.line + 1)
        return super().construct_scalar(node)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        YamlError: not YAML, a duplicate key, or a value that Python cannot hold.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise YamlError(f"not YAML ({shortened(str(error.problem))})", line) from None
    except yaml.YAMLError as error:
        raise YamlError(f"not YAML ({shortened(' '.join(str(error).split()))})") from None
    except RecursionError:
        raise YamlError("lists or sections are nested too deeply to be read") from None
    except ValueError as error:  # a date that does not exist, a number of thousands of digits
        raise YamlError(f"not YAML ({shortened(str(error))})") from None


def parse_value(text: str) -> Any:
    """The value of a YAML text typed on a command line, where no comments or folded lines are expected.

    Plain text with a ``#`` or a line break stays as typed: YAML would cut it there, or join its lines.

    Raises:
        YamlError: as by :func:`parse_yaml`.

    Example:
        >>> parse_value("3"), parse_value("#### (.+)"), parse_value("End with # and the answer")
        (3, '#### (.+)', 'End with # and the answer')
    """
    value = parse_yaml(text)
    node = yaml.compose(text, _Loader)
    cut = "#" in text[node.end_mark.index if node else 0 :]
    folded = isinstance(node, yaml.ScalarNode) and not node.style and isinstance(value, str) and "\n" in text.strip()
    return text.strip() if cut or folded else value


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file gives an empty one.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    try:
        tree = parse_yaml(Path(path).expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except YamlError as error:
        place = f"{path}, line {error.line}" if error.line else path
        raise ConfigError(f"{place}: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds {type(tree).__name__}, wanted sections such as 'train:' with settings below")
    return tree
