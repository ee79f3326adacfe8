"""The ``data`` section of a run's settings."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from edge_grpo.base.settings import settings
from edge_grpo.base.text import lone_surrogate
from edge_grpo.data.arithmetic import ArithmeticSettings
from edge_grpo.data.digits import DigitsSettings
from edge_grpo.data.pictures import PLACEHOLDER, ImageSettings
from edge_grpo.rewards.references import compiled

__all__ = ["AnswerPattern", "DataSettings", "FieldNames", "PairFieldNames", "Paths", "named", "sources"]


def _form(given: Any) -> str:
    """Which form of a path setting is meant, so that a mistake in it is explained for that form alone."""
    if isinstance(given, list | tuple):
        return "tagged-list"
    return "tagged-mapping" if isinstance(given, Mapping) else "tagged-text"


_One = Annotated[str, Tag("tagged-text")]
_Several = Annotated[tuple[str, ...], Tag("tagged-list")]
_Weighted = Annotated[dict[str, Annotated[float, Field(gt=0, le=1000)]], Tag("tagged-mapping")]
Paths = Annotated[_One | _Several | _Weighted, Discriminator(_form)]


def sources(path: Paths) -> dict[str, float]:
    """The files, folders and hub names in a path setting, each with its weight.

    Example:
        >>> sources(""), sources(("a.jsonl", "b.jsonl")), sources({"a.jsonl": 2.0})
        ({}, {'a.jsonl': 1.0, 'b.jsonl': 1.0}, {'a.jsonl': 2.0})
    """
    if isinstance(path, Mapping):
        return dict(path)
    return dict.fromkeys((path,) if isinstance(path, str) and path else path or (), 1.0)


def named(path: Paths, *, name: Callable[[str], str] = str) -> str:
    """The sources of a path setting in one line, each shown by ``name``, with the weights that are not 1.

    Example:
        >>> named("a.jsonl"), named({"a.jsonl": 2.0, "b.jsonl": 1.0})
        ('a.jsonl', 'a.jsonl x 2, b.jsonl')
    """
    return ", ".join(name(one) + (f" x {weight:g}" if weight != 1 else "") for one, weight in sources(path).items())


def _compiles(pattern: str) -> str:
    if pattern:
        compiled(pattern)
    return pattern


AnswerPattern = Annotated[str, AfterValidator(_compiles)]
"""A regular expression that finds the answer in the answer column; empty = none."""

_TAKEN: Final = (
    *("conversation", "tokenize", "add_generation_prompt", "continue_final_message", "chat_template"),
    *("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
    *("tokenizer_kwargs", "messages", "bos_token", "eos_token"),
)
"""Arguments of ``apply_chat_template`` and variables of templates that are not the user's to set."""


@settings
class FieldNames:
    """Which column of a data row holds what; ``a.b`` is the value ``b`` of the objects in column ``a``.

    ``prompt`` is text or a conversation: a list of messages with ``role`` and ``content`` that ends with the user's.
    ``answer`` is the reference answer, or a list of equivalent ones; ``solution`` is a worked solution, for
    corrections; ``variants`` is a list of other phrasings of the question. ``images`` is an image or a list of them,
    for the placeholders ``<image>`` in the prompt. ``id`` names the problem; without that column, its row's number
    does. Columns not named here end up in ``Problem.meta``.
    """

    prompt: str = "problem"
    answer: str = "answer"
    solution: str = "solution"
    variants: str = "variants"
    images: str = "images"
    id: str = "id"


