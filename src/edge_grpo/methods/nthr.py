"""NTHR: tokens of wrong answers that look like tokens of right ones are punished less."""

from dataclasses import replace
from typing import Annotated, Literal, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import GroupHidden, Scored, Signal, Totals
from edge_grpo.functional import filters, means, token_weights
from edge_grpo.functional.ops import group_mean, row_mean, where_mask
from edge_grpo.functional.relative import standardized_reward
from edge_grpo.methods.base import TopUp
from edge_grpo.methods.policy_gradient import Clipped

__all__ = ["Nthr"]


@final
@settings
class Nthr(Clipped):
    r"""GRPO with Negative Token Hidden Reward, against the displacement of likely right answers.

    .. math::
        -\frac{1}{N} \sum_{i,t} \min(w_{i,t} \hat A_{i,t},\; \operatorname{clip}(w_{i,t}) \hat A_{i,t}), \qquad
        \hat A_{i,t} = \begin{cases} \eta A_i & i \text{ wrong},\ s_{i,t} > \beta \min_{j \text{ right}} \bar s_j \\
        A_i & \text{otherwise} \end{cases}

    with the influence :math:`s_{i,t} = g_{i,t}^T \big(\sum_{j \text{ right}, u} g_{j,u} h_{j,u}^T\big) h_{i,t}` of a
    token on the right answers of its group, g the prediction error and h the last hidden state, both before the step's
    updates, and N all tokens of the update.

    ``threshold`` is the paper's beta (``all``: minus infinity, every token of a wrong answer), ``beta`` the weight of
    the KL term; ``include_self``: whether a right answer's own tokens count in its mean score (with one right answer
    they always do); ``vocabulary``: whether g has the token ids that occur in the group's answers or all of them;
    ``eta``: ``balance`` = 2|0.5 - p| with p the share of right answers, ``p``, ``1-p``, or a number; ``std``,
    ``std_eps``: the deviation in A. Nothing is changed in groups that are all right or all wrong, nor where a wrong
    answer's advantage is not negative.

    Source:
        Deng et al. 2025, NTHR, arXiv:2505.18830, eq. 7 and 8, lemma 4.2 (population deviation) and its training set-up
        (beta, eta, clip, KL weight, restricted vocabulary, dynamic sampling). No official code was found.
        ``include_self`` follows the formula; the text speaks of "other" right answers. The bound on dynamic sampling is
        that of verl's DAPO recipe.
    """

    kind: Literal["nthr"] = "nthr"
    threshold: float | Literal["all"] = 1.0
    include_self: bool = True
    vocabulary: Literal["responses", "full"] = "responses"
    eta: Literal["balance", "p", "1-p"] | Annotated[float, Field(ge=0)] = "balance"
    std: Literal["population", "sample"] = "population"
    std_eps: float = Field(default=0.0, ge=0)
    beta: float = Field(default=1e-4, ge=0)
    kl_bias_correction: bool = False
    top_up: TopUp = Field(default_factory=lambda: TopUp(max_rounds=10, fill=False))

    @property
    def wants_token_scores(self) -> bool:
        """Always."""
        return True

    def token_scores(self, x: GroupHidden) -> Float[Tensor, " tokens"]:
        """Influence of every token on the right answers of its group; 0 where the group is not mixed."""
        right, wrong = x.correct & x.scorable, ~x.correct & x.scorable
        if not (right.any() and wrong.any()):
            return x.hidden.new_zeros(len(x.token_ids))
        entries = x.token_ids.unique() if self.vocabulary == "responses" else None
        scores = token_weights.token_scores(x.hidden, x.token_ids, x.head_weight, right[x.row], vocabulary=entries)
        if not self.include_self and right.sum() > 1:
            scores = scores - token_weights.own_scores(
                x.hidden, x.token_ids, x.head_weight, x.row, right, vocabulary=entries
            )
        return where_mask(scores, x.scorable[x.row])

    def signal(self, batch: Scored) -> Signal:
        """Group-normalised rewards, times eta on the selected tokens."""
        raw = standardized_reward(
            batch.reward, batch.group, batch.scorable, eps=self.std_eps, ddof=0 if self.std == "population" else 1
        )
        raw = where_mask(raw, batch.scorable)
        keep = filters.comparable(batch.group, batch.scorable)
        signal = self.spread(batch, raw=raw, advantages=raw, keep=keep, mask=batch.mask)
        chosen = self.selected(batch)
        eta = self.factor(group_mean(batch.correct.to(raw.dtype), batch.group, batch.scorable))
        weights = torch.where(chosen & (signal.advantages < 0), eta[:, None], 1.0)
        wrong = batch.mask & (~batch.correct & keep)[:, None]
        return replace(
            signal,
            advantages=signal.advantages * weights,
            metrics={
                **signal.metrics,
                "nthr/selected": (float(chosen.sum()), float(wrong.sum())),
                "nthr/eta": (float(where_mask(eta[:, None].expand_as(weights), chosen).sum()), float(chosen.sum())),
                "nthr/wrong_rows_touched": (float(chosen.any(-1).sum()), float(wrong.any(-1).sum())),
            },
        )

    def thresholds(self, batch: Scored) -> Float[Tensor, " rows"]:
        """The score of each row's group above which a token is selected."""
        assert batch.token_scores is not None, "wants_token_scores asks for them"
        return token_weights.score_threshold(
            row_mean(batch.token_scores, batch.mask),
            batch.group,
            batch.correct & batch.scorable & batch.mask.any(-1),
            factor=-torch.inf if self.threshold == "all" else self.threshold,
        )

    def selected(self, batch: Scored) -> Bool[Tensor, "rows tokens"]:
        """Tokens of wrong answers that are too much like those of the right answers in their group."""
        assert batch.token_scores is not None, "wants_token_scores asks for them"
        wrong = batch.mask & (~batch.correct & batch.scorable)[:, None]
        return wrong & (batch.token_scores > self.thresholds(batch)[:, None])

    def factor(self, share_right: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """The factor eta of a group with this share of right answers."""
        if isinstance(self.eta, float):
            return torch.full_like(share_right, self.eta)
        return {"balance": token_weights.balance(share_right), "p": share_right, "1-p": 1 - share_right}[self.eta]

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over all tokens of the update."""
        return means.mean_over_tokens(values, mask, tokens=totals.tokens)
