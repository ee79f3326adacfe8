"""Share-GRPO: every answer is trained under every variant of its question, and rewards are shared among them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, final, get_args

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group, Rollout, Row
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.data.transforms import Transform
from edge_grpo.functional.dual_clip import dual_clipped, dual_clipped_loss
from edge_grpo.functional.ops import group_size, where_mask
from edge_grpo.functional.relative import standardized_reward
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["ShareGrpo"]


@final
@settings
class ShareGrpo(Method):
    r"""GRPO over several variants of each question that share their answers and reward statistics.

    .. math::
        -\frac{1}{N} \sum_{b,i,j,k,t} \min(w A,\; \operatorname{clip}(w, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A),
        \text{ at most } -cA \text{ where } A < 0; \qquad
        A_{b,i,j,k} = \frac{R_{b,j,k} - \mu_b}{\sigma_b + \epsilon}
        + [i = j] \frac{R_{b,j,k} - \mu_{b,j}}{\sigma_{b,j} + \epsilon}

    for answer k, sampled under variant j of question b and trained under variant i; both log-probs of the ratio w are
    taken under variant i.

    ``num_variants``: variants drawn of each question, with ``rollout.group_size`` answers to each: phrasings of the
    data, each of which, where the question has images, shows them with probability ``transform_share`` by one of
    ``transforms``, with a sentence that says so. Flips mirror writing, and left and right, so that the question may
    have another answer: leave ``vertically_flipped`` and ``horizontally_flipped`` out for such data. ``every_variant``:
    each answer is trained under all of them, or (false) under its own only. ``parts``: the two terms of the advantage,
    or only that of the ``family`` or of the ``variant``. ``statistics``: mean and deviation of the question over its
    distinct ``answers``, or over all the ``rows`` in which they occur. ``weighting``: every token weighs the same
    (``tokens``), or every row (``answers``). ``delta``: the dual clip c. ``std_eps``: added to the deviations. A term
    is 0 where all rewards are equal, and the term of a variant where it has a single answer.

    Source:
        Yao et al. 2025, Share-GRPO (R1-ShareVL), arXiv:2505.16673; settings of its release. The release: means over
        tokens of a micro-batch, a deviation over the duplicated ``rows`` (``statistics=answers`` is unbiased), a
        rounding error in place of 0 for equal rewards, NaN for a single answer, transforms in validation too, and two
        of their sentences the wrong way round. ``weighting=answers`` is eq. 8 of the paper, as reported second-hand.
        As there, nothing corrects for the change of prompt.
    """

    kind: Literal["share_grpo"] = "share_grpo"
    clip_low: f.ClipLow = 0.2
    clip_high: f.ClipHigh = 0.3
    delta: f.RatioCap = 3.0
    num_variants: f.Count = 2
    transforms: tuple[Transform, ...] = get_args(Transform)
    transform_share: f.Fraction = 0.3
    every_variant: bool = True
    parts: Literal["both", "family", "variant"] = "both"
    statistics: Literal["answers", "rows"] = "answers"
    weighting: Literal["tokens", "answers"] = "tokens"
    std_eps: f.NonNegative = 1e-6

    # shared by all policy-gradient methods, documented in _policy_gradient.Modifiers
    ratio_level: f.RatioLevel = "token"
    beta: f.NonNegative = 0.0
    kl_bias_correction: bool = True
    kl_max: f.Positive | None = None
    off_policy_threshold: f.NonNegative | None = None
    entropy_quantile: f.Share = 1.0
    entropy_coef: f.NonNegative = 0.0
    sampler_correction: f.SamplerCorrection = "none"
    sampler_clip_max: f.Positive = 3.0
    mask_unfinished: bool = False
    top_up: TopUp = TopUp()

    @property
    def needs(self) -> Needs:
        """Variants of each question, and what the modifiers need."""
        return replace(
            pg.needs_of(self),
            variants=self.num_variants,
            transforms=self.transforms,
            transform_share=self.transform_share if self.transforms else 0.0,
        )

    # --- collection ---------------------------------------------------------------------------------------------------

    def arrange(self, groups: Sequence[Group]) -> list[Group]:
        """Every group with the answers of its whole family, in order of variant, under the group's own prompt."""
        if not self.every_variant:
            return list(groups)
        families: dict[int, list[Group]] = {}
        for group in sorted(groups, key=lambda group: group.variant):
            if group.family is not None:
                families.setdefault(group.family, []).append(group)
        return [
            _with_answers_of([group] if group.family is None else families[group.family], group) for group in groups
        ]

    # --- training -----------------------------------------------------------------------------------------------------

    def signal(self, batch: Scored) -> Signal:
        """The row's reward relative to all answers to the question, plus relative to those to its own variant."""
        own = batch.source == batch.variant
        answers = batch.scorable & own  # each answer once
        counted = answers if self.statistics == "answers" else batch.scorable
        family = standardized_reward(batch.reward, batch.family, counted, eps=self.std_eps)
        variant = where_mask(standardized_reward(batch.reward, batch.group, answers, eps=self.std_eps), answers)
        both = {"both": family + variant, "family": family, "variant": variant}[self.parts]
        raw = where_mask(both, batch.scorable)
        keep = batch.scorable & (group_size(batch.family, answers) >= 2)
        signal = pg.spread(batch, self, raw=raw, advantages=raw, keep=keep)
        rescued = keep & own & (variant == 0) & (family != 0)
        metrics: Metrics = {
            "share/rows_with_signal": (float((raw != 0).sum()), float(keep.sum())),
            "share/rescued_by_family": (float(rescued.sum()), float((keep & own).sum())),
        }
        return replace(signal, metrics={**signal.metrics, **metrics})

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """Dual-clipped surrogate and KL, averaged according to ``weighting``, minus the entropy bonus."""
        log_w = pg.log_ratio(x, self.ratio_level)
        surrogate = dual_clipped_loss(
            log_w, x.advantages, x.mask, clip_low=self.clip_low, clip_high=self.clip_high, cap=self.delta
        )
        values = pg.off_policy_corrected(surrogate, x, self) + self.beta * pg.reference_kl(x, log_w, self)
        loss = pg.mean_over("rows" if self.weighting == "answers" else "tokens", values, x, totals)
        return loss - pg.entropy_bonus(x, totals, self)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift from the old policy and the reference, the shares of clipped tokens, and of those with a dual clip."""
        log_w = pg.log_ratio(x, self.ratio_level)
        clipping = pg.observe_clipping(x, log_w, clip_low=self.clip_low, clip_high=self.clip_high)
        metrics = pg.observe_drift(x, log_w, self) | clipping
        if self.delta is None:
            return metrics
        dual = dual_clipped(log_w, x.advantages, clip_low=self.clip_low, clip_high=self.clip_high, cap=self.delta)
        return metrics | {"clip/dual": (float((dual & x.mask).sum()), float(x.mask.sum()))}


def _with_answers_of(family: Sequence[Group], group: Group) -> Group:
    rows = [row if other is group else _under(row, group.rows[0].rollout) for other in family for row in other.rows]
    return replace(group, rows=tuple(rows))


def _under(row: Row, other: Rollout) -> Row:
    """The same answer after the prompt of another rollout, text and images, under which it was not sampled."""
    spans = tuple(replace(span, logprobs=(), entropies=()) for span in row.rollout.spans)
    return replace(row, rollout=replace(row.rollout, prompt_ids=other.prompt_ids, scene=other.scene, spans=spans))
