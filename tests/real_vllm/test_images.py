"""A server shows a vision-language model the pictures that it is sent, as the in-process engine does."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from real_vllm.comparison import GREEDY, in_process, perturb
from real_vllm.servers import KEY, Make, Server
from vision_families import pictured, save_vision

from edge_grpo.config.sections import ModelSettings
from edge_grpo.data.prompts import encode_question
from edge_grpo.data.settings import DataSettings
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Request

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Idefics3: vLLM's code for the other families in the tests wants torchvision; on CPUs, heads of 32 numbers."""
    return save_vision("idefics3", tmp_path_factory.mktemp("model"), text={"head_dim": 32})


@pytest.fixture
def policy(model: Path) -> Policy:
    return load_policy(ModelSettings(path=str(model), device="cpu"))


@pytest.fixture
def server(servers: Callable[..., Server], model: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("EDGE_GRPO_API_KEY", KEY)
    return servers("--max-model-len", "512", model=str(model))


def requests(policy: Policy) -> list[Request]:
    """One picture, none, and one that is turned."""
    one = pictured("a")
    turned = replace(one, images=(replace(one.images[0], transform="rotate_90cw"),))
    problems = [one, replace(one, prompt="1+1?", images=()), turned]
    found = [encode_question(policy.tokenizer, each, DataSettings(), policy.vision) for each in problems]
    return [Request(each.prompt_ids, (0,), each.scene) for each in found]


def test_greedy_answers_to_pictures_are_those_of_the_in_process_engine(
    server: Server, make: Make, policy: Policy
) -> None:
    engine = make(server, policy)
    for step in (0, 1):
        engine.sync(policy, step)
        asked = requests(policy)
        theirs, ours = engine.sample(asked, GREEDY), in_process(policy).sample(asked, GREEDY)
        for (one,), (two,) in zip(theirs, ours, strict=True):
            assert one.completion_ids == two.completion_ids
            assert one.spans[0].logprobs == pytest.approx(two.spans[0].logprobs, abs=TOLERANCE)
        perturb(policy, seed=1)
