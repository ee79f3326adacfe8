"""RPO: DPO with a likelihood term on the chosen answer. DPO is ``eta=0``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group, Row
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional import preference
from edge_grpo.functional.ops import row_mean, row_sum, where_mask
from edge_grpo.methods import _fields as f
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["Pairs", "Rpo"]

_NO_ETA = {"summed": 1e-6, "averaged": 1e-8}  # what counts as none: rpo_trainer.py and dpo_trainer.py of the release


@dataclass(frozen=True)
class Pairs:
    """Log-probabilities of whole answers, nats, one entry per pair; ``mean_chosen`` is the chosen one's per token."""

    chosen: Float[Tensor, " pairs"]
    rejected: Float[Tensor, " pairs"]
    ref_chosen: Float[Tensor, " pairs"]
    ref_rejected: Float[Tensor, " pairs"]
    mean_chosen: Float[Tensor, " pairs"]
    chosen_tokens: Float[Tensor, " pairs"]


@final
@settings
class Rpo(Method):
    r"""Regularized preference optimization: a pairwise loss, plus the chosen answer's likelihood to limit drift.

    .. math::
        \frac{1}{B} \sum_p \big[ -\log \sigma(\beta D_p) - \beta \eta \log \pi(y_w) \big], \qquad
        D = \log \frac{\pi(y_w)}{\pi_{ref}(y_w)} - \log \frac{\pi(y_l)}{\pi_{ref}(y_l)}

    with log-probabilities of whole answers. ``beta``: strength of the preference term, ``eta`` that of the likelihood
    term relative to it. Pairs are stored (``data.pairs``), or formed from sampled groups: right answers against wrong
    ones, using every answer as evenly as ``max_pairs`` per group allows; ``top_up`` samples further groups until enough
    are mixed. ``likelihood``: ``summed`` as above, or ``averaged`` over the tokens of an answer and weighted by ``eta``
    alone; the same ``eta`` means something else there, about ``beta * eta * length``. ``preference``: the pairwise
    loss; ``label_smoothing``, the assumed share of wrong labels, is for ``sigmoid`` and ``robust``. ``per_token``:
    means in place of sums of an answer's token log-probs everywhere. ``rpo_alpha``: a further likelihood term, averaged
    over all chosen tokens of the update; combined with ``eta`` it counts the same thing twice.

    Source:
        Liu et al. 2024, RPO, arXiv:2405.16436; ``beta``, ``eta`` and the summed form of the official
        alignment-handbook code ("beta" series), the averaged form of its OpenRLHF code (beta 0.5, eta 0.2). There
        ``preference=ipo`` implies ``per_token`` in the former. DPO: Rafailov et al. 2023, arXiv:2305.18290.
        ``rpo_alpha``: Pang et al. 2024, arXiv:2404.19733, as in TRL. ``max_pairs`` is this project's.
    """

    kind: Literal["rpo"] = "rpo"
    beta: f.Positive = 0.01
    eta: f.NonNegative = 0.005
    likelihood: Literal["summed", "averaged"] = "summed"
    preference: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    per_token: bool = False
    rpo_alpha: f.NonNegative = 0.0
    max_pairs: f.Count = 4
    top_up: TopUp = TopUp()

    @model_validator(mode="after")
    def _smoothing_has_a_meaning(self) -> "Rpo":
        if self.label_smoothing and self.preference in ("hinge", "ipo"):
            raise ValueError(f"label_smoothing does not apply to preference={self.preference}; leave it at 0")
        return self

    @property
    def needs(self) -> Needs:
        """A reference for the margin, and both answers of a pair at once; stored pairs are what RPO was made for."""
        return Needs(reference=True, whole_groups=True, stored_pairs=True, top_up=self.top_up)

    def useful(self, group: Group) -> bool:
        """Whether the group can yield a pair."""
        return all(_split(group))

    def arrange(self, groups: Sequence[Group]) -> list[Group]:
        """Every pair as a group of two rows, the right one first; groups that are not mixed are dropped."""
        return [replace(group, rows=pair) for group in groups for pair in self._pairs(group)]

    def _pairs(self, group: Group) -> list[tuple[Row, Row]]:
        right, wrong = _split(group)
        if not right or not wrong:
            return []
        rounds, every = lcm(len(right), len(wrong)), len(right) * len(wrong)
        numbers = range(min(every, self.max_pairs))
        return [(right[k % len(right)], wrong[(k + k // rounds) % len(wrong)]) for k in numbers]

    def signal(self, batch: Scored) -> Signal:
        """Tokens of chosen answers are marked 1, of rejected ones -1; unpaired rows are dropped."""
        graded = batch.scorable & batch.mask.any(-1)
        chosen, rejected = graded & batch.correct, graded & ~batch.correct
        keep = preference.is_paired(batch.group, chosen, rejected)
        side = torch.where(batch.correct, 1.0, -1.0).to(batch.old_logprobs.dtype)
        side = where_mask(side, keep)
        return Signal(
            advantages=where_mask(side[:, None].expand_as(batch.old_logprobs), batch.mask),
            mask=batch.mask,
            keep=keep,
            raw_advantages=side,
            row_advantages=side,
            metrics={
                "pairs": (float(keep.sum()) / 2, 1.0),
                "rows/trained": (float(keep.sum()), float(keep.numel())),
            },
        )

    def pairs(self, x: LossInputs) -> Pairs:
        """The log-probabilities of the answers of every pair."""
        assert x.ref_logprobs is not None, "needs.reference asks for them"
        chosen, rejected = preference.pair_rows(x.group, x.keep & x.correct, x.keep & ~x.correct)
        score = row_mean if self.per_token else row_sum
        policy, reference = score(x.logprobs, x.mask), score(x.ref_logprobs, x.mask)
        return Pairs(
            chosen=policy[chosen],
            rejected=policy[rejected],
            ref_chosen=reference[chosen],
            ref_rejected=reference[rejected],
            mean_chosen=row_mean(x.logprobs, x.mask)[chosen],
            chosen_tokens=x.mask.sum(-1)[chosen].to(policy.dtype),
        )

    def preference_losses(self, pairs: Pairs) -> Float[Tensor, " pairs"]:
        """The pairwise loss alone."""
        margin = preference.margin(pairs.chosen, pairs.rejected, pairs.ref_chosen, pairs.ref_rejected)
        if self.preference == "sigmoid":
            return preference.sigmoid_loss(margin, beta=self.beta, label_smoothing=self.label_smoothing)
        if self.preference == "robust":
            return preference.robust_loss(margin, beta=self.beta, label_smoothing=self.label_smoothing)
        plain = preference.hinge_loss if self.preference == "hinge" else preference.ipo_loss
        return plain(margin, beta=self.beta)

    def pair_losses(self, pairs: Pairs) -> Float[Tensor, " pairs"]:
        """The pairwise loss and the likelihood term of every pair."""
        losses = self.preference_losses(pairs)
        if self.eta < _NO_ETA[self.likelihood]:
            return losses
        if self.likelihood == "averaged":
            return losses - self.eta * pairs.mean_chosen
        return losses - self.beta * self.eta * pairs.chosen

    def totals(self, x: LossInputs) -> dict[str, float]:
        """Pairs, and tokens of chosen answers."""
        return {
            "pairs": float((x.keep & x.correct).sum()),
            "chosen_tokens": float(_chosen_tokens(x).sum()),
        }

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """Mean over the pairs of the update."""
        pairs = self.pairs(x)
        loss = self.pair_losses(pairs).sum() / max(totals.extra["pairs"], 1.0)
        if self.rpo_alpha:
            negative = -(pairs.mean_chosen * pairs.chosen_tokens).sum()
            loss = loss + self.rpo_alpha * negative / max(totals.extra["chosen_tokens"], 1.0)
        return loss

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Implicit rewards, the share of pairs in the right order, and log-probs of whole answers, means over pairs."""
        pairs = self.pairs(x)
        count = float(len(pairs.chosen))
        chosen = preference.implicit_reward(pairs.chosen, pairs.ref_chosen, beta=self.beta)
        rejected = preference.implicit_reward(pairs.rejected, pairs.ref_rejected, beta=self.beta)
        figures = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
            "logps/chosen": pairs.chosen.detach(),
            "logps/rejected": pairs.rejected.detach(),
        }
        metrics: Metrics = {name: (float(values.sum()), count) for name, values in figures.items()}
        nll = (pairs.mean_chosen * pairs.chosen_tokens).detach()
        return metrics | {"nll/chosen": (-float(nll.sum()), float(pairs.chosen_tokens.sum()))}


def _split(group: Group) -> tuple[list[Row], list[Row]]:
    """Right and wrong answers; those that could not be graded, or have no tokens, are neither."""
    rows = [row for row in group.rows if row.grade.scorable and row.rollout.completion_ids]
    return [row for row in rows if row.grade.correct], [row for row in rows if not row.grade.correct]


def _chosen_tokens(x: LossInputs) -> Bool[Tensor, "rows tokens"]:
    return x.mask & (x.keep & x.correct)[:, None]
