"""Runs that differ in nothing but their seeds are one arm of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.tree import changes
from edge_grpo.report.run import Run

__all__ = ["Arm", "arms_of"]

_NAMED = 3  # settings in a title
_LONG = 24  # characters of a value in a title


@dataclass(frozen=True)
class Arm:
    """Runs with the same settings but for their seeds; ``seeds`` tells which run of another arm each is paired with."""

    title: str
    runs: Sequence[Run]
    seeds: Sequence[tuple[Any, ...]]


def arms_of(runs: Sequence[Run]) -> list[Arm]:
    """The arms, in the order of their first runs, titled by the settings in which they differ.

    Raises:
        ConfigError: a run is given twice, or two differ in nothing at all.
    """
    places = [run.path.resolve() for run in runs]
    if twice := [run.name for run, place in zip(runs, places, strict=True) if places.count(place) > 1]:
        raise ConfigError(f"{twice[0]}: the same run twice; name each once")
    found: dict[str, list[Run]] = {}
    trees = {}
    for run in runs:
        tree = _without_seeds(run.tree)
        key = repr(tree)
        found.setdefault(key, []).append(run)
        trees[key] = tree
    for own in found.values():
        _check_seeds(own)
    titles = _titles(list(trees.values()), [own[0].name for own in found.values()])
    return [
        Arm(title, own, [_seeds(run.tree) for run in own]) for title, own in zip(titles, found.values(), strict=True)
    ]


def _check_seeds(runs: Sequence[Run]) -> None:
    """Reject runs of one arm with equal seeds, which would count as independent.

    Raises:
        ConfigError: names two of them.
    """
    seen: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        first = seen.setdefault(_seeds(run.tree), run)
        if first is not run:
            raise ConfigError(
                f"{first.name} and {run.name} have the same settings and seeds, so an interval over seeds would be too "
                "narrow; leave one out"
            )


def _without_seeds(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without seeds, and without where and how results are kept."""
    return {
        name: _without_seeds(value) if isinstance(value, Mapping) else value
        for name, value in tree.items()
        if name not in ("seed", "run")
    }


def _seeds(tree: Mapping[str, Any]) -> tuple[Any, ...]:
    """All seeds in a run's settings; the trackers' ``run`` section has none."""
    found: list[Any] = []
    for name, value in sorted(tree.items()):
        if isinstance(value, Mapping):
            found += _seeds(value)
        elif name == "seed":
            found.append(value)
    return tuple(found)


def _titles(trees: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """What sets each arm apart: its method if the methods differ, else its settings; the run's name if it is alone."""
    if len(trees) == 1:
        return list(names)
    kinds = [str(tree.get("method", {}).get("kind", "own")) for tree in trees]
    if len(set(kinds)) == len(kinds):
        return kinds
    varied = dict.fromkeys(name for tree in trees[1:] for name in changes(trees[0], tree))
    named = [name for name in varied if not name.startswith("method.") or name == "method.kind" or len(set(kinds)) == 1]
    titles = [
        ", ".join(f"{name}={_value(tree, name)}" for name in named[:_NAMED]) + (", ..." if len(named) > _NAMED else "")
        for tree in trees
    ]
    return titles if len(set(titles)) == len(titles) else list(names)


def _value(tree: Any, name: str) -> str:
    for key in name.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    text = str(tree)
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."
