"""The only tensor records: Batch -> Scored -> Signal -> LossInputs, and the Totals that losses divide by.

In every per-token tensor ``[i, j]`` is about token ``j`` of row ``i`` given the tokens before it; column 0 is never
trained. Rows are rollouts, padded on the right; ``mask`` is True on completion tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Scene

__all__ = ["Batch", "GroupHidden", "LossInputs", "Scored", "Signal", "Totals"]


@dataclass(frozen=True)
class Batch:
    """The rollouts of a step as tensors, before the policy scores them.

    ``segment`` holds :class:`edge_grpo.base.records.Segment` numbers. Groups are integer columns, and rows of one
    group need not be adjacent: one ``group`` per prompt, one ``family`` per question; ``variant`` is the phrasing of
    the row's prompt and ``source`` the phrasing it was sampled under; ``layer`` is 1 for answers and 2 for revisions,
    whose ``parent`` is the number of the revised row (-1 = none, or not in the batch). ``reward`` and the columns of
    ``reward_parts`` (unweighted, NaN = not scored) are in reward units; ``sampling_logprobs`` and
    ``sampling_entropy`` are nats at the rollout's temperature, NaN on tokens that were not sampled. ``scenes``, one per
    row, belong to prompts with pictures (None = without); empty if no prompt has any.
    """

    input_ids: Int[Tensor, "rows tokens"]
    attention: Bool[Tensor, "rows tokens"]
    mask: Bool[Tensor, "rows tokens"]
    segment: Int[Tensor, "rows tokens"]
    group: Int[Tensor, " rows"]
    family: Int[Tensor, " rows"]
    variant: Int[Tensor, " rows"]
    source: Int[Tensor, " rows"]
    layer: Int[Tensor, " rows"]
    parent: Int[Tensor, " rows"]
    reward: Float[Tensor, " rows"]
    reward_parts: Float[Tensor, "rows parts"]
    reward_weights: Float[Tensor, " parts"]
    correct: Bool[Tensor, " rows"]
    scorable: Bool[Tensor, " rows"]
    finished: Bool[Tensor, " rows"]
    corrected: Bool[Tensor, " rows"]
    sampling_logprobs: Float[Tensor, "rows tokens"]
    sampling_entropy: Float[Tensor, "rows tokens"]
    scenes: tuple[Scene | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scored(Batch):
    """All rollouts of a step, scored by the policy; nothing here carries a gradient.

    Log-probabilities and entropies are nats at the rollout's temperature; ``ref_logprobs`` is None without a reference
    model, ``token_scores`` (method-specific units, 0 outside the mask) unless the method asks for them.
    """

    old_logprobs: Float[Tensor, "rows tokens"]
    entropy: Float[Tensor, "rows tokens"]
    ref_logprobs: Float[Tensor, "rows tokens"] | None = None
    token_scores: Float[Tensor, "rows tokens"] | None = None


@dataclass(frozen=True)
class GroupHidden:
    """The completion tokens of one group as the model's head sees them, for scores that log-probs cannot provide.

    Tokens of all rows are concatenated: ``hidden`` is the state after the final norm at the position before the token,
    so ``head_weight @ hidden`` (already divided by the temperature) gives the logits that ``token_ids`` were drawn
    from; ``row`` counts from 0 within the group.
    """

    hidden: Float[Tensor, "tokens dim"]
    token_ids: Int[Tensor, " tokens"]
    row: Int[Tensor, " tokens"]
    correct: Bool[Tensor, " rows"]
    scorable: Bool[Tensor, " rows"]
    head_weight: Float[Tensor, "vocab dim"]


@dataclass(frozen=True)
class Signal:
    """A method's training signal for a step: how much to reinforce each token. Detached; computed once, before updates.

    ``advantages`` weight the policy-gradient term on the tokens of ``mask``; ``keep`` drops whole rows from every sum
    and count; ``likelihood`` weights a plain -log p term per token (0 = none); ``acting`` marks the tokens of ``mask``
    where the policy-gradient term still applies, None = all of them. For logging: ``raw_advantages`` are the
    group-relative ones before the method reshapes them, ``row_advantages`` those after; ``metrics`` join the step's.
    """

    advantages: Float[Tensor, "rows tokens"]
    mask: Bool[Tensor, "rows tokens"]
    keep: Bool[Tensor, " rows"]
    raw_advantages: Float[Tensor, " rows"]
    row_advantages: Float[Tensor, " rows"]
    likelihood: Float[Tensor, "rows tokens"] | None = None
    acting: Bool[Tensor, "rows tokens"] | None = None
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch: the current log-probs with gradient, and the matching columns of Scored and Signal.

    ``mask`` and ``acting`` are the signal's, with dropped rows cleared; ``entropy`` carries a gradient only if the
    method asks for it with ``needs.entropy_gradient``.
    """

    logprobs: Float[Tensor, "rows tokens"]
    entropy: Float[Tensor, "rows tokens"]
    old_logprobs: Float[Tensor, "rows tokens"]
    sampling_logprobs: Float[Tensor, "rows tokens"]
    ref_logprobs: Float[Tensor, "rows tokens"] | None
    advantages: Float[Tensor, "rows tokens"]
    likelihood: Float[Tensor, "rows tokens"] | None
    mask: Bool[Tensor, "rows tokens"]
    acting: Bool[Tensor, "rows tokens"]
    segment: Int[Tensor, "rows tokens"]
    keep: Bool[Tensor, " rows"]
    group: Int[Tensor, " rows"]
    family: Int[Tensor, " rows"]
    layer: Int[Tensor, " rows"]
    reward: Float[Tensor, " rows"]
    correct: Bool[Tensor, " rows"]


@dataclass(frozen=True)
class Totals:
    """Sums over one optimizer update (all its micro-batches and ranks): what losses divide by.

    ``rows`` counts kept rows, ``tokens`` the True entries of ``mask``; ``max_new_tokens`` is the completion budget;
    ``extra`` holds what the method's own ``totals`` hook adds.
    """

    rows: float
    tokens: float
    max_new_tokens: int
    extra: Mapping[str, float] = field(default_factory=dict)
