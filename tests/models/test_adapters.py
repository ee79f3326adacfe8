"""LoRA: which weights the targets mean, tied weights, mixtures of experts, and what is said about it."""

import json
import warnings
from pathlib import Path

import families
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from support import padded_rows, save_tiny, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    MambaConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.sections import LoraSettings, ModelSettings
from edge_grpo.models.adapters import describe, quiet_peft
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy

SHAPE = families.SHAPE | {"num_experts_per_tok": 2}
MIXTURES: dict[str, PretrainedConfig] = {
    "gpt_oss": GptOssConfig(**SHAPE, num_local_experts=4, rope_scaling=None),
    "qwen3_moe": Qwen3MoeConfig(**SHAPE, num_experts=4, moe_intermediate_size=16),
    "with dense layers": Qwen2MoeConfig(
        **SHAPE, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16, mlp_only_layers=[0]
    ),
}


def save_model(config: PretrainedConfig, folder: Path) -> str:
    config.vocab_size = len(tiny_tokenizer())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("tied")))


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: save_model(config, tmp_path_factory.mktemp("mixture")) for name, config in MIXTURES.items()}


def settings(path: str, *targets: str, rank: int = 2) -> ModelSettings:
    eager = {"gpt_oss", "mamba"} & {json.loads(Path(path, "config.json").read_text())["model_type"]}
    attention = "eager" if eager else "sdpa"
    lora = LoraSettings(rank=rank, targets=targets)
    return ModelSettings(path=path, device="cpu", attention=attention, lora=lora)


