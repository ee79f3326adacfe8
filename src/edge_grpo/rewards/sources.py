"""The files that a reward function is made of: its own, and those of its folder that it imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

from edge_grpo.rewards import custom

__all__ = ["source_files"]


def source_files(function: str) -> tuple[Path, ...]:
    """The file that defines a reward function, then the neighbours it imports, directly or not, sorted.

    Imports are read from the text, never run. Empty for a function of an installed module.

    Raises:
        ConfigError: the function's file does not exist.
    """
    place = custom.locate(function).rpartition(":")[0] if function else ""
    folder, _, name = place.rpartition("/")
    root = Path(folder)
    own = Path(place) if place.endswith(".py") else _file_of(root, name.split(".")) if folder else None
    if own is None or not own.is_file():
        return ()
    found: set[Path] = set()
    waiting = [own]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imported(file, root)
    return (own, *sorted(found - {own}))


def _imported(file: Path, root: Path) -> Iterator[Path]:
    """The files under ``root`` that a file imports."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return
    for node in ast.walk(tree):
        modules: list[list[str]] = []
        base = root
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else root
            module = node.module.split(".") if node.module else []
            modules = [module, *([*module, alias.name] for alias in node.names)]
        for parts in modules:
            for length in range(1, len(parts) + 1):  # a package's own file runs before its modules
                if (found := _file_of(base, parts[:length])) is not None:
                    yield found


def _file_of(root: Path, parts: list[str]) -> Path | None:
    module = root.joinpath(*parts)
    return next((one for one in (Path(f"{module}.py"), module / "__init__.py") if one.is_file()), None)
