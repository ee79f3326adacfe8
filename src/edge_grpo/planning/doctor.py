"""What would not work on this machine, and the fix; checks each thing by itself, and never fails with it."""

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from edge_grpo.base.cores import num_cores
from edge_grpo.base.text import counted
from edge_grpo.planning import surroundings
from edge_grpo.planning.findings import Finding, State, checked, failure
from edge_grpo.planning.machine import cores_allowed, free_disk, free_memory

__all__ = ["examine"]

PACKAGE: Final = "edge-grpo"
_FOR_USERS: Final = ("images", "tune", "wandb", "trackio", "mlflow")
"""Extras that add something to the commands: images, the search over settings, trackers. The others (tests, checks,
browser, documentation, comparisons, releases) are for work on the package itself."""

_MODULES: Final = {"PyYAML": "yaml", "pillow": "PIL", "Jinja2": "jinja2", "mlflow-skinny": "mlflow"}
"""The module of a package whose name is another."""

_SLOW: Final = (
    *("torch", "transformers", "peft", "datasets", "tensorboard", "scipy", "math-verify", "pyarrow"),
    *("gpytorch", "botorch", "matplotlib", "wandb", "trackio", "mlflow-skinny"),
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
    trackers: Collection[str] = (),
    paths: Iterable[tuple[str, str]] = (),
    load: Load = importlib.import_module,
    version: Version = importlib.metadata.version,
    requirements: Iterable[str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[Finding]:
    """Check everything, quick things first.

    Args:
        runs: where runs would be written.
        thorough: whether large packages are imported, devices listed and a grading worker started, which takes seconds.
        urls: rollout servers that should answer.
        trackers: those that the settings name, which must be installed.
        paths: settings that name a model or data, each with what it names.
        load: imports a module.
        version: the installed version of a package.
        requirements: what the package requires; None = as installed.
        environment: the environment variables.
    """
    yield _python()
    yield from checked("memory", lambda: [_memory(free_memory())])
    yield from checked("cores", lambda: [_cores(num_cores(), cores_allowed(), environment)])
    yield from checked("disk", lambda: [_disk(runs, free_disk(runs))])
    yield from checked("run folders", lambda: [surroundings.locks(runs)])
    yield from checked("shared memory", lambda: [surroundings.shared_memory()])
    yield from checked("hub", lambda: [surroundings.hub(environment)])
    for setting, path in paths:
        yield from checked(setting, partial(_source, setting, path))
    for url in urls:
        yield from checked("rollout server", partial(_server, url, environment))
    check = partial(_packages, requirements, trackers, load=load, version=version, thorough=thorough)
    broken = set()
    for each in checked("packages", check, fix="pip install --force-reinstall packaging"):
        broken |= {each.topic} if each.state is State.BROKEN else set()
        yield each
    if thorough:
        yield from checked("torchvision", lambda: _torchvision(load, version))
        if "torch" not in broken:
            yield from checked("devices", lambda: surroundings.devices(load), fix="reinstall torch (pytorch.org)")
        if "math-verify" not in broken:  # a worker would only say so again, at length
            yield from checked("grading workers", lambda: [surroundings.workers()], fix=surroundings.WORKERS_FIX)


def _source(setting: str, path: str) -> list[Finding]:
    return [surroundings.source(setting, path)]


def _server(url: str, environment: Mapping[str, str]) -> list[Finding]:
    return [surroundings.server(url, environment)]


def _python() -> Finding:
    return Finding("python", State.FINE, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


# --- packages ---------------------------------------------------------------------------------------------------------


def _packages(
    wanted: Iterable[str] | None, trackers: Collection[str], *, load: Load, version: Version, thorough: bool
) -> Iterator[Finding]:
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
        yield _extra(extra, found, load, needed=extra in trackers)


def _extra(extra: str, found: Sequence[Finding], load: Load, *, needed: bool) -> Finding:
    """What was found of an extra's packages; if the settings need it, its lack is no mere note."""
    topic, fix = f"extra {extra}", f"pip install '{PACKAGE}[{extra}]'"
    lacking, asked = (State.BROKEN, "; run.trackers names it") if needed else (State.NOTE, "")
    if not found:  # the metadata of an editable installation are as old as that
        text = f"the installed {PACKAGE} does not list it, so the versions of its packages are unchecked"
        if needed and (why := failure(lambda: load(extra))):
            return Finding(topic, State.BROKEN, f"{text}, and {extra} cannot be imported ({why}){asked}", fix)
        return Finding(topic, State.NOTE, text, f"install {PACKAGE} anew: {fix}")
    if bad := [each for each in found if each.state is not State.FINE]:
        return Finding(topic, lacking, "; ".join(f"{each.topic} {each.text}" for each in bad) + asked, fix)
    return Finding(topic, State.FINE, ", ".join(f"{each.topic} {each.text}" for each in found))


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
        return Finding("memory", State.NOTE, "how much is free is unknown on this system")
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
