r"""Supervised training on worked answers, and the bundled base model it produces.

The base model is warmed up, not finished: it *knows* the careful method, one operation per line, but uses it rarely,
and more rarely the longer the expression. Most of its answers skip lines or state a number right away, which leaves
reinforcement learning something to select.
"""

import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.records import Scene
from edge_grpo.base.rng import derive_seed, python_random
from edge_grpo.base.settings import settings
from edge_grpo.data.arithmetic import PARAPHRASES, ArithmeticSettings, draw_expression, reduce
from edge_grpo.data.prompts import REVISION_PHRASES, encode_follow_up, encode_prompt, encode_text
from edge_grpo.data.settings import DataSettings
from edge_grpo.data.templates import Tokenizer
from edge_grpo.models.vision import ModelVision
from edge_grpo.training.schedule import decay, warm_up

__all__ = [
    "BaseSettings",
    "Example",
    "build_tokenizer",
    "make_base",
    "new_folder",
    "optimizers",
    "supervised_loss",
    "train_supervised",
]

_PAD, _BOS, _EOS = "<|endoftext|>", "<|bos|>", "<|end|>"
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
_CHAT = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_POOL = 8  # batches drawn together and sorted by length, to limit padding


@settings
class BaseSettings:
    """How the bundled base model is made.

    The warm-up mixture: a share ``corrected`` of the examples are a wrong attempt, ``wrong_phrase`` and a correction; a
    share ``second_turn`` are conversations that revise an earlier answer; the rest are plain answers. An answer is
    careful with probability ``careful`` for its number of operands (corrections and revisions: ``careful_again``; any
    answer in the first ``lesson_steps``: ``careful_lesson``). Otherwise it is a bare result with probability ``bare``,
    or else shows each line of the derivation with probability ``keep_line``. Only plain answers, corrections and
    revisions are trained on, not the attempts before them.
    """

    seed: int = 0
    steps: int = Field(default=1200, ge=1)
    lesson_steps: int = Field(default=900, ge=0)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=5e-3, gt=0)
    warmup_steps: int = Field(default=30, ge=0)
    hidden_size: int = Field(default=128, ge=8)
    num_layers: int = Field(default=3, ge=1)
    num_heads: int = Field(default=4, ge=1)
    arithmetic: ArithmeticSettings = Field(
        default_factory=lambda: ArithmeticSettings(operands={2: 1.0, 3: 2.0, 4: 2.0, 5: 2.0, 6: 2.0})
    )
    careful: dict[int, float] = Field(default_factory=lambda: {2: 1.0, 3: 0.3, 4: 0.12, 5: 0.06, 6: 0.04})
    careful_lesson: float = Field(default=1.0, ge=0, le=1)
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


@dataclass(frozen=True)
class Example:
    """Context tokens, which are not trained on, with their scene if they have pictures, and the target tokens after
    them, which are.
    """

    context_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    scene: Scene | None = None


def supervised_loss(
    model: torch.nn.Module,
    input_ids: Int[Tensor, "rows tokens"],
    attention_mask: Int[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    inputs: Mapping[str, Tensor] | None = None,
) -> Float[Tensor, ""]:
    r"""Mean negative log-likelihood of the tokens under ``mask``.

    .. math:: L = -\frac{1}{|M|} \sum_{(i, t) \in M} \ln \pi(x_{i,t} \mid x_{i,<t})

    Args:
        model: a Hugging Face causal language model.
        input_ids: context and targets, padded.
        attention_mask: 1 where there is a token.
        mask: the tokens to train on; column 0 is never trained.
        inputs: what else the model is given, such as pictures; ids in it replace those of the context.

    Returns:
        nats per token; 0 where the mask is empty.
    """
    given = {"input_ids": input_ids, "attention_mask": attention_mask, **(inputs or {})}
    logits = model(**given, use_cache=False).logits
    wanted = mask[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1][wanted].float(), input_ids[:, 1:][wanted], reduction="sum"
    )
    return losses / wanted.sum().clamp(min=1)


def collate_examples(
    examples: Sequence[Example], pad_id: int
) -> tuple[Int[Tensor, "rows tokens"], Int[Tensor, "rows tokens"], Bool[Tensor, "rows tokens"]]:
    """Input ids, attention mask and training mask of the examples, right-padded."""
    width = max(len(each.context_ids) + len(each.target_ids) for each in examples)
    input_ids = torch.full((len(examples), width), pad_id)
    attention = torch.zeros(len(examples), width, dtype=torch.long)
    mask = torch.zeros(len(examples), width, dtype=torch.bool)
    for row, each in enumerate(examples):
        ids = each.context_ids + each.target_ids
        input_ids[row, : len(ids)] = torch.tensor(ids)
        attention[row, : len(ids)] = 1
        mask[row, len(each.context_ids) : len(ids)] = True
    return input_ids, attention, mask


