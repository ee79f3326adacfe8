"""Golden files as cases: inputs and settings that keep track of being read, and the comparison of results."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REQUIRED = object()
SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass
class Case:
    """One computation of a golden file: its own settings and inputs over those of the file.

    A handler reads ``setting``, ``value`` and ``tensor``; what it never reads is reported as unknown.
    """

    name: str
    kind: str
    hyperparameters: dict[str, Any]
    inputs: Any
    expected: Any
    tolerance: dict[str, float]
    tolerance_for: dict[str, dict[str, float]]
    dtype: torch.dtype = torch.float64
    documented: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    read: set[str] = field(default_factory=set)

    def setting(self, name: str, default: Any = REQUIRED) -> Any:
        """A hyperparameter."""
        return self._get(self.hyperparameters, "hyperparameters", name, default)

    def value(self, name: str, default: Any = REQUIRED) -> Any:
        """An input as it appears in the file."""
        return self._get(self.inputs, "inputs", name, default)

    def tensor(self, name: str, default: Any = REQUIRED) -> Tensor:
        """An input of numbers."""
        return tensor(self.value(name, default), self.dtype)

    def _get(self, table: dict[str, Any], where: str, name: str, default: Any) -> Any:
        self.read.add(f"{where}.{name}")
        if name not in table and default is REQUIRED:
            raise KeyError(f"{where}.{name} is needed and not given")
        return table.get(name, default)

    def unread(self) -> list[str]:
        """Names that were never read, remarks excluded."""
        tables = {"hyperparameters": self.hyperparameters, "inputs": self.inputs}
        named = {where: table for where, table in tables.items() if isinstance(table, dict)}
        names = [f"{where}.{name}" for where, table in named.items() for name in table if not name.startswith("_")]
        return [name for name in names if name not in self.read]


def load(path: Path) -> list[Case]:
    """The cases of a file; a file without a list of cases is one case."""
    content = json.loads(path.read_text(encoding="utf-8"))
    parts = [("", content)] if "expected" in content else []
    parts += [(f"-{index}", case) for index, case in enumerate(content.get("cases", []))]
    if not parts:
        raise ValueError(f"{path.name}: neither expected nor cases")
    return [
        Case(
            name=path.stem + suffix,
            kind=content["kind"],
            hyperparameters=merged("hyperparameters", content, part),
            inputs=merged("inputs", content, part),
            expected=part["expected"],
            tolerance=part.get("tolerance", content.get("tolerance", {})),
            tolerance_for=merged("tolerance_for", content, part),
            dtype=torch.float32 if part.get("dtype", content.get("dtype")) == "float32" else torch.float64,
            documented=part.get("documented", {}),
            variant=part.get("variant", content.get("variant", "")),
        )
        for suffix, part in parts
    ]


def merged(name: str, content: dict[str, Any], part: dict[str, Any]) -> Any:
    """A case's own table merged into the file's; anything else replaces it."""
    shared, own = content.get(name, {}), part.get(name, {})
    return {**shared, **own} if isinstance(shared, dict) and isinstance(own, dict) else own or shared


def load_folder(folder: Path) -> list[Case]:
    """The cases of all files of a folder."""
    return [case for path in sorted(folder.glob("*.json")) for case in load(path)]


def tensor(values: Any, dtype: torch.dtype) -> Tensor:
    """Nested lists of numbers, where "nan", "inf" and None (= not a number) stand for themselves, as a tensor."""
    return torch.tensor(_numbers(values), dtype=dtype)


def _numbers(values: Any) -> Any:
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    if values is None:
        return math.nan
    return SPECIAL[values.lower()] if isinstance(values, str) else values


def plain(result: Any) -> Any:
    """Tensors inside a result as nested lists."""
    if isinstance(result, Tensor):
        return result.detach().tolist()
    if isinstance(result, dict):
        return {key: plain(value) for key, value in result.items()}
    if isinstance(result, list | tuple):
        return [plain(value) for value in result]
    return result


def differences(case: Case, got: Any) -> list[str]:
    """Where ``got`` differs from what the case expects, one line each."""
    return list(_compare("expected", plain(got), case.expected, case.tolerance, case.tolerance_for))


def _compare(
    path: str, got: Any, want: Any, tolerance: dict[str, float], special: dict[str, dict[str, float]]
) -> Iterator[str]:
    if isinstance(want, dict):
        if not isinstance(got, dict):
            yield f"{path}: wanted a table, got {got!r}"
            return
        for key, value in want.items():
            if key.startswith("_"):
                continue
            if key in got:
                yield from _compare(f"{path}.{key}", got[key], value, special.get(key, tolerance), special)
            else:
                yield f"{path}.{key}: not computed"
    elif isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            yield f"{path}: wanted {len(want)} items, got {len(got) if isinstance(got, list) else repr(got)}"
            return
        for index, (mine, theirs) in enumerate(zip(got, want, strict=True)):
            yield from _compare(f"{path}[{index}]", mine, theirs, tolerance, special)
    elif not _same(got, want, tolerance):
        yield f"{path}: wanted {want!r}, got {got!r}"


def _same(got: Any, want: Any, tolerance: dict[str, float]) -> bool:
    if isinstance(want, str) and isinstance(got, float):
        want = SPECIAL.get(want.lower(), want)
    if isinstance(want, str) or want is None or isinstance(got, str) or got is None:
        return bool(got == want)
    if isinstance(want, bool) or (isinstance(want, int) and isinstance(got, int)):
        return isinstance(got, bool | int) and bool(got == want)
    if math.isnan(want) or math.isnan(got):
        return math.isnan(want) and math.isnan(got)
    if math.isinf(want) or math.isinf(got):
        return bool(got == want)
    return bool(abs(got - want) <= tolerance.get("abs", 0.0) + tolerance.get("rel", 0.0) * abs(want))
