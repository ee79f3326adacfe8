r"""How one token's update moves other tokens: predicted from last hidden states (NTHR, GWHES), and measured.

With logits :math:`W h`, a gradient step on token t changes the log-probability of token s by
:math:`\langle g_t, g_s \rangle \langle h_t, h_s \rangle` per unit of learning rate, through W alone; g is the
prediction error, h the hidden state after the final norm at the position before the token. A sum over many tokens s
reduces to one matrix :math:`M = \sum_s g_s h_s^T`, which is never held whole: it is built for a few vocabulary entries
at a time, recomputing the logits.

Tokens are flat, all rows concatenated; ``row`` gives each token's row. Accumulation is in float32 or better, even under
autocast: half precision moves tokens across the threshold.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.functional._arguments import checked
from edge_grpo.functional.ops import group_max, group_mean, group_min, row_sum, where_mask

__all__ = [
    "balance",
    "gwhes",
    "likelihood_change",
    "own_scores",
    "score_threshold",
    "token_scores",
    "top_overlap",
]


@checked
def token_scores(
    hidden: Float[Tensor, "tokens dim"],
    token_ids: Int[Tensor, " tokens"],
    head_weight: Float[Tensor, "vocab inner"],
    anchors: Bool[Tensor, " tokens"],
    *,
    vocabulary: Int[Tensor, " chosen"] | None = None,
    head_input: Float[Tensor, "tokens inner"] | None = None,
    tokens_at_once: int = 1024,
    vocab_at_once: int = 8192,
) -> Float[Tensor, " tokens"]:
    r"""How much a gradient ascent step on each token would raise the total log-probability of the anchor tokens.

    .. math::
        s_t = \sum_{a \in \text{anchors}} \langle g_t, g_a \rangle \langle h_t, h_a \rangle
        = g_t^T M h_t, \qquad g_t = e_{y_t} - \operatorname{softmax}(W h_t), \quad M = \sum_a g_a h_a^T

    Args:
        hidden: states after the final norm at the position before each token.
        token_ids: the tokens.
        head_weight: the output matrix W, already divided by the sampling temperature.
        anchors: tokens to sum over, including a token's own term if it is one.
        vocabulary: distinct entries to which g is restricted (without renormalising); all if not given.
        head_input: what W is applied to, if not ``hidden`` (a head with a bias: ``hidden`` with a 1 appended).
        tokens_at_once: tokens whose logits are held at once.
        vocab_at_once: vocabulary entries held at once.

    Returns:
        squared units of hidden states, in float32 or better; any sign, though the sum over the anchors,
        :math:`\lVert M \rVert^2`, is at least 0. No tensor is larger than ``tokens_at_once`` x ``vocab_at_once``,
        ``vocab_at_once`` x dim or the inputs; chunk sizes affect rounding only. Detached.

    Source:
        Deng et al. 2025, NTHR, arXiv:2505.18830, eq. 7 (anchors: the tokens of right responses). No official code; the
        paper restricts g to the tokens that occur in the responses (``vocabulary``).

    Example:
        >>> scores = token_scores(torch.eye(2), torch.tensor([0, 1]), torch.zeros(4, 2), torch.tensor([True, False]))
        >>> scores  # an uncertain token, and one with an orthogonal state
        tensor([0.7500, 0.0000])
    """
    with torch.autocast(hidden.device.type, enabled=False):
        states = _precise(hidden.detach())
        inputs = states if head_input is None else _precise(head_input.detach())
        normalizer = _log_normalizer(inputs, head_weight, tokens_at_once, vocab_at_once)

        def errors(rows: Tensor, entries: Tensor, weight: Tensor) -> Tensor:
            predicted = (inputs[rows] @ weight.T - normalizer[rows, None]).exp()
            return (token_ids[rows, None] == entries).to(predicted.dtype) - predicted

        everything = torch.arange(len(states), device=states.device)
        summed = everything[anchors]
        scores = torch.zeros_like(normalizer)
        for entries, weight in _entries(head_weight, vocabulary, vocab_at_once, inputs.dtype):
            matrix = states.new_zeros(len(entries), states.shape[1])
            for rows in summed.split(tokens_at_once):
                matrix = matrix + errors(rows, entries, weight).T @ states[rows]
            shares = [
                (errors(rows, entries, weight) * (states[rows] @ matrix.T)).sum(-1)
                for rows in everything.split(tokens_at_once)
            ]
            scores = scores + torch.cat(shares)
    return scores


@checked
def own_scores(
    hidden: Float[Tensor, "tokens dim"],
    token_ids: Int[Tensor, " tokens"],
    head_weight: Float[Tensor, "vocab inner"],
    row: Int[Tensor, " tokens"],
    chosen: Bool[Tensor, " rows"],
    *,
    vocabulary: Int[Tensor, " entries"] | None = None,
    head_input: Float[Tensor, "tokens inner"] | None = None,
    tokens_at_once: int = 1024,
    vocab_at_once: int = 8192,
) -> Float[Tensor, " tokens"]:
    r"""The part of :func:`token_scores` that comes from the tokens of the same row.

    .. math:: \sum_{a :\, \text{row}(a) = \text{row}(t)} \langle g_t, g_a \rangle \langle h_t, h_a \rangle

    Args:
        hidden: as in :func:`token_scores`, like the further arguments that have the same name there.
        token_ids: as there.
        head_weight: as there.
        row: each token's row, from 0.
        chosen: rows to compute it for.
        vocabulary: as there.
        head_input: as there.
        tokens_at_once: as there.
        vocab_at_once: as there.

    Returns:
        as :func:`token_scores`; 0 on tokens of other rows. Subtract it to exclude a row's own tokens from a score.

    Source:
        Deng et al. 2025, NTHR, arXiv:2505.18830, eq. 8: the text refers to the influence on *other* right responses;
        the formula sums over all of them.

    Example:
        >>> two = torch.ones(2, 1), torch.tensor([0, 1]), torch.zeros(2, 1)
        >>> own_scores(*two, torch.tensor([0, 1]), torch.tensor([True, False]))
        tensor([0.5000, 0.0000])
    """
    parts = [_precise(hidden.new_zeros(0))]
    places = [torch.zeros(0, dtype=torch.long, device=hidden.device)]
    for index in chosen.nonzero().squeeze(-1):
        place = (row == index).nonzero().squeeze(-1)
        parts.append(
            token_scores(
                hidden[place],
                token_ids[place],
                head_weight,
                torch.ones_like(place, dtype=torch.bool),
                vocabulary=vocabulary,
                head_input=None if head_input is None else head_input[place],
                tokens_at_once=tokens_at_once,
                vocab_at_once=vocab_at_once,
            )
        )
        places.append(place)
    together = torch.cat(parts)
    return together.new_zeros(len(row)).index_add(0, torch.cat(places), together)


@checked
def gwhes(
    right_scores: Float[Tensor, " tokens"],
    wrong_scores: Float[Tensor, " tokens"],
    row: Int[Tensor, " tokens"],
    correct: Bool[Tensor, " rows"],
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    r"""The two terms of GWHES, the force with which a GRPO step displaces the likelihood of each right response.

    .. math::
        \text{GWHES}_i = p^- \sum_{t \in i} s^-_t - p^+ \sum_{t \in i} s^+_t, \qquad
        p^- = \sqrt{p / (1 - p)}, \quad p^+ = \sqrt{(1 - p) / p}

    Args:
        right_scores: :func:`token_scores` with the tokens of all right responses as anchors.
        wrong_scores: the same with the tokens of all wrong responses as anchors.
        row: each token's row, from 0.
        correct: whether each response of the question is right.

    Returns:
        the term of the wrong responses and the term of the right ones; GWHES is the first minus the second. 0 for wrong
        responses, and where all responses are right or all are wrong. Over the full vocabulary, minus GWHES is exactly
        the directional derivative of the response's log-probability along the GRPO gradient (population deviation) of
        the output matrix; a high GWHES predicts a drop.

    Source:
        Deng et al. 2025, NTHR, arXiv:2505.18830, theorem 4.4; averaging over a question's right responses: this
        project.

    Example:
        >>> right, wrong = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
        >>> gwhes(right, wrong, torch.tensor([0, 1]), torch.tensor([True, False]))
        (tensor([3., 0.]), tensor([1., 0.]))
    """
    share = correct.to(right_scores.dtype).mean()
    mixed = (share > 0) & (share < 1)
    odds = torch.where(mixed, share / torch.where(mixed, 1 - share, 1.0), 1.0)
    treated = correct & mixed

    def of_rows(values: Tensor) -> Tensor:
        return values.new_zeros(len(correct)).index_add(0, row, values)

    return where_mask(odds.sqrt() * of_rows(wrong_scores), treated), where_mask(
        of_rows(right_scores) / odds.sqrt(), treated
    )


@checked
def score_threshold(
    row_means: Float[Tensor, " rows"], group: Int[Tensor, " rows"], right: Bool[Tensor, " rows"], *, factor: float
) -> Float[Tensor, " rows"]:
    r"""The score above which a token of a wrong response is too similar to the right ones.

    .. math:: \tau_g = \beta \min_{i \in g,\, i \text{ right}} \bar s_i

    Args:
        row_means: mean token score of each row.
        group: each row's group; need not be adjacent.
        right: rows with the right answer.
        factor: :math:`\beta`; minus infinity = no threshold, whatever the sign of the minimum.

    Returns:
        one threshold per row, the same throughout a group, in score units and of any sign; infinity (nothing exceeds
        it) in a group without a right response.

    Source:
        Deng et al. 2025, NTHR, arXiv:2505.18830, the threshold on eq. 7; nothing there prevents a negative one.

    Example:
        >>> means, right = torch.tensor([4.0, 6.0, -9.0]), torch.tensor([True, True, False])
        >>> score_threshold(means, torch.zeros(3).long(), right, factor=0.5)
        tensor([2., 2., 2.])
    """
    exists = group_max(right.to(row_means.dtype), group, torch.ones_like(right)) > 0
    smallest = torch.where(exists, group_min(row_means, group, right), 0.0)
    tau = torch.full_like(smallest, factor) if factor == -torch.inf else factor * smallest
    return torch.where(exists, tau, torch.inf)


@checked
def balance(share_right: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""How far a question is from being half solved.

    .. math:: 2 \, |0.5 - p|

    Args:
        share_right: share :math:`p` of right responses, 0 to 1.

    Returns:
        0 (half of the responses are right) to 1 (all or none).

    Source:
        Deng et al. 2025, NTHR, arXiv:2505.18830, the factor eta in training.

    Example:
        >>> balance(torch.tensor([0.5, 0.75, 0.125]))
        tensor([0.0000, 0.5000, 0.7500])
    """
    return 2 * (0.5 - share_right).abs()


