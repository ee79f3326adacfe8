"""What templates open for the model, how they end answers, and arguments that they do not read."""

import pytest
from support import tiny_tokenizer

from edge_grpo.base.errors import ConfigError
from edge_grpo.data.prompts import encode_follow_up
from edge_grpo.data.settings import DataSettings
from edge_grpo.data.templates import render_prompt
from edge_grpo.data.turns import idle_arguments, turns_of

HEADER = "<|end|><|assistant|>"
SHOWN = "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}"
TURNS = "{% for m in messages %}" + SHOWN + "{% endfor %}{% if add_generation_prompt %}<|assistant|>OPENED{% endif %}"
NO_THOUGHTS = "('<think>\n\n</think>\n\n' if m.role == 'assistant' else '')"
EMPTY_THOUGHTS = TURNS.replace("+ m.content", f"+ {NO_THOUGHTS} + m.content")
SWITCH = "{{ '<think>\n\n</think>\n\n' if enable_thinking is defined and not enable_thinking else '' }}"
ASKING = TURNS.replace("+ m.content", "+ m.content + (' Use <think> </think>.' if m.role == 'user' else '')")
ASKING_LAST = ASKING.replace("if m.role == 'user'", "if m.role == 'user' and loop.last")
CHANNELS = TURNS.replace(
    "+ m.content", "+ ('<|channel|>final<|message|>' if m.role == 'assistant' else '') + m.content"
)
REFUSING = (
    "{% if messages|length != 1 or messages[0].role != 'user' %}{{ raise_exception('one question') }}{% endif %}"
    + TURNS
)


@pytest.mark.parametrize(
    ("template", "header", "opened"),
    [
        (TURNS.replace("OPENED", ""), HEADER, ""),
        (TURNS.replace("OPENED", "<think>\n"), HEADER, "<think>\n"),
        (TURNS.replace("OPENED", "\n<think>\nOkay, "), HEADER + "\n", "<think>\nOkay, "),
        (TURNS.replace("OPENED", "The answer is \\boxed{ "), HEADER, "The answer is \\boxed{ "),
        (EMPTY_THOUGHTS.replace("OPENED", "<think>\n"), HEADER, "<think>\n"),
        (EMPTY_THOUGHTS.replace("OPENED", ""), HEADER, ""),
        (EMPTY_THOUGHTS.replace("OPENED", "<think>\n\n</think>\n\n"), HEADER, "<think>\n\n</think>\n\n"),
        (ASKING.replace("OPENED", ""), f" Use <think> </think>.{HEADER}", ""),
        (ASKING.replace("OPENED", "<think>\n"), f" Use <think> </think>.{HEADER}", "<think>\n"),
        (ASKING_LAST.replace("OPENED", ""), f" Use <think> </think>.{HEADER}", ""),
        (ASKING_LAST.replace("OPENED", "<think>\n"), f" Use <think> </think>.{HEADER}", "<think>\n"),
        (CHANNELS.replace("OPENED", ""), HEADER, ""),
        (CHANNELS.replace("OPENED", "<|channel|>analysis<|message|>"), HEADER, "<|channel|>analysis<|message|>"),
        (REFUSING.replace("OPENED", "<think>\n"), HEADER, "<think>\n"),
        (REFUSING.replace("OPENED", ""), HEADER, ""),
    ],
)
def test_what_a_template_opens_is_found(template: str, header: str, opened: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    turns = turns_of(tokenizer, DataSettings())
    assert (turns.header, turns.opened) == (header, opened)
    assert turns.opened_in(render_prompt(tokenizer, f"Is {HEADER} a header?", DataSettings())) == opened


def test_a_template_may_decide_by_the_conversation_what_it_opens() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TURNS.replace("OPENED", "{{ '' if 'quick' in messages[0].content else '<think>\n' }}")
    turns = turns_of(tokenizer, DataSettings())
    shown = [turns.opened_in(render_prompt(tokenizer, text, DataSettings())) for text in ("1+1?", "quick: 1+1?")]
    assert shown == ["<think>\n", ""]


def test_templates_that_open_nothing() -> None:
    tokenizer = tiny_tokenizer()
    for template in ("plain", "qwen-math"):
        turns = turns_of(tokenizer, DataSettings(template=template))
        assert turns.opened == ""
        assert turns.opened_in("anything") == ""
    assert turns.closing == "<|im_end|>\n"


def test_arguments_reach_prompts_and_follow_ups_and_idle_ones_are_named() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TURNS.replace("OPENED", SWITCH)
    off = DataSettings(chat_template_kwargs={"enable_thinking": False, "enable_thinkin": False})
    assert render_prompt(tokenizer, "1+1?", off).endswith("<think>\n\n</think>\n\n")
    after = tokenizer.decode(encode_follow_up(tokenizer, "Sure?", off))
    assert after.endswith("Sure?<|end|><|assistant|><think>\n\n</think>\n\n")
    assert turns_of(tokenizer, off).opened == "<think>\n\n</think>\n\n"
    (line,) = idle_arguments(tokenizer, off)
    assert line.startswith("data.chat_template_kwargs: enable_thinkin=False does not change the prompts")
    assert not list(idle_arguments(tokenizer, DataSettings()))


def test_a_template_that_rejects_its_arguments_is_one_line() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no such mode') if mode == 'slow' }}"
    with pytest.raises(ConfigError, match=r"fails: no such mode; check data\.chat_template_kwargs, or set") as caught:
        render_prompt(tokenizer, "1+1?", DataSettings(chat_template_kwargs={"mode": "slow"}))
    assert "\n" not in str(caught.value)
