import dataclasses
import os
from pathlib import Path

import pytest
import torch
from bundled.recipes import check_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.rng import python_random
from edge_grpo.bundled import make
from edge_grpo.bundled.make import BaseSettings, _Drawer, make_base
from edge_grpo.bundled.supervised import Example, collate_examples, supervised_loss
from edge_grpo.bundled.tokenizer import build_tokenizer
from edge_grpo.data.prompts import encode_follow_up, encode_prompt, encode_text
from edge_grpo.data.settings import DataSettings

TEXTS = [
    "=7-16+5\n=-9+5\n=-4\n\\boxed{-4}",
    " Wait! Something is wrong here.\n\n  two  spaces\t{tab}\\ \r\n",
    "it's 12'345, don't; é漢😀 \x00\x7f",
    "",
]
SHORT = BaseSettings(steps=20, batch_size=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "one", SHORT)


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_another_model(made: Path, tmp_path: Path) -> None:
    check_recipe(make_base, SHORT, made, tmp_path)
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= {*os.listdir(made)}
    assert sum(file.stat().st_size for file in made.iterdir()) < 4 * 2**20


def test_the_global_generator_is_left_unchanged(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    make_base(tmp_path / "base", dataclasses.replace(SHORT, steps=1))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_round_trip_after_saving(made: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text
    assert tuple(ids) == encode_text(build_tokenizer(), text)


def test_the_saved_model_and_tokenizer_agree(made: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made)
    model = AutoModelForCausalLM.from_pretrained(made)
    assert len(tokenizer) == model.config.vocab_size == model.get_input_embeddings().weight.shape[0]
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == model.config.eos_token_id
    assert tokenizer.pad_token_id == model.generation_config.pad_token_id
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    prompt = encode_prompt(tokenizer, "1+1?", DataSettings())
    shown = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1+1?"}], add_generation_prompt=True, return_dict=False
    )
    assert list(prompt) == shown
    assert tokenizer.decode(prompt, skip_special_tokens=True) == "1+1?"
    logits = model(input_ids=torch.tensor([prompt])).logits
    assert logits.shape == (1, len(prompt), len(tokenizer))


def test_a_second_turn_built_from_tokens_matches_the_chat_template() -> None:
    tokenizer = build_tokenizer()
    turns = [("user", "1+1?"), ("assistant", "\\boxed{3}"), ("user", "Sure?")]
    whole = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns], add_generation_prompt=True, return_dict=False
    )
    data = DataSettings()
    parts = encode_prompt(tokenizer, "1+1?", data) + encode_text(tokenizer, "\\boxed{3}")
    assert list(parts + encode_follow_up(tokenizer, "Sure?", data)) == whole


def test_examples_train_only_on_right_answers() -> None:
    base, tokenizer = BaseSettings(), build_tokenizer()
    draw, rng = _Drawer(base, tokenizer), python_random(5)
    seen = {"plain": 0, "corrected": 0, "second turn": 0}
    for _ in range(300):
        example = draw.example(rng, lesson=False)
        context, target = tokenizer.decode(example.context_ids), tokenizer.decode(example.target_ids)
        question = context.split("<|user|>")[1].split("<|end|>")[0]
        expression = "".join(each for each in question if each in "0123456789+-*")
        assert target.endswith(f"\\boxed{{{eval(expression)}}}<|end|>")
        kind = "corrected" if context.endswith(base.wrong_phrase) else "plain"
        kind = "second turn" if context.count("<|user|>") == 2 else kind
        assert context.endswith("<|assistant|>") == (kind != "corrected")
        seen[kind] += 1
    assert min(seen.values()) > 20


def test_supervised_loss_is_the_mean_over_targets(made: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(made)
    examples = [Example((1, 4, 80), (90, 2)), Example((1, 4), (90, 91, 92, 2))]
    with torch.no_grad():
        input_ids, attention, mask = collate_examples(examples, 0)
        assert mask.sum() == 6
        together = supervised_loss(model, input_ids, attention, mask)
        alone = [supervised_loss(model, *collate_examples([each], 0)) for each in examples]
        logits = model(input_ids=torch.tensor([[1, 4, 80, 90, 2]])).logits[0].log_softmax(-1)
    torch.testing.assert_close(together, (2 * alone[0] + 4 * alone[1]) / 6)
    torch.testing.assert_close(alone[0], -(logits[2, 90] + logits[3, 2]) / 2)


def test_a_non_empty_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match="choose a new or empty folder"):
        make_base(tmp_path, SHORT)


def test_impossible_shares_are_rejected() -> None:
    with pytest.raises(ValueError, match="exceed 1"):
        BaseSettings(corrected=0.6, second_turn=0.6)
    with pytest.raises(ValueError, match=r"no probability for \[2\]"):
        BaseSettings(careful={3: 0.1, 4: 0.1, 5: 0.1, 6: 0.1})


def test_the_bundled_model_is_small_and_has_this_tokenizer() -> None:
    folder = Path(make.__file__).parent / "base_model"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4 * 2**20
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert tokenizer.chat_template == build_tokenizer().chat_template
