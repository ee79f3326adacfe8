"""Layers without padding, each prompt once: numbers and gradients are those of the model's own code."""

import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import SHAPE as TINY
from families import family_model
from support import tiny_tokenizer
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from edge_grpo.config.sections import LoraSettings, ModelSettings, TrainSettings
from edge_grpo.models import compute, dense, packing
from edge_grpo.models.adapters import add_adapters
from edge_grpo.models.compute import Compute
from edge_grpo.models.dense import Dense
from edge_grpo.models.loading import load_policy, recompute_activations
from edge_grpo.models.packing import Packing
from edge_grpo.models.policy import Policy
from edge_grpo.models.precision import LARGE, computes_in_half
from edge_grpo.models.scoring import Scorer
from edge_grpo.training.update import make_optimizer

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
Rows = tuple[Tensor, Tensor, Tensor]
Learned = tuple[Tensor, dict[str, Tensor]]


SHAPE = TINY | {"sliding_window": None, "pad_token_id": 5}


def model(kind: str, **changes: Any) -> PreTrainedModel:
    """A random model whose norms and biases matter."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SHAPE | changes))
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network.eval()


def rows() -> Rows:
    """Three prompts, two of one length, in no order; answers of 1 to 9 tokens, one with a gap; a row without any."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 60, (size,), generator=generator) for size in (4, 6, 6)]
    ids, attention, mask = (torch.zeros((8, 16), dtype=kind) for kind in (torch.long, torch.bool, torch.bool))
    for row, (prompt, size) in enumerate([(1, 5), (0, 1), (1, 9), (2, 3), (0, 7), (2, 9), (1, 1), (0, 0)]):
        answer = torch.randint(3, 60, (size,), generator=generator)
        line = torch.cat([prompts[prompt], answer])
        ids[row, : len(line)] = line
        attention[row, : len(line)] = True
        mask[row, len(prompts[prompt]) : len(line)] = True
    mask[2, 9] = False
    return ids, attention, mask


def learn(scorer: Scorer, own: Rows) -> Learned:
    """Log-probs and entropies, and the gradients of a function of both."""
    for weight in scorer.parameters():
        weight.grad = None
    scores = scorer(*own, temperature=0.7)
    weights = torch.arange(scores.logprobs.numel()).view_as(scores.logprobs) % 7
    ((scores.logprobs * weights).sum() + (scores.entropy**2).sum()).backward()
    grads = {name: weight.grad.clone() for name, weight in scorer.named_parameters() if weight.grad is not None}
    return torch.cat([scores.logprobs, scores.entropy]).detach(), grads


def assert_equal(ours: Learned, theirs: Learned) -> None:
    """The models' own code normalises in float32 even where the weights are float64."""
    assert float((ours[0] - theirs[0]).abs().max()) < 1e-5
    assert ours[1].keys() == theirs[1].keys()
    far = {name: float((ours[1][name] - grad).norm() / grad.norm().clamp(min=1e-3)) for name, grad in theirs[1].items()}
    assert {name: error for name, error in far.items() if error > 1e-4} == {}


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("at_once", [2**25, 200])
def test_scores_and_gradients_are_those_of_the_models_own_code(kind: str, at_once: int) -> None:
    packed, plain = (Scorer(model(kind).double(), logits_at_once=at_once) for _ in range(2))
    plain.dense = None
    assert packed.is_packed
    assert not plain.is_packed
    ours, theirs = (learn(each, rows()) for each in (packed, plain))
    assert_equal(ours, theirs)


def test_long_answers_do_not_pad_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_LONG", 4)
    ids, _, mask = rows()
    assert [[shelf.longest for shelf in each.shelves] for each in Packing.of(ids, mask).bins] == [[6, 0], [8, 2]]
    packed, plain = (Scorer(model("qwen2").double()) for _ in range(2))
    plain.dense = None
    assert_equal(*(learn(each, rows()) for each in (packed, plain)))


def heads(rows: int, length: int, keys: int, dtype: torch.dtype, size: float) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of 4 heads, keys and values of 2; scores are up to about ten times ``size``."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, length), (2, keys), (2, keys))
    made = [torch.randn((rows, *shape, 8), generator=generator, dtype=torch.float64) for shape in shapes]
    made[0] *= size
    return tuple(each.to(dtype).requires_grad_() for each in made)  # type: ignore[return-value]


