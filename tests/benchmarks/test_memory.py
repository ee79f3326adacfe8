"""The memory benchmark: its formulas against real models, and the bytes that each of two ranks holds."""

from pathlib import Path

import memory
import pytest
import torch
from memory import SHAPES, SMOLLM2_135M, Shape
from torch import Tensor, nn
from transformers import LlamaConfig, Qwen2Config, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

SMALL = Shape(64, 4, 4, 2, 96, 300, tied=True, head_dim=16, bias=False)


def config(shape: Shape) -> dict[str, int | bool]:
    return {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tied,
    }


@pytest.mark.parametrize("name", SHAPES)
def test_the_weights_of_a_shape_are_those_of_the_model(name: str) -> None:
    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**config(SHAPES[name])))
    assert sum(weight.numel() for weight in model.parameters()) == SHAPES[name].weights


def test_the_activations_of_a_layer_are_what_autograd_keeps() -> None:
    shape, tokens = SMOLLM2_135M, 256
    settings = LlamaConfig(**config(shape), attn_implementation="sdpa")
    layer = LlamaDecoderLayer(settings, 0).to(torch.bfloat16)
    hidden = torch.randn(1, tokens, shape.hidden, dtype=torch.bfloat16, requires_grad=True)
    angles = LlamaRotaryEmbedding(settings)(hidden, torch.arange(tokens)[None])
    constant = {each.untyped_storage().data_ptr() for each in (*layer.parameters(), *angles)}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in constant:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = layer(hidden, position_embeddings=angles)
    assert isinstance(output[0], Tensor | nn.Module)
    assert sum(kept.values()) / tokens == pytest.approx(shape.kept, rel=0.15)


def test_each_of_two_ranks_holds_half_of_everything(tmp_path: Path) -> None:
    folder = memory.save_random(tmp_path, SMALL)
    one = memory.measure(folder)
    assert one["weights"] == one["gradients"] == 4 * SMALL.weights
    assert one["moments"] == pytest.approx(2 * one["weights"], rel=0.01)
    two = memory.measured(folder, 2)
    assert max(map(memory.held, two)) <= memory.LIMIT * memory.held(one)
    assert sum(map(memory.held, two)) >= memory.held(one)
    assert "| 0.5" in "\n".join(memory.report({1: [one], 2: two}))


def test_the_computed_table_divides_by_the_ranks() -> None:
    shape = SHAPES["7B"]
    assert shape.state(8) == shape.state(1) / 8
    assert shape.updating(64) > shape.state(64) + shape.gathered
    assert shape.updating(1) - shape.state(1) == shape.updating(64) - shape.state(64), "a pass"
    assert "".join(memory.tables()).count("| 32B |") == 4


def test_the_page_shows_the_tables_as_computed() -> None:
    page = (Path(__file__).parents[2] / "docs/scaling.md").read_text()
    for table in "".join(memory.tables()).strip().split("\n\n"):
        assert f"\n\n{table}\n" in page, "replace it with the output of benchmarks/memory.py --table"
