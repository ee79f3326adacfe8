"""Models from disk: adapters, stop tokens, and clear refusals."""

import json

import pytest
import torch
from support import save_tiny, tiny_model, tiny_policy

from edge_grpo.errors import ConfigError, EngineError
from edge_grpo.models import LoraSettings, ModelSettings, check_fit, load_policy, stop_token_ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


def batch(rows=3, width=9):
    ids = torch.arange(rows * width).reshape(rows, width) % 50 + 5
    lengths = torch.tensor([9, 7, 5])[:rows]
    attention = torch.arange(width)[None] < lengths[:, None]
    mask = attention & (torch.arange(width)[None] >= 3)
    return ids, attention, mask


def test_lora_trains_adapters_is_its_own_reference_and_saves_merged_weights(folder, tmp_path):
    policy = load_policy(ModelSettings(path=str(folder), device="cpu", lora=LoraSettings(rank=2)), reference=True)
    assert policy.has_adapters
    assert policy.reference is None
    names = [name for name, _ in policy.trained()]
    assert names
    assert all("lora" in name for name in names)
    ids, attention, mask = batch()
    with torch.no_grad():
        start = policy.score(ids, attention, mask, temperature=1.0).logprobs
        for _, weight in policy.trained():
            weight.add_(0.05)
        now = policy.score(ids, attention, mask, temperature=1.0).logprobs
        assert torch.allclose(policy.score_reference(ids, attention, mask, temperature=1.0), start)
        assert not torch.allclose(now, start)
        policy.save(tmp_path / "final")
        merged = load_policy(ModelSettings(path=str(tmp_path / "final"), device="cpu"))
        assert torch.allclose(merged.score(ids, attention, mask, temperature=1.0).logprobs, now, atol=1e-5)
        assert torch.equal(policy.score(ids, attention, mask, temperature=1.0).logprobs, now)  # not merged in place
    assert (tmp_path / "final/adapter/adapter_model.safetensors").exists()


def test_saved_weights_load_bit_for_bit(folder, tmp_path):
    policy = load_policy(ModelSettings(path=str(folder), device="cpu"))
    policy.save(tmp_path / "out")
    again = load_policy(ModelSettings(path=str(tmp_path / "out"), device="cpu"))
    for (name, one), (_, two) in zip(policy.trained(), again.trained(), strict=True):
        assert torch.equal(one, two), name


def test_stop_tokens_are_collected_from_everywhere(folder):
    policy = load_policy(ModelSettings(path=str(folder), device="cpu"))
    eos = policy.tokenizer.eos_token_id
    policy.model.generation_config.eos_token_id = [eos, 9]
    found = stop_token_ids(policy, ("a",))
    assert found[0] == eos
    assert {eos, 9, policy.tokenizer.convert_tokens_to_ids("a")} <= set(found)
    assert len(set(found)) == len(found)
    with pytest.raises(ConfigError, match=r"rollout\.stop"):
        stop_token_ids(policy, ("nowhere",))


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all"])
def test_no_such_folder(path):
    with pytest.raises(EngineError, match="no folder"):
        load_policy(ModelSettings(path=path))


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(EngineError, match=r"model\.path"):
        load_policy(ModelSettings(path=str(tmp_path)))


def test_pickled_weights_are_refused(folder, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.save(tiny_model().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(EngineError, match=r"model\.path"):
        load_policy(ModelSettings(path=str(tmp_path)))


def test_code_in_a_model_folder_is_never_run(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Own", "AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\nclass Config: pass\n")
    with pytest.raises(EngineError):
        load_policy(ModelSettings(path=str(tmp_path)))
    assert not (tmp_path / "ran").exists()


def test_cuda_without_a_gpu_is_a_clear_mistake(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"model\.device"):
        load_policy(ModelSettings(path=str(folder), device="cuda"))


def test_lora_targets_that_fit_nothing(folder):
    with pytest.raises(ConfigError, match=r"model\.lora\.targets"):
        load_policy(ModelSettings(path=str(folder), lora=LoraSettings(rank=2, targets=("nowhere",))))


@pytest.mark.parametrize("damage", ["truncated", "sizes", "config"])
def test_damaged_folders_are_told_in_one_line(folder, tmp_path, damage):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    if damage == "truncated":
        (tmp_path / "model.safetensors").write_bytes(b"half")
    else:
        config |= {"hidden_size": 64} if damage == "sizes" else {"num_attention_heads": "many"}
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match=r"model\.path: no model could be loaded") as caught:
        load_policy(ModelSettings(path=str(tmp_path), device="cpu"))
    assert "\n" not in str(caught.value)


def test_a_folder_without_tokenizer_files_is_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="tokenizer"):
        load_policy(ModelSettings(path=str(tmp_path), device="cpu"))


def test_every_kind_of_dropout_is_off(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    policy = load_policy(ModelSettings(path=str(tmp_path), device="cpu"))
    ids, attention, mask = batch()
    with policy.training():
        one, two = (policy.score(ids, attention, mask, temperature=1.0).logprobs for _ in range(2))
    assert torch.equal(one, two)


def test_no_stop_token_at_all(folder):
    policy = load_policy(ModelSettings(path=str(folder), device="cpu"))
    policy.tokenizer.eos_token = None
    policy.model.generation_config.eos_token_id = None
    assert stop_token_ids(policy)  # known end-of-turn tokens of the vocabulary
    policy.tokenizer.get_vocab = dict
    with pytest.raises(ConfigError, match=r"rollout\.stop"):
        stop_token_ids(policy)


def test_what_cannot_fit_is_refused():
    policy = tiny_policy()
    check_fit(policy, [(1, 2, 3)], 500)
    with pytest.raises(ConfigError, match="do not match"):
        check_fit(policy, [(1, 99999)], 1)
    with pytest.raises(ConfigError, match="exceed the model's context"):
        check_fit(policy, [(1, 2, 3)], 510)
