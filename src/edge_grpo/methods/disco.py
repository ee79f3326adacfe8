"""DisCO."""

from typing import Literal, final

from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.functional.discriminative import right_over_hard_wrong
from edge_grpo.methods.discriminative import Discriminative

__all__ = ["Disco"]


@final
@settings
class Disco(Discriminative):
    r"""Discriminative constrained optimization: right answers over the hardest wrong ones, drift held below a limit.

    .. math::
        -\frac{1}{Q} \sum_{q \text{ mixed}} \Big[ \operatorname{mean}_{P_q} s - \tau \log \operatorname{mean}_{N_q}
        e^{s / \tau} \Big] + \operatorname{sg}(\beta [K - \delta]_+) \, K

    with :math:`s_i` the mean log-probability (or ratio) of a row, :math:`P_q` and :math:`N_q` the right and wrong
    answers to question q, Q all questions of the update, and K its mean drift per token. ``tau`` is in units of the
    score: 10 goes with the log-likelihood, set it to 1 with ``score=likelihood_ratio``.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 4; ``tau`` of the official training scripts. The release's loss
        value holds tau * 1 in place of the soft maximum; here it is the objective.
    """

    kind: Literal["disco"] = "disco"
    tau: float = Field(default=10.0, gt=0)

    def contrast(
        self,
        scores: Float[Tensor, " rows"],
        group: Int[Tensor, " rows"],
        right: Bool[Tensor, " rows"],
        wrong: Bool[Tensor, " rows"],
    ) -> Float[Tensor, ""]:
        """The mean score of the right answers over the soft maximum of the wrong ones."""
        return right_over_hard_wrong(scores, group, right, wrong, tau=self.tau)
