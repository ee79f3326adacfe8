"""GPG."""

from dataclasses import replace
from typing import Literal, final

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional import advantages as adv
from edge_grpo.functional.debiasing import debiasing_factor, useful_share
from edge_grpo.functional.filters import comparable
from edge_grpo.functional.losses import policy_gradient_loss
from edge_grpo.functional.means import mean_over_rows, mean_over_tokens
from edge_grpo.methods.base import TopUp
from edge_grpo.methods.policy_gradient import PolicyGradient

__all__ = ["Gpg"]


@final
@settings
class Gpg(PolicyGradient):
    r"""Group policy gradient: no ratio, no clip, no reference, and a mean that collapsed groups do not make smaller.

    .. math::
        -\frac{\alpha}{N} \sum_{i,t} A_i \log \pi_{i,t}, \qquad A_i = r_i - \operatorname{mean}_g r, \qquad
        \alpha = \frac{B}{B - M}

    with M of the B groups in the mean collapsed. ``debias``: ``groups`` is this factor; ``tokens`` takes the collapsed
    groups out of the mean instead, which is exact where rows differ in length; ``none`` is alpha = 1. ``scale`` (the
    paper's F_norm): what a centred reward is divided by, ``none`` or the deviation of the ``group`` or of the
    ``batch``. ``aggregation``: mean over all ``tokens``, or over ``rows`` of the mean over tokens. There is no ratio,
    so ``train.passes`` and ``train.mini_batches`` above 1 have no correction.

    Source:
        Chu et al. 2025, GPG, arXiv:2504.02546 (F_norm = 1, alpha, and prompts drawn again while fewer than 0.6 of the
        groups are useful; the release's script: 0.5). Official code: alpha for each micro-batch, every round draws as
        many prompts as the first, the 20th round is an error; its trainers for images have ``aggregation="rows"``.
    """

    kind: Literal["gpg"] = "gpg"
    ratio_level: Literal["token"] = "token"
    kl_bias_correction: bool = False
    scale: Literal["none", "group", "batch"] = "none"
    debias: Literal["groups", "tokens", "none"] = "groups"
    aggregation: Literal["tokens", "rows"] = "tokens"
    top_up: TopUp = Field(default_factory=lambda: TopUp(max_rounds=19, min_share=0.6, fill=True))

    def signal(self, batch: Scored) -> Signal:
        """The centred reward times alpha; collapsed groups have none."""
        scaled = {"none": adv.group_centered, "group": adv.group_normalized, "batch": adv.batch_scaled}[self.scale]
        raw = scaled(batch.reward, batch.group, batch.scorable)
        keep = comparable(batch.group, batch.scorable)
        differing = keep & ~adv.collapsed(batch.reward, batch.group, batch.scorable)
        share = useful_share(len(batch.group[differing].unique()), len(batch.group[keep].unique()))
        alpha = debiasing_factor(share) if self.debias == "groups" else 1.0
        if self.debias == "tokens":
            keep = differing
        signal = self.spread(batch, raw=raw, advantages=alpha * raw, keep=keep, mask=batch.mask)
        return replace(signal, metrics=signal.metrics | {"gpg/alpha": (alpha, 1.0), "gpg/useful": (share, 1.0)})

    def token_losses(self, x: LossInputs, log_ratio: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens"]:
        """The weighted log-likelihood."""
        return policy_gradient_loss(x.logprobs, x.advantages, x.mask)

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over all tokens, or over rows of the mean over tokens."""
        if self.aggregation == "rows":
            return mean_over_rows(values, mask, rows=totals.rows)
        return mean_over_tokens(values, mask, tokens=totals.tokens)
