"""RAFT."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional.losses import policy_gradient_loss
from edge_grpo.methods import _fields as f
from edge_grpo.methods import _policy_gradient as pg
from edge_grpo.methods import _rewarded as rewarded
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["Raft"]


@final
@settings
class Raft(Method):
    r"""Reward-ranked fine-tuning: maximise the likelihood of the right answers, ignore the others.

    .. math:: -\frac{1}{|K|} \sum_{i \in K} \frac{1}{n_i} \sum_t r_i \log \pi_{i,t}, \qquad K = \{i : r_i > 0\}

    A right answer weighs 1 unless ``reward_values`` is ``run``. There is neither ratio nor clip: later updates of a
    step are off-policy and uncorrected. ``accept``, ``rejected`` and ``reward_values``: see ``_rewarded``.

    Source:
        Dong et al. 2023, RAFT, arXiv:2304.06767; Xiong et al. 2025, arXiv:2504.11343, eq. 1 (the rows with the best
        reward of their prompt, in practice those with r = 1), four updates per step as in its scripts. Official code,
        ``adv_estimator=raft`` and ``policy_loss=vanilla``: as here with ``rejected="zero_advantage"`` and
        ``aggregation="tokens"``.
    """

    kind: Literal["raft"] = "raft"
    train_defaults: ClassVar[Mapping[str, Any]] = {"mini_batches": 4}
    accept: rewarded.Accept = "best"
    rejected: rewarded.Rejected = "dropped"
    reward_values: rewarded.RewardValues = "signed"
    aggregation: f.Aggregation = "rows"

    # shared by all policy-gradient methods, documented in _policy_gradient.Modifiers
    ratio_level: Literal["token"] = "token"
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
        """Weighted log-likelihood and KL, averaged according to ``aggregation``, minus the entropy bonus."""
        log_w = pg.log_ratio(x, self.ratio_level)
        surrogate = policy_gradient_loss(x.logprobs, x.advantages, x.mask)
        values = pg.off_policy_corrected(surrogate, x, self) + self.beta * pg.reference_kl(x, log_w, self)
        loss = pg.mean_over(self.aggregation, values, x, totals)
        return loss - pg.entropy_bonus(x, totals, self)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift from the old policy and the reference."""
        return pg.observe_drift(x, pg.log_ratio(x, self.ratio_level), self)
