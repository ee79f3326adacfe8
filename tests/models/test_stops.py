"""What ends a completion, by tokenizer, template and generation config; and which tokens are not text."""

import pytest
from support import tiny_model, tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from edge_grpo.base.errors import ConfigError
from edge_grpo.data.settings import DataSettings
from edge_grpo.models.policy import Policy
from edge_grpo.models.stops import find_stops, marker_ids

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>"
    "{{ m.content }}{{ '<|return|>' if loop.last and m.role == 'assistant' and returns else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
CHANNELS = ("<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>")


def made(
    *special: str, eos: str | None = None, template: str | None = None, ends: tuple[str, ...] | None = None
) -> Policy:
    """A tiny model whose tokenizer has these tokens, and whose generation config names some of them."""
    tokenizer, model = tiny_tokenizer(), tiny_model()
    tokenizer.add_special_tokens({"extra_special_tokens": [*tokenizer.extra_special_tokens, *special]})
    if eos:
        tokenizer.eos_token = eos
    if template:
        tokenizer.chat_template = template
    if ends is not None:
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(ends))
    return Policy(model, tokenizer)


def names(policy: Policy, ids: tuple[int, ...]) -> list[str]:
    return policy.tokenizer.convert_ids_to_tokens(list(ids))


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        pytest.param(made(), ["<|end|>", "<|endoftext|>"], id="the bundled tokenizer, no generation config"),
        pytest.param(made(ends=("<|end|>",)), ["<|end|>", "<|endoftext|>"], id="the bundled model"),
        pytest.param(
            made("<|im_start|>", "<|im_end|>", eos="<|endoftext|>", template=CHATML, ends=("<|endoftext|>",)),
            ["<|endoftext|>", "<|im_end|>"],
            id="a base model with a chat template",
        ),
        pytest.param(
            made("<|im_start|>", "<|im_end|>", eos="<|endoftext|>", template=CHATML),
            ["<|endoftext|>", "<|im_end|>", "<|end|>"],
            id="the same without a generation config",
        ),
        pytest.param(
            made("<start_of_turn>", "<end_of_turn>", ends=("<|end|>", "<end_of_turn>")),
            ["<|end|>", "<end_of_turn>", "<|endoftext|>"],
            id="an end of turn that only the generation config names",
        ),
        pytest.param(
            made(*CHANNELS, eos="<|return|>", template=HARMONY, ends=("<|return|>", "<|call|>")),
            ["<|return|>", "<|call|>", "<|endoftext|>"],
            id="channels",
        ),
        pytest.param(
            made(*CHANNELS, eos="<|return|>", template=HARMONY),
            ["<|return|>", "<|endoftext|>"],
            id="channels without a generation config",
        ),
    ],
)
def test_stop_tokens_by_model(policy: Policy, wanted: list[str]) -> None:
    assert names(policy, find_stops(policy).token_ids) == wanted


def test_the_template_in_use_decides() -> None:
    policy = made("<|im_start|>", "<|im_end|>", eos="<|endoftext|>", ends=("<|endoftext|>",))
    plain = find_stops(policy, DataSettings(template="plain"))
    math = find_stops(policy, DataSettings(template="qwen-math"))
    assert names(policy, plain.token_ids) == ["<|endoftext|>"]
    assert names(policy, math.token_ids) == ["<|endoftext|>", "<|im_end|>"]


def test_a_special_token_stops_as_a_token_and_everything_else_as_text() -> None:
    policy = made("<|im_end|>", "<answer>", "</answer>", ends=("<|end|>",))
    stops = find_stops(policy, extra=("<|im_end|>", "</answer>", "a", "\n", "Ċ", "stop here", "a"))
    assert names(policy, stops.token_ids) == ["<|end|>", "<|endoftext|>", "<|im_end|>"]
    assert stops.texts == ("</answer>", "a", "\n", "stop here")  # a tag belongs to the answer; Ċ is the newline's key
    with pytest.raises(ConfigError, match=r"rollout\.stop: got an empty string"):
        find_stops(policy, extra=("",))


def test_a_model_without_stop_tokens_is_rejected() -> None:
    policy = made()
    policy.tokenizer.eos_token = None
    assert find_stops(policy)  # known end-of-turn tokens in the vocabulary
    policy.tokenizer.get_vocab = dict
    policy.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"rollout\.stop: neither"):
        find_stops(policy)


def markers(policy: Policy, data: DataSettings) -> set[str]:
    tokenizer: PreTrainedTokenizerBase = policy.tokenizer
    return set(tokenizer.convert_ids_to_tokens(sorted(marker_ids(tokenizer, data))))


def test_markers_of_turns_are_not_text_and_tags_and_channels_are() -> None:
    bundled = {"<|bos|>", "<|end|>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>"}
    assert markers(made(), DataSettings()) == bundled
    own = {"<|bos|>", "<|end|>", "<|endoftext|>"}
    tags = made("<think>", "</think>", "<answer>", "</answer>", "<|im_start|>", "<|im_end|>", template=CHATML)
    assert markers(tags, DataSettings()) == own | {"<|im_start|>", "<|im_end|>"}
    opening = CHATML.replace("assistant\n", "assistant\n<think>\n").replace(
        "{{ m.content }}", "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
    )
    tags.tokenizer.chat_template = opening
    assert markers(tags, DataSettings()) == own | {"<|im_start|>", "<|im_end|>"}
    channels = made(*CHANNELS, eos="<|return|>", template=HARMONY)
    assert markers(channels, DataSettings()) == {"<|bos|>", "<|return|>", "<|endoftext|>"}
