import random

import torch
from jaxtyping import Float
from methods.steps import make_group
from torch import Tensor

from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.methods.base import Method, Needs, TopUp


class Smallest(Method):
    """A method of two functions."""

    kind = "smallest"

    def signal(self, batch: Scored) -> Signal:
        zero = torch.zeros_like(batch.reward)
        return Signal(torch.zeros_like(batch.entropy), batch.mask, batch.scorable, zero, zero)

    def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
        return x.logprobs.sum() * 0


def test_hooks_do_nothing_by_default() -> None:
    method, groups = Smallest(), [make_group([True, False])]
    assert method.plan(groups, random.Random(0)) == []
    assert method.arrange(groups) == groups
    assert method.needs == Needs()


def test_groups_with_different_rewards_are_useful() -> None:
    assert Smallest().useful(make_group([True, False]))
    assert not Smallest().useful(make_group([True, True]))


def test_dynamic_sampling_is_off_by_default() -> None:
    assert TopUp().max_rounds == 0
