"""Exported weights: those that a saved folder holds, by the same names; adapters merged, the policy untouched."""

from pathlib import Path

import pytest
import torch
from families import family_policy
from safetensors.torch import load_file
from support import save_tiny, tiny_policy
from torch import Tensor

from edge_grpo.config.sections import LoraSettings, ModelSettings
from edge_grpo.models.export import exported
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy


def saved(policy: Policy, folder: Path) -> dict[str, Tensor]:
    policy.save(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_the_export_is_what_a_saved_folder_holds(name: str, tmp_path: Path) -> None:
    policy = tiny_policy(name)
    found, wanted = dict(exported(policy)), saved(policy, tmp_path)
    assert found.keys() == wanted.keys()
    assert ("lm_head.weight" in found) == (name == "llama"), "a tied head is not written"
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("name", ["mixtral", "gemma2", "lfm2"])
def test_families_with_renamed_or_fused_weights_get_the_names_of_their_files(name: str, tmp_path: Path) -> None:
    policy = family_policy(name)
    found, wanted = dict(exported(policy)), saved(policy, tmp_path)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_adapters_are_merged_and_stay(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "base")
    policy = load_policy(ModelSettings(path=str(path), lora=LoraSettings(rank=4, targets=("q_proj", "embed_tokens"))))
    with torch.no_grad():
        for _, weight in policy.trained():
            weight.add_(0.05)
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    found, wanted = dict(exported(policy)), saved(policy, tmp_path / "saved")
    assert found.keys() == wanted.keys()
    assert "lm_head.weight" in found, "adapted embeddings are untied from the head"
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    base = load_file(path / "model.safetensors")
    bare = dict(exported(policy, adapters=False))
    assert bare.keys() == found.keys()
    assert all(torch.equal(bare[key], base.get(key, base["model.embed_tokens.weight"])) for key in bare)
    changed = {key for key in bare if not torch.equal(bare[key], found[key])}
    assert changed == {"model.embed_tokens.weight", *(f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2))}
    after = policy.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