@checked
def likelihood_change(
    before: Float[Tensor, "rows tokens"],
    after: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    group: Int[Tensor, " rows"],
    right: Bool[Tensor, " rows"],
) -> Float[Tensor, " rows"]:
    r"""Mean gain in log-probability of a question's right responses from an update.

    .. math:: \Delta(x) = \frac{1}{N^+} \sum_{i \text{ right}} \sum_t m_{i,t} (\log \pi'_{i,t} - \log \pi_{i,t})

    Args:
        before: log-probs under the policy before the update, nats.
        after: under the policy after it, nats.
        mask: tokens that count.
        group: each row's group (question); need not be adjacent.
        right: rows with the right answer.

    Returns:
        nats per response, the same throughout a group; at most 0 where the update displaced the likelihood (LLD). NaN
        in a group without a right response.

    Source:
        Deng et al. 2025, NTHR, arXiv:2505.18830, the measure of lazy likelihood displacement.

    Example:
        >>> before, after = torch.tensor([[-1.0, -2.0], [-1.0, -1.0]]), torch.tensor([[-0.5, -2.0], [-9.0, -9.0]])
        >>> likelihood_change(before, after, before < 0, torch.tensor([3, 3]), torch.tensor([True, False]))
        tensor([0.5000, 0.5000])
    """
    gained = row_sum(where_mask(after, mask) - where_mask(before, mask), mask)
    exists = group_max(right.to(gained.dtype), group, torch.ones_like(right)) > 0
    return torch.where(exists, group_mean(gained, group, right), torch.nan)


