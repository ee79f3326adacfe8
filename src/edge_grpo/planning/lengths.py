"""How long a run's prompts and reference solutions are, in tokens of its model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Problem
from edge_grpo.base.rng import python_random
from edge_grpo.config.tree import Config
from edge_grpo.data.pairs import load_pairs
from edge_grpo.data.problems import load_train_eval
from edge_grpo.data.prompts import encode_question, encode_text
from edge_grpo.training.collect import epoch

__all__ = ["Lengths", "lengths_of"]

_COUNTED: Final = 1000
"""Problems whose tokens are counted, drawn at random from more."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and references.

    ``items``: problems to train on, or stored pairs. ``per_epoch``: how many are drawn before the data repeats.
    ``counted``: problems whose tokens were counted; 0 = they were not, and ``longest`` is the largest that
    ``data.max_prompt_tokens`` allows. ``mean``, ``longest``: tokens of a prompt. ``over_long``: prompts beyond
    ``data.max_prompt_tokens``. ``references``: tokens of each worked solution, with the token that ends it.
    ``held_out``: problems to evaluate on; None = unknown.
    """

    items: int
    per_epoch: int
    counted: int
    mean: float
    longest: int
    over_long: int = 0
    references: tuple[int, ...] = ()
    held_out: int | None = None

    def beyond(self, cap: int) -> float:
        """The share of references of more than ``cap`` tokens; 0 without any."""
        return sum(own > cap for own in self.references) / len(self.references) if self.references else 0.0


def lengths_of(config: Config, tokenizer: Any) -> Lengths:
    """Read the data as a run would, and count the tokens of at most 1,000 problems.

    Images are not read: prompts that have any are taken to be as long as ``data.max_prompt_tokens`` allows.

    Raises:
        DataError: the data cannot be read, or holds nothing to train on.
    """
    data = config.data
    if data.pairs:
        found = load_pairs(
            data.pairs, data.pair_fields, subset=data.pairs_subset, split=data.pairs_split, bad_rows=data.bad_rows
        )
        count = len(found.pairs)
        return Lengths(count, count, 0, data.max_prompt_tokens, data.max_prompt_tokens)
    loaded, evaluated = load_train_eval(data, num_eval=config.eval.num_problems, seed=config.eval.seed)
    problems, held_out = loaded.problems, len(evaluated.problems)
    if not problems:
        raise DataError("no training problems are left; check data.path and data.bad_rows")
    per_epoch = len(epoch([problem.weight for problem in problems], seed=config.train.seed, number=0))
    some = _some(problems)
    if any(problem.images for problem in some):
        most = data.max_prompt_tokens
        return Lengths(len(problems), per_epoch, 0, most, most, held_out=held_out)
    lengths = [len(encode_question(tokenizer, problem, data).prompt_ids) for problem in some]
    over = sum(length > data.max_prompt_tokens for length in lengths)
    fitting = [length for length in lengths if length <= data.max_prompt_tokens] or [data.max_prompt_tokens]
    longest = data.max_prompt_tokens if over and data.over_long == "truncate" else max(fitting)
    solutions = (encode_text(tokenizer, problem.solution) for problem in some if problem.solution)
    references = tuple(len(ids) + 1 for ids in solutions)
    return Lengths(
        len(problems), per_epoch, len(lengths), sum(fitting) / len(fitting), longest, over, references, held_out
    )


def _some(problems: Sequence[Problem]) -> list[Problem]:
    """All problems, or as many as are counted, drawn at random."""
    if len(problems) <= _COUNTED:
        return list(problems)
    return python_random("lengths").sample(list(problems), _COUNTED)
