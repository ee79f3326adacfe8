"""What RAFT, RAFT++, Reinforce and Reinforce-Rej share: rewards as they are, and rows that are rejected."""

from abc import abstractmethod
from typing import Literal

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from edge_grpo.base.records import Grade, Group
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import Scored, Signal, Totals
from edge_grpo.functional.means import mean_over_rows, mean_over_tokens
from edge_grpo.functional.ops import group_max, where_mask
from edge_grpo.functional.rejection import signed_reward
from edge_grpo.methods.policy_gradient import PolicyGradient

__all__ = ["Positives", "Rejecting", "Rewarded"]


@settings
class Rewarded(PolicyGradient):
    """Policy gradient on the reward itself instead of a comparison within the group.

    ``reward_values``: ``signed`` is 1 for a right answer and -1 for a wrong one; ``run`` takes the rewards of the
    ``reward`` section as they are. ``aggregation``: mean over ``rows`` of the mean over tokens, or over all ``tokens``.

    Source:
        Xiong et al. 2025, arXiv:2504.11343, eq. 4 to 6 (``signed``, ``rows``). Official code: rewards 1 and 0 (``run``
        with ``reward.format_weight=0``), mean over ``tokens``, KL without bias correction and bounded by 10, and KL and
        entropy weights of 0.001, which the paper does not name.
    """

    kl_bias_correction: bool = False
    kl_max: float | None = Field(default=10.0, gt=0)
    reward_values: Literal["signed", "run"] = "signed"
    aggregation: Literal["rows", "tokens"] = "rows"

    def values(self, batch: Scored) -> Float[Tensor, " rows"]:
        """The reward of each rollout as the settings want it."""
        return batch.reward if self.reward_values == "run" else signed_reward(batch.correct).to(batch.reward.dtype)

    def value(self, grade: Grade) -> float:
        """The same of one rollout."""
        return grade.reward if self.reward_values == "run" else 2.0 * grade.correct - 1.0

    def average(
        self, values: Float[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over rows of the mean over tokens, or mean over all tokens."""
        if self.aggregation == "tokens":
            return mean_over_tokens(values, mask, tokens=totals.tokens)
        return mean_over_rows(values, mask, rows=totals.rows)


@settings
class Rejecting(Rewarded):
    """Rewards as they are, on the rows that are not rejected.

    ``rejected``: such rows are ``dropped`` from every sum and count, or they stay with ``zero_advantage``: they count
    in the mean, which makes the step smaller, and the KL and entropy terms act on them.

    Source:
        Xiong et al. 2025, arXiv:2504.11343: dropped. Official code: zero advantage.
    """

    rejected: Literal["dropped", "zero_advantage"] = "dropped"

    @abstractmethod
    def weigh(
        self, batch: Scored, values: Float[Tensor, " rows"]
    ) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
        """The advantage of each rollout, and which rollouts are accepted."""

    def signal(self, batch: Scored) -> Signal:
        """Each token of an accepted rollout receives the rollout's advantage."""
        values = where_mask(self.values(batch), batch.scorable)
        advantages, accepted = self.weigh(batch, values)
        accepted = accepted & batch.scorable
        keep = accepted if self.rejected == "dropped" else batch.scorable
        return self.spread(batch, raw=values, advantages=where_mask(advantages, accepted), keep=keep, mask=batch.mask)


@settings
class Positives(Rejecting):
    """Only rollouts with a positive reward are accepted, and the reward is their weight.

    ``accept``: every rollout with a ``positive`` reward, or those among them with the ``best`` of their prompt, which
    is the same for right and wrong (``reward_values=signed``) and differs for graded rewards.

    Source:
        Xiong et al. 2025, arXiv:2504.11343, eq. 1 and 6 (best). Official code: positive.
    """

    accept: Literal["best", "positive"] = "best"

    off_policy_threshold: None = None  # acts on negative advantages alone, of which there is none

    def useful(self, group: Group) -> bool:
        """Whether the group holds an answer to learn from."""
        return any(row.grade.scorable and self.value(row.grade) > 0 for row in group.rows)

    def weigh(
        self, batch: Scored, values: Float[Tensor, " rows"]
    ) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
        """The rewards, and the rows that have a positive one, the best of their group where that is asked for."""
        positive = values > 0
        if self.accept == "best":
            positive = positive & (values == group_max(values, batch.group, batch.scorable))
        return values, positive
