"""What would not work on this machine, and the fix; looks at each thing by itself, and never fails with it."""

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from edge_grpo.base.cores import num_cores
from edge_grpo.base.text import counted
from edge_grpo.planning import surroundings
from edge_grpo.planning.findings import Finding, State, failure, looked
from edge_grpo.planning.machine import cores_allowed, free_disk, free_memory

__all__ = ["examine"]

PACKAGE: Final = "edge-grpo"
_FOR_USERS: Final = (
    "images",
    "tune",
    "wandb",
    "trackio",
    "mlflow",
)  # extras; the others are for work on the package itself
_MODULES: Final = {"PyYAML": "yaml", "pillow": "PIL", "Jinja2": "jinja2"}
"""The module of a package whose name is another."""

_SLOW: Final = (
    *("torch", "transformers", "peft", "datasets", "tensorboard", "scipy", "math-verify", "pyarrow"),
    *("gpytorch", "botorch", "matplotlib"),
)
"""Imported only on request: together they take seconds."""

_LITTLE: Final = 2e9  # bytes of memory, or of disk

Load = Callable[[str], Any]
Version = Callable[[str], str]


def examine(
    runs: Path,
    *,
    thorough: bool = True,
    urls: Iterable[str] = (),
    load: Load = importlib.import_module,
    version: Version = importlib.metadata.version,
    requirements: Iterable[str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[Finding]:
    """Look at everything, quick things first.

    Args:
        runs: where runs would be written.
        thorough: whether large packages are imported, devices listed and a grading worker started, which takes seconds.
        urls: rollout servers that should answer.
        load: imports a module.
        version: the installed version of a package.
        requirements: what the package requires; None = as installed.
        environment: the environment variables.
    """
    yield _python()
    yield from looked("memory", lambda: [_memory(free_memory())])
    yield from looked("cores", lambda: [_cores(num_cores(), cores_allowed(), environment)])
    yield from looked("disk", lambda: [_disk(runs, free_disk(runs))])
    yield from looked("run folders", lambda: [surroundings.locks(runs)])
    yield from looked("shared memory", lambda: [surroundings.shared_memory()])
    yield from looked("hub", lambda: [surroundings.hub(environment)])
    for url in urls:
        yield from looked("rollout server", partial(_server, url, environment))
    check = partial(_packages, requirements, load=load, version=version, thorough=thorough)
    broken = set()
    for each in looked("packages", check, fix="pip install --force-reinstall packaging"):
        broken |= {each.topic} if each.state is State.BROKEN else set()
        yield each
    if thorough:
        yield from looked("torchvision", lambda: _torchvision(load, version))
        if "torch" not in broken:
            yield from looked("devices", lambda: surroundings.devices(load), fix="reinstall torch (pytorch.org)")
        if "math-verify" not in broken:  # a worker would only say so again, at length
            yield from looked("grading workers", lambda: [surroundings.workers()], fix=surroundings.WORKERS_FIX)


def _server(url: str, environment: Mapping[str, str]) -> list[Finding]:
    return [surroundings.server(url, environment)]


def _python() -> Finding:
    return Finding("python", State.FINE, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


# --- packages ---------------------------------------------------------------------------------------------------------


def _packages(wanted: Iterable[str] | None, *, load: Load, version: Version, thorough: bool) -> Iterator[Finding]:
    """Required packages one by one, then each extra as a whole."""
    from packaging.requirements import Requirement  # noqa: PLC0415 - a broken one is a finding

    if wanted is None:
        try:
            wanted = importlib.metadata.requires(PACKAGE) or ()
        except importlib.metadata.PackageNotFoundError:
            text = f"{PACKAGE} is not installed as a package, so its requirements are unknown"
            yield Finding("packages", State.NOTE, text, "pip install -e .")
            return
    listed = [Requirement(text) for text in wanted]
    check = partial(_package, load=load, version=version, thorough=thorough)
    for each in listed:
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            yield check(each)
    for extra in _FOR_USERS:
        own = [each for each in listed if each.marker and not each.marker.evaluate({"extra": ""})]
        found = [check(each) for each in own if each.marker and each.marker.evaluate({"extra": extra})]
        if bad := [each for each in found if each.state is not State.FINE]:
            what = "; ".join(f"{each.topic} {each.text}" for each in bad)
            yield Finding(f"extra {extra}", State.NOTE, what, f"pip install '{PACKAGE}[{extra}]'")
        elif found:
            yield Finding(f"extra {extra}", State.FINE, ", ".join(f"{each.topic} {each.text}" for each in found))


def _package(requirement: Any, *, load: Load, version: Version, thorough: bool) -> Finding:
    name, fix = requirement.name, f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        found = version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, State.BROKEN, "is not installed", fix)
    if not requirement.specifier.contains(found, prereleases=True):
        return Finding(name, State.BROKEN, f"{found} is installed, wanted {requirement.specifier}", fix)
    if not thorough and name in _SLOW:
        return Finding(name, State.FINE, f"{found} (not imported)")
    if why := failure(lambda: load(_MODULES.get(name, name.replace("-", "_")))):
        again = f"pip install --force-reinstall '{name}{requirement.specifier}'"
        return Finding(name, State.BROKEN, f"{found} is installed, but cannot be imported ({why})", again)
    return Finding(name, State.FINE, found)


def _torchvision(load: Load, version: Version) -> Iterator[Finding]:
    """A torchvision made for another torch: image processors choose it over Pillow wherever it is installed."""
    with suppress(importlib.metadata.PackageNotFoundError):
        found = version("torchvision")
        if why := failure(lambda: load("torchvision")):
            fix = "install the torchvision that belongs to this torch, or pip uninstall torchvision: Pillow will do"
            yield Finding(
                "torchvision", State.NOTE, f"{found} cannot be imported, so images cannot be read ({why})", fix
            )
        else:
            yield Finding("torchvision", State.FINE, found)


# --- the machine ------------------------------------------------------------------------------------------------------


def _memory(free: float | None) -> Finding:
    if free is None:
        return Finding("memory", State.NOTE, "this system does not tell how much is free")
    text = f"{free / 1e9:.1f} GB free"
    if free < _LITTLE:
        return Finding("memory", State.NOTE, text, "end other programs; `edge-grpo plan` says what a run takes")
    return Finding("memory", State.FINE, text)


def _cores(cores: int, allowed: float, environment: Mapping[str, str]) -> Finding:
    threads = environment.get("OMP_NUM_THREADS", "")
    text = counted(cores, "CPU core")
    text += f", of which a container's quota allows {allowed:.2g}" if allowed < cores else ""
    used = int(threads) if threads.isdigit() else cores
    text += f"; {counted(used, 'thread')} (OMP_NUM_THREADS{f'={threads}' if threads else ' is not set'})"
    if used > max(1.0, allowed):
        fix = f"export OMP_NUM_THREADS={max(1, int(allowed))}: threads beyond the cores wait for each other"
        return Finding("cores", State.NOTE, text, fix)
    return Finding("cores", State.FINE, text)


def _disk(runs: Path, free: float | None) -> Finding:
    if free is None:
        return Finding("disk", State.NOTE, f"how much is free for {runs} is unknown")
    text = f"{free / 1e9:.1f} GB free for {runs}"
    if free < _LITTLE:
        fix = "free some, or set run.dir to another disk: a checkpoint takes 12 bytes a trained weight"
        return Finding("disk", State.NOTE, text, fix)
    return Finding("disk", State.FINE, text)
