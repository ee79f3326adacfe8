"""Accuracy on held-out problems, with intervals. Nothing here ever corrects a completion."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from edge_grpo.base.errors import DataError
from edge_grpo.base.records import Grade, Problem, Rollout, Verdict
from edge_grpo.base.rng import derive_seed
from edge_grpo.config.sections import EvalSettings, RolloutSettings
from edge_grpo.data.prompts import encode_problems
from edge_grpo.data.settings import DataSettings
from edge_grpo.evaluation.intervals import mean_interval
from edge_grpo.functional.coverage import pass_at_k
from edge_grpo.models.loading import check_fit, stop_token_ids
from edge_grpo.models.policy import Policy
from edge_grpo.rewards.builtin import Rewards
from edge_grpo.rollout.engine import Engine, Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.sampler import Grader, Prompted

__all__ = ["Evaluation", "evaluate", "evaluate_model", "grader"]


@dataclass(frozen=True)
class Evaluation:
    """What came out: one list of right and wrong answers a problem; unscorable ones (grader errors) are left out.

    ``ids`` names the problems that were asked; ``answers`` holds every rollout with its grade, problem by problem.
    """

    correct: tuple[tuple[bool, ...], ...]
    verdicts: dict[str, int]
    mean_length: float
    finished: float
    ids: tuple[str, ...]
    answers: tuple[tuple[tuple[Rollout, Grade], ...], ...]

    @property
    def num_problems(self) -> int:
        """Problems with at least one scorable answer."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Mean over problems of the share of right answers, in [0, 1]; NaN without problems."""
        shares = [sum(own) / len(own) for own in self.correct]
        return sum(shares) / len(shares) if shares else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """A 95 % interval over problems like these (see :func:`edge_grpo.evaluation.intervals.mean_interval`)."""
        return mean_interval([sum(own) / len(own) for own in self.correct])

    def metrics(self) -> dict[str, float]:
        """The figures of a metrics row, all under ``eval/``."""
        low, high = self.interval
        row = {
            "eval/accuracy": self.accuracy,
            "eval/accuracy_low": low,
            "eval/accuracy_high": high,
            "eval/problems": self.num_problems,
            "eval/length": self.mean_length,
            "eval/finished": self.finished,
        }
        row |= {f"eval/verdict_{name}": count for name, count in self.verdicts.items()}
        fewest = min((len(own) for own in self.correct), default=1)
        k = 2
        while k <= fewest:
            row[f"eval/pass@{k}"] = sum(pass_at_k(len(own), sum(own), k) for own in self.correct) / self.num_problems
            k *= 2
        return row


def evaluate(
    engine: Engine, grader: Grader, problems: Sequence[Prompted], settings: EvalSettings, *, budget: int
) -> Evaluation:
    """Answer problems and grade the answers.

    Args:
        engine: with the weights to evaluate.
        grader: the run's.
        problems: the held-out problems.
        settings: how to answer.
        budget: tokens an answer may take where ``settings.max_new_tokens`` is 0.
    Raises:
        DataError: there is no problem to answer.
    """
    if not problems:
        raise DataError("there is no problem to evaluate on; look at data.eval_path and data.max_prompt_tokens")
    sampling = Sampling(settings.max_new_tokens or budget, settings.temperature, settings.top_p)
    requests = [
        Request(item.prompt_ids, tuple(derive_seed(settings.seed, "eval", i, j) for j in range(settings.samples)))
        for i, item in enumerate(problems)
    ]
    answered = engine.sample(requests, sampling)
    rollouts = [rollout for group in answered for rollout in group]
    asked = [item.problem for item in problems for _ in range(settings.samples)]
    grades = grader(asked, rollouts)
    each = iter(zip(rollouts, grades, strict=True))
    answers = tuple(tuple(next(each) for _ in range(settings.samples)) for _ in problems)
    correct = [tuple(grade.correct for _, grade in some if grade.scorable) for some in answers]
    return Evaluation(
        correct=tuple(flags for flags in correct if flags),
        verdicts={str(verdict): sum(grade.verdict is verdict for grade in grades) for verdict in Verdict},
        mean_length=sum(len(rollout.completion_ids) for rollout in rollouts) / len(rollouts),
        finished=sum(rollout.finished for rollout in rollouts) / len(rollouts),
        ids=tuple(item.problem.id for item in problems),
        answers=answers,
    )


def evaluate_model(
    policy: Policy,
    problems: Sequence[Problem],
    rewards: Rewards,
    *,
    data: DataSettings,
    rollout: RolloutSettings,
    settings: EvalSettings,
) -> Evaluation:
    """Evaluate a loaded model on problems, without a run around it.

    Args:
        policy: the model.
        problems: encoded here with ``data``'s template; over-long ones follow its rule.
        rewards: grades the answers.
        data: template and rule.
        rollout: stop tokens, rows side by side, and the token budget.
        settings: how to answer.
    Raises:
        DataError: a prompt is over-long and must not be, or nothing is left.
    """
    encoded = encode_problems(policy.tokenizer, problems, data)
    prompted = [Prompted(*pair) for pair in zip(encoded.problems, encoded.prompt_ids, strict=True)]
    stop_ids = stop_token_ids(policy, rollout.stop)
    budget = settings.max_new_tokens or rollout.max_new_tokens
    check_fit(policy, [item.prompt_ids for item in prompted], budget)
    engine = DecodeEngine(policy, stop_ids=stop_ids, pad_id=stop_ids[0], max_rows=rollout.max_rows)
    return evaluate(engine, grader(policy.tokenizer, rewards), prompted, settings, budget=budget)


def grader(tokenizer: PreTrainedTokenizerBase, rewards: Rewards) -> Grader:
    """Rewards of texts as a grader of rollouts: the one place where tokens become text to be judged."""

    def grade(problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> list[Grade]:
        texts = tokenizer.batch_decode([list(rollout.completion_ids) for rollout in rollouts], skip_special_tokens=True)
        return rewards.grade(problems, texts, [rollout.finished for rollout in rollouts])

    return grade
