"""RAFT."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs
from edge_grpo.functional.losses import policy_gradient_loss
from edge_grpo.methods.rejection import Positives

__all__ = ["Raft"]


@final
@settings
class Raft(Positives):
    r"""Reward-ranked fine-tuning: maximise the likelihood of the right answers, forget the others.

    .. math:: -\frac{1}{|K|} \sum_{i \in K} \frac{1}{n_i} \sum_t r_i \log \pi_{i,t}, \qquad K = \{i : r_i > 0\}

    A right answer weighs 1 unless ``reward_values`` is ``run``. There is neither ratio nor clip: the later updates of a
    step are off-policy without a correction.

    Source:
        Dong et al. 2023, RAFT, arXiv:2304.06767; Xiong et al. 2025, arXiv:2504.11343, eq. 1 (the rows with the best
        reward of their prompt, in practice those with r = 1), four updates a step as in its scripts. Official code,
        ``adv_estimator=raft`` and ``policy_loss=vanilla``: as here with ``rejected="zero_advantage"`` and
        ``aggregation="tokens"``.
    """

    kind: Literal["raft"] = "raft"
    train_defaults: ClassVar[Mapping[str, Any]] = {"mini_batches": 4}
    ratio_level: Literal["token"] = "token"

    def token_losses(self, x: LossInputs, log_ratio: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens"]:
        """The weighted log-likelihood."""
        return policy_gradient_loss(x.logprobs, x.advantages, x.mask)
