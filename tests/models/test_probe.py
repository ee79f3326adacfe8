"""What is tried when a model is loaded: head, padding, and equal scores with and without gradient."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from families import family_model
from support import padded_rows, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from edge_grpo.base.errors import EngineError
from edge_grpo.models.policy import Policy
from edge_grpo.models.probe import on_cpu

Hook = Callable[..., Any]


def altered(change: Hook, *, recompute: bool = False) -> PreTrainedModel:
    """The tiny model with something done to the output of its first layer."""
    model = tiny_model()
    if recompute:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.model.layers[0].register_forward_hook(change)
    return model


def test_a_model_that_sees_the_future_is_refused() -> None:
    def mix(layer: nn.Module, args: object, hidden: Tensor) -> Tensor:
        return hidden + hidden.mean(1, keepdim=True)

    with pytest.raises(EngineError, match=r"^model\.path: Qwen2ForCausalLM is not causal: later tokens change"):
        Policy(altered(mix), tiny_tokenizer())


def test_a_model_that_sees_other_rows_is_refused() -> None:
    def mix(layer: nn.Module, args: object, hidden: Tensor) -> Tensor:
        return hidden + hidden.mean(0, keepdim=True)

    with pytest.raises(EngineError, match=r"^model\.path: Qwen2ForCausalLM scores a row differently when it is padded"):
        Policy(altered(mix), tiny_tokenizer())


def test_a_model_that_is_random_in_training_alone_is_refused() -> None:
    def shake(layer: nn.Module, args: object, hidden: Tensor) -> Tensor:
        return hidden + 0.01 * torch.randn_like(hidden) if layer.training else hidden

    with pytest.raises(EngineError, match=r"log-probs in training that differ from those in evaluation by 0\.\d+ nats"):
        Policy(altered(shake, recompute=True), tiny_tokenizer())
    Policy(altered(shake), tiny_tokenizer())  # nothing is recomputed, so no layer is told that it trains


def test_an_error_of_the_model_becomes_one_line() -> None:
    def fail(layer: nn.Module, args: object, hidden: Tensor) -> Tensor:
        raise RuntimeError("The size of tensor a\nmust match that of tensor b")

    with pytest.raises(EngineError, match=r"cannot be scored \(The size of tensor a must match that of tensor b\)"):
        Policy(altered(fail), tiny_tokenizer())


def test_router_noise_and_dropout_stay_off_while_gradients_are_taken() -> None:
    model = family_model("mixtral", router_jitter_noise=0.3, attention_dropout=0.3)
    policy, (ids, attention, mask) = Policy(model, tiny_tokenizer()), padded_rows()
    with torch.no_grad():
        still = policy.score(ids, attention, mask, temperature=1.0).logprobs
    with policy.training():
        moving = policy.score(ids, attention, mask, temperature=1.0).logprobs
    assert moving.requires_grad
    assert torch.equal(still, moving)


def test_recomputed_layers_give_the_same_scores_and_gradients() -> None:
    ids, attention, mask = padded_rows()
    found, passes = [], []
    for recompute in (False, True):
        model = altered(lambda *_: None, recompute=recompute)
        policy, calls = Policy(model, tiny_tokenizer()), [0]
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        with policy.training():
            scores = policy.score(ids, attention, mask, temperature=1.0).logprobs
            scores.sum().backward()
        found.append([scores.detach(), *(weight.grad for _, weight in policy.trained())])
        passes.append(sum(calls))
        assert not any(module.training for module in model.modules())
    assert passes == [1, 2]
    assert all(torch.equal(plain, again) for plain, again in zip(*found, strict=True))


def test_attention_that_needs_a_gpu_is_replaced_for_the_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    def flash(*args: object, **kwargs: object) -> tuple[Tensor, None]:
        raise RuntimeError("FlashAttention only supports CUDA tensors")

    AttentionInterface.register("flash_stand_in", flash)
    model = tiny_model()
    model.config._attn_implementation = "flash_stand_in"
    monkeypatch.setattr(model, "set_attn_implementation", partial(setattr, model.config, "_attn_implementation"))
    with on_cpu(model):
        policy = Policy(model, tiny_tokenizer(), autocast=True)
        with policy.precision():
            assert not torch.is_autocast_cache_enabled(), "a copy of the weights would stay in memory"
    assert model.config._attn_implementation == "flash_stand_in"
    ids, attention, mask = padded_rows()
    with pytest.raises(RuntimeError, match="only supports CUDA"):
        policy.score(ids, attention, mask, temperature=1.0)
