import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from support import tiny_tokenizer

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.records import Picture, Problem
from edge_grpo.data.arithmetic import ArithmeticSettings, problems
from edge_grpo.data.pictures import UnusableImageError
from edge_grpo.data.prompts import (
    REVISION_PHRASES,
    check_count,
    draw_variants,
    encode_follow_up,
    encode_problems,
    encode_prompt,
    encode_text,
    phrasings,
)
from edge_grpo.data.settings import DataSettings
from edge_grpo.data.templates import render_prompt


class Characters:
    """A tokenizer whose tokens are code points, with a plain chat template."""

    chat_template: Any = "yes"

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [1] * add_special_tokens + [ord(each) for each in text]

    def get_vocab(self) -> dict[str, int]:
        return {chr(each): each for each in range(128)}

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize
        return "".join(f"[{turn['role']}]{turn['content']};" for turn in conversation) + "[assistant]"


class Bare(Characters):
    chat_template = None


class Forgetful(Characters):
    def apply_chat_template(self, conversation: list[dict[str, str]], **rest: bool) -> str:
        return super().apply_chat_template([turn for turn in conversation if turn["role"] == "user"], **rest)


def text(ids: Iterable[int]) -> str:
    return "".join(map(chr, ids))


def test_the_chat_template_renders_all_turns() -> None:
    assert text(encode_prompt(Characters(), "1+1?", DataSettings())) == "[user]1+1?;[assistant]"
    system = DataSettings(system_prompt="Think.")
    assert text(encode_prompt(Characters(), "1+1?", system)) == "[system]Think.;[user]1+1?;[assistant]"
    with pytest.raises(ConfigError, match="the tokenizer has no template"):
        encode_prompt(Bare(), "1+1?", DataSettings())


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('System role not supported') }}", "{% if %}", "{{ messages + 1 }}", {"tools": "x"}],
)
def test_a_failing_chat_template_gives_one_line_with_advice(template: object) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=r"data\.template=chat: .* fails: .*; set data\.template=plain") as e:
        encode_prompt(tokenizer, "1+1?", DataSettings())
    assert "\n" not in str(e.value)
    with pytest.raises(ConfigError, match=r"leave data\.system_prompt empty .*, or set data\.template=plain"):
        encode_follow_up(tokenizer, "Sure?", DataSettings(system_prompt="Think."))


def test_the_qwen_math_template_has_its_own_system_prompt() -> None:
    shown = render_prompt(Bare(), "1+1?", DataSettings(template="qwen-math"))
    assert shown == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    )
    own = render_prompt(Bare(), "1+1?", DataSettings(template="qwen-math", system_prompt="Think."))
    assert own.startswith("<|im_start|>system\nThink.<|im_end|>\n")


def test_the_plain_template_lets_the_tokenizer_add_its_first_token() -> None:
    assert encode_prompt(Bare(), "1+1?", DataSettings(template="plain")) == (1, *map(ord, "1+1?\n"))
    system = DataSettings(template="plain", system_prompt="Think.")
    assert render_prompt(Bare(), "1+1?", system) == "Think.\n1+1?\n"


def test_injected_text_has_no_special_tokens() -> None:
    assert encode_text(Characters(), " Wait!") == tuple(map(ord, " Wait!"))
    assert encode_text(Characters(), "") == ()


@pytest.mark.parametrize("template", ["chat", "qwen-math", "plain"])
def test_a_follow_up_continues_the_conversation(template: str) -> None:
    data = DataSettings(template=template)
    expected = {
        "chat": ";[user]Sure?;[assistant]",
        "qwen-math": "<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n",
        "plain": "\nSure?\n",
    }
    assert text(encode_follow_up(Characters(), "Sure?", data)) == expected[template]


def test_a_template_that_drops_answers_cannot_follow_up() -> None:
    with pytest.raises(ConfigError, match="drops earlier answers"):
        encode_follow_up(Forgetful(), "Sure?", DataSettings())


PROBLEMS = [Problem("short", "1", ("1",)), Problem("long", "1" * 30, ("1",))]


