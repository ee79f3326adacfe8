"""The parts of a plan's memory against real tensors: weights, moments, activations, keys and values."""

import re
from dataclasses import replace
from pathlib import Path

import plan_memory
import pytest
import torch
from memory import SHAPES
from support import save_tiny, tiny_policy
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from edge_grpo.config.sections import LoraSettings, ModelSettings, TrainSettings
from edge_grpo.models.loading import load_policy
from edge_grpo.models.scoring import Scorer
from edge_grpo.planning.memory import Load, Memory, Part, Phase, Place, activations, kv_cache, memory
from edge_grpo.planning.shape import Precision, Shape, measured, shape_of
from edge_grpo.rollout.slots import Slots
from edge_grpo.training.update import make_optimizer

CPU = torch.device("cpu")
LOAD = Load(rows=8, prompts=2, prompt=16, completion=48, repeats=False, decoded=8, sampled=48)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("plan") / "tiny"))


def never(_: str) -> bool:
    return False


def parts(found: Memory) -> dict[str, Part]:
    return {part.name: part for part in found.parts}


def held(tensors: list[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


@pytest.mark.parametrize("rank", [0, 4])
def test_weights_and_moments_are_those_of_the_model_and_its_optimizer(tiny: str, rank: int) -> None:
    settings = ModelSettings(path=tiny, device="cpu", dtype="float32", lora=LoraSettings(rank=rank))
    shape, precision = shape_of(settings, CPU, fast=never)
    planned = parts(memory(shape, precision, LOAD, Place()))
    policy = load_policy(settings)
    optimizer = make_optimizer(policy, TrainSettings())
    weights = [weight for _, weight in policy.trained()]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    everything = list(policy.model.parameters())
    assert planned["trained weights (masters)"].bytes == held(weights)
    assert planned["trained weights (masters)"].bytes + sum(
        part.bytes for part in planned.values() if part.name == "frozen weights"
    ) == held(everything)
    assert planned["gradients"].bytes == held([w.grad for w in weights if w.grad is not None])
    moments = [each for state in optimizer.state.values() for each in state.values()]
    assert planned["optimizer (two moments)"].bytes == held(moments)


def test_adapters_stand_over_a_base_in_bfloat16(tiny: str) -> None:
    settings = ModelSettings(path=tiny, device="cpu", dtype="bfloat16", lora=LoraSettings(rank=4))
    shape, precision = shape_of(settings, CPU, fast=never)
    policy = load_policy(settings)
    assert precision == Precision(frozen=2, trained=4, passes=2)
    planned = parts(memory(shape, precision, LOAD, Place()))
    frozen = [weight for weight in policy.model.parameters() if not weight.requires_grad]
    assert planned["frozen weights"].bytes == held(frozen)


def test_copies_in_bfloat16_are_those_that_passes_and_sampling_make(tiny: str) -> None:
    settings = ModelSettings(path=tiny, device="cpu", dtype="bfloat16")
    shape, precision = shape_of(settings, CPU, fast=never)
    planned = parts(memory(shape, precision, LOAD, Place(lays_out=True)))
    policy = load_policy(settings)
    ids = torch.arange(12).reshape(1, 12)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    policy.score(ids, torch.ones_like(mask), mask, temperature=1.0)
    cast = policy.scorer.cast
    copied = [cast(weight) for _, weight in policy.trained()]
    assert planned["weights in bfloat16"].bytes == held(copied)
    assert planned["laid-out weights"].bytes == 2 * (shape.projections + shape.head)
    linear = [w for name, w in policy.trained() if "proj.weight" in name]
    assert shape.projections == sum(weight.numel() for weight in linear)


def test_keys_and_values_are_those_of_the_slots() -> None:
    policy = tiny_policy()
    network = policy.model
    prompts = [tuple(range(5, 15))] * 3
    slots = Slots(policy, prompts)
    for _ in range(90):
        slots.extend(torch.ones(3, dtype=torch.long))
    real = held([*slots._keys, *slots._values])
    load = replace(LOAD, prompt=10, decoded=3, sampled=90)
    assert kv_cache(shape(network), load, size=4) == real


def shape(network: object) -> Shape:
    """The shape of a network at hand."""
    return measured(network, packed=True)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize(("prompt", "completion"), [(16, 48), (8, 160)])
def test_activations_are_what_autograd_keeps(family: str, half: bool, prompt: int, completion: int) -> None:
    network = made(family)
    kept = saved_bytes(network, half=half, prompt=prompt, completion=completion)
    load = replace(LOAD, prompt=prompt, completion=completion)
    assert activations(shape(network), load, Place(), size=2 if half else 4) == pytest.approx(kept, rel=0.02)


def test_a_recomputed_layer_keeps_its_input() -> None:
    network, load = made("qwen2"), replace(LOAD, completion=160)
    whole = activations(shape(network), load, Place(on_gpu=True), size=2)
    less = activations(shape(network), load, Place(on_gpu=True, recomputes=True), size=2)
    assert less < 0.5 * whole


def made(family: str) -> Qwen2ForCausalLM | Qwen3ForCausalLM:
    settings = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": True,
    }
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**settings)).eval()
    return Qwen2ForCausalLM(Qwen2Config(**settings)).eval()


