r"""The bundled vision-language base model: Qwen2.5-VL's architecture, a few layers deep, warmed up on `digits`.

Like the text model, it is warmed up, not finished: it learns to read both numbers, but is then shown mostly answers in
which one of them is taken for the next larger one, often without the thought, so that it seldom answers rightly.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from edge_grpo.base.records import Problem
from edge_grpo.base.rng import python_random
from edge_grpo.base.settings import settings
from edge_grpo.bundled.supervised import Example, OnStep, Recipe, decoder_sizes, drawn, follow, new_folder
from edge_grpo.bundled.tokenizer import build_tokenizer
from edge_grpo.data.digits import TEMPLATES, DigitsSettings, draw_numbers, picture, solution
from edge_grpo.data.pictures import PLACEHOLDER
from edge_grpo.data.prompts import encode_question, encode_text
from edge_grpo.data.settings import DataSettings
from edge_grpo.models.vision import ModelVision

__all__ = ["VisionBaseSettings", "make_vision_base"]

_START, _IMAGE, _END, _VIDEO = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"
_CHAT: Final = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    f"{{% if part['type'] == 'image' %}}{_START}{_IMAGE}{_END}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
    "{% endfor %}{% endif %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_PATCH: Final = 4  # pixels on a side; four patches are a token
_POOL: Final = 8192  # pictures drawn at the start, each used many times


@settings
class VisionBaseSettings(Recipe):
    """How the bundled vision-language model is made.

    Answers are the worked solution with probability ``careful`` (``careful_lesson`` in the first ``lesson_steps``).
    Otherwise one number is taken for the next larger one, and the thought is left out with probability ``bare``.
    """

    steps: int = Field(default=1900, ge=1)
    lesson_steps: int = Field(default=1500, ge=0)
    learning_rate: float = Field(default=3e-3, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    hidden_size: int = Field(default=96, ge=8)
    vision_size: int = Field(default=64, ge=8)
    vision_layers: int = Field(default=2, ge=1)
    digits: DigitsSettings = Field(default_factory=DigitsSettings)
    careful: float = Field(default=0.15, ge=0, le=1)
    bare: float = Field(default=0.5, ge=0, le=1)


def make_vision_base(
    out_dir: str | Path, base: VisionBaseSettings | None = None, *, on_step: OnStep | None = None
) -> Path:
    """Make the vision-language base model and save it in Hugging Face format.

    Args:
        out_dir: a new or empty folder.
        base: the recipe; the defaults are those of the bundled model.
        on_step: called with the number of updates done and the last loss (nats per token).

    Returns:
        the folder, with config, weights, tokenizer and image processor.

    Raises:
        ConfigError: the folder is not empty, Pillow is missing, or torch has no Muon optimizer.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration  # noqa: PLC0415 (seconds to import)

    folder, base = new_folder(out_dir), base or VisionBaseSettings()
    tokenizer = build_tokenizer(further=(_START, _IMAGE, _END, _VIDEO), chat_template=_CHAT)
    token = tokenizer.convert_tokens_to_ids
    text = {
        **decoder_sizes(base, tokenizer),
        "max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": _sections(base.hidden_size // base.num_heads // 2),
        },
    }
    vision_encoder = {
        "depth": base.vision_layers,
        "hidden_size": base.vision_size,
        "intermediate_size": 2 * base.vision_size,
        "num_heads": 4,
        "patch_size": _PATCH,
        "window_size": 32 * _PATCH,
        "fullatt_block_indexes": list(range(base.vision_layers)),
        "out_hidden_size": base.hidden_size,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision_encoder,
        image_token_id=token(_IMAGE),
        video_token_id=token(_VIDEO),
        vision_start_token_id=token(_START),
        vision_end_token_id=token(_END),
        tie_word_embeddings=True,
    )
    model = drawn(Qwen2_5_VLForConditionalGeneration, config, "vision base", base.seed)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)  # the processor is loaded by the model's configuration
    _save_processor(folder)
    vision = ModelVision(str(folder), tokenizer, config)
    batches = _batches(base, tokenizer, vision)
    follow(base, model, batches, pad_id=tokenizer.pad_token_id, vision=vision, on_step=on_step)
    model.save_pretrained(folder)
    return folder


def _sections(half: int) -> list[int]:
    """How many of a head's angles turn with time, height and width."""
    part = half // 3
    return [half - 2 * part, part, part]


def _save_processor(folder: Path) -> None:
    """The image processor's configuration; pictures keep their size, if its sides are multiples of two patches."""
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": _PATCH,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": (4 * _PATCH) ** 2, "longest_edge": 2**16},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "Qwen2_5_VLProcessor"}, indent=2) + "\n", encoding="utf-8"
    )


def _batches(
    base: VisionBaseSettings, tokenizer: PreTrainedTokenizerBase, vision: ModelVision
) -> Iterator[list[Example]]:
    rng = python_random("vision base", base.seed, "examples")
    pool = [_pictured(rng, base.digits, number) for number in range(_POOL)]
    done = 0
    while True:
        careful = base.careful_lesson if done < base.lesson_steps else base.careful
        yield [_example(rng, rng.choice(pool), base, careful, tokenizer, vision) for _ in range(base.batch_size)]
        done += 1


def _pictured(rng: random.Random, task: DigitsSettings, number: int) -> Problem:
    left, right = draw_numbers(rng, task)
    shown = picture(rng, (left, right), task, f"picture {number}")
    return Problem(str(number), "", (str(left + right),), meta={"left": left, "right": right}, images=(shown,))


def _example(
    rng: random.Random,
    problem: Problem,
    base: VisionBaseSettings,
    careful: float,
    tokenizer: PreTrainedTokenizerBase,
    vision: ModelVision,
) -> Example:
    asked = replace(problem, prompt=f"{PLACEHOLDER}\n{rng.choice(TEMPLATES)}")
    prompt = encode_question(tokenizer, asked, DataSettings(), vision)
    left, right = int(str(problem.meta["left"])), int(str(problem.meta["right"]))
    if rng.random() < careful:
        answer = solution(left, right)
    else:
        numbers, place = [left, right], rng.randrange(2)
        numbers[place] = _misread(numbers[place], base.digits.digits)
        answer = solution(*numbers)
        answer = answer.rpartition("\n")[2] if rng.random() < base.bare else answer
    return Example(prompt.prompt_ids, (*encode_text(tokenizer, answer), tokenizer.eos_token_id), prompt.scene)


def _misread(number: int, digits: str) -> int:
    """The next larger number that occurs; the smallest after the largest."""
    known = sorted(map(int, digits))
    return known[(known.index(number) + 1) % len(known)]
