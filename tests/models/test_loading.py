"""Models from disk: adapters, stop tokens, and clear errors."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import torch
from families import family_model, save_multimodal
from safetensors.torch import load_file, save_file
from support import padded_rows, save_tiny, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import AutoConfig, T5Config, T5ForConditionalGeneration, dynamic_module_utils

from edge_grpo.base.errors import ConfigError, EngineError
from edge_grpo.config.sections import LoraSettings, ModelSettings
from edge_grpo.models.loading import fingerprint, load_policy, load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def copied(folder: Path, target: Path) -> None:
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def damage_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    held = load_file(folder / "model.safetensors")
    change(held)
    save_file(held, folder / "model.safetensors", {"format": "pt"})


def test_lora_trains_adapters_serves_as_its_own_reference_and_saves_merged_weights(
    folder: Path, tmp_path: Path
) -> None:
    policy = load_policy(ModelSettings(path=str(folder), device="cpu", lora=LoraSettings(rank=2)), reference=True)
    assert policy.has_adapters
    assert policy.reference is None
    names = [name for name, _ in policy.trained()]
    assert names
    assert all("lora" in name for name in names)
    ids, attention, mask = padded_rows()
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


def test_saved_weights_reload_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(ModelSettings(path=str(folder), device="cpu"))
    policy.save(tmp_path / "out")
    again = load_policy(ModelSettings(path=str(tmp_path / "out"), device="cpu"))
    for (name, one), (_, two) in zip(policy.trained(), again.trained(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all"])
def test_a_missing_folder_is_rejected(path: str) -> None:
    with pytest.raises(EngineError, match="no such folder"):
        load_policy(ModelSettings(path=path))


def test_a_folder_without_a_model_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"model\.path"):
        load_policy(ModelSettings(path=str(tmp_path)))


def test_pickled_weights_are_rejected(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.save(tiny_model().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(EngineError, match=r"^model\.path: .*pytorch_model\.bin is a pickle, which is never loaded"):
        load_policy(ModelSettings(path=str(tmp_path)))


def test_code_in_a_model_folder_is_not_run_unless_trusted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    copied(folder, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Own", "AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
        "class Config(Qwen2Config):\n    model_type = 'own'\n"
        "class Own(Qwen2ForCausalLM):\n    config_class = Config\n"
    )
    with pytest.raises(EngineError, match=r"its own Python code.*set model\.trust_remote_code=true") as caught:
        load_policy(ModelSettings(path=str(tmp_path)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    policy = load_policy(ModelSettings(path=str(tmp_path), device="cpu", trust_remote_code=True))
    assert type(policy.model).__name__ == "Own"
    assert (tmp_path / "ran").exists()


def test_a_tokenizer_that_needs_code_names_the_setting(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}))
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit\n")
    with pytest.raises(EngineError, match=r"set model\.trust_remote_code=true"):
        load_tokenizer(str(tmp_path))


def test_cuda_without_a_gpu_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"model\.device"):
        load_policy(ModelSettings(path=str(folder), device="cuda"))


def test_lora_targets_that_match_no_layer_are_rejected(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.lora\.targets"):
        load_policy(ModelSettings(path=str(folder), lora=LoraSettings(rank=2, targets=("nowhere",))))


@pytest.mark.parametrize("damage", ["truncated", "sizes", "config"])
def test_damaged_folders_are_reported_in_one_line(folder: Path, tmp_path: Path, damage: str) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    if damage == "truncated":
        (tmp_path / "model.safetensors").write_bytes(b"half")
    else:
        config |= {"hidden_size": 64} if damage == "sizes" else {"num_attention_heads": "many"}
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match=r"model\.path: cannot load a model") as caught:
        load_policy(ModelSettings(path=str(tmp_path), device="cpu"))
    assert "\n" not in str(caught.value)


NORM = "model.layers.0.input_layernorm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.pop(NORM), f"lack the weights {NORM}\\)"),
        (lambda held: held.update({NORM: torch.zeros(7)}), rf"{NORM} \[7\] instead of \[32\]"),
        (lambda held: held[NORM].fill_(float("nan")), f"NaN or inf in the weights {NORM}"),
        (lambda held: [held.pop(name) for name in list(held)[3:]], r"lack the weights .* and \d+ more"),
    ],
)
def test_missing_misshapen_and_broken_weights_are_rejected_by_name(
    folder: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], object],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    copied(folder, tmp_path)
    damage_weights(tmp_path, change)
    with pytest.raises(EngineError, match=message) as caught:
        load_policy(ModelSettings(path=str(tmp_path), device="cpu"))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_unexpected_weights_are_reported_and_ignored(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied(folder, tmp_path)
    damage_weights(tmp_path, lambda held: held.update({"value_head.weight": torch.zeros(7)}))
    load_policy(ModelSettings(path=str(tmp_path), device="cpu"))
    assert "value_head.weight" in caplog.text


@pytest.mark.parametrize("damage", ["no shard", "config", "a list", "generation", "tokenizer"])
def test_other_damage_is_reported_in_one_line(
    folder: Path, tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    copied(folder, tmp_path)
    if damage == "no shard":
        (tmp_path / "model.safetensors").unlink()
        tiny_model().save_pretrained(tmp_path, max_shard_size="20KB")
        next(tmp_path.glob("model-00002-*")).unlink()
    else:
        names = {"config": "config", "a list": "config", "generation": "generation_config", "tokenizer": "tokenizer"}
        (tmp_path / f"{names[damage]}.json").write_text("[1]" if damage == "a list" else "{x")
    capfd.readouterr()
    with pytest.raises(EngineError, match=r"^model\.path: cannot load a (model|tokenizer)") as caught:
        load_policy(ModelSettings(path=str(tmp_path), device="cpu"))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_folder_without_tokenizer_files_is_rejected(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="tokenizer"):
        load_policy(ModelSettings(path=str(tmp_path), device="cpu"))


def test_all_dropout_is_disabled(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    policy = load_policy(ModelSettings(path=str(tmp_path), device="cpu"))
    ids, attention, mask = padded_rows()
    with policy.training():
        one, two = (policy.score(ids, attention, mask, temperature=1.0).logprobs for _ in range(2))
    assert torch.equal(one, two)


def test_noise_and_dropout_are_switched_off_in_every_part_of_the_configuration(tmp_path: Path) -> None:
    noisy = {"router_jitter_noise": 0.1, "input_jitter_noise": 0.1, "attention_dropout": 0.5}
    family_model("phimoe", **noisy).save_pretrained(tmp_path / "experts")
    tiny_tokenizer().save_pretrained(tmp_path / "experts")
    config = load_policy(ModelSettings(path=str(tmp_path / "experts"), device="cpu")).model.config
    assert [getattr(config, name) for name in noisy] == [0.0] * 3
    parts = save_multimodal("gemma3", tmp_path / "parts")
    raw = json.loads((parts / "config.json").read_text())
    raw["text_config"]["attention_dropout"] = 0.5
    (parts / "config.json").write_text(json.dumps(raw))
    policy = load_policy(ModelSettings(path=str(parts), device="cpu"))
    assert policy.model.config.get_text_config().attention_dropout == 0.0


@pytest.mark.parametrize("family", ["gemma2", "bloom"])
def test_attention_falls_back_to_eager_unless_another_one_is_asked_for(family: str, tmp_path: Path) -> None:
    family_model(family).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    network = load_policy(ModelSettings(path=str(tmp_path), device="cpu")).model
    assert network.config._attn_implementation == "eager"
    with pytest.raises(EngineError, match=r"^model\.attention: 'sdpa' .* set model\.attention=eager$") as caught:
        load_policy(ModelSettings(path=str(tmp_path), device="cpu", attention="sdpa"))
    assert 'attn_implementation="eager"' in str(caught.value), "the library's own remedy"
    assert "\n" not in str(caught.value)


def test_attention_is_fused_where_a_family_supports_it(folder: Path) -> None:
    assert load_policy(ModelSettings(path=str(folder), device="cpu")).model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["qwen3_5", "gemma3", "mistral3"])
def test_a_multimodal_checkpoint_is_trained_on_text(kind: str, tmp_path: Path) -> None:
    save_multimodal(kind, tmp_path / "in")
    policy = load_policy(ModelSettings(path=str(tmp_path / "in"), device="cpu"))
    ids, attention, mask = padded_rows()
    with torch.no_grad():
        before = policy.score(ids, attention, mask, temperature=1.0).logprobs
        logits = policy.model(input_ids=ids[:1]).logits[0].log_softmax(-1)
        policy.save(tmp_path / "out")
        again = load_policy(ModelSettings(path=str(tmp_path / "out"), device="cpu"))
        after = again.score(ids, attention, mask, temperature=1.0).logprobs
    wanted = logits[2:-1].gather(-1, ids[0, 3:, None]).squeeze(-1)
    assert torch.allclose(before[0, 3:], wanted, atol=1e-4)
    assert torch.equal(before, after)


def test_a_model_that_is_not_causal_is_refused(tmp_path: Path) -> None:
    T5ForConditionalGeneration(
        T5Config(vocab_size=99, d_model=8, num_layers=1, num_heads=2, d_ff=8, d_kv=4)
    ).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(EngineError, match=r"\('t5' is not a causal language model\); give"):
        load_policy(ModelSettings(path=str(tmp_path), device="cpu"))


def test_a_long_message_of_the_library_keeps_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> NoReturn:
        raise OSError(
            "Nothing fits.\n" + "It has many parts. " * 60 + "Please install the package somename to read it."
        )

    monkeypatch.setattr(AutoConfig, "from_pretrained", refused)
    with pytest.raises(
        EngineError, match=r"\(Nothing fits\. Please install the package somename to read it\); give"
    ) as caught:
        fingerprint(ModelSettings(path="me/model"))
    assert len(str(caught.value)) < 400


def test_a_fingerprint_changes_with_any_byte_of_the_weights(folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path)
    before = fingerprint(ModelSettings(path=str(tmp_path)))
    assert before == fingerprint(ModelSettings(path=str(folder)))
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert fingerprint(ModelSettings(path=str(tmp_path))) != before


def test_the_fingerprint_of_a_hub_model_is_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def published(path: str, **_: object) -> SimpleNamespace:
        assert path == "me/model"
        return SimpleNamespace(_commit_hash="abc")

    monkeypatch.setattr(AutoConfig, "from_pretrained", published)
    assert fingerprint(ModelSettings(path="me/model")) == "abc"


def test_an_unreachable_hub_model_has_no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> NoReturn:
        raise OSError("We couldn't connect\nand more")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(EngineError, match=r"cannot load a model from 'me/model' \(We couldn't connect"):
        fingerprint(ModelSettings(path="me/model"))
