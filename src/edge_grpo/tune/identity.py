"""Everything a study's trials depend on: two studies with the same identity are the same study."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import edge_grpo
from edge_grpo.base.digests import digest, digest_files
from edge_grpo.base.records import Problem
from edge_grpo.config.tree import Config, located, to_tree
from edge_grpo.data.settings import sources
from edge_grpo.evaluation.store import code_digest
from edge_grpo.evaluation.suite import Benchmark
from edge_grpo.models.loading import fingerprint
from edge_grpo.tune.space import Categorical, Space, config_at

__all__ = ["identity_of"]

_REFERENCES = {"model.path", "reward.function", "data.path", "data.eval_path", "data.pairs"}


def identity_of(space: Space, base: Config, benchmarks: Sequence[Benchmark], *, decomposed: bool) -> dict[str, Any]:
    """Plain values that change whenever anything the trials or the search depend on changes.

    Fixed settings are compared with absolute paths; models, data files and reward functions by content, benchmarks by
    their problems. The number of trials, their time limit, and the names of the base and suite files are free to
    change.

    Args:
        space: the search space.
        base: the fixed settings.
        benchmarks: the benchmarks behind the parts of the objective.
        decomposed: whether the search sees the parts.

    Raises:
        ConfigError: a reward function does not exist.
        EngineError: a model does not exist.
    """
    tree = {name: value for name, value in asdict(space).items() if name not in ("trials", "trial_s", "base")}
    tree["objective"] = {name: own for name, own in tree["objective"].items() if name not in ("suite", "data_dir")}
    named = {pair: config for config in (base, *_variations(space)) for pair in _named(config)}
    found = {
        "edge_grpo": edge_grpo.__version__,
        "decomposed": decomposed,
        "space": tree,
        "base": {name: section for name, section in located(to_tree(base)).items() if name != "run"},
        "content": {f"{kind} {name}": _digest_of(kind, name, config) for (kind, name), config in named.items()},
        "problems": {each.name: digest(list(map(_asked, each.problems))) for each in benchmarks},
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _asked(problem: Problem) -> tuple[Any, ...]:
    """What the model is asked, and the answers; the rest of a conversation only if there is one."""
    context = (problem.earlier, problem.system) if problem.earlier or problem.system else ()
    images = (problem.question[1],) if problem.images else ()
    return (problem.id, problem.prompt, problem.answers, *context, *images)


def _variations(space: Space) -> Iterator[Config]:
    """The configurations with each value of a searched setting that refers to a model, file or function."""
    for name, each in space.space.items():
        if isinstance(each, Categorical) and _REFERENCES & {name, *each.also}:
            yield from (config_at(space, {name: value}) for value in each.values)


def _named(config: Config) -> Iterator[tuple[str, str]]:
    """The models, files and functions that a configuration refers to, as (setting, name)."""
    for setting in sorted(_REFERENCES):
        section, _, own = setting.partition(".")
        given = getattr(getattr(config, section), own)
        for name in sources(given) if section == "data" else [given]:
            if name and (section != "data" or Path(name).expanduser().exists()):
                yield setting, name


def _digest_of(setting: str, name: str, config: Config) -> str:
    """The digest of the model, the reward function or the local data."""
    if setting == "model.path":
        return fingerprint(config.model)
    if setting == "reward.function":
        return code_digest(config.reward.function)
    place = Path(name).expanduser()
    return digest_files([place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()])
