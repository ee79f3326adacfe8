"""Held-out metrics during training, from the same answers, scores and intervals as ``edge-grpo eval``."""

from collections import Counter
from collections.abc import Sequence

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Prompt, Verdict
from edge_grpo.evaluation.answers import HELD_OUT, Answer, Draws, answer
from edge_grpo.evaluation.intervals import mean_interval
from edge_grpo.evaluation.scores import values_of
from edge_grpo.rollout.sampler import Sampler

__all__ = ["evaluate", "figures"]


def evaluate(sampler: Sampler, prompts: Sequence[Prompt], draws: Draws) -> list[Answer]:
    """Answer held-out problems and grade the answers; completions are never corrected here.

    Raises:
        DataError: no problems to answer.
    """
    if not prompts:
        raise DataError("no problems to evaluate on; check data.eval_path and data.max_prompt_tokens")
    return [each for decoding in draws.counts for each in answer(sampler, HELD_OUT, prompts, draws, decoding)]


def figures(answers: Sequence[Answer]) -> dict[str, float]:
    """The ``eval/`` entries of a metrics row.

    ``eval/accuracy``: share of greedy answers that are right or, if there are none, the mean share of right samples,
    with a 95% interval over problems. ``eval/pass@k``: unbiased, from the samples. Answers on which the grader failed
    are left out of both and counted as ``eval/verdict_error``; ``eval/problems`` counts problems with any other answer.
    """
    values = values_of(answers)
    accuracy = list((values.get("pass@1/greedy") or values.get("pass@1/sampled") or {}).values())
    low, high = mean_interval(accuracy)
    verdicts = Counter(each.verdict for each in answers)
    row = {
        "eval/accuracy": sum(accuracy) / len(accuracy) if accuracy else float("nan"),
        "eval/accuracy_low": low,
        "eval/accuracy_high": high,
        "eval/problems": len(accuracy),
        "eval/length": sum(each.tokens for each in answers) / len(answers),
        "eval/finished": sum(each.finished for each in answers) / len(answers),
    }
    row |= {f"eval/verdict_{verdict}": verdicts[verdict] for verdict in Verdict}
    passes = {name: own for name, own in values.items() if name.startswith("pass@") and "/" not in name}
    return row | {f"eval/{name}": sum(own.values()) / len(own) for name, own in passes.items()}
