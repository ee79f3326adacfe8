"""What ``model.path`` may name besides a model: an adapter, a run's checkpoint; and what is wrong with others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support import padded_rows, save_tiny
from torch import Tensor

from edge_grpo.base.errors import CheckpointError, EngineError
from edge_grpo.config.sections import LoraSettings, ModelSettings
from edge_grpo.config.tree import load_config, to_tree
from edge_grpo.models.loading import fingerprint, load_policy, load_tokenizer
from edge_grpo.models.policy import Policy
from edge_grpo.models.sources import resolve
from edge_grpo.training.checkpoint import RunState, save
from edge_grpo.training.update import make_optimizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def settings(path: Path | str, *targets: str, rank: int = 0) -> ModelSettings:
    return ModelSettings(path=str(path), device="cpu", lora=LoraSettings(rank=rank, targets=targets))


def moved(policy: Policy) -> Policy:
    with torch.no_grad():
        for _, weight in policy.trained():
            weight.add_(0.05)
    return policy


def scores(policy: Policy) -> Tensor:
    with torch.no_grad():
        return policy.score(*padded_rows(), temperature=1.0).logprobs


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> tuple[Path, Tensor]:
    """An adapter's folder, and the log-probs of the policy that it is from."""
    policy = moved(load_policy(settings(base, "q_proj", "lm_head", rank=2)))
    policy.save(tmp_path / "out")
    return tmp_path / "out/adapter", scores(policy)


def edit(folder: Path, **changes: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_an_adapter_is_merged_into_its_base_and_trained_on(adapter: tuple[Path, Tensor], tmp_path: Path) -> None:
    folder, before = adapter
    whole = load_policy(settings(folder), reference=True)
    assert not whole.has_adapters
    assert all(weight.requires_grad for weight in whole.model.parameters())  # peft had frozen the base
    assert torch.allclose(scores(whole), before, atol=1e-5)
    assert torch.allclose(whole.score_reference(*padded_rows(), temperature=1.0), before, atol=1e-5)
    assert load_tokenizer(str(folder)).get_vocab() == whole.tokenizer.get_vocab()
    more = load_policy(settings(folder, "v_proj", rank=2))
    assert more.adapted.kinds == {"v_proj": 2}
    moved(more).save(tmp_path / "more")
    for place in ("more", "more/adapter"):  # an adapter on an adapter
        assert torch.allclose(scores(load_policy(settings(tmp_path / place))), scores(more), atol=1e-5)


def test_a_relative_path_is_an_absolute_one_in_the_adapter(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base.parent)
    load_policy(settings(base.name, rank=1)).save(tmp_path / "out")
    found = json.loads((tmp_path / "out/adapter/adapter_config.json").read_text())
    assert found["base_model_name_or_path"] == str(base.resolve())


def test_an_adapter_of_the_bundled_model_works_wherever_the_package_is(
    adapter: tuple[Path, Tensor], tmp_path: Path
) -> None:
    load_policy(ModelSettings(device="cpu", lora=LoraSettings(rank=1))).save(tmp_path / "own")
    for path in ("bundled", "/elsewhere/site-packages/edge_grpo/bundled/base_model"):
        edit(tmp_path / "own/adapter", base_model_name_or_path=path)
        assert load_policy(settings(tmp_path / "own/adapter")).model.config.hidden_size == 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"base_model_name_or_path": "/gone/model"},
            r"its base model is not at '/gone/model'; put .* into base_model_na",
        ),
        ({"base_model_name_or_path": None}, r"its base model is not at ''"),
        ({"peft_type": "PROMPT_TUNING"}, r"type PROMPT_TUNING; only LoRA adapters"),
        ({"peft_type": 3, "base_model_name_or_path": 0}, r"type 3"),
        ({"target_modules": ["q_proj", "k_proj"]}, r"cannot load the adapter .*missing adapter keys.*k_proj"),
        ({"target_modules": ["q_proj"]}, r"its weights base_model\.model\.lm_head\.lora_A.* no place in the base"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_one_line(
    adapter: tuple[Path, Tensor], changes: dict[str, object], message: str
) -> None:
    edit(adapter[0], **changes)
    with pytest.raises(EngineError, match=rf"^model\.path: .*{message}") as caught:
        load_policy(settings(adapter[0]))
    assert "\n" not in str(caught.value)


def test_pickled_adapters_and_folders_with_two_models_are_refused(adapter: tuple[Path, Tensor], base: Path) -> None:
    folder = adapter[0]
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    with pytest.raises(EngineError, match=r"holds both a model \(config\.json\) and an adapter"):
        load_policy(settings(folder))
    (folder / "config.json").unlink()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(EngineError, match=r"has no adapter_model\.safetensors"):
        load_policy(settings(folder))
    (folder / "adapter_config.json").write_text("{x")
    with pytest.raises(EngineError, match=r"is not the configuration of an adapter"):
        fingerprint(settings(folder))


def test_a_fingerprint_covers_the_adapter_and_its_base(base: Path, adapter: tuple[Path, Tensor]) -> None:
    folder = adapter[0]
    (copy := folder.parent / "base").mkdir()
    for file in base.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    edit(folder, base_model_name_or_path=str(copy))
    found = [fingerprint(settings(folder))]
    for file in (folder / "adapter_model.safetensors", copy / "model.safetensors"):
        held = load_file(file)
        next(iter(held.values())).add_(1)
        save_file(held, file)
        found.append(fingerprint(settings(folder)))
    assert len({*found, fingerprint(settings(base))}) == 4


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[0, 2], ids=["all weights", "lora"])
def checkpoint(base: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Tensor]:
    """A run's checkpoint, and the log-probs of its policy."""
    model = settings(base, *(["q_proj", "lm_head"] if request.param else []), rank=request.param)
    config = replace(load_config(None, []), model=model)
    (run := tmp_path / "run").mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(to_tree(config)))
    policy = moved(load_policy(model))
    state = RunState(step=3, cursor=0, tokens=9, skipped_in_a_row=0, num_threads=1, device="cpu")
    place = save(run / "checkpoints", state, dict(policy.trained()), make_optimizer(policy, config.train), keep=2)
    return place, scores(policy)


