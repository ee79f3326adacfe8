"""RAFT++."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional.losses import clipped_high, clipped_loss
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods import _rewarded as rewarded
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["RaftPp"]


@final
@settings
class RaftPp(Method):
    r"""RAFT with the clipped ratio, which makes several updates per step sound.

    .. math::
        -\frac{1}{|K|} \sum_{i \in K} \frac{1}{n_i} \sum_t r_i \min(w_{i,t}, 1 + \epsilon_{high}),
        \qquad K = \{i : r_i > 0\}

    No advantage is negative, so there is neither a lower clip nor a dual one. ``clip_high`` of 0.28 (clip-higher) keeps
    more entropy; a very large one amounts to an unclipped ratio, which the paper finds worse than plain RAFT.
    ``accept``, ``rejected`` and ``reward_values``: see ``_rewarded``.

    Source:
        Xiong et al. 2025, arXiv:2504.11343, eq. 6; clip and four updates per step of its scripts. Official code,
        ``adv_estimator=raft`` and ``policy_loss=plusplus``: as here with ``rejected="zero_advantage"`` and
        ``aggregation="tokens"``.
    """

    kind: Literal["raft_pp"] = "raft_pp"
    train_defaults: ClassVar[Mapping[str, Any]] = {"mini_batches": 4}
    clip_high: f.ClipHigh = 0.2
    accept: rewarded.Accept = "best"
    rejected: rewarded.Rejected = "dropped"
    reward_values: rewarded.RewardValues = "signed"
    aggregation: f.Aggregation = "rows"

    # shared by all policy-gradient methods, documented in _policy_gradient.Modifiers
    ratio_level: f.RatioLevel = "token"
    beta: f.NonNegative = 0.0
    kl_bias_correction: bool = False
    kl_max: f.Positive | None = 10.0
    off_policy_threshold: None = None  # acts on negative advantages, of which there are none
    entropy_quantile: f.Share = 1.0
    entropy_coef: f.NonNegative = 0.0
    sampler_correction: f.SamplerCorrection = "none"
    sampler_clip_max: f.Positive = 3.0
    mask_unfinished: bool = False
    top_up: TopUp = TopUp()

    @property
    def needs(self) -> Needs:
        """What the modifiers need."""
        return pg.needs_of(self)

    def useful(self, group: Group) -> bool:
        """Whether the group has an answer to learn from."""
        return any(rewarded.is_positive(row.grade, self.reward_values) for row in group.rows)

    def signal(self, batch: Scored) -> Signal:
        """Each token of an accepted rollout receives the rollout's reward."""
        values = rewarded.rewards_of(batch, self.reward_values)
        accepted = rewarded.positive_rows(batch, values, self.accept)
        return rewarded.accepted_signal(
            batch, self, values=values, advantages=values, accepted=accepted, rejected=self.rejected
        )

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """Surrogate clipped above, and KL, averaged according to ``aggregation``, minus the entropy bonus."""
        log_w = pg.log_ratio(x, self.ratio_level)
        surrogate = clipped_loss(log_w, x.advantages, x.mask, clip_low=1.0, clip_high=self.clip_high)
        values = pg.off_policy_corrected(surrogate, x, self) + self.beta * pg.reference_kl(x, log_w, self)
        loss = pg.mean_over(self.aggregation, values, x, totals)
        return loss - pg.entropy_bonus(x, totals, self)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift from the old policy and the reference, and the share of tokens whose ratio left the clip range."""
        log_w = pg.log_ratio(x, self.ratio_level)
        high = clipped_high(log_w, x.advantages, clip_high=self.clip_high) & x.mask
        return pg.observe_drift(x, log_w, self) | {"clip/high": (float(high.sum()), float(x.mask.sum()))}
