"""Tiny random models of many families, made from their configurations."""

from pathlib import Path
from typing import Any

import torch
from support import tiny_tokenizer
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedModel,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

from edge_grpo.models.policy import Policy

SHAPE = {
    "vocab_size": len(tiny_tokenizer()),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
MIXTURE = {"num_experts": 4, "shared_expert_intermediate_size": 16, **EXPERTS}

FAMILIES: dict[str, dict[str, Any]] = {
    # attention: windows, soft caps, learned and linear positions, scaled heads
    "bloom": {"n_layer": 2, "n_head": 4},
    "cohere2": {"logit_scale": 0.25, **SLIDING},
    "deepseek_v3": {
        "n_routed_experts": 4,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
        "num_key_value_heads": 4,
        **EXPERTS,
    },
    "gemma2": {"query_pre_attn_scalar": 8, **SLIDING},
    "gemma3_text": {"query_pre_attn_scalar": 8, **SLIDING},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4, "window_size": 8},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, **SLIDING},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 2.0},
    "llama4_text": {
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 48,
        "attention_chunk_size": 8,
    },
    "mistral": {"sliding_window": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    # hybrid and recurrent
    "bamba": {"attn_layer_indices": [1], **MAMBA},
    "falcon_h1": {"mamba_d_ssm": 64, **MAMBA},
    "falcon_mamba": {},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 16,
        **MAMBA,
    },
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba": {},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "expand": 2},
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "num_local_experts": 4},
    "nemotron_h": {
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "attention", "moe"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "n_routed_experts": 4,
        "moe_shared_expert_intermediate_size": 16,
        **EXPERTS,
    },
    "olmo_hybrid": LINEAR,
    "qwen3_5_moe_text": MIXTURE | LINEAR,
    "qwen3_5_text": LINEAR,
    "qwen3_next": MIXTURE | LINEAR,
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "lru_width": 32,
        "attention_window_size": 8,
        "block_types": ("recurrent", "recurrent", "attention"),
    },
    "rwkv": {"context_length": 512, "attention_hidden_size": 32},
    "xlstm": {"num_heads": 4, "embedding_dim": 32, "num_blocks": 2},
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "mamba_d_state": 8,
        "n_mamba_heads": 4,
        "mamba_ngroups": 1,
        "mamba_headdim": 16,
        "mamba_expand": 2,
        "num_mem_blocks": 1,
        "attention_head_dim": 16,
        "attention_hidden_size": 64,
        "adapter_rank": 4,
    },
}


def _spread(model: PreTrainedModel) -> PreTrainedModel:
    """Scale the weights, so that distributions are far from uniform."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4.0)
    return model.eval()


def family_model(name: str, **changes: Any) -> PreTrainedModel:
    """A random model of two or so layers."""
    config = CONFIG_MAPPING[name](**(SHAPE | FAMILIES[name] | changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _spread(AutoModelForCausalLM.from_config(config))


def family_policy(name: str, **changes: Any) -> Policy:
    """The same with a tokenizer, as a policy."""
    return Policy(family_model(name, **changes), tiny_tokenizer())


def save_multimodal(kind: str, folder: Path) -> Path:
    """A model for text and images as a Hugging Face folder: ``qwen3_5``, ``gemma3`` or ``mistral3``."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "patch_size": 14}
    tower = vision | {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    image = len(tiny_tokenizer()) - 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel
        match kind:
            case "qwen3_5":
                sight = vision | {"depth": 1, "num_heads": 2, "out_hidden_size": 32}
                ids = {"image_token_id": image, "video_token_id": image + 1, "vision_start_token_id": image + 2}
                model = Qwen3_5ForConditionalGeneration(
                    Qwen3_5Config(text_config=SHAPE | LINEAR, vision_config=sight, **ids)
                )
            case "gemma3":
                text = SHAPE | FAMILIES["gemma3_text"]
                model = Gemma3ForConditionalGeneration(
                    Gemma3Config(text_config=text, vision_config=tower, mm_tokens_per_image=4, image_token_index=image)
                )
            case _:
                text = SHAPE | {"model_type": "mistral"}
                sight = tower | {"model_type": "pixtral"}
                model = Mistral3ForConditionalGeneration(
                    Mistral3Config(text_config=text, vision_config=sight, image_token_index=image)
                )
    _spread(model).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
