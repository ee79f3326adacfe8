"""NTHR: tokens of wrong answers that look like tokens of right ones are penalised less."""

from dataclasses import replace
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import GroupHidden, LossInputs, Scored, Signal, Totals
from edge_grpo.functional import filters, token_weights
from edge_grpo.functional.losses import clipped_loss
from edge_grpo.functional.means import mean_over_tokens
from edge_grpo.functional.ops import group_mean, row_mean, where_mask
from edge_grpo.functional.relative import standardized_reward
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["Nthr"]


@final
@settings
class Nthr(Method):
    r"""GRPO with Negative Token Hidden Reward, to counter the displacement of likely right answers.

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
        ``include_self`` follows the formula; the text mentions "other" right answers. The bound on dynamic sampling
        comes from verl's DAPO recipe.
    """

    kind: Literal["nthr"] = "nthr"
    clip_low: f.ClipLow = 0.2
    clip_high: f.ClipHigh = 0.2
    delta: f.RatioCap = None
    threshold: float | Literal["all"] = 1.0
    include_self: bool = True
    vocabulary: Literal["responses", "full"] = "responses"
    eta: Literal["balance", "p", "1-p"] | f.NonNegative = "balance"
    std: Literal["population", "sample"] = "population"
    std_eps: f.NonNegative = 0.0

    # shared by all policy-gradient methods, documented in _policy_gradient.Modifiers
    ratio_level: f.RatioLevel = "token"
    beta: f.NonNegative = 1e-4
    kl_bias_correction: bool = False
    kl_max: f.Positive | None = None
    off_policy_threshold: f.NonNegative | None = None
    entropy_quantile: f.Share = 1.0
    entropy_coef: f.NonNegative = 0.0
    sampler_correction: f.SamplerCorrection = "none"
    sampler_clip_max: f.Positive = 3.0
    mask_unfinished: bool = False
    top_up: TopUp = TopUp(max_rounds=10, fill=False)

    @property
    def needs(self) -> Needs:
        """Token scores, and what the modifiers need."""
        return replace(pg.needs_of(self), token_scores=True)

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
        signal = pg.spread(batch, self, raw=raw, advantages=raw, keep=keep)
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
        assert batch.token_scores is not None, "needs.token_scores asks for them"
        return token_weights.score_threshold(
            row_mean(batch.token_scores, batch.mask),
            batch.group,
            batch.correct & batch.scorable & batch.mask.any(-1),
            factor=-torch.inf if self.threshold == "all" else self.threshold,
        )

    def selected(self, batch: Scored) -> Bool[Tensor, "rows tokens"]:
        """Tokens of wrong answers that are too much like those of the right answers in their group."""
        assert batch.token_scores is not None, "needs.token_scores asks for them"
        wrong = batch.mask & (~batch.correct & batch.scorable)[:, None]
        return wrong & (batch.token_scores > self.thresholds(batch)[:, None])

    def factor(self, share_right: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """The factor eta of a group with this share of right answers."""
        if isinstance(self.eta, float):
            return torch.full_like(share_right, self.eta)
        return {"balance": token_weights.balance(share_right), "p": share_right, "1-p": 1 - share_right}[self.eta]

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """Clipped surrogate and KL, mean over all tokens of the update, minus the entropy bonus."""
        log_w = pg.log_ratio(x, self.ratio_level)
        surrogate = clipped_loss(
            log_w, x.advantages, x.mask, clip_low=self.clip_low, clip_high=self.clip_high, delta=self.delta
        )
        values = pg.off_policy_corrected(surrogate, x, self) + self.beta * pg.reference_kl(x, log_w, self)
        loss = mean_over_tokens(values, x.mask, tokens=totals.tokens)
        return loss - pg.entropy_bonus(x, totals, self)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift from the old policy and the reference, and the shares of clipped tokens."""
        return pg.observe_clipped(x, self)
