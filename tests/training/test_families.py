"""Whole runs of a hybrid family from a multimodal checkpoint: they learn, resume to the same bytes, and reload."""

from pathlib import Path

import pytest
import torch
from families import save_multimodal
from small_runs import SMALL, resumed, rows, weights
from support import padded_rows

from edge_grpo.config.sections import ModelSettings
from edge_grpo.config.tree import load_config
from edge_grpo.models.loading import load_policy


@pytest.mark.parametrize("words", [[], ["model.lora.rank=2"]])
def test_a_qwen3_5_run_resumes_to_the_same_bytes_and_reloads(words: list[str], tmp_path: Path) -> None:
    model = save_multimodal("qwen3_5", tmp_path / "model")
    settings = [*SMALL, *words, f"model.path={model}", "train.steps=3", "train.learning_rate=1e-3", "eval.every=0"]
    one, two = (load_config(None, [*settings, f"run.dir={tmp_path / name}"]) for name in ("one", "two"))
    straight, again = resumed(one, two)
    assert weights(straight) == weights(again)
    assert rows(straight) == rows(again)
    assert all(row["grad_norm"] > 0 for row in rows(straight)[1:])
    ids, attention, mask = padded_rows()
    before, after = (
        load_policy(ModelSettings(path=str(path))).score(ids, attention, mask, temperature=1.0).logprobs
        for path in (model, straight / "final")
    )
    assert not torch.allclose(before, after, atol=1e-3)
