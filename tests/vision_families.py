"""Tiny random vision-language models of several families, with tokenizer and processor, and problems with pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from families import FAMILIES, LINEAR, SHAPE
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from edge_grpo.base.records import Picture, Problem
from edge_grpo.bundled.tokenizer import build_tokenizer
from edge_grpo.config.sections import ModelSettings
from edge_grpo.data.pictures import gradient
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy

NOTHING: Final[Mapping[str, Any]] = {}
KINDS: Final = ("gemma3", "idefics3", "llava", "qwen2_5_vl", "qwen3_5", "qwen3_vl", "smolvlm")

_QWEN: Final = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
_TOKENS: Final[dict[str, tuple[str, ...]]] = {
    "gemma3": ("<start_of_image>", "<image_soft_token>", "<end_of_image>"),
    "llava": ("<image>",),
    "idefics3": ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
    "smolvlm": ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<video>"),
    **dict.fromkeys(("qwen2_5_vl", "qwen3_5", "qwen3_vl"), _QWEN),
}
_SHOWN: Final = {
    "gemma3": "<start_of_image>",
    "llava": "<image>\n",
    **dict.fromkeys(("idefics3", "smolvlm"), "<image>"),
    **dict.fromkeys(("qwen2_5_vl", "qwen3_5", "qwen3_vl"), "<|vision_start|><|image_pad|><|vision_end|>"),
}
_PROCESSORS: Final[dict[str, tuple[str, dict[str, Any], dict[str, Any]]]] = {  # class, its settings, the images'
    "gemma3": (
        "Gemma3Processor",
        {"image_seq_length": 4},
        {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 28, "width": 28}},
    ),
    "llava": (
        "LlavaProcessor",
        {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 28},
            "crop_size": {"height": 28, "width": 28},
        },
    ),
    **{
        kind: (
            f"{name}Processor",
            {"image_seq_len": 1},
            {
                "image_processor_type": f"{name}ImageProcessor",
                "size": {"longest_edge": 56},
                "max_image_size": {"longest_edge": 28},
            },
        )
        for kind, name in (("idefics3", "Idefics3"), ("smolvlm", "SmolVLM"))
    },
    **{
        kind: (
            "Qwen2_5_VLProcessor" if kind == "qwen2_5_vl" else "Qwen3VLProcessor",
            {},
            {
                "image_processor_type": "Qwen2VLImageProcessor",
                "patch_size": 14,
                "merge_size": 2,
                "temporal_patch_size": 2,
                "size": {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 8},
            },
        )
        for kind in ("qwen2_5_vl", "qwen3_5", "qwen3_vl")
    },
}


def tokenizer_for(kind: str) -> PreTrainedTokenizerBase:
    """The character tokenizer with a family's tokens for images; LLaVA's template takes turns in parts alone."""
    part = f"{{% if part['type'] == 'image' %}}{_SHOWN[kind]}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
    parts = f"{{% for part in message['content'] %}}{part}{{% endfor %}}"
    text = "{% if message['content'] is string %}{{ message['content'] }}{% else %}" + parts + "{% endif %}"
    return build_tokenizer(
        further=_TOKENS[kind],
        chat_template=(
            "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
            + (parts if kind == "llava" else text)
            + "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
        ),
    )


def save_vision(
    kind: str, folder: Path, *, text: Mapping[str, Any] = NOTHING, images: Mapping[str, Any] = NOTHING
) -> Path:
    """A random vision-language model as a Hugging Face folder.

    ``text``: settings of the language model, and ``images`` of the image processor, in place of the small ones.
    """
    tokenizer = tokenizer_for(kind)
    model = _model(kind, tokenizer, text)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4.0) if weight.any() else weight.normal_(std=0.3)  # some begin as zeros
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if kind == "gemma3":
        named = dict(zip(("boi_token", "image_token", "eoi_token"), _TOKENS[kind], strict=True))
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | named))
    name, own, small = _PROCESSORS[kind]
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": name, **own}))
    (folder / "preprocessor_config.json").write_text(json.dumps(small | dict(images)))
    return folder


def vision_policy(kind: str, folder: Path, **settings: Any) -> Policy:
    """The same as a policy."""
    return load_policy(ModelSettings(path=str(save_vision(kind, folder)), **settings))


def pictures(count: int = 2) -> list[Picture]:
    """Pictures of different shapes."""
    return [gradient(28 * (1 + number % 2), 28 * (1 + number // 2 % 2)) for number in range(count)]


def pictured(name: str = "p", *, images: int = 1, text: str = "What is it?") -> Problem:
    """A problem with pictures."""
    return Problem(name, "<image>" * images + text, ("2",), images=tuple(pictures(images)))


def _model(kind: str, tokenizer: PreTrainedTokenizerBase, changes: Mapping[str, Any]) -> PreTrainedModel:
    token = tokenizer.convert_tokens_to_ids
    shape = SHAPE | {"vocab_size": len(tokenizer), **changes}
    tower = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    sight = {"hidden_size": 16, "intermediate_size": 16, "depth": 1, "num_heads": 2, "patch_size": 14}
    turns = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    if kind.startswith("qwen"):
        start, image, end, video = (token(each) for each in _QWEN)
        ids = {
            "image_token_id": image,
            "video_token_id": video,
            "vision_start_token_id": start,
            "vision_end_token_id": end,
        }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        match kind:
            case "gemma3":
                text = shape | FAMILIES["gemma3_text"]
                boi, image, eoi = (token(each) for each in _TOKENS[kind])
                config = Gemma3Config(
                    text_config=text,
                    vision_config=tower,
                    mm_tokens_per_image=4,
                    image_token_index=image,
                    boi_token_index=boi,
                    eoi_token_index=eoi,
                )
                return Gemma3ForConditionalGeneration(config)
            case "llava":
                return LlavaForConditionalGeneration(
                    LlavaConfig(
                        text_config=LlamaConfig(**shape),
                        vision_config=CLIPVisionConfig(**tower, projection_dim=16),
                        image_token_index=token("<image>"),
                    )
                )
            case "idefics3" | "smolvlm":
                own = {"vision_config": tower, "text_config": shape | {"model_type": "llama"}}
                ids = {"image_token_id": token("<image>")}
                if kind == "smolvlm":
                    return SmolVLMForConditionalGeneration(SmolVLMConfig(**own, **ids))
                return Idefics3ForConditionalGeneration(Idefics3Config(**own, **ids))
            case "qwen2_5_vl":
                text = shape | {"rope_parameters": turns}
                own = sight | {"out_hidden_size": 32, "window_size": 56, "fullatt_block_indexes": [0]}
                return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=own, **ids))
            case "qwen3_vl":
                text = shape | {"rope_parameters": turns}
                own = sight | {"out_hidden_size": 32, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
                return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=own, **ids))
            case _:
                own = sight | {"out_hidden_size": 32}
                return Qwen3_5ForConditionalGeneration(
                    Qwen3_5Config(text_config=shape | LINEAR, vision_config=own, **ids)
                )