def moved(policy: Policy) -> Policy:
    """The policy after a large step of every adapter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, weight in policy.trained():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return policy


def scores(policy: Policy) -> Tensor:
    with torch.no_grad():
        return policy.score(*padded_rows(), temperature=1.0).logprobs


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            ("q_proj", "v_porj"),
            r"'v_porj' matches nothing in this model \(it has .*v_proj.*\); did you mean 'v_proj'\?",
        ),
        (("Q_Proj",), r"'Q_Proj' matches nothing .*; did you mean 'q_proj'\?"),
        (("nowhere",), r"'nowhere' matches nothing"),
        (("norm",), r"'norm' is a Qwen2RMSNorm that LoRA cannot adapt"),
        (("self_attn", "q_proj"), r"'self_attn' is a Qwen2Attention"),
        (("q_(proj",), r"'q_\(proj' is not a regular expression"),
        ((r".*\.(a|b)_proj",), r"'.*' matches nothing"),
    ],
)
def test_a_target_that_matches_nothing_is_rejected_by_name(tied: str, targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.lora\.targets: {message}") as caught:
        load_policy(settings(tied, *targets))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "kinds"),
    [
        (("q_proj",), {"q_proj": 2}),
        (("layers.0.self_attn.q_proj", "v_proj"), {"q_proj": 1, "v_proj": 2}),
        ((r".*layers\.1\..*(q|k)_proj",), {"k_proj": 1, "q_proj": 1}),
        (("all-linear",), dict.fromkeys(("down_proj", "gate_proj", "up_proj", *(f"{x}_proj" for x in "koqv")), 2)),
    ],
)
def test_targets_are_ends_of_names_or_regular_expressions(
    tied: str, targets: tuple[str, ...], kinds: dict[str, int]
) -> None:
    adapted = load_policy(settings(tied, *targets)).adapted
    assert adapted.kinds == kinds
    assert sum((adapted.kinds | adapted.frozen).values()) <= 14
    assert sum(adapted.kinds.values()) + sum(adapted.frozen.values()) == 14


def test_what_is_adapted_is_told_in_one_line(tied: str) -> None:
    policy = load_policy(settings(tied, "q_proj"))
    trainable = sum(weight.numel() for _, weight in policy.trained())
    assert policy.adapted.trainable == trainable == 2 * 2 * (32 + 32)
    assert describe(policy.adapted).startswith(
        f"LoRA of rank 2 on 2 q_proj, {trainable} of {policy.adapted.total:,} parameters ("
    )
    assert "linear weights left frozen: 2 down_proj, 2 gate_proj" in describe(policy.adapted)
    whole = load_policy(settings(tied, rank=0)).adapted
    assert describe(whole) == f"all {whole.total:,} parameters"


def test_peft_warns_of_nothing(tied: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_policy(settings(tied, "lm_head", "q_proj")).save(tmp_path / "out")
        load_policy(ModelSettings(path=str(tmp_path / "out/adapter"), device="cpu"))


# --- tied weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "targets", [("lm_head",), ("embed_tokens",), ("embed_tokens", "lm_head"), ("q_proj", "lm_head")]
)
def test_tied_weights_with_adapters_are_untied_wherever_they_are_saved(
    tied: str, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    policy = moved(load_policy(settings(tied, *targets)))
    policy.save(tmp_path / "out")
    for place in ("out", "out/adapter"):
        again = load_policy(ModelSettings(path=str(tmp_path / place), device="cpu"))
        assert torch.allclose(scores(again), scores(policy), atol=1e-4), place
    assert not AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.tie_word_embeddings
    with quiet_peft():
        peft = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out/adapter")
    ids, attention, mask = padded_rows()
    logits = peft(input_ids=ids, attention_mask=attention.long()).logits.log_softmax(-1)
    theirs = logits[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    assert torch.allclose(theirs[mask[:, 1:]], scores(policy)[:, 1:][mask[:, 1:]], atol=1e-4)


def test_a_head_is_left_tied_without_an_adapter(tied: str, tmp_path: Path) -> None:
    load_policy(settings(tied, "q_proj")).save(tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.tie_word_embeddings


def test_layers_that_share_a_weight_are_rejected_and_left_out_by_default(tmp_path: Path) -> None:
    from edge_grpo.models.adapters import add_adapters

    def shared() -> torch.nn.Module:
        model = tiny_model()
        one, two = (layer.self_attn for layer in model.model.layers)
        two.q_proj.weight = one.q_proj.weight
        return model

    with pytest.raises(ConfigError, match=r"q_proj shares its weights with model\.layers\.\d\.self_attn\.q_proj"):
        add_adapters(shared(), LoraSettings(rank=2, targets=("q_proj",)), 0, base="x")
    names = [name for name, _ in add_adapters(shared(), LoraSettings(rank=2), 0, base="x").named_parameters()]
    assert not [name for name in names if "q_proj.lora" in name]
    assert [name for name in names if "k_proj.lora" in name]


# --- mixtures of experts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_routers_and_dense_layers_are_adapted_by_default(
    mixtures: dict[str, str], tmp_path: Path, name: str
) -> None:
    policy = moved(load_policy(settings(mixtures[name])))
    assert {"experts.gate_up_proj", "experts.down_proj"} <= policy.adapted.kinds.keys()
    assert policy.adapted.frozen == {}
    policy.score(*padded_rows(), temperature=1.0).logprobs.sum().backward()
    assert [name for name, weight in policy.trained() if weight.grad is None] == []
    policy.save(tmp_path / "out")
    for place in ("out", "out/adapter"):
        attention = "eager" if name == "gpt_oss" else "sdpa"
        again = load_policy(ModelSettings(path=str(tmp_path / place), device="cpu", attention=attention))
        assert torch.allclose(scores(again), scores(policy), atol=1e-4), place


def test_experts_have_the_names_of_their_weights_and_those_before_they_were_fused(mixtures: dict[str, str]) -> None:
    path = mixtures["qwen3_moe"]
    both = {"experts.down_proj": 2, "experts.gate_up_proj": 2}
    for targets in (("experts",), ("gate_up_proj", "down_proj"), ("gate_proj", "up_proj", "down_proj")):
        assert load_policy(settings(path, *targets)).adapted.kinds == both
    with pytest.raises(ConfigError, match=r"gate_proj and up_proj of its experts in one weight.*name up_proj too"):
        load_policy(settings(path, "q_proj", "gate_proj"))
    assert "experts.gate_up_proj" in describe(load_policy(settings(path, "q_proj")).adapted).partition("frozen")[2]


def test_layers_whose_adapters_fused_kernels_bypass_are_left_out_or_rejected(tmp_path: Path) -> None:
    config = MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=None, bos_token_id=None)
    path = save_model(config, tmp_path / "mamba")
    adapted = load_policy(settings(path)).adapted
    assert adapted.kinds == {"in_proj": 2}
    assert adapted.frozen.keys() == {"dt_proj", "out_proj", "x_proj"}
    with pytest.raises(ConfigError, match=r"dt_proj directly, past an adapter; leave it out"):
        load_policy(settings(path, "dt_proj"))


def test_adapters_without_effect_are_rejected(tied: str) -> None:
    from edge_grpo.models.adapters import add_adapters, check_reached

    model = tiny_model()
    model.model.layers[1].mlp.forward = lambda hidden: hidden  # does not run its layers
    wrapped = add_adapters(model, LoraSettings(rank=2), 0, base="x")
    with pytest.raises(ConfigError, match=r"adapters on model\.layers\.1\.mlp\.down_proj, .* would have no effect"):
        check_reached(wrapped)
