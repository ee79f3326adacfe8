"""What is saved is what was trained: every folder is loaded again and scored, and a wrong one is an error."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import padded_rows, save_tiny, tiny_model, tiny_policy, tiny_tokenizer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from edge_grpo.base.errors import EngineError
from edge_grpo.config.sections import LoraSettings, ModelSettings
from edge_grpo.models.loading import load_policy, load_tokenizer
from edge_grpo.models.policy import Policy
from edge_grpo.models.saving import check_folder, probe, probe_rows, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def scores(policy: Policy) -> Tensor:
    with torch.no_grad():
        return policy.score(*padded_rows(), temperature=1.0).logprobs


def dtypes(folder: Path) -> set[torch.dtype]:
    return {weight.dtype for weight in load_file(folder / "model.safetensors").values()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("damage", ["weight", "lost", "config"])
def test_a_folder_that_gives_another_model_back_is_refused(tmp_path: Path, dtype: torch.dtype, damage: str) -> None:
    tokenizer = tiny_tokenizer()
    tiny_model().save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype).eval()
    model.save_pretrained(tmp_path)
    rows = probe_rows(tokenizer, 262)
    check_folder(tmp_path, model, rows)
    held = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    if damage == "weight":
        held[name][0, 0] += 1e-3 + held[name][0, 0].abs() / 50
    elif damage == "lost":
        del held[name]
    else:
        config = json.loads((tmp_path / "config.json").read_text())
        config["rope_parameters"]["rope_theta"] = 100.0
        (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    cause = {"weight": f"other weights.*{name}", "lost": f"lacks the weights {name}", "config": "its configuration"}
    with pytest.raises(EngineError, match=cause[damage]):
        check_folder(tmp_path, model, rows)


@pytest.mark.parametrize("lora", [0, 2])
def test_a_model_with_something_that_is_not_saved_is_refused(folder: Path, tmp_path: Path, lora: int) -> None:
    policy = load_policy(ModelSettings(path=str(folder), device="cpu", lora=LoraSettings(rank=lora)))

    def more(module: nn.Module, args: object, output: Tensor) -> Tensor:
        return output + 0.01 * torch.arange(output.shape[-1])

    layer = next(each for name, each in policy.model.named_modules() if name.endswith("layers.0.mlp"))
    layer.register_forward_hook(more)
    with pytest.raises(EngineError, match=r"not the one that was trained.*nats per token"):
        save(policy.model, policy.tokenizer, tmp_path / "out", dtype=torch.float32)


def test_adapters_that_are_merged_wrongly_are_refused(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(ModelSettings(path=str(folder), device="cpu", lora=LoraSettings(rank=2)))
    with torch.no_grad():
        for _, weight in policy.trained():
            weight.add_(0.05)
    layer = next(each for name, each in policy.model.named_modules() if name.endswith("layers.0.self_attn.q_proj"))
    layer.get_delta_weight = lambda adapter: torch.zeros_like(layer.base_layer.weight)  # what merging adds
    with pytest.raises(EngineError, match=r"merging its adapters changes it \(log-probs differ by"):
        policy.save(tmp_path / "out")


def test_probing_covers_the_vocabulary_and_changes_nothing(folder: Path) -> None:
    policy = load_policy(ModelSettings(path=str(folder), device="cpu"))
    rows = probe_rows(policy.tokenizer, 262)
    special = {*policy.tokenizer.all_special_ids, *policy.tokenizer.added_tokens_decoder}
    assert rows.shape == (2, 24)
    assert special.isdisjoint(rows.flatten().tolist())
    assert {min(set(range(262)) - special), 261} <= {*rows.flatten().tolist()}
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    found = probe(policy.model, rows)
    assert (found[:, 1:] < 0).all()
    assert all(torch.equal(before[name], weight) for name, weight in policy.model.state_dict().items())


# --- dtype ------------------------------------------------------------------------------------------------------------


def in_bf16(folder: Path, *, declared: bool = True) -> str:
    tiny_model(dtype=torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    if not declared:
        config = json.loads((folder / "config.json").read_text())
        del config["dtype"]
        (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("lora", [0, 2])
def test_a_bf16_model_is_trained_in_float32_and_saved_in_bf16(tmp_path: Path, lora: int, declared: bool) -> None:
    path = in_bf16(tmp_path / "base", declared=declared)
    policy = load_policy(ModelSettings(path=path, device="cpu", lora=LoraSettings(rank=lora)))
    assert {weight.dtype for weight in policy.model.parameters()} == {torch.float32}
    with torch.no_grad():
        for _, weight in policy.trained():
            weight.add_(0.01)
    before = scores(policy)
    policy.save(tmp_path / "out")
    assert dtypes(tmp_path / "out") == {torch.bfloat16}
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    again = load_policy(ModelSettings(path=str(tmp_path / "out"), device="cpu"))
    assert torch.allclose(scores(again), before, atol=0.5)
    assert torch.equal(scores(policy), before)
    assert {weight.dtype for weight in policy.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_of_saved_weights_can_be_chosen(folder: Path, tmp_path: Path, dtype: str) -> None:
    load_policy(ModelSettings(path=str(folder), device="cpu", save_dtype=dtype)).save(tmp_path / "out")
    assert dtypes(tmp_path / "out") == {getattr(torch, dtype)}


def test_a_policy_made_in_memory_is_saved_as_it_is(tmp_path: Path) -> None:
    tiny_policy(dtype=torch.float64).save(tmp_path / "out")
    assert dtypes(tmp_path / "out") == {torch.float64}


def test_tokenizer_template_and_generation_config_are_kept(folder: Path, tmp_path: Path) -> None:
    (base := tmp_path / "base").mkdir()
    for file in folder.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    generation = json.loads((base / "generation_config.json").read_text()) | {"eos_token_id": [2, 9]}
    (base / "generation_config.json").write_text(json.dumps(generation))
    load_policy(ModelSettings(path=str(base), device="cpu", lora=LoraSettings(rank=1))).save(tmp_path / "out")
    assert (tmp_path / "out/chat_template.jinja").read_bytes() == (base / "chat_template.jinja").read_bytes()
    one, two = (load_tokenizer(str(place)) for place in (base, tmp_path / "out"))
    assert one.get_vocab() == two.get_vocab()
    assert one.encode("Compute 1+1.") == two.encode("Compute 1+1.")
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == [2, 9]
