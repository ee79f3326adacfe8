"""Models made on the spot: they load and have the requested shapes, and the long-tailed one samples as promised."""

import statistics
from pathlib import Path

import pytest
import shapes
from gpu import VOCABULARY, size
from transformers import AutoConfig, AutoTokenizer

from edge_grpo.config.sections import ModelSettings
from edge_grpo.models.loading import load_policy
from edge_grpo.rollout.engine import Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}


@pytest.mark.parametrize("make", [shapes.smollm2_135m, shapes.qwen2])
def test_a_changed_shape_makes_a_model_that_loads_and_samples(make: shapes.Maker, tmp_path: Path) -> None:
    policy = load_policy(ModelSettings(path=make(tmp_path, **SMALL), device="cpu"))
    assert {name: getattr(policy.model.config, name) for name in SMALL} == SMALL
    engine = DecodeEngine(policy, stop_ids=(0,), pad_id=0)
    ((one,),) = engine.sample([Request((5, 6, 7), (0,))], Sampling(4))
    assert 1 <= len(one.completion_ids) <= 4


def test_the_published_shape_is_the_default() -> None:
    assert shapes.SMOLLM2_135M["num_hidden_layers"] == 30
    assert shapes.SMOLLM2_135M["vocab_size"] == 49_152
    assert [size(name, shape).shape["hidden_size"] for name, shape in shapes.QWEN2.items()] == [896, 1536]
    assert VOCABULARY == 151_936


def test_a_word_is_a_token(tmp_path: Path) -> None:
    shapes.word_tokenizer(20).save_pretrained(tmp_path)
    AutoConfig.for_model("llama").save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode("3 14 5", add_special_tokens=False) == [3, 14, 5]
    assert tokenizer.eos_token_id == 0


@pytest.mark.parametrize("median", [4, 8])
def test_the_long_tailed_model_has_the_requested_median_and_tail(median: int, tmp_path: Path) -> None:
    policy = load_policy(ModelSettings(path=shapes.long_tailed(tmp_path, median=median, share=0.1), device="cpu"))
    stop, budget, rows = policy.tokenizer.eos_token_id, 96, 1000
    engine = DecodeEngine(policy, stop_ids=(stop,), pad_id=stop, max_rows=rows)
    (answers,) = engine.sample([Request((40, 41, 42), tuple(range(rows)))], Sampling(budget))
    short = [len(one.answer_ids) for one in answers if one.finished]
    assert abs(statistics.median(short) - median) <= 1
    assert 0.07 < 1 - len(short) / rows < 0.14
    assert all(len(one.completion_ids) == budget for one in answers if not one.finished)
