"""What a method is: frozen settings with two required functions, and hooks that do nothing by default."""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group, Strategy
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import GroupHidden, LossInputs, Scored, Signal, Totals

__all__ = ["Ask", "Method", "Repair", "TopUp"]


@dataclass(frozen=True)
class Repair:
    """A wish of a method, carried out by the collector: correct row ``row`` of the ``group``-th group.

    ``REFLECT``: append ``text`` and let the policy continue. ``ANSWER``: append ``text`` and stop. ``REFERENCE``: put
    ``text`` in place of the completion. At most ``budget`` tokens are added, so that no completion exceeds
    ``rollout.max_new_tokens + budget``; a text that does not fit is skipped and counted, never cut.
    """

    group: int
    row: int
    strategy: Strategy
    text: str
    budget: int


@dataclass(frozen=True)
class Ask:
    """A wish of a method, carried out by the collector: ``count`` revisions of row ``row`` of the ``group``-th group.

    The row's prompt and completion (without its stop token) are followed by a user turn that says ``phrase``; what is
    sampled then becomes a group of its own in layer 2, whose ``parent`` is the row. A prompt that grows too long for
    the model is skipped and counted, never cut.
    """

    group: int
    row: int
    phrase: str
    count: int


@settings
class TopUp:
    """Dynamic sampling: draw further prompts while too few groups are useful.

    After the first round, missing groups are sampled again, at most ``max_rounds`` times (0 = off), until
    ``min_share`` of ``rollout.prompts_per_step`` groups are useful. Groups that are not useful fill the places still
    empty if ``fill``, and are dropped otherwise.
    Source: Yu et al. 2025, DAPO, arXiv:2503.14476, section 3.2; the paper sets no bound on the rounds.
    """

    max_rounds: int = Field(default=0, ge=0)
    min_share: float = Field(default=1.0, gt=0, le=1)
    fill: bool = True


class Method(ABC):
    """Base of every method. A subclass is a ``@final @settings`` class with ``kind: Literal["its_name"]``.

    ``signal`` is called once a step, without gradient, and says how much every token is reinforced; ``loss`` is called
    for every micro-batch and returns its share of the update's loss, so that the sum over micro-batches does not depend
    on how rows were split. Methods hold no state and no tokenizer and are never given a random generator but in
    ``plan``.
    """

    kind: str
    train_defaults: ClassVar[Mapping[str, Any]] = {}
    """Values of the ``train`` section that come with the kind; settings that a person gives come before them.

    They are put in where a configuration names the method; a method of one's own, given in code, has none.
    """

    @property
    def uses_reference(self) -> bool:
        """Whether ``ref_logprobs`` are needed (a KL term with a positive weight)."""
        return False

    @property
    def entropy_gradient(self) -> bool:
        """Whether the loss differentiates through ``LossInputs.entropy``."""
        return False

    @property
    def wants_token_scores(self) -> bool:
        """Whether ``token_scores`` is called while a step is scored."""
        return False

    @property
    def totals_need_forward(self) -> bool:
        """Whether ``totals`` must see log-probs at the weights before each update; otherwise it sees the old ones.

        At the first update of a step the two are equal, and no forward pass is made.
        """
        return False

    @property
    def whole_groups(self) -> bool:
        """Whether ``loss`` needs all kept rows of a group in one micro-batch."""
        return False

    @property
    def num_variants(self) -> int:
        """How many wordings of each question are sampled from, a group each."""
        return 1

    @property
    def learns_from_pairs(self) -> bool:
        """Whether stored pairs (``data.pairs``) can take the place of sampled groups."""
        return False

    @property
    def dynamic_sampling(self) -> TopUp | None:
        """How to draw further prompts while too few groups are useful; None = never."""
        return None

    def useful(self, group: Group) -> bool:
        """Whether a question counts for dynamic sampling; asked after corrections, with all its answers."""
        return not group.collapsed

    def plan(self, groups: Sequence[Group], rng: random.Random) -> Sequence[Repair | Ask]:
        """Which rows to correct or to revise, and how; asked again after each round until the list is empty.

        Rows that were corrected or revised already must not be named again. Never called in evaluation.
        """
        return []

    def arrange(self, groups: Sequence[Group]) -> list[Group]:
        """The groups as they will be trained, rows dropped, copied or paired anew; asked once, after collection."""
        return list(groups)

    def token_scores(self, x: GroupHidden) -> Float[Tensor, " tokens"]:
        """A number for every completion token of one group, from hidden states; arrives as ``Scored.token_scores``.

        Raises:
            ConfigError: ``wants_token_scores`` is true, and the method does not say what they are.
        """
        name = type(self).__name__
        raise ConfigError(f"{name}.token_scores: wants_token_scores is true, but no such method is there; write it")

    @abstractmethod
    def signal(self, batch: Scored) -> Signal:
        """Advantages, masks and weights of a whole step."""

    def totals(self, x: LossInputs) -> dict[str, float]:
        """Further sums that ``loss`` needs over an update; arrive as ``Totals.extra``."""
        return {}

    @abstractmethod
    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """This micro-batch's share of the update's loss."""

    def observe(self, x: LossInputs) -> Metrics:
        """Figures about a micro-batch at the current weights (clip shares, KL), as (sum, count) pairs; no gradient."""
        return {}

    def observe_update(self, totals: Totals) -> Metrics:
        """Figures about a whole update, before its weights change."""
        return {}
