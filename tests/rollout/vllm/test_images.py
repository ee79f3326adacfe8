"""Prompts with pictures on a rollout server: it gets them as the model is shown them, and must read them alike."""

from dataclasses import replace
from pathlib import Path

import pytest
from rollout.vllm.rows import Make, agree, in_process, perturb
from rollout.vllm.server import State
from vision_families import pictured, save_vision

from edge_grpo.base.records import Prompt
from edge_grpo.data.prompts import encode_question
from edge_grpo.data.settings import DataSettings
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Continuation, Request, Sampling, ServerError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vision("llava", tmp_path_factory.mktemp("model"))


def prompts(policy: Policy) -> list[Prompt]:
    """One picture, none, and two of which one is turned."""
    two = pictured("c", images=2)
    turned = replace(two, images=(two.images[0], replace(two.images[1], transform="rotate_90cw")))
    problems = [pictured("a"), replace(pictured("b"), prompt="1+1?", images=()), turned]
    return [encode_question(policy.tokenizer, each, DataSettings(), policy.vision) for each in problems]


def requests(policy: Policy) -> list[Request]:
    return [Request(each.prompt_ids, (1, 2, 3), each.scene) for each in prompts(policy)]


def test_it_samples_what_the_in_process_engine_samples(make: Make, policy: Policy, server: tuple[str, State]) -> None:
    engine = make()
    perturb(policy)
    engine.sync(policy, 1)
    asked = requests(policy)
    found, wanted = engine.sample(asked, Sampling(8)), in_process(policy).sample(asked, Sampling(8))
    assert agree(found, wanted)
    sent = server[1].paths("/inference/v1/generate")
    assert {len(body.get("content_parts", ())) for body in sent} == {0, 1, 2}
    short = next(body for body in sent if len(body.get("content_parts", ())) == 2)
    assert len(short["token_ids"]) < len(asked[2].prompt_ids)


def test_answers_to_pictures_are_continued(make: Make, policy: Policy) -> None:
    engine = make()
    engine.sync(policy, 0)
    asked = requests(policy)
    groups = zip(asked, engine.sample(asked, Sampling(6)), strict=True)
    rollouts = [replace(own, scene=each.scene) for each, group in groups for own in group]
    wishes = [Continuation(each, (30, 31), 8, number) for number, each in enumerate(rollouts)]
    assert agree([engine.resume(wishes, Sampling(99))], [in_process(policy).resume(wishes, Sampling(99))])


def test_a_server_that_reads_pictures_differently_is_refused(
    make: Make, policy: Policy, server: tuple[str, State]
) -> None:
    engine = make()
    engine.sync(policy, 0)
    asked = requests(policy)[0]
    assert asked.scene is not None
    other = replace(asked, scene=replace(asked.scene, text=asked.scene.text + "!"))
    with pytest.raises(
        ServerError, match=r"made \d+ tokens of a prompt with pictures, wanted the \d+ of the model's own"
    ):
        engine.sample([other], Sampling(4))
