"""What several test files need: a tiny random model with a tokenizer, made in memory, and small records."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from edge_grpo.base.records import Grade, Group, Problem, Rollout, Row, Segment, Span, Verdict
from edge_grpo.bundled.tokenizer import build_tokenizer
from edge_grpo.data.settings import DataSettings
from edge_grpo.models.policy import Policy
from edge_grpo.models.stops import marker_ids
from edge_grpo.rewards.answers.extract import boxed_answer
from edge_grpo.rollout.engine import Engine
from edge_grpo.rollout.sampler import Sampler

Command = Callable[..., tuple[int, str, str]]
"""``edge-grpo WORDS``: its exit code, output and errors."""

PROBLEM = Problem("p", "Compute 1+1.", ("2",), "=2\n\\boxed{2}")


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """The character tokenizer of the bundled model."""
    return build_tokenizer()


def tiny_model(kind: str = "qwen2", *, dtype: torch.dtype = torch.float32, spread: float = 3.0) -> PreTrainedModel:
    """A random two-layer model; ``spread`` scales the weights so that its distributions are far from uniform."""
    vocabulary = len(tiny_tokenizer())
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": kind == "qwen2",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(Qwen2Config(**shape)) if kind == "qwen2" else LlamaForCausalLM(LlamaConfig(**shape))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(spread)
    return model.to(dtype).eval()


def padded_rows() -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention and completion mask of three rows of 9, 7 and 5 tokens, the first three of each the prompt."""
    ids = torch.arange(27).reshape(3, 9) % 50 + 5
    attention = torch.arange(9)[None] < torch.tensor([9, 7, 5])[:, None]
    return ids, attention, attention & (torch.arange(9)[None] >= 3)


def tiny_policy(kind: str = "qwen2", *, dtype: torch.dtype = torch.float32, reference: bool = False) -> Policy:
    """The tiny model with its tokenizer."""
    frozen = tiny_model(kind, dtype=dtype) if reference else None
    return Policy(tiny_model(kind, dtype=dtype), tiny_tokenizer(), reference=frozen)


class Judge:
    """A grader that applies a function to each text: right or wrong, or a whole grade."""

    part_names = ("accuracy",)
    part_weights = (1.0,)

    def __init__(self, judge: Callable[[Problem, str], Grade | bool]) -> None:
        self.judge = judge

    def grade(
        self,
        problems: Sequence[Problem],
        completions: Sequence[str],
        finished: Sequence[bool],
        token_ids: Sequence[Sequence[int]] = (),
    ) -> list[Grade]:
        found = [self.judge(problem, text) for problem, text in zip(problems, completions, strict=True)]
        right, wrong = Grade(Verdict.CORRECT, 2.0), Grade(Verdict.WRONG, 1.0)
        return [each if isinstance(each, Grade) else right if each else wrong for each in found]

    def answer(self, completion: str) -> str | None:
        return boxed_answer(completion)


def tiny_sampler(
    engine: Engine,
    judge: Callable[[Problem, str], Grade | bool],
    *,
    data: DataSettings | None = None,
    context: int | None = None,
) -> Sampler:
    """A sampler around an engine, graded by a function of problem and text."""
    tokenizer = tiny_tokenizer()
    return Sampler(
        engine=engine,
        grader=Judge(judge),
        tokenizer=tokenizer,
        data=data or DataSettings(),
        stop_ids=(tokenizer.eos_token_id,),
        marker_ids=marker_ids(tokenizer, data or DataSettings()),
        context=context,
    )


def save_tiny(folder: Path) -> Path:
    """The tiny model as an ordinary Hugging Face folder."""
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def row(reward: float, *, verdict: Verdict | None = None, tokens: int = 3, prompt: int = 4) -> Row:
    """A row with a given reward; right if the reward is 2 unless a verdict is given."""
    verdict = verdict or (Verdict.CORRECT if reward == 2 else Verdict.WRONG)
    start = 5 + 20 * int(reward)  # rows of different rewards are different answers
    span = Span(tuple(range(start, start + tokens)), Segment.SAMPLED, (-1.0,) * tokens, (0.5,) * tokens)
    return Row(Rollout(tuple(range(10, 10 + prompt)), (span,), True), Grade(verdict, reward, {"accuracy": reward / 2}))


def group(*rewards: float, problem: Problem = PROBLEM) -> Group:
    """A group of rows with these rewards."""
    return Group(problem, tuple(row(reward) for reward in rewards))