def test_over_long_prompts_follow_the_rule() -> None:
    with pytest.raises(DataError, match=r"'long': its prompt has 48 tokens, data.max_prompt_tokens is 20"):
        encode_problems(Characters(), PROBLEMS, DataSettings(max_prompt_tokens=20))
    skipped = encode_problems(Characters(), PROBLEMS, DataSettings(max_prompt_tokens=20, over_long="skip"))
    assert [each.problem.id for each in skipped.prompts] == ["short"]
    assert (skipped.num_skipped, skipped.num_truncated) == (1, 0)
    cut = encode_problems(Characters(), PROBLEMS, DataSettings(max_prompt_tokens=20, over_long="truncate"))
    assert [len(each.prompt_ids) for each in cut.prompts] == [19, 20]
    assert text(cut.prompts[1].prompt_ids).endswith("1;[assistant]")
    assert (cut.num_skipped, cut.num_truncated) == (0, 1)
    with pytest.raises(DataError, match="all 2 prompts"):
        encode_problems(Characters(), PROBLEMS, DataSettings(max_prompt_tokens=2, over_long="skip"))


class Counting(Characters):
    """Records the lengths of texts it encodes, and has a token of ten characters."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.lengths.append(len(text))
        return super().encode(text, add_special_tokens=add_special_tokens)

    def get_vocab(self) -> dict[str, int]:
        return super().get_vocab() | {"1234567890": 999}


HUGE = "abcdefgh" * 1_250_000


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_huge_prompt_is_encoded_only_as_far_as_it_matters(template: str) -> None:
    tokenizer, huge = Counting(), [Problem("huge", HUGE, ("1",))]
    settings = {"max_prompt_tokens": 20, "template": template}
    with pytest.raises(DataError, match=r"'huge': its prompt has at least 2\d\d tokens, data.max_prompt_tokens is 20"):
        encode_problems(tokenizer, huge, DataSettings(**settings))
    cut = encode_problems(tokenizer, huge, DataSettings(**settings, over_long="truncate"))
    whole = text(
        Characters().encode(render_prompt(tokenizer, HUGE, DataSettings(**settings)), add_special_tokens=False)
    )
    assert text(cut.prompts[0].prompt_ids) == whole[-20:]
    assert max(tokenizer.lengths) == 210
    variants = Problem("x", "1", ("1",), variants=(HUGE,))
    with pytest.raises(DataError, match="a variant of its prompt has at least"):
        encode_problems(tokenizer, [variants], DataSettings(**settings), variants=2)


def test_only_the_beginning_of_a_huge_injected_text_is_encoded() -> None:
    tokenizer = Counting()
    assert text(encode_text(tokenizer, HUGE, most=20)) == HUGE[:210]
    assert encode_text(tokenizer, "x" * 300, most=20) == (ord("x"),) * 300
    assert tokenizer.lengths == [210, 300]


def test_a_tokenizer_that_drops_characters_gets_the_whole_text() -> None:
    class Dropping(Counting):
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return super().encode(text.replace(" ", ""), add_special_tokens=add_special_tokens)

    spaced = "a" * 15 + " " * 200_000 + "b"
    assert text(encode_text(Dropping(), spaced, most=20)) == "a" * 15 + "b"
    ids = encode_prompt(Dropping(), spaced, DataSettings(template="plain", max_prompt_tokens=20))
    assert text(ids[1:]) == "a" * 15 + "b\n"


def test_the_tail_of_a_huge_prompt_has_the_same_tokens_as_in_the_whole() -> None:
    tokenizer, data = tiny_tokenizer(), DataSettings(max_prompt_tokens=30)
    some = "".join(f"Compute {i}+{i}. " for i in range(8000))
    assert len(some) > 100_000
    whole = tokenizer.encode(render_prompt(tokenizer, some, data), add_special_tokens=False)
    ids = encode_prompt(tokenizer, some, data)
    assert 30 < len(ids) < len(whole)
    assert list(ids[-30:]) == whole[-30:]


PROBLEM = Problem("p", "a", ("1",), variants=("b", "c"))


def test_the_built_in_task_has_three_phrasings() -> None:
    (problem,) = problems(ArithmeticSettings(), count=1)
    texts = phrasings(problem)
    assert texts[0] == problem.prompt
    assert len(set(texts)) == 3


def test_draws_are_without_replacement_and_reach_every_phrasing() -> None:
    drawn = [draw_variants(PROBLEM, phrasings(PROBLEM), 2, random.Random(seed)) for seed in range(30)]
    assert all(len(set(each)) == 2 for each in drawn)
    assert {text for each in drawn for text in each} == {"a", "b", "c"}


def test_too_few_phrasings_are_an_error_with_advice() -> None:
    check_count(PROBLEM, 3)
    with pytest.raises(DataError, match=r"'p': 3 phrasings of the question, 4 wanted.*data\.fields\.variants"):
        check_count(PROBLEM, 4)


def test_revision_phrases_differ_and_give_nothing_away() -> None:
    assert len(set(REVISION_PHRASES)) == len(REVISION_PHRASES) >= 5
    assert not any(word in phrase.lower() for phrase in REVISION_PHRASES for word in ("correct answer is", "boxed"))


class Seeing:
    """Reads a picture as five tokens."""

    def marker(self) -> str:
        return "@"

    def encode(self, text: str, pictures: Sequence[Picture], *, special: bool) -> tuple[int, ...]:
        if "!" in text:
            raise UnusableImageError("picture: cannot be decoded")
        return (1,) * special + tuple(map(ord, text.replace("@", "@" * 5)))


PLAIN = {"template": "plain", "max_prompt_tokens": 40}


def seen(text: str, *variants: str) -> Problem:
    return Problem(text, f"<image>{text}", ("1",), variants=variants, images=(Picture("picture", "0", (1, 1)),))


def test_a_prompt_with_images_is_measured_with_their_tokens_and_never_cut() -> None:
    data = DataSettings(**PLAIN, over_long="truncate")
    found = encode_problems(Characters(), [seen("?"), seen("?" * 40)], data, vision=Seeing())
    (prompt,) = found.prompts
    assert text(prompt.prompt_ids) == "\x01@@@@@?\n"
    assert prompt.scene is not None
    assert (prompt.scene.text, prompt.scene.num_tokens, prompt.scene.special) == ("@?\n", 8, True)
    assert (found.num_skipped, found.num_truncated) == (1, 0)
    with pytest.raises(DataError, match=r"has 47 tokens, those of its images included, .* lower data\.images\.max_p"):
        encode_problems(Characters(), [seen("?" * 40)], DataSettings(**PLAIN), vision=Seeing())


def test_an_image_that_cannot_be_used_is_a_bad_row() -> None:
    problems = [seen("!"), seen("?")]
    with pytest.raises(DataError, match=r"picture: cannot be decoded, or set data\.bad_rows=skip"):
        encode_problems(Characters(), problems, DataSettings(**PLAIN), vision=Seeing())
    found = encode_problems(Characters(), problems, DataSettings(**PLAIN, bad_rows="skip"), vision=Seeing())
    assert ([each.problem.id for each in found.prompts], found.num_damaged) == (["?"], 1)


def test_phrasings_of_a_question_with_images_are_measured() -> None:
    problem = seen("?", "<image> in other words?", "<image>!?")
    (prompt,) = encode_problems(Characters(), [problem], DataSettings(**PLAIN), vision=Seeing(), variants=3).prompts
    assert prompt.variant_ids == ()
    assert prompt.longest == len("\x01@@@@@ in other words?\n")
    with pytest.raises(DataError, match=r"a variant of its prompt has \d+ tokens, data\.max_prompt_tokens is 40"):
        encode_problems(
            Characters(), [seen("?", "<image>" + "?" * 40)], DataSettings(**PLAIN), vision=Seeing(), variants=2
        )


def test_fewer_phrasings_will_do_where_images_are_shown_in_other_ways() -> None:
    def encoded(*, transformed: bool) -> None:
        data = DataSettings(**PLAIN)
        encode_problems(Characters(), [seen("?")], data, vision=Seeing(), variants=2, transformed=transformed)

    encoded(transformed=True)
    with pytest.raises(DataError, match="1 phrasings of the question, 2 wanted"):
        encoded(transformed=False)
    assert draw_variants(seen("?"), ["a", "b"], 5, random.Random(0)).count("a") in (2, 3)


def test_an_instruction_follows_the_question() -> None:
    data = DataSettings(**PLAIN, instruction="Think.")
    (prompt,) = encode_problems(Characters(), [Problem("p", "1+1?", ("2",))], data).prompts
    assert text(prompt.prompt_ids) == "\x011+1?\nThink.\n"
    with pytest.raises(ValueError, match="instruction: got <image>, which stands for an image"):
        DataSettings(instruction="See <image>.")


@pytest.mark.parametrize("parts_only", [False, True])
def test_templates_that_take_parts_are_given_parts(parts_only: bool) -> None:
    content = "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}"
    either = "{% if message['content'] is string %}{{ message['content'] }}{% else %}" + content + "{% endif %}"
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}" + (content if parts_only else either) + "{% endfor %}"
    assert render_prompt(tokenizer, "1+1?", DataSettings()) == "1+1?"