def test_a_checkpoint_is_a_model_over_the_one_its_run_began_with(checkpoint: tuple[Path, Tensor], base: Path) -> None:
    place, before = checkpoint
    policy = load_policy(settings(place))
    assert not policy.has_adapters
    assert torch.allclose(scores(policy), before, atol=1e-5)
    assert len({fingerprint(settings(place)), fingerprint(settings(base))}) == 2
    held = load_file(place / "weights.safetensors")
    before_it = fingerprint(settings(place))
    save_file({name: weight + 1 for name, weight in held.items()}, place / "weights.safetensors")
    assert fingerprint(settings(place)) != before_it
    with pytest.raises(CheckpointError, match=r"damaged \(weights\.safetensors: does not match SHA256SUMS\)"):
        load_policy(settings(place))


def test_a_checkpoint_away_from_its_run_and_a_run_folder_say_what_to_give(
    checkpoint: tuple[Path, Tensor], tmp_path: Path
) -> None:
    place = checkpoint[0]
    (tmp_path / "a/b").mkdir(parents=True)
    place.rename(tmp_path / "a/b/step_000003")
    with pytest.raises(EngineError, match=r"is a checkpoint, which holds trained weights only.*RUN/checkpoints/step_N"):
        load_policy(settings(tmp_path / "a/b/step_000003"))
    with pytest.raises(EngineError, match=r"is a run folder; give .*run/final, or a folder under"):
        load_policy(settings(tmp_path / "run"))


def test_quantised_weights_are_refused(base: Path, tmp_path: Path) -> None:
    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(EngineError, match=r"its weights are quantised \(awq\); use a copy in bf16 or float32"):
        load_policy(settings(tmp_path))


def test_a_path_of_several_folders_is_no_hub_name() -> None:
    with pytest.raises(EngineError, match=r"^model\.path: no such folder: 'runs/nope-1/final/adapter'"):
        resolve("runs/nope-1/final/adapter")
