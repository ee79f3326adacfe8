"""The frozen records that flow through collection: problem, span, rollout, grade, row, group. No torch here."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

__all__ = [
    "Grade",
    "Group",
    "Pair",
    "Picture",
    "Problem",
    "Prompt",
    "Rollout",
    "Row",
    "Scene",
    "Segment",
    "Span",
    "Strategy",
    "Verdict",
]


class Segment(IntEnum):
    """Where a token came from, tracked per token from the engine to the loss."""

    PROMPT = 0
    SAMPLED = 1  # by the policy, from the prompt
    INJECTED = 2  # not sampled: a phrase, an answer, a reference solution
    CONTINUED = 3  # by the policy, after an injection
    WRONG_PREFIX = 4  # sampled, graded wrong, then followed by a correction


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
class Picture:
    """An image, and how a model is shown it.

    ``name`` says where it is from, for messages; ``digest`` tells its bytes from others; ``size`` is its width and
    height in pixels. The bytes are ``content``, or are read from ``path``. The model sees it scaled to at least
    ``min_pixels`` and at most ``max_pixels`` (width x height, 0 = no such limit), then changed by ``transform`` (see
    :mod:`edge_grpo.data.transforms`; empty = none), whose noise comes from ``seed``.
    """

    name: str = field(compare=False)
    digest: str
    size: tuple[int, int]
    path: str = field(default="", compare=False, metadata={"content": False})
    content: bytes = field(default=b"", compare=False, repr=False)
    min_pixels: int = 0
    max_pixels: int = 0
    transform: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """What the tokens of a prompt with pictures do not say: the pictures, and the text that they stand in.

    ``text`` is the rendered prompt with a placeholder for each picture, and ``special`` says whether the tokenizer adds
    its own first token; together they became the first ``num_tokens`` tokens of the prompt.
    """

    text: str
    pictures: tuple[Picture, ...]
    num_tokens: int
    special: bool = False


@dataclass(frozen=True)
class Problem:
    """One task with its reference answer.

    ``id`` is unique in its dataset; ``answers`` are equivalent reference answers, the first of which is shown to
    models; ``solution`` is a worked reference or empty; ``variants`` are rephrasings of the question with the same
    answers; ``meta`` holds the remaining columns of the data row.

    If the row has a conversation (``as_messages``), ``prompt`` is the user's last turn; ``earlier`` holds the turns
    before it, alternating between user and assistant; ``system`` is the row's own system message or empty. ``weight``
    is how often the problem is drawn per epoch. ``columns`` are all columns but those of prompt and images, as read and
    under the user's names; they are ignored when problems are compared. ``images`` take the places of the placeholders
    ``<image>`` in the turns, in order.
    """

    id: str
    prompt: str
    answers: tuple[str, ...]
    solution: str = ""
    variants: tuple[str, ...] = ()
    meta: Mapping[str, object] = field(default_factory=dict)
    earlier: tuple[str, ...] = ()
    system: str = ""
    as_messages: bool = False
    weight: float = 1.0
    columns: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)
    images: tuple[Picture, ...] = ()

    @property
    def answer(self) -> str:
        """The reference answer that corrections inject."""
        return self.answers[0]

    @property
    def text(self) -> str:
        """The question with the turns before it; without the system message, which many share."""
        return "\n\n".join((*self.earlier, self.prompt))

    @property
    def question(self) -> tuple[str, tuple[str, ...]]:
        """What to recognize the question by: its text, and the digests of its images."""
        return self.text, tuple(image.digest for image in self.images)


@dataclass(frozen=True)
class Prompt:
    """A problem with the token ids of its prompt; ``variant_ids`` are those of its variants, in order.

    With images, ``scene`` goes with the ids; variants are encoded when they are drawn, and ``longest`` is the number of
    tokens of the longest phrasing.
    """

    problem: Problem
    prompt_ids: tuple[int, ...]
    variant_ids: tuple[tuple[int, ...], ...] = ()
    scene: Scene | None = None
    longest: int = 0


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, of which ``chosen`` was preferred.

    ``prompt`` is the user's last turn; ``earlier`` holds the turns before it, alternating between user and assistant;
    ``system`` is the row's own system message or empty.
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

    ``logprobs`` and ``entropies`` (nats, at the sampling temperature, before top-p and top-k) have one number per
    token; both are empty for injected tokens, and where the engine has no such numbers. ``version`` is the number of
    training steps behind the weights that sampled the tokens, None if nothing was sampled or the engine shares the
    policy's own weights.
    """

    token_ids: tuple[int, ...]
    segment: Segment
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    version: int | None = None


@dataclass(frozen=True)
class Rollout:
    """A prompt, with its ``scene`` if it has pictures, and its completion.

    ``finished``: it ended with a stop token or a stop string; otherwise the budget ran out. ``ends_in_text``: it ended
    with a stop string, whose tokens are part of the answer; a stop token only ends it.
    """

    prompt_ids: tuple[int, ...]
    spans: tuple[Span, ...]
    finished: bool
    ends_in_text: bool = False
    scene: Scene | None = field(default=None, kw_only=True)

    @property
    def completion_ids(self) -> tuple[int, ...]:
        """All completion tokens in order, including the stop token if there is one."""
        return tuple(token for span in self.spans for token in span.token_ids)

    @property
    def stop_length(self) -> int:
        """How many tokens at the end only end the completion: 1 for a stop token, 0 for a stop string or no end."""
        return int(self.finished and not self.ends_in_text)

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The completion without its stop token: what a conversation continues from."""
        return self.completion_ids[: len(self.completion_ids) - self.stop_length]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segment of every completion token."""
        return tuple(span.segment for span in self.spans for _ in span.token_ids)


@dataclass(frozen=True)
class Grade:
    """How one completion was graded.

    ``reward`` is the weighted sum of ``parts`` (reward units); ``correct`` is for methods that need right or wrong
    regardless of the weights; ``note`` is for display; ``seconds`` is the time spent grading the row, ignored when
    grades are compared.
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
        """False if the grader failed: such a row enters no mean and no loss."""
        return self.verdict is not Verdict.ERROR


@dataclass(frozen=True)
class Row:
    """One member of a group: what is trained on and, if it was corrected, what was sampled first.

    ``source`` is the number of the question variant it was sampled under.
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

    Groups of one question share a ``family`` (None = the group is the whole family): one per phrasing, numbered by
    ``variant``, and in ``layer`` 2 one per revised answer, where ``parent`` is the number of that answer's row in the
    layer-1 group of the same family and variant.
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
    """Whether they are equal as the loss sees them, in float32."""
    seen = array("f", rewards)
    return not seen or max(seen) == min(seen)
