"""Stop strings: found at the token that completes them, whatever the tokenizer makes of them."""

import random

import pytest
from support import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from edge_grpo.rollout.stop_strings import StopStrings

CORPUS = [
    "So the answer is 12.\n\nFinal <answer>12</answer>\nDone.",
    "Then é = ½, <answer>\n x </answer>. It ends.\n\n\nNext?",
    "a<b and b</c, </ans, </answers>, wer></answer></answer>",
]


def merged() -> PreTrainedTokenizerBase:
    """Bytes merged to longer tokens, which may hold a string's end and what follows."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=6, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens([AddedToken("</answer>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def sentences() -> PreTrainedTokenizerBase:
    """SentencePiece's way: tokens begin with a space, which is dropped from the first, and unknown bytes."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
        max_token_length=6,
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


TOKENIZERS = {"bytes": tiny_tokenizer, "merged": merged, "sentences": sentences}
STRINGS = ["</answer>", "\n", "\n\n", "é", ". ", " answer", "ends.\n", "½, <"]


def first_stop(tokenizer: PreTrainedTokenizerBase, ids: list[int], strings: tuple[str, ...]) -> int:
    """The length at which the whole decoded completion first contains a string; 0 if it never does."""
    for length in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:length], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if any(string in text for string in strings):
            return length
    return 0


def found_stop(stops: StopStrings, ids: list[int]) -> int:
    """The same as the engine finds it, token by token."""
    candidates = set(stops.candidates)
    for length in range(1, len(ids) + 1):
        tail = ids[max(0, length - stops.window) : length]
        if ids[length - 1] in candidates and stops.completed([tail]) == [True]:
            return length
    return 0


@pytest.mark.parametrize("name", list(TOKENIZERS))
@pytest.mark.parametrize("strings", [*((string,) for string in STRINGS), tuple(STRINGS)])
def test_a_string_is_found_where_the_decoded_text_first_contains_it(name: str, strings: tuple[str, ...]) -> None:
    tokenizer = TOKENIZERS[name]()
    stops = StopStrings(tokenizer, strings)
    rng = random.Random(7)
    found = 0
    for _ in range(40):
        text = "".join(rng.choice(CORPUS)[: rng.randrange(1, 60)] for _ in range(3))
        ids: list[int] = []
        while text:  # spelled in arbitrary pieces, as a model may
            cut = rng.randrange(1, 9)
            ids += tokenizer.encode(text[:cut], add_special_tokens=False)
            text = text[cut:]
        wanted = first_stop(tokenizer, ids, strings)
        found += wanted > 0
        assert found_stop(stops, ids) == wanted, tokenizer.decode(ids)
    assert found > 3


def test_only_few_tokens_are_worth_decoding_for() -> None:
    stops = StopStrings(merged(), ["</answer>"])
    assert 0 < len(stops.candidates) < 30
    assert StopStrings(merged()).candidates == ()
