import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from vision_families import KINDS, pictured, pictures, tokenizer_for, vision_policy

from edge_grpo.base.errors import ConfigError, EngineError
from edge_grpo.base.records import Prompt, Rollout
from edge_grpo.config.sections import LoraSettings, ModelSettings
from edge_grpo.data.prompts import encode_question
from edge_grpo.data.settings import DataSettings
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy
from edge_grpo.models.scoring import causal
from edge_grpo.models.vision import ModelVision
from edge_grpo.rollout.engine import Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(kind)


@pytest.fixture(scope="module")
def policy(kind: str, folder: Path) -> Policy:
    return vision_policy(kind, folder, dtype="float32")


def prompts(policy: Policy, data: DataSettings | None = None) -> list[Prompt]:
    """One picture, none, two pictures, and one again with a longer text."""
    problems = [pictured("a"), replace(pictured("b"), prompt="1+1?", images=()), pictured("c", images=2)]
    problems.append(pictured("d", text="What is to be seen in it?"))
    return [encode_question(policy.tokenizer, each, data or DataSettings(), policy.vision) for each in problems]


def sampled(policy: Policy, some: list[Prompt], *, tokens: int = 6, rows: int = 3) -> list[Rollout]:
    engine = DecodeEngine(policy, stop_ids=[policy.tokenizer.eos_token_id], pad_id=0)
    requests = [Request(each.prompt_ids, tuple(range(rows)), each.scene) for each in some]
    groups = zip(requests, engine.sample(requests, Sampling(tokens)), strict=True)
    return [replace(one, scene=asked.scene) for asked, own in groups for one in own]


def padded(rollouts: list[Rollout]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention, and mask of the completions."""
    rows = [(*each.prompt_ids, *each.completion_ids) for each in rollouts]
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    lengths = torch.tensor([[len(row)] for row in rows])
    starts = torch.tensor([[len(each.prompt_ids)] for each in rollouts])
    attention = torch.arange(width) < lengths
    return ids, attention, attention & (torch.arange(width) >= starts)


def whole(policy: Policy, rollout: Rollout) -> Tensor:
    """Log-probs of a completion from the model's own forward pass over this row alone."""
    ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])
    inputs = policy.inputs(ids, [rollout.scene])
    logits = causal(policy.model)(**{"input_ids": ids, **inputs}).logits[0]
    start = len(rollout.prompt_ids)
    chosen: Tensor = logits.log_softmax(-1)[start - 1 : -1].gather(-1, ids[0, start:, None])[:, 0]
    return chosen


def test_a_prompt_has_the_tokens_of_its_pictures(policy: Policy) -> None:
    one, text, two, _ = prompts(policy)
    assert text.scene is None
    assert one.scene is not None
    assert two.scene is not None
    assert one.scene.num_tokens == len(one.prompt_ids)
    assert len(two.prompt_ids) > len(one.prompt_ids)
    assert "<image>" not in policy.tokenizer.decode(text.prompt_ids)