@settings
class PairFieldNames:
    """Which column of a preference row holds what.

    ``prompt`` may be missing if the answers are conversations; ``chosen`` is the preferred answer, ``rejected`` the
    other one. ``id`` names the pair; without that column, its row's number does.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    id: str = "id"


@settings
class DataSettings:
    r"""Problems for training and evaluation, and how a problem becomes a prompt.

    ``task``: the built-in problems, ``arithmetic`` or, with pictures, ``digits``. ``path``: a ``.json``, ``.jsonl``,
    ``.parquet`` or ``.csv`` file, a folder written by ``Dataset.save_to_disk`` or laid out like a hub dataset, or the
    name of a hub dataset; empty = the built-in ``task``. Several are a list, or a mapping with how often each one's
    problems are drawn per epoch (``{a.jsonl: 2, b.jsonl: 0.5}``). ``subset`` chooses a subset (configuration) of a hub
    dataset, ``split`` a split; files have neither. ``eval_path`` likewise, without weights; empty = held-out problems
    of the task, or rows split off ``path``. ``eval_subset``, ``eval_split``: the same for ``eval_path``. ``bad_rows``:
    an unreadable row ends the run (``error``), or is counted and left out (``skip``). ``template``: the model's own
    ``chat`` template, ``qwen-math`` (Qwen2.5-Math's, for base models), or ``plain`` text. ``system_prompt``: empty =
    none, or the template's own for ``qwen-math``; a row's own system message replaces it. ``over_long`` decides what
    happens to a prompt of more than ``max_prompt_tokens`` tokens, those of images included; ``truncate`` keeps its last
    tokens, and never cuts a prompt with images. ``instruction`` is added to the end of every question, on a line of its
    own. ``chat_template_kwargs`` are arguments for the model's chat template, such as ``{enable_thinking: false}``.

    ``answer_pattern``: a regular expression with at most one group, for an answer column that holds more than the
    answer: its last non-empty match (or the group's) is the answer. Without one, an answer is what follows the last
    ``####`` (GSM8K), or the content of the last box, or all of the column; ``(?s).+`` is always all of it.

    ``pairs``: pairs of answers, one preferred, from what ``eval_path`` may be; methods that learn from pairs then train
    on them instead of sampled groups. ``pairs_subset``, ``pairs_split``: the same for ``pairs``. ``over_long`` also
    applies to answers of more than ``rollout.max_new_tokens`` tokens; ``truncate`` keeps their first tokens.
    """

    task: Literal["arithmetic", "digits"] = "arithmetic"
    arithmetic: ArithmeticSettings = Field(default_factory=ArithmeticSettings)
    digits: DigitsSettings = Field(default_factory=DigitsSettings)
    path: Paths = ""
    subset: str = ""
    split: str = "train"
    eval_path: Paths = ""
    eval_subset: str = ""
    eval_split: str = "test"
    fields: FieldNames = Field(default_factory=FieldNames)
    images: ImageSettings = Field(default_factory=ImageSettings)
    answer_pattern: AnswerPattern = ""
    pairs: Paths = ""
    pairs_subset: str = ""
    pairs_split: str = "train"
    pair_fields: PairFieldNames = Field(default_factory=PairFieldNames)
    bad_rows: Literal["error", "skip"] = "error"
    template: Literal["chat", "qwen-math", "plain"] = "chat"
    system_prompt: str = ""
    instruction: str = ""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    max_prompt_tokens: int = Field(default=512, ge=1)
    over_long: Literal["error", "skip", "truncate"] = "error"

    def __post_init__(self) -> None:
        """Reject unusable text and paths, and template arguments that nothing reads."""
        for name, given in (("path", self.path), ("eval_path", self.eval_path), ("pairs", self.pairs)):
            if not isinstance(given, str) and (not given or not all(map(str.strip, given))):
                raise ValueError(f"{name}: got {given!r}, wanted at least one path, none of them empty")
            if isinstance(given, Mapping) and name != "path":
                raise ValueError(f"{name}: got weights, which are for data.path alone; give a list of paths")
            if isinstance(given, tuple) and len({*given}) < len(given):
                twice = next(each for each in given if given.count(each) > 1)
                raise ValueError(f"{name}: {twice!r} is listed twice; to draw it more often, write {{{twice}: 2, ...}}")
        for name, text in (("system_prompt", self.system_prompt), ("instruction", self.instruction)):
            if broken := lone_surrogate(text):
                raise ValueError(f"{name}: {broken}")
            if PLACEHOLDER in text:
                raise ValueError(f"{name}: got {PLACEHOLDER}, which stands for an image of a problem; drop it")
        if self.chat_template_kwargs and self.template != "chat":
            raise ValueError(
                f"chat_template_kwargs: with template={self.template} there is no chat template to read them; leave "
                "them empty, or set template=chat"
            )
        if taken := [name for name in self.chat_template_kwargs if name in _TAKEN]:
            raise ValueError(f"chat_template_kwargs: {taken[0]!r} is not an argument of the template; drop it")