def test_attention_needs_no_mask_where_that_costs() -> None:
    for length, keys in ((5, 9), (7, 7)):
        own = heads(3, length, keys, torch.float64, 1.0)
        mask = dense._mask(keys - length, length, torch.float64, torch.device("cpu"))
        assert mask is not None
        wanted = dense._weighted(*own, mask, 0.3)
        assert torch.allclose(dense._causal(*own, 0.3), wanted, atol=1e-12)
    assert torch.allclose(dense._weighted(*own, None, 0.3), wanted, atol=1e-12)


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_attention_by_products_is_as_exact_as_the_fused_kernel(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    mask = dense._mask(30, 20, torch.float64, torch.device("cpu"))
    assert mask is not None
    exact, half = heads(8, 20, 50, torch.float64, size), heads(8, 20, 50, torch.bfloat16, size)
    exact = tuple(each.detach().double().requires_grad_() for each in half)  # type: ignore[assignment]
    found = []
    for own, limit in ((exact, 0), (half, 0), (half, 2**23)):
        monkeypatch.setattr(dense, "SCORES", limit)
        out = dense._weighted(*own, mask.to(own[0].dtype), 0.3)
        found.append(
            [out.detach().double(), *(each.double() for each in torch.autograd.grad(out.sum() + out[0].sum(), own))]
        )
    wanted, fused, products = found
    for right, one, other in zip(wanted, fused, products, strict=True):
        assert float((other - right).norm()) <= 1.5 * float((one - right).norm()) + 1e-3 * float(right.norm())


def test_adapters_are_part_of_the_layers_and_can_be_switched_off() -> None:
    network = add_adapters(model("qwen2"), LoraSettings(rank=3), 0, base="")
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    packed, plain = Scorer(network.double()), Scorer(network)
    plain.dense = None
    ours, theirs = (learn(each, rows()) for each in (packed, plain))
    assert_equal(ours, theirs)
    with network.disable_adapter(), torch.no_grad():
        off, own = (each(*rows(), temperature=1.0).logprobs for each in (packed, plain))
    assert torch.allclose(off, own, atol=1e-6)
    assert not torch.allclose(off, ours[0][: len(off)], atol=1e-2)
    with torch.no_grad():
        before = packed(*rows(), temperature=1.0).logprobs
        network.merge_adapter()
        assert torch.allclose(packed(*rows(), temperature=1.0).logprobs, before, atol=1e-6)


def test_a_prompt_is_computed_once_and_padding_never() -> None:
    ids, _, mask = rows()
    packing = Packing.of(ids, mask)
    answers = sum(size - 1 for size in (5, 1, 9, 3, 7, 9, 1))  # the last token of a row is predicted, not read
    assert len(packing.ids) == 4 + 6 + 6 + answers
    assert len(packing.source) == int(mask.sum())


def test_recomputed_activations_change_nothing() -> None:
    scorer = Scorer(model("llama").double())
    wanted = learn(scorer, rows())
    recompute_activations(scorer.model)
    with scorer.gradient_mode():
        found = learn(scorer, rows())
    assert torch.equal(wanted[0], found[0])
    assert all(torch.equal(found[1][name], grad) for name, grad in wanted[1].items())


OTHERS = {
    "another family": lambda: family_model("gemma3_text"),
    "sliding windows": lambda: model("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "rotations that change with length": lambda: model(
        "llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    ),
    "another activation": lambda: model("llama", hidden_act="gelu"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_models_are_left_to_their_own_code(kind: str) -> None:
    assert not Dense.supports(OTHERS[kind]())


def test_hooks_are_called() -> None:
    network, calls = model("llama"), list[int]()
    network.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    Scorer(network)(*rows(), temperature=1.0)
    assert calls


def test_a_model_that_computes_otherwise_than_its_family_is_left_to_its_own_code() -> None:
    network = model("llama")
    layer = network.model.layers[0].mlp
    layer.forward = lambda x: layer.down_proj(layer.act_fn(layer.gate_proj(x)))
    policy = Policy(network, tiny_tokenizer(), reference=model("llama"))
    assert policy.scorer.dense is None
    assert policy.reference is not None
    assert policy.reference.dense is None, "a policy and its reference are computed alike"
    assert Dense.supports(network)


def test_copies_follow_their_weights_and_return_gradients_in_float32() -> None:
    weight = nn.Parameter(torch.randn(4, 4))
    cast = Compute(torch.bfloat16)
    copy = cast(weight)
    assert cast(weight) is copy
    for _ in range(2):
        (cast(weight) * torch.full((4, 4), 1.0001, dtype=torch.bfloat16)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    assert torch.equal(weight.grad, torch.full((4, 4), 2.0))
    assert copy.grad is None
    with torch.no_grad():
        weight.add_(1)
    assert torch.equal(cast(weight), weight.bfloat16())
    same = nn.Parameter(torch.randn(2, dtype=torch.bfloat16))
    assert cast(same) is same
    weight.requires_grad_(False)
    assert not cast(weight).requires_grad


@pytest.mark.skipif(not compute.has_layouts(), reason="no oneDNN with bf16")
def test_inference_uses_a_layout_that_follows_its_weight() -> None:
    weight, bias = (nn.Parameter(torch.randn(*shape, dtype=torch.float32)) for shape in ((48, 32), (48,)))
    cast, x = Compute(torch.bfloat16), torch.randn(3, 32).bfloat16()

    def apart() -> float:
        wanted = nn.functional.linear(x.float(), weight.bfloat16().float(), bias.bfloat16().float())
        return float((cast.linear(x, weight, bias).float() - wanted).abs().max() / wanted.abs().max())

    with torch.inference_mode():
        assert apart() < 0.01
        assert cast._lays_out(x, weight)
        assert not cast._lays_out(x, weight.bfloat16()), "FSDP gathers such weights anew without counting"
    with torch.no_grad():
        weight.add_(1)
        assert not cast._lays_out(x, weight)
    with torch.inference_mode():
        assert apart() < 0.01
    cast.linear(x, weight, bias).sum().backward()
    assert weight.grad is not None


def test_copies_go_with_their_weights() -> None:
    weight, cast = nn.Parameter(torch.randn(4, 4)), Compute(torch.bfloat16)
    left = [weakref.ref(each) for each in (weight, cast(weight))]
    with torch.inference_mode():
        cast.linear(torch.ones((1, 4), dtype=torch.bfloat16), weight)
    cast(weight).sum().backward()
    del weight
    assert [each() for each in left] == [None, None]
    assert not len(cast._layouts)


def test_a_policy_that_was_saved_computes_as_before(tmp_path: Path) -> None:
    policy = Policy(model("qwen3"), tiny_tokenizer(), autocast=True)
    with torch.no_grad():
        before = policy.score(*rows(), temperature=1.0).logprobs
        policy.save(tmp_path / "final")
        assert torch.equal(policy.score(*rows(), temperature=1.0).logprobs, before)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_the_policy_is_its_reference_at_first_in_bf16_too(tmp_path: Path, kind: str) -> None:
    network = family_model(kind) if kind == "gemma2" else model(kind)
    network.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    policy = load_policy(ModelSettings(path=str(tmp_path), dtype="bfloat16"), reference=True)
    assert policy.computes_in == "bfloat16"
    assert policy.scorer.is_packed == (kind == "llama")
    with torch.no_grad():
        own = policy.score(*rows(), temperature=0.7).logprobs
        assert torch.equal(own, policy.score_reference(*rows(), temperature=0.7))


@pytest.mark.parametrize(
    ("dtype", "size", "fast", "wanted"),
    [
        ("auto", LARGE, True, True),
        ("auto", LARGE - 1, True, False),
        ("auto", LARGE, False, False),
        ("float32", LARGE, True, False),
        ("bfloat16", 8, False, True),
    ],
)
def test_bf16_is_chosen_where_it_is_fast_and_the_model_is_large(
    monkeypatch: pytest.MonkeyPatch, dtype: str, size: int, fast: bool, wanted: bool
) -> None:
    network, settings = model("llama"), replace(ModelSettings(), dtype=dtype)
    monkeypatch.setattr(network, "parameters", lambda: [SimpleNamespace(numel=lambda: size)])
    assert computes_in_half(network, settings, torch.device("cpu"), fast=lambda _: fast) == wanted


def test_rates_of_1e_6_move_a_model_of_real_shape() -> None:
    """bf16 weights would not move: they have 8 bits."""
    shape = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 512, "head_dim": 64}
    policy = Policy(model("llama", **shape).float(), tiny_tokenizer(), autocast=True)
    assert policy.computes_in == "bfloat16"
    optimizer = make_optimizer(policy, TrainSettings(learning_rate=1e-6))
    before = {name: weight.detach().clone() for name, weight in policy.trained()}
    first = policy.score(*rows(), temperature=1.0).logprobs
    for _ in range(20):
        optimizer.zero_grad()
        (-policy.score(*rows(), temperature=1.0).logprobs.sum()).backward()
        optimizer.step()
    moved = {name: float((weight.detach() - before[name]).abs().mean()) for name, weight in policy.trained()}
    assert all(weight.dtype == torch.float32 for _, weight in policy.trained())
    assert all(1e-6 < amount < 3e-5 for name, amount in moved.items() if "embed" not in name), moved
    with torch.no_grad():
        assert policy.score(*rows(), temperature=1.0).logprobs.sum() > first.sum()
