"""A real vLLM server on the CPU, engines on it, and the bundled model."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from real_vllm.servers import KEY, PYTHON, Make, Server

from edge_grpo.config.sections import ModelSettings, VllmEngineSettings
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.vllm.engine import VllmEngine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here need vLLM and take long."""
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    missing = pytest.mark.skip(reason="needs .venv-vllm: run `make setup-vllm`")
    for item in here:
        for mark in (pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)):
            item.add_marker(mark)
        if not PYTHON.exists():
            item.add_marker(missing)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """The running server, if it was started with these words; else it is stopped, and another one started."""
    running: list[Server] = []

    def get(*words: str, model: str = "bundled") -> Server:
        if not running or (running[0].words, running[0].model) != (words, model):
            for old in running:
                old.stop()
            running[:] = [Server(words, tmp_path_factory.mktemp("serve"), model)]
        if running[0].process is None:
            running[0].start()
        return running[0]

    yield get
    for one in running:
        one.stop()


@pytest.fixture
def server(servers: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server of the bundled model."""
    monkeypatch.setenv("EDGE_GRPO_API_KEY", KEY)
    return servers("--max-model-len", "1024")


@pytest.fixture
def lora_server(servers: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that takes adapters."""
    monkeypatch.setenv("EDGE_GRPO_API_KEY", KEY)
    return servers("--max-model-len", "1024", "--lora", "8")


@pytest.fixture
def policy() -> Policy:
    return load_policy(ModelSettings(path="bundled", device="cpu"))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes an engine on a server."""
    with ExitStack() as stack:

        def build(server: Server, policy: Policy, *, lora: str = "merged", **given: object) -> VllmEngine:
            settings = VllmEngineSettings(urls=(server.url,), folder=str(tmp_path), lora=lora)
            stops = {"stop_ids": (policy.tokenizer.eos_token_id,), "session": secrets.token_hex(6), "key": KEY}
            engine = VllmEngine(settings, policy=policy, **{**stops, **given})
            stack.callback(engine.close)
            return engine

        yield build
