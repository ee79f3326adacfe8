import pytest
import torch
from methods.steps import by_hand, make_step

from edge_grpo.methods.raft import Raft
from edge_grpo.methods.raft_pp import RaftPp


def test_clipped_above_alone() -> None:
    x, totals = by_hand([[1.5, 0.1], [0.5]], [1.0, 1.0])
    loss = RaftPp().loss(x, totals)
    loss.backward()
    assert loss.item() == pytest.approx(-((1.2 + 0.1) / 2 + 0.5) / 2)
    assert x.logprobs.grad is not None
    assert x.logprobs.grad[0].tolist() == pytest.approx([0.0, -0.1 / 4])


def test_clip_higher_and_no_clip() -> None:
    x, totals = by_hand([[1.25], [9.0]], [1.0, 1.0])
    assert RaftPp(clip_high=0.28).loss(x, totals).item() == pytest.approx(-(1.25 + 1.28) / 2)
    assert RaftPp(clip_high=1e9).loss(x, totals).item() == pytest.approx(-(1.25 + 9) / 2)


def test_the_signal_is_that_of_raft() -> None:
    batch = make_step()
    assert torch.equal(RaftPp().signal(batch).advantages, Raft().signal(batch).advantages)


def test_the_clip_share_is_observed() -> None:
    x, totals = by_hand([[9.0, 1.5], [0.1]], [1.0, 1.0])
    assert RaftPp().observe(x, totals)["clip/high"] == (2.0, 3.0)
    assert "clip/low" not in RaftPp().observe(x, totals)