@torch.no_grad()
def test_sampling_scoring_and_the_models_own_pass_agree(policy: Policy) -> None:
    rollouts = sampled(policy, prompts(policy))
    ids, attention, mask = padded(rollouts)
    together = policy.score(ids, attention, mask, [each.scene for each in rollouts], temperature=1.0).logprobs
    for row, each in enumerate(rollouts):
        recorded = torch.tensor(each.spans[0].logprobs)
        torch.testing.assert_close(recorded, whole(policy, each), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(recorded, together[row][mask[row]], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_other_pictures_give_other_scores(policy: Policy) -> None:
    rollout = sampled(policy, prompts(policy)[:1], rows=1)[0]
    assert rollout.scene is not None
    turned = replace(rollout.scene, pictures=(replace(rollout.scene.pictures[0], transform="rotate_180cw"),))
    ids, attention, mask = padded([rollout])
    seen, other = (
        policy.score(ids, attention, mask, [scene], temperature=1.0).logprobs for scene in (rollout.scene, turned)
    )
    assert float((seen - other).abs().max()) > 1e-4


def test_the_gradient_reaches_the_vision_encoder(policy: Policy) -> None:
    rollouts = sampled(policy, prompts(policy))
    ids, attention, mask = padded(rollouts)
    with policy.training():
        scores = policy.score(ids, attention, mask, [each.scene for each in rollouts], temperature=1.0)
        scores.logprobs.sum().backward()
    encoder = [weight for name, weight in policy.trained() if "vis" in name]
    assert encoder
    assert sum(float(weight.grad.abs().sum()) for weight in encoder if weight.grad is not None) > 0
    policy.model.zero_grad()


@pytest.fixture
def calls(policy: Policy) -> Iterator[list[int]]:
    """The number of pixels' rows in each call of the vision encoder."""
    found: list[int] = []
    tower = next(
        each
        for name, each in causal(policy.model).named_modules()
        if name.endswith(("visual", "vision_tower", "vision_model"))
    )

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = next((each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)), None)
        found.append(0 if given is None else len(given))

    hook = tower.register_forward_pre_hook(note, with_kwargs=True)
    yield found
    hook.remove()


def test_a_picture_is_encoded_once_for_its_group(policy: Policy, calls: list[int]) -> None:
    engine = DecodeEngine(policy, stop_ids=[policy.tokenizer.eos_token_id], pad_id=0)
    first = prompts(policy)[0]
    engine.sample([Request(first.prompt_ids, (0,), first.scene)], Sampling(1))  # tries how to decode
    calls.clear()
    engine.sample([Request(first.prompt_ids, (0,), first.scene)], Sampling(4))
    alone = list(calls)
    calls.clear()
    engine.sample([Request(first.prompt_ids, tuple(range(6)), first.scene)], Sampling(4))
    assert calls == alone
    assert len(alone) == 1


@torch.no_grad()
def test_a_token_for_images_in_an_answer_is_read_as_another(policy: Policy) -> None:
    rollout = sampled(policy, prompts(policy)[:1], rows=1)[0]
    config = causal(policy.model).config
    image = getattr(config, "image_token_id", None) or config.image_token_index
    span = replace(rollout.spans[0], token_ids=(image, *rollout.spans[0].token_ids[1:]))
    strange = replace(rollout, spans=(span,))
    zero = replace(rollout, spans=(replace(span, token_ids=(0, *span.token_ids[1:])),))
    found = []
    for each in (strange, zero):
        ids, attention, mask = padded([each])
        found.append(policy.score(ids, attention, mask, [each.scene], temperature=1.0).logprobs[mask])
    torch.testing.assert_close(found[0][1:], found[1][1:])


@torch.no_grad()
def test_the_saved_model_reads_images(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "final")
    again = load_policy(ModelSettings(path=str(tmp_path / "final"), dtype="float32"))
    rollouts = sampled(policy, prompts(policy), rows=1)
    assert [each.prompt_ids for each in prompts(again)] == [each.prompt_ids for each in prompts(policy)]
    ids, attention, mask = padded(rollouts)
    scenes = [each.scene for each in rollouts]
    before, after = (each.score(ids, attention, mask, scenes, temperature=1.0).logprobs for each in (policy, again))
    assert torch.equal(before, after)


@torch.no_grad()
def test_adapters_work_on_images(kind: str, folder: Path) -> None:
    policy = load_policy(ModelSettings(path=str(folder), lora=LoraSettings(rank=2), dtype="float32"))
    rollouts = sampled(policy, prompts(policy), rows=1)
    ids, attention, mask = padded(rollouts)
    scores = policy.score(ids, attention, mask, [each.scene for each in rollouts], temperature=1.0).logprobs
    for row, each in enumerate(rollouts):
        torch.testing.assert_close(torch.tensor(each.spans[0].logprobs), scores[row][mask[row]], atol=2e-5, rtol=1e-4)


def test_the_plain_template_shows_pictures_too(policy: Policy) -> None:
    one, *_ = prompts(policy, DataSettings(template="plain"))
    assert one.scene is not None
    assert one.scene.special
    assert policy.vision is not None
    assert policy.vision.marker() in one.scene.text


def test_a_model_without_a_processor_says_so_when_it_sees_a_picture(tmp_path: Path) -> None:
    vision_policy("llava", tmp_path)
    for file in tmp_path.glob("*processor_config.json"):
        file.unlink()
    again = load_policy(ModelSettings(path=str(tmp_path)))
    with pytest.raises(EngineError, match=r"model\.path: cannot load the image processor of '.*' \("):
        prompts(again)


def test_a_text_model_rejects_pictures() -> None:
    with pytest.raises(ConfigError, match=r"problem 'p' has images, but the model of model\.path reads only text"):
        encode_question(tokenizer_for("llava"), pictured(), DataSettings())


@pytest.mark.parametrize(("keep_bytes", "times"), [(1, 4), (2**20, 2)])
def test_tensors_of_pictures_are_kept_within_bounds(tmp_path: Path, keep_bytes: int, times: int) -> None:
    policy = vision_policy("llava", tmp_path)
    vision = ModelVision(str(tmp_path), policy.tokenizer, causal(policy.model).config, keep_bytes=keep_bytes)
    processor, calls = vision.processor, []

    def counted(**given: Any) -> Any:
        calls.append(given)
        return processor(**given)

    vision.processor = counted
    for each in (*pictures(2), *pictures(2)):
        vision.encode("<image>", [each], special=False)
    assert len(calls) == times


def test_a_template_that_an_older_checkpoint_keeps_with_the_processor_is_used(tmp_path: Path) -> None:
    policy = vision_policy("llava", tmp_path)
    template = policy.tokenizer.chat_template
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    again = load_policy(ModelSettings(path=str(tmp_path)))
    assert again.tokenizer.chat_template == template
    again.save(tmp_path / "final")
    assert (tmp_path / "final/chat_template.jinja").read_text() == template


def test_rows_with_pictures_that_are_scored_differently_beside_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = vision_policy("llava", tmp_path)
    assert policy.vision is not None
    inputs = policy.vision.inputs

    def shifted(ids: Tensor, scenes: Any, starts: Any = ()) -> dict[str, Tensor]:
        made = inputs(ids, scenes, starts)
        return made | ({"pixel_values": made["pixel_values"] + len(ids)} if "pixel_values" in made else {})

    monkeypatch.setattr(policy.vision, "inputs", shifted)
    with pytest.raises(EngineError, match=r"scores a row with pictures differently beside others"):
        sampled(policy, prompts(policy)[:1], rows=1)
