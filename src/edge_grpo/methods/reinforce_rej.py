"""Reinforce-Rej."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from jaxtyping import Bool, Float
from torch import Tensor

from edge_grpo.base.records import Group
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import Scored
from edge_grpo.functional.rejection import standardized, uniform_groups
from edge_grpo.methods.policy_gradient import Clipped
from edge_grpo.methods.rejection import Rejecting

__all__ = ["ReinforceRej"]


@final
@settings
class ReinforceRej(Rejecting, Clipped):
    r"""Reinforce on the prompts that are neither all right nor all wrong.

    .. math::
        -\frac{1}{|K|} \sum_{i \in K} \frac{1}{n_i} \sum_t \min(w_{i,t} r_i,\;
        \operatorname{clip}(w_{i,t}, 1 - \epsilon, 1 + \epsilon) r_i), \qquad
        K = \{i : \min_{g(i)} r < \max_{g(i)} r\}

    ``remove``: groups that are ``all_right``, ``all_wrong`` or ``both`` are rejected. ``center`` and ``scale`` subtract
    the group's mean reward and divide by its standard deviation; a group of equal rewards that is not rejected is not
    divided. ``delta=3`` is the release's dual clip.

    Source:
        Xiong et al. 2025, arXiv:2504.11343, eq. 4 and 5 and the ablation; clip and four updates a step of its scripts.
        Official code, ``adv_estimator=reinforce_rej``: as here with ``rejected="zero_advantage"``,
        ``aggregation="tokens"`` and ``delta=3``. With its rewards of 1 and 0 a wrong answer of a mixed prompt has
        advantage 0, and the method is RAFT++ on mixed prompts.
    """

    kind: Literal["reinforce_rej"] = "reinforce_rej"
    train_defaults: ClassVar[Mapping[str, Any]] = {"mini_batches": 4}
    remove: Literal["both", "all_right", "all_wrong"] = "both"
    center: bool = False
    scale: bool = False

    def useful(self, group: Group) -> bool:
        """Whether the group is not rejected."""
        grades = [row.grade for row in group.rows if row.grade.scorable]
        if len({self.value(grade) for grade in grades}) > 1:
            return True
        return bool(grades) and self.remove == ("all_wrong" if all(g.correct for g in grades) else "all_right")

    def weigh(
        self, batch: Scored, values: Float[Tensor, " rows"]
    ) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
        """The rewards, and the rows whose group is not rejected."""
        rejected = uniform_groups(
            values,
            batch.correct,
            batch.group,
            batch.scorable,
            right=self.remove != "all_wrong",
            wrong=self.remove != "all_right",
        )
        return standardized(values, batch.group, batch.scorable, center=self.center, scale=self.scale), ~rejected