def train_supervised(
    model: torch.nn.Module,
    batches: Iterator[Sequence[Example]],
    *,
    optimizers: Sequence[torch.optim.Optimizer],
    steps: int,
    warmup_steps: int,
    pad_id: int,
    decay_steps: int | None = None,
    vision: ModelVision | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train ``model`` in place: linear warm-up, cosine decay to 5 % of the peak rate, gradients clipped to norm 1.

    Args:
        model: a Hugging Face causal language model.
        batches: at least ``steps`` batches.
        optimizers: for disjoint parameters; their learning rates are the peaks.
        steps: number of updates.
        warmup_steps: updates until the peak rate.
        pad_id: padding token of short rows.
        decay_steps: updates until the lowest rate, which is then kept; None = ``steps``.
        vision: reads the pictures of examples; None = they have none.
        on_step: called with the number of updates done and the last loss (nats per token).
    """
    peaks = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    device = next(model.parameters()).device
    model.train()
    for step, examples in enumerate(itertools.islice(batches, steps)):
        falling = decay(min(1.0, step / max(1, decay_steps or steps)), "cosine", 0.05)
        for group, peak in peaks:
            group["lr"] = peak * warm_up(step, warmup_steps) * falling
        input_ids, attention, mask = (tensor.to(device) for tensor in collate_examples(examples, pad_id))
        inputs = vision.inputs(input_ids, [each.scene for each in examples]) if vision else None
        loss = supervised_loss(model, input_ids, attention, mask, inputs)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if on_step:
            on_step(step + 1, loss.item())
    model.eval()


def build_tokenizer(*, further: Sequence[str] = (), chat_template: str = _CHAT) -> Any:
    """The base model's tokenizer: one token per byte (so per ASCII character), six special tokens, a chat template.

    Any text in Unicode's composed form (NFC) survives encoding and decoding.

    Args:
        further: more special tokens, which come last.
        chat_template: its chat template.
    """
    from tokenizers import Tokenizer as Backend  # noqa: PLC0415 (only needed here)
    from tokenizers import decoders, models, normalizers, pre_tokenizers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    specials = [_PAD, _BOS, _EOS, *_ROLES]
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*specials, *bytes_, *further]
    backend = Backend(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    # AutoTokenizer loads the tokenizer of a qwen2 model as a Qwen2Tokenizer, which has exactly this setup and whose
    # unknown token is <|endoftext|>: without it, the vocabulary would grow by one on loading.
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([*specials, *further])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_PAD,
        unk_token=_PAD,
        extra_special_tokens=[*_ROLES, *further],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_base(
    out_dir: str | Path, base: BaseSettings | None = None, *, on_step: Callable[[int, float], None] | None = None
) -> Path:
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

    folder = new_folder(out_dir)
    base = base or BaseSettings()
    tokenizer = build_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=base.hidden_size,
        intermediate_size=3 * base.hidden_size,
        num_hidden_layers=base.num_layers,
        num_attention_heads=base.num_heads,
        num_key_value_heads=max(1, base.num_heads // 2),
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # weights are drawn from the global generator; restore it afterwards
        torch.manual_seed(derive_seed("base", base.seed, "weights") % 2**63)
        model = Qwen2ForCausalLM(config)
    train_supervised(
        model,
        _batches(base, tokenizer),
        optimizers=optimizers(model, base.learning_rate),
        steps=base.steps,
        warmup_steps=base.warmup_steps,
        pad_id=tokenizer.pad_token_id,
        decay_steps=min(base.lesson_steps, base.steps) or base.steps,
        on_step=on_step,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def new_folder(out_dir: str | Path) -> Path:
    """The folder for a model.

    Raises:
        ConfigError: it is not empty.
    """
    folder = Path(out_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: already exists; choose a new or empty folder")
    return folder


def optimizers(model: torch.nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices (here it needs a third of AdamW's updates), AdamW for everything else."""
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(f"making a base model needs torch.optim.Muon: got torch {torch.__version__}, wanted >= 2.9")
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


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
        self.end = encode_text(tokenizer, _EOS)
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
