"""The policy: scores of given tokens, adapters, stop tokens, and clear refusals."""

import json

import pytest
import torch
from support import save_tiny, tiny_model, tiny_policy, tiny_tokenizer

from edge_grpo.errors import ConfigError, EngineError
from edge_grpo.policy import LoraSettings, ModelSettings, Policy, load_policy, stop_token_ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"))


def batch(rows=3, width=9):
    ids = torch.arange(rows * width).reshape(rows, width) % 50 + 5
    lengths = torch.tensor([9, 7, 5])[:rows]
    attention = torch.arange(width)[None] < lengths[:, None]
    mask = attention & (torch.arange(width)[None] >= 3)
    return ids, attention, mask


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_scores_are_those_of_the_full_logits(kind):
    policy = tiny_policy(kind, dtype=torch.float64)
    ids, attention, mask = batch()
    scores = policy.score(ids, attention, mask, temperature=0.7)
    logits = policy.model(input_ids=ids, attention_mask=attention.long()).logits[:, :-1] / 0.7
    log_pi = logits.log_softmax(-1)
    want = log_pi.gather(-1, ids[:, 1:, None]).squeeze(-1)
    entropy = -(log_pi.exp() * log_pi).sum(-1)
    assert torch.allclose(scores.logprobs[:, 1:][mask[:, 1:]], want[mask[:, 1:]], atol=1e-12)
    assert torch.allclose(scores.entropy[:, 1:][mask[:, 1:]], entropy[mask[:, 1:]], atol=1e-12)
    assert (scores.logprobs[~mask] == 0).all()


def test_chunks_change_neither_value_nor_gradient(monkeypatch):
    ids, attention, mask = batch()
    found = []
    for at_once in (2**25, 600):
        monkeypatch.setattr("edge_grpo.policy._LOGITS_AT_ONCE", at_once)
        policy = tiny_policy(dtype=torch.float64)
        scores = policy.score(ids, attention, mask, temperature=1.0)
        (scores.logprobs.sum() + 0.3 * scores.entropy.sum()).backward()
        found.append((scores.logprobs.detach(), [weight.grad.clone() for _, weight in policy.trained()]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_padding_content_does_not_matter():
    policy = tiny_policy(dtype=torch.float64)
    ids, attention, mask = batch()
    other = torch.where(attention, ids, torch.full_like(ids, 99))
    first, second = (policy.score(x, attention, mask, temperature=1.0).logprobs for x in (ids, other))
    assert torch.equal(first, second)


def test_the_reference_stays_where_it_was():
    policy = tiny_policy(reference=True)
    ids, attention, mask = batch()
    with torch.no_grad():
        before = policy.score_reference(ids, attention, mask, temperature=1.0)
        for _, weight in policy.trained():
            weight.add_(0.1)
        assert torch.equal(policy.score_reference(ids, attention, mask, temperature=1.0), before)
        assert not torch.equal(policy.score(ids, attention, mask, temperature=1.0).logprobs, before)
    with pytest.raises(EngineError, match="no reference"):
        tiny_policy().score_reference(ids, attention, mask, temperature=1.0)


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


def test_a_model_whose_logits_are_not_head_times_hidden_is_refused(monkeypatch):
    model = tiny_model()
    forward = model.forward

    def twice(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output

    monkeypatch.setattr(model, "forward", twice)
    with pytest.raises(EngineError, match="logits"):
        Policy(model, tiny_tokenizer())


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