@checked
def top_overlap(predicted: Float[Tensor, " items"], change: Float[Tensor, " items"], *, k: int) -> Float[Tensor, ""]:
    r"""Share of the ``k`` items with the highest predictions that are among the ``k`` that fell most.

    .. math:: \frac{1}{k} |\operatorname{top}_k(\text{predicted}) \cap \operatorname{bottom}_k(\text{change})|

    Args:
        predicted: one score per question; high predicts a drop (GWHES).
        change: the measured change, :func:`likelihood_change`.
        k: how many items to compare, from 1 to the number of items.

    Returns:
        0 to 1; on average k over the number of items for random predictions. Ties keep the given order.

    Source:
        Deng et al. 2025, NTHR, arXiv:2505.18830, table of top-K overlaps.

    Example:
        >>> top_overlap(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([-1.0, 5.0, -2.0]), k=2)
        tensor(0.5000)
    """
    expected = predicted.argsort(descending=True, stable=True)[:k]
    fallen = change.argsort(stable=True)[:k]
    return torch.isin(expected, fallen).to(change.dtype).mean()


def _precise(values: Tensor) -> Tensor:
    """The values in float32, or in float64 if they already are."""
    return values if values.dtype == torch.float64 else values.float()


def _entries(
    head_weight: Tensor, vocabulary: Tensor | None, at_once: int, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    """Vocabulary entries, a few at a time, with their rows of the output matrix."""
    for start in range(0, len(head_weight) if vocabulary is None else len(vocabulary), at_once):
        if vocabulary is None:
            weight = head_weight.detach()[start : start + at_once]
            yield torch.arange(start, start + len(weight), device=weight.device), weight.to(dtype)
        else:
            entries = vocabulary[start : start + at_once]
            yield entries, head_weight.detach()[entries].to(dtype)


def _log_normalizer(inputs: Tensor, head_weight: Tensor, tokens_at_once: int, vocab_at_once: int) -> Tensor:
    """Log-sum-exp of each token's logits over the whole vocabulary."""
    total = inputs.new_full((len(inputs),), -torch.inf)
    for _, weight in _entries(head_weight, None, vocab_at_once, inputs.dtype):
        parts = [(part @ weight.T).logsumexp(-1) for part in inputs.split(tokens_at_once)]
        total = torch.logaddexp(total, torch.cat(parts))
    return total
