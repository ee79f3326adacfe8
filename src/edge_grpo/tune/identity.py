"""What the trials of a study depend on: two studies are the same where this is."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import edge_grpo
from edge_grpo.answers import code_digest
from edge_grpo.config import Config, load_config, located, to_tree
from edge_grpo.disk import digest
from edge_grpo.models import fingerprint
from edge_grpo.suite import Benchmark
from edge_grpo.tune.space import Categorical, Space, words_at

__all__ = ["identity_of"]

_DATA = ("path", "eval_path", "pairs")


def identity_of(space: Space, base: Config, benchmarks: Sequence[Benchmark], *, decomposed: bool) -> dict[str, Any]:
    """Plain values that change with anything that the trials or the search depend on.

    Settings count with absolute paths, models, data files and reward functions by their content, benchmarks by their
    problems. How many trials there are may change, and so may the names of the base file and of the suite.

    Args:
        space: what is searched.
        base: the settings that are fixed.
        benchmarks: what the parts of the objective ask.
        decomposed: whether the search sees the parts.

    Raises:
        ConfigError: a reward function is not where it is said to be.
        EngineError: a model is not to be found.
    """
    tree = {name: value for name, value in asdict(space).items() if name not in ("trials", "base")}
    tree["objective"] = {name: own for name, own in tree["objective"].items() if name not in ("suite", "data_dir")}
    found = {
        "edge_grpo": edge_grpo.__version__,
        "decomposed": decomposed,
        "space": tree,
        "base": {name: section for name, section in located(to_tree(base)).items() if name != "run"},
        "content": {name: own for config in (base, *_others(space)) for name, own in _contents(config)},
        "problems": {each.name: _digest([(p.id, p.prompt, p.answers) for p in each.problems]) for each in benchmarks},
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _others(space: Space) -> Iterator[Config]:
    """The configurations with each value of a searched setting that names a model, a file or a function."""
    named = {"model.path", "reward.function", *(f"data.{name}" for name in _DATA)}
    for name, each in space.space.items():
        if isinstance(each, Categorical) and named & {name, *each.also}:
            yield from (load_config(space.base or None, words_at(space, {name: value})) for value in each.values)


def _contents(config: Config) -> Iterator[tuple[str, str]]:
    """Digests of what a configuration names: its model, its data where they are files, its reward function."""
    yield f"model {config.model.path}", fingerprint(config.model)
    if config.reward.function:
        yield f"reward {config.reward.function}", code_digest(config.reward.function)
    for name in _DATA:
        place = Path(getattr(config.data, name)).expanduser()
        if getattr(config.data, name) and place.exists():
            files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
            yield f"data {getattr(config.data, name)}", digest(files)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
