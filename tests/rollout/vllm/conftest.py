"""A rollout server that each test finds as started, and engines on it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rollout.vllm.rows import STOPS
from rollout.vllm.server import State, serving
from support import save_tiny

from edge_grpo.config.sections import ModelSettings, VllmEngineSettings
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.vllm.engine import VllmEngine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def running(model: Path) -> Iterator[tuple[str, State]]:
    with serving(model) as server:
        yield server


@pytest.fixture
def server(running: tuple[str, State]) -> Iterator[tuple[str, State]]:
    """The running server as started."""
    state = running[1]
    state.restart()
    state.settings, state.key = {}, ""
    state.asked.clear()
    yield running
    state.trouble, state.change = (lambda _path, _body: None), (lambda _choice: None)


@pytest.fixture
def policy(model: Path) -> Policy:
    return load_policy(ModelSettings(path=str(model)))


@pytest.fixture
def make(server: tuple[str, State], policy: Policy, tmp_path: Path) -> Iterator[Callable[..., VllmEngine]]:
    """An engine on the server; pauses between attempts take no time."""

    async def pause(seconds: float) -> None:
        await asyncio.sleep(0)

    with ExitStack() as stack:

        def build(own: Policy | None = None, **given: Any) -> VllmEngine:
            names = ("urls", "folder", "timeout_s", "retries", "lora", "transport")
            settings = {"urls": (server[0],), "folder": str(tmp_path), "retries": 2}
            settings |= {name: given.pop(name) for name in names if name in given}
            arguments = {"policy": own or policy, "stop_ids": STOPS, "session": "0123456789ab", "pause": pause} | given
            engine = VllmEngine(VllmEngineSettings(**settings), **arguments)
            stack.callback(engine.close)
            return engine

        yield build


@pytest.fixture
def engine(make: Callable[..., VllmEngine], policy: Policy) -> VllmEngine:
    engine = make()
    engine.sync(policy, 0)
    return engine
