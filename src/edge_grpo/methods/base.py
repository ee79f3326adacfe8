"""What a method is: frozen settings with two required functions, and hooks that do nothing by default."""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group, Strategy
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import GroupHidden, LossInputs, Scored, Signal, Totals
from edge_grpo.data.transforms import Transform

__all__ = ["Ask", "Method", "Needs", "Repair", "Skip", "TopUp"]


@dataclass(frozen=True)
class Repair:
    """A request to the collector: correct row ``row`` of the ``group``-th group.

    ``REFLECT``: append ``text`` and let the policy continue. ``ANSWER``: append ``text`` and stop. ``REFERENCE``:
    replace the completion with ``text``. At most ``budget`` tokens are added, so that no completion exceeds
    ``rollout.max_new_tokens + budget``; a text that does not fit is skipped and counted, never cut.

    An injected text that does not grade right is not trained on: ``fallback``, unless empty, is appended to the
    completion instead, as an ``ANSWER``; if that is not right either, the row is left alone and counted.
    """

    group: int
    row: int
    strategy: Strategy
    text: str
    budget: int
    fallback: str = ""


@dataclass(frozen=True)
class Skip:
    """A row that the method would correct, but for a reason: counted as ``correction/skipped_<reason>``."""

    group: int
    row: int
    reason: str


@dataclass(frozen=True)
class Ask:
    """A request to the collector: sample ``count`` revisions of row ``row`` of the ``group``-th group.

    The row's prompt and completion (without its stop token) are followed by a user turn that says ``phrase``; the
    samples form their own group in layer 2, whose ``parent`` is the row. A prompt that grows too long for the model is
    skipped and counted, never cut.
    """

    group: int
    row: int
    phrase: str
    count: int


@settings
class TopUp:
    """Dynamic sampling: draw further prompts while too few groups are useful.

    After the first round, missing groups are sampled again, at most ``max_rounds`` times (0 = off), until ``min_share``
    of ``rollout.prompts_per_step`` groups are useful. Groups that are not useful fill the remaining slots if ``fill``,
    and are dropped otherwise.
    Source: Yu et al. 2025, DAPO, arXiv:2503.14476, section 3.2; the paper sets no bound on the rounds.
    """

    max_rounds: int = Field(default=0, ge=0)
    min_share: float = Field(default=1.0, gt=0, le=1)
    fill: bool = True


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method needs from the rest of training.

    ``every_row``: a row counts in ``loss`` although its advantages and likelihood weights are 0 on all tokens;
    otherwise such rows get no backward pass. With ``whole_groups``, every row counts.
    ``reference``: ``ref_logprobs`` (a KL term with a positive weight).
    ``entropy_gradient``: the loss differentiates through ``LossInputs.entropy``.
    ``token_scores``: the hook of that name is called while a step is scored.
    ``forward_totals``: ``totals`` sees log-probs at the weights before each update, not those before the step; at the
    first update of a step the two are equal, and no forward pass is made. ``whole_groups``: all kept rows of a group
    are in one micro-batch. ``variants``: how many variants of each question are sampled, one group per variant. Where
    the question has images, a share ``transform_share`` of the variants shows them by one of ``transforms``.
    ``stored_pairs``: stored pairs (``data.pairs``) can replace sampled groups. ``top_up``: dynamic sampling.
    ``max_corrected_prompt``: prompts of this many tokens or more are never corrected (0 = no such limit).
    """

    every_row: bool = True
    reference: bool = False
    entropy_gradient: bool = False
    token_scores: bool = False
    forward_totals: bool = False
    whole_groups: bool = False
    variants: int = 1
    transforms: tuple[Transform, ...] = ()
    transform_share: float = 0.0
    stored_pairs: bool = False
    top_up: TopUp = field(default_factory=TopUp)
    max_corrected_prompt: int = 0


class Method(ABC):
    """Base of every method. A subclass is a ``@final @settings`` class with ``kind: Literal["its_name"]``.

    ``signal`` runs once per step, without gradient, and says how much every token is reinforced; ``loss`` runs for
    every micro-batch and returns its share of the update's loss, so that the sum does not depend on how rows were
    split. Methods hold no state and no tokenizer; only ``plan`` is given a random generator.
    """

    kind: str
    train_defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults of the ``train`` section for this kind; explicit user settings win.

    They apply where a configuration names the method, not to a method passed in code.
    """

    @property
    def needs(self) -> Needs:
        """What the method needs from the rest of training."""
        return Needs()

    def compared(self, group: Group) -> Group:
        """The group with the rows and rewards that the policy-gradient term compares; by default, as it is.

        ``collapse/after`` is about these rewards.
        """
        return group

    def useful(self, group: Group) -> bool:
        """Whether a question counts for dynamic sampling; called after corrections, with all its answers."""
        return not self.compared(group).collapsed

    def plan(self, groups: Sequence[Group], rng: random.Random) -> Sequence[Repair | Skip | Ask]:
        """Which rows to correct or revise, and how; called again after each round until it returns nothing.

        Rows already corrected or revised must not be returned again. Never called in evaluation.
        """
        return []

    def arrange(self, groups: Sequence[Group]) -> list[Group]:
        """The groups as they will be trained, with rows dropped, copied or re-paired; called once, after collection."""
        return list(groups)

    def token_scores(self, x: GroupHidden) -> Float[Tensor, " tokens"]:
        """A number for every completion token of one group, from hidden states; passed on as ``Scored.token_scores``.

        Raises:
            ConfigError: ``needs.token_scores`` is true, but the method does not define this hook.
        """
        name = type(self).__name__
        raise ConfigError(f"{name}.token_scores: needs.token_scores is true, but the hook is not defined; define it")

    @abstractmethod
    def signal(self, batch: Scored) -> Signal:
        """Advantages, masks and weights of a whole step."""

    def totals(self, x: LossInputs) -> dict[str, float]:
        """Further sums that ``loss`` needs over an update, passed as ``Totals.extra``.

        By default ``acting_tokens``, the tokens with a policy-gradient term.
        """
        return {"acting_tokens": float(x.acting.sum())}

    @abstractmethod
    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """This micro-batch's share of the update's loss."""

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Figures about a micro-batch at the current weights (clip shares, KL), as (sum, count) pairs; no gradient."""
        return {}
