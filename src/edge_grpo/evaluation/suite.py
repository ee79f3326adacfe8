"""Benchmarks to evaluate on: a single data file, or a suite file that lists several with their sources."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.records import Problem
from edge_grpo.base.settings import settings
from edge_grpo.config.explain import explain_all
from edge_grpo.config.tree import read_yaml
from edge_grpo.data.problems import load_as_configured, load_problems
from edge_grpo.data.readers import FILES
from edge_grpo.data.settings import AnswerPattern, DataSettings, FieldNames
from edge_grpo.rewards.references import Found

__all__ = ["Benchmark", "BenchmarkSource", "Suite", "load_suite"]

_SUITES = (".yaml", ".yml")


@settings
class BenchmarkSource:
    """One place to find a benchmark's problems: a file, saved dataset or hub dataset, and the names of its columns.

    ``split`` selects a split of a dataset, ``subset`` a subset of a hub dataset; files have neither.
    ``answer_pattern``: as in the ``data`` section.
    """

    path: str = Field(min_length=1)
    subset: str = ""
    split: str = "test"
    fields: FieldNames = Field(default_factory=FieldNames)
    answer_pattern: AnswerPattern = ""


def _listed(value: Any) -> Any:
    """A single source becomes a list of one; a bare path is a source."""
    values = value if isinstance(value, list | tuple) else [value]
    return [{"path": each} if isinstance(each, str) else each for each in values]


_Sources = tuple[BenchmarkSource, ...]


@settings
class Suite:
    """Benchmarks by name, each with one or more sources; the first available one is used."""

    benchmarks: dict[str, Annotated[tuple[BenchmarkSource, ...], BeforeValidator(_listed), Field(min_length=1)]] = (
        Field(min_length=1)
    )


@dataclass(frozen=True)
class Benchmark:
    """The problems of one benchmark, where they came from, how many bad rows were left out, how answers were read."""

    name: str
    source: str
    problems: tuple[Problem, ...]
    num_skipped: int = 0
    read: Mapping[Found, int] = field(default_factory=dict)


def load_suite(path: str, data: DataSettings, *, data_dir: str = "") -> tuple[Benchmark, ...]:
    """The benchmarks of a suite file, or a single one from a data file.

    Args:
        path: a ``.yaml`` suite, or what ``data.path`` may be.
        data: columns and pattern of answers (of a data file alone), split, and the rule for bad rows.
        data_dir: where a suite's files are; empty = next to the suite file, else in the current folder.

    Raises:
        ConfigError: the suite file is missing, not YAML, or has an unknown or invalid setting.
        DataError: no source of a benchmark is available, or a row is bad.
    """
    if Path(path).suffix.lower() not in _SUITES:
        loaded = load_as_configured(path, data, held_out=True)
        return (Benchmark(Path(path).stem, path, loaded.problems, loaded.num_skipped, loaded.read),)
    tree = read_yaml(path)
    if "benchmarks" not in tree:
        raise ConfigError(f"{path}: has no 'benchmarks:' section; wanted one, with a name and a source per benchmark")
    try:
        suite = TypeAdapter(Suite).validate_python(tree)
    except ValidationError as error:
        lines = explain_all(list(map(dict, error.errors())), Suite).splitlines()
        raise ConfigError(f"{path}: {'; '.join(lines)}") from None
    places = [Path(data_dir).expanduser()] if data_dir else [Path(path).expanduser().parent, Path()]
    found = []
    for name, sources in suite.benchmarks.items():
        source = _first_available(sources, places)
        if source is None:
            looked = " or ".join(str(place / sources[-1].path) for place in places)
            raise DataError(
                f"{path}: benchmark '{name}': no such file: {looked}; put it there, pass its folder as --data-dir "
                "(objective.data_dir in a space file), or add a hub dataset as another source"
            )
        loaded = load_problems(
            source.path,
            source.fields,
            subset=source.subset,
            split=source.split,
            bad_rows=data.bad_rows,
            answer_pattern=source.answer_pattern,
            images=data.images,
            prefix=f"benchmarks.{name}.",
        )
        found.append(Benchmark(name, source.path, loaded.problems, loaded.num_skipped, loaded.read))
    return tuple(found)


def _first_available(sources: tuple[BenchmarkSource, ...], places: list[Path]) -> BenchmarkSource | None:
    """The first source that is an existing file, with the path where it was found, or that is not a file."""
    for source in sources:
        paths = [place / Path(source.path).expanduser() for place in places]
        existing = next((path for path in paths if path.exists()), None)
        if existing is not None:
            return replace(source, path=str(existing))
        if Path(source.path).suffix.lower() not in FILES:
            return source
    return None
