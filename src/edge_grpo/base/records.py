"""The frozen records that flow through collection: problem, span, rollout, grade, row, group. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

__all__ = ["Grade", "Group", "Pair", "Problem", "Prompt", "Rollout", "Row", "Segment", "Span", "Strategy", "Verdict"]


class Segment(IntEnum):
    """What a token is, kept per token from the engine to the loss."""

    PROMPT = 0
    SAMPLED = 1  # by the policy, from the prompt
    INJECTED = 2  # text that nobody sampled: a phrase, an answer, a reference solution
    CONTINUED = 3  # by the policy, after an injection
    WRONG_PREFIX = 4  # sampled, judged wrong, and then corrected behind


class Verdict(StrEnum):
    """The outcome of grading one completion."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"  # no answer could be read from the completion
    TIMEOUT = "timeout"  # the grader was killed at its deadline: reward 0
    ERROR = "error"  # the grader itself failed: the row is unscorable, never wrong


class Strategy(StrEnum):
    """How a wrong completion was corrected."""

    NONE = "none"
    REFLECT = "reflect"
    ANSWER = "answer"
    REFERENCE = "reference"


@dataclass(frozen=True)
class Problem:
    """One task with its reference answer.

    ``id`` is unique in its data set; ``answers`` are equivalent reference answers, the first one is shown to models;
    ``solution`` is a worked reference or empty; ``variants`` are other wordings of the question, with the same answers;
    ``meta`` holds further columns of the data row.
    """

    id: str
    prompt: str
    answers: tuple[str, ...]
    solution: str = ""
    variants: tuple[str, ...] = ()
    meta: Mapping[str, object] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The reference answer that corrections inject."""
        return self.answers[0]


@dataclass(frozen=True)
class Prompt:
    """A problem with the token ids of its prompt; ``variant_ids`` are those of its variants, in order."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    variant_ids: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, of which ``chosen`` was preferred.

    ``prompt`` is what the user said last; ``earlier`` are the turns before it, the user's and the assistant's in
    alternation; ``system`` is the row's own system message or empty.
    """

    id: str
    prompt: str
    chosen: str
    rejected: str
    earlier: tuple[str, ...] = ()
    system: str = ""


@dataclass(frozen=True)
class Span:
    """Consecutive completion tokens of one origin, with what the engine recorded while sampling them.

    ``logprobs`` and ``entropies`` (nats, at the sampling temperature, before top-p and top-k) have one number a token;
    both are empty for tokens that were injected.
    """

    token_ids: tuple[int, ...]
    segment: Segment
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rollout:
    """A prompt and its completion. ``finished``: the last token is a stop token; otherwise the budget ran out."""

    prompt_ids: tuple[int, ...]
    spans: tuple[Span, ...]
    finished: bool

    @property
    def completion_ids(self) -> tuple[int, ...]:
        """All completion tokens in order, the stop token included where there is one."""
        return tuple(token for span in self.spans for token in span.token_ids)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segment of every completion token."""
        return tuple(span.segment for span in self.spans for _ in span.token_ids)


@dataclass(frozen=True)
class Grade:
    """What the rewards said of one completion.

    ``reward`` is the weighted sum of ``parts`` (reward units); ``correct`` is the flag that methods use where they need
    right or wrong whatever the weights are; ``note`` is for display; ``seconds`` is what grading the row took, and two
    grades that differ in it alone are equal.
    """

    verdict: Verdict
    reward: float
    parts: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def correct(self) -> bool:
        """Whether the answer is right."""
        return self.verdict is Verdict.CORRECT

    @property
    def scorable(self) -> bool:
        """False where the grader failed: such a row enters no mean and no loss."""
        return self.verdict is not Verdict.ERROR


@dataclass(frozen=True)
class Row:
    """One member of a group: what will be trained, and what was sampled first if it was corrected.

    ``source`` is the number of the variant of the question under which it was sampled.
    """

    rollout: Rollout
    grade: Grade
    strategy: Strategy = Strategy.NONE
    first: tuple[Rollout, Grade] | None = None  # before the correction
    source: int = 0

    @property
    def first_grade(self) -> Grade:
        """The grade before any correction."""
        return self.first[1] if self.first else self.grade


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt in one step.

    Groups of one question share their ``family`` (None = the group is all of it): one for every wording of it, numbered
    by ``variant``, and in ``layer`` 2 one for every answer that is revised, where ``parent`` is the number of the
    answer's row in the layer-1 group of its family and variant.
    """

    problem: Problem
    rows: tuple[Row, ...]
    family: int | None = None
    variant: int = 0
    layer: int = 1
    parent: int | None = None

    @property
    def collapsed(self) -> bool:
        """Whether all scorable rewards are equal (``max == min``), so that every advantage is zero."""
        return _equal([row.grade.reward for row in self.rows if row.grade.scorable])

    @property
    def collapsed_before(self) -> bool:
        """The same before any correction."""
        return _equal([row.first_grade.reward for row in self.rows if row.first_grade.scorable])


def _equal(rewards: list[float]) -> bool:
    return not rewards or max(rewards) == min(rewards)