def saved_bytes(network: torch.nn.Module, *, half: bool, prompt: int, completion: int) -> int:
    """Bytes that a pass over two prompts with four completions each keeps for the backward pass."""
    scorer = Scorer(network, autocast=half)
    rows = torch.arange(8 * (prompt + completion)).reshape(8, -1) % 250
    rows[1:4, :prompt], rows[5:, :prompt] = rows[0, :prompt], rows[4, :prompt]
    everywhere = torch.ones_like(rows, dtype=torch.bool)
    mask = everywhere & (torch.arange(rows.shape[1]) >= prompt)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scorer(rows, everywhere, mask, temperature=1.0)
    weights = [*network.parameters(), *(scorer.cast(weight) for weight in network.parameters())]
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in saved}
    return sum(size for place, size in storages.items() if place not in own)


# --- rules ------------------------------------------------------------------------------------------------------------

SEVEN = Shape(
    family="Qwen2ForCausalLM",
    packed=True,
    weights=7_615_616_512,
    trained=7_615_616_512,
    num_trained=339,
    layer=233_057_792,
    outside=1_089_998_336,
    projections=6_500_000_000,
    head=544_997_376,
    head_trained=True,
    tied=False,
    hidden=3584,
    layers=28,
    heads=28,
    kv_heads=4,
    head_dim=128,
    intermediate=18944,
    vocabulary=152064,
    norms_heads=False,
    rank=0,
    context=32768,
)


def test_the_plan_agrees_with_the_computed_table_of_seven_billion_weights() -> None:
    table = SHAPES["7B"]
    place = Place(on_gpu=True, ranks=8, divided=True, recomputes=True)
    found = parts(memory(SEVEN, Precision(4, 4, 2), replace(LOAD, decoded=64), place))
    state = sum(found[name].bytes for name in ("trained weights (masters)", "optimizer (two moments)", "gradients"))
    assert state == pytest.approx(table.state(8), rel=1e-3)
    assert found["whole copy"].bytes == table.whole
    assert found["gathered weights"].bytes == pytest.approx(table.gathered, rel=1e-3)


def test_a_server_takes_the_cache_and_ranks_share_the_rest() -> None:
    one = memory(SEVEN, Precision(4, 4, 2), LOAD, Place(on_gpu=True))
    two = memory(SEVEN, Precision(4, 4, 2), LOAD, Place(on_gpu=True, ranks=2, divided=True, in_process=False))
    assert "KV cache" in parts(one)
    assert not {"KV cache", "whole copy", "logits of next tokens"} & parts(two).keys()
    assert parts(two)["optimizer (two moments)"].bytes == pytest.approx(parts(one)["optimizer (two moments)"].bytes / 2)
    assert one.at(Phase.SAMPLING) > two.at(Phase.SAMPLING)


def test_gradients_wait_for_a_second_micro_batch() -> None:
    once = memory(SEVEN, Precision(4, 4, 4), LOAD, Place())
    twice = memory(SEVEN, Precision(4, 4, 4), replace(LOAD, repeats=True), Place())
    assert twice.at(Phase.BACKWARD) - once.at(Phase.BACKWARD) == 4 * SEVEN.trained
    assert twice.peak[1] >= max(map(twice.at, Phase))


@pytest.mark.slow
def test_the_plan_is_within_a_fifth_of_what_training_takes() -> None:
    plan, found = plan_memory.run(plan_memory.CASES["37M, float32"])
    assert abs(plan_memory.off(plan, found)) <= plan_memory.LIMIT


def test_the_page_names_every_phase_that_is_far_from_the_plan() -> None:
    page = (Path(__file__).parents[2] / "docs/planning.md").read_text("utf-8")
    said = page.partition("**What holds by phase.**")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.+?) \| (\d+) / (\d+) \| (\d+) / (\d+) \| (\d+) / (\d+) \|", page, re.M)
    assert len(lines) == len(plan_memory.CASES)
    far = []
    for name, *cells in lines:
        for planned, found in zip(map(int, cells[::2]), map(int, cells[1::2]), strict=True):
            off = found / planned - 1
            if abs(off) > plan_memory.LIMIT - 1e-9:
                far.append(name)
                assert f"{off:.0%}" in said or f"the {found - planned} MB by which" in said
    assert sorted(set(far)) == ["135M, LoRA of rank 16, bfloat16", "37M, LoRA of rank 16, bfloat16", "bundled, float32"]
