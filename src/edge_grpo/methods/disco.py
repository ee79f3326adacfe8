"""DisCO."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

from jaxtyping import Float
from pydantic import model_validator
from pydantic_core import ArgsKwargs
from torch import Tensor

from edge_grpo.base.metrics import Metrics
from edge_grpo.base.records import Group
from edge_grpo.base.settings import settings
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.functional.discriminative import right_over_hard_wrong
from edge_grpo.methods import _discriminative as disc
from edge_grpo.methods import _fields as f
from edge_grpo.methods.base import Method, Needs, TopUp

__all__ = ["Disco"]


@final
@settings
class Disco(Method):
    r"""Discriminative constrained optimization: right answers over the hardest wrong ones, with limited drift.

    .. math::
        -\frac{1}{Q} \sum_{q \text{ mixed}} \Big[ \operatorname{mean}_{P_q} s - \tau \log \operatorname{mean}_{N_q}
        e^{s / \tau} \Big] + \operatorname{sg}(\beta [K - \delta]_+) \, K

    with :math:`s_i` the mean log-probability (or ratio) of a row, :math:`P_q` and :math:`N_q` the right and wrong
    answers to question q, Q all questions of the update, and K its mean drift per token. ``tau`` is in units of the
    score: by default 10, or 1 with ``score=likelihood_ratio``. The other settings are documented in
    ``_discriminative.Discriminative``.

    Source:
        Li et al. 2025, DisCO, arXiv:2505.12366, section 4; ``tau`` of the official training scripts. The release's loss
        value holds tau * 1 in place of the soft maximum; here it is the objective.
    """

    kind: Literal["disco"] = "disco"
    train_defaults: ClassVar[Mapping[str, Any]] = {"mini_batches": 4}
    tau: f.Positive = 10.0
    score: disc.Score = "log_likelihood"
    delta: f.NonNegative = 1e-4
    beta: f.NonNegative = 1e3
    kl_estimator: disc.Estimator = "k1"
    penalty: disc.Penalty = "multiplier"
    top_up: TopUp = TopUp()

    @model_validator(mode="before")
    @classmethod
    def _tau_in_units_of_the_score(cls, given: Any) -> Any:
        named = given.kwargs if isinstance(given, ArgsKwargs) else given
        if isinstance(named, Mapping) and named.get("score") == "likelihood_ratio":
            return ArgsKwargs((), {"tau": 1.0, **named})
        return given

    @property
    def needs(self) -> Needs:
        """Whole groups, to compare their two classes; the drift of the whole update, which sets the penalty."""
        return Needs(whole_groups=True, forward_totals=self.beta > 0, top_up=self.top_up)

    def useful(self, group: Group) -> bool:
        """Whether a group has both right and wrong answers."""
        return disc.is_mixed(group)

    def signal(self, batch: Scored) -> Signal:
        """Each token has its row's weight in the contrast of its group: positive if right, negative if wrong."""
        return disc.class_signal(batch)

    def totals(self, x: LossInputs) -> dict[str, float]:
        """Groups, mixed or not, and the drift summed over tokens."""
        return disc.count_groups_and_drift(x, self)

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        """Minus the contrast, averaged over all groups of the update, plus the drift penalty."""
        right, wrong = disc.classes(x)
        contrast = right_over_hard_wrong(disc.scores(x, self.score), x.group, right, wrong, tau=self.tau)
        return -contrast / max(totals.extra["groups"], 1.0) + disc.drift_penalty(x, totals, self)

    def observe(self, x: LossInputs, totals: Totals) -> Metrics:
        """Drift, whether it was above its limit before the update, and mean scores of right and wrong answers."""
        return disc.observe(x, totals, self)
