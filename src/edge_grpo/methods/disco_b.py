"""DisCO-b."""

from typing import Literal, final

from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_grpo.base.settings import settings
from edge_grpo.functional.discriminative import right_over_wrong
from edge_grpo.methods.discriminative import Discriminative

__all__ = ["DiscoB"]


@final
@settings
class DiscoB(Discriminative):
    r"""DisCO's basic form: right answers over the mean wrong one, drift held below a limit.

    .. math::
        -\frac{1}{Q} \sum_{q \text{ mixed}} \Big[ \operatorname{mean}_{P_q} s - \operatorname{mean}_{N_q} s \Big]
        + \operatorname{sg}(\beta [K - \delta]_+) \, K

    with :math:`s_i` the mean log-probability (or ratio) of a row, :math:`P_q` and :math:`N_q` the right and wrong
    answers to question q, Q all questions of the update, and K its mean drift per token.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 4. The release has this loss, but its scripts of that name run
        DisCO with tau 1.
    """

    kind: Literal["disco_b"] = "disco_b"

    def contrast(
        self,
        scores: Float[Tensor, " rows"],
        group: Int[Tensor, " rows"],
        right: Bool[Tensor, " rows"],
        wrong: Bool[Tensor, " rows"],
    ) -> Float[Tensor, ""]:
        """The mean score of the right answers over that of the wrong ones."""
        return right_over_wrong(scores, group, right, wrong)
