r"""The recipe of the bundled base model.

The base model is warmed up, not finished: it *knows* the careful method, one operation per line, but uses it rarely,
and more rarely the longer the expression. Most of its answers skip lines or state a number right away, which leaves
reinforcement learning something to select.
"""

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from edge_grpo.base.rng import python_random
from edge_grpo.base.settings import settings
from edge_grpo.bundled.supervised import Example, OnStep, Recipe, decoder_sizes, drawn, follow, new_folder
from edge_grpo.bundled.tokenizer import END, build_tokenizer
from edge_grpo.data.arithmetic import PARAPHRASES, ArithmeticSettings, draw_expression, reduce
from edge_grpo.data.prompts import REVISION_PHRASES, encode_follow_up, encode_prompt, encode_text
from edge_grpo.data.settings import DataSettings
from edge_grpo.data.templates import Tokenizer

__all__ = ["BaseSettings", "make_base"]

_POOL = 8  # batches drawn together and sorted by length, to limit padding


@settings
class BaseSettings(Recipe):
    """How the bundled base model is made.

    The warm-up mixture: a share ``corrected`` of the examples are a wrong attempt, ``wrong_phrase`` and a correction; a
    share ``second_turn`` are conversations that revise an earlier answer; the rest are plain answers. An answer is
    careful with probability ``careful`` for its number of operands (corrections and revisions: ``careful_again``; any
    answer in the first ``lesson_steps``: ``careful_lesson``). Otherwise it is a bare result with probability ``bare``,
    or else shows each line of the derivation with probability ``keep_line``. Only plain answers, corrections and
    revisions are trained on, not the attempts before them.
    """

    arithmetic: ArithmeticSettings = Field(
        default_factory=lambda: ArithmeticSettings(operands={2: 1.0, 3: 2.0, 4: 2.0, 5: 2.0, 6: 2.0})
    )
    careful: dict[int, float] = Field(default_factory=lambda: {2: 1.0, 3: 0.3, 4: 0.12, 5: 0.06, 6: 0.04})
    careful_again: float = Field(default=0.5, ge=0, le=1)
    bare: float = Field(default=0.8, ge=0, le=1)
    keep_line: float = Field(default=0.3, ge=0, lt=1)
    corrected: float = Field(default=0.15, ge=0, le=1)
    second_turn: float = Field(default=0.15, ge=0, le=1)
    wrong_phrase: str = " Wait! Something is wrong here."

    def __post_init__(self) -> None:
        """Reject shares that exceed 1, and missing ones."""
        if self.corrected + self.second_turn > 1:
            raise ValueError("corrected + second_turn exceed 1; lower one of them")
        missing = [count for count in self.arithmetic.operands if count not in self.careful]
        if missing:
            raise ValueError(f"careful: no probability for {missing} operands; add one")


def make_base(out_dir: str | Path, base: BaseSettings | None = None, *, on_step: OnStep | None = None) -> Path:
    """Make the base model and save it in Hugging Face format; reproduces the same bytes on the same machine.

    Args:
        out_dir: a new or empty folder.
        base: the recipe; the defaults are those of the bundled model.
        on_step: called with the number of updates done and the last loss (nats per token).

    Returns:
        the folder, with config, weights and tokenizer.

    Raises:
        ConfigError: the folder is not empty, or torch has no Muon optimizer.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: PLC0415 (seconds to import)

    folder, base, tokenizer = new_folder(out_dir), base or BaseSettings(), build_tokenizer()
    config = Qwen2Config(**decoder_sizes(base, tokenizer), max_position_embeddings=4096)
    model = drawn(Qwen2ForCausalLM, config, "base", base.seed)
    follow(base, model, _batches(base, tokenizer), pad_id=tokenizer.pad_token_id, on_step=on_step)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _batches(base: BaseSettings, tokenizer: Tokenizer) -> Iterator[list[Example]]:
    rng = python_random("base", base.seed, "examples")
    draw = _Drawer(base, tokenizer)
    done = 0
    while True:
        pool = [draw.example(rng, lesson=done < base.lesson_steps) for _ in range(_POOL * base.batch_size)]
        pool.sort(key=lambda each: len(each.context_ids) + len(each.target_ids))
        batches = [pool[start : start + base.batch_size] for start in range(0, len(pool), base.batch_size)]
        rng.shuffle(batches)
        yield from batches
        done += _POOL


class _Drawer:
    """Draws warm-up examples."""

    def __init__(self, base: BaseSettings, tokenizer: Tokenizer) -> None:
        self.base = base
        self.tokenizer = tokenizer
        self.data = DataSettings()
        self.end = encode_text(tokenizer, END)
        self.follow_ups = [encode_follow_up(tokenizer, phrase, self.data) for phrase in REVISION_PHRASES]

    def example(self, rng: random.Random, *, lesson: bool) -> Example:
        base = self.base
        expression = draw_expression(rng, base.arithmetic)
        steps = _reductions(expression)
        first, again = base.careful[len(steps) + 1], base.careful_again
        if lesson:
            first = again = base.careful_lesson
        context = encode_prompt(self.tokenizer, rng.choice(PARAPHRASES).format(expression), self.data)
        kind = rng.random()
        if kind < base.corrected:
            context += encode_text(self.tokenizer, self._attempt(rng, expression, first) + base.wrong_phrase)
            target = "\n" + self._answer(rng, steps, again)
        elif kind < base.corrected + base.second_turn:
            right = rng.random() < 0.4
            earlier = self._answer(rng, steps, first) if right else self._attempt(rng, expression, first)
            context += encode_text(self.tokenizer, earlier) + rng.choice(self.follow_ups)
            target = self._answer(rng, steps, again)
        else:
            target = self._answer(rng, steps, first)
        return Example(context, encode_text(self.tokenizer, target) + self.end)

    def _answer(self, rng: random.Random, steps: list[str], careful: float) -> str:
        if rng.random() < careful:
            return _show(steps, steps[-1])
        if rng.random() < self.base.bare:
            return _show([], steps[-1])
        return _show([step for step in steps if rng.random() < self.base.keep_line], steps[-1])

    def _attempt(self, rng: random.Random, expression: str, careful: float) -> str:
        """An answer with one operation wrong (which occasionally still gives the right result)."""
        steps = _reductions(expression)
        slip = rng.randrange(len(steps))
        before = steps[slip - 1] if slip else expression
        wrong = _slipped(rng, before, steps[slip])
        return self._answer(rng, [*steps[:slip], wrong, *_reductions(wrong)], careful)


def _slipped(rng: random.Random, before: str, after: str) -> str:
    """``after`` with a wrong result of the operation that produced it from ``before``."""
    numbers = [(found.start(), found.end()) for found in re.finditer(r"\d+", after)]
    same = 0
    for theirs, ours in zip(re.findall(r"\d+", before), re.findall(r"\d+", after), strict=False):
        if theirs != ours:
            break
        same += 1
    start, stop = numbers[min(same, len(numbers) - 1)]
    number = int(after[start:stop])
    wrong = rng.choice([each for each in range(max(0, number - 5), number + 6) if each != number])
    return after[:start] + str(wrong) + after[stop:]


def _show(steps: Sequence[str], value: str) -> str:
    return "".join(f"={step}\n" for step in steps) + f"\\boxed{{{value}}}"


def _reductions(expression: str) -> list[str]:
    found = []
    while not expression.lstrip("-").isdigit():
        expression = reduce(expression)
        found.append(expression)
    return found
