from dataclasses import replace

import pytest
import torch
from methods.steps import current, make_step, run_update

from edge_grpo.base.records import Grade, Verdict
from edge_grpo.functional.ops import where_mask
from edge_grpo.methods import Method
from edge_grpo.methods._rewarded import grade_value, rewards_of
from edge_grpo.methods.raft import Raft
from edge_grpo.methods.raft_pp import RaftPp
from edge_grpo.methods.reinforce import Reinforce
from edge_grpo.methods.reinforce_rej import ReinforceRej

EVERY = [torch.arange(12)]
FAMILY = [Raft, RaftPp, Reinforce, ReinforceRej]


def test_rewards_are_signed_unless_the_runs_own_are_wanted() -> None:
    batch = make_step()
    assert torch.equal(rewards_of(batch, "signed"), where_mask(2.0 * batch.correct - 1, batch.scorable))
    assert torch.equal(rewards_of(batch, "run"), where_mask(batch.reward, batch.scorable))
    grade = Grade(Verdict.CORRECT, 1.5)
    assert (grade_value(grade, "signed"), grade_value(grade, "run")) == (1.0, 1.5)
    assert grade_value(Grade(Verdict.WRONG, 1.5), "signed") == -1.0


@pytest.mark.parametrize("cls", [Raft, RaftPp, ReinforceRej])
def test_dropped_rows_leave_every_count_and_zeroed_ones_none(cls: type[Method]) -> None:
    batch = make_step()
    dropped, zeroed = cls().signal(batch), cls(rejected="zero_advantage").signal(batch)
    assert torch.equal(dropped.row_advantages, zeroed.row_advantages)
    assert torch.equal(zeroed.keep, batch.scorable)
    assert torch.equal(dropped.keep, dropped.row_advantages != 0)
    assert dropped.keep.sum() < zeroed.keep.sum()


@pytest.mark.parametrize("cls", [Raft, RaftPp, ReinforceRej])
@pytest.mark.parametrize("aggregation", ["rows", "tokens"])
def test_dropping_makes_the_same_step_larger(cls: type[Method], aggregation: str) -> None:
    batch = make_step()
    logprobs, entropy = current(batch)
    methods = [cls(aggregation=aggregation, rejected=name) for name in ("dropped", "zero_advantage")]
    signals = [method.signal(batch) for method in methods]
    losses = [run_update(m, batch, s, logprobs, entropy, EVERY)[0] for m, s in zip(methods, signals, strict=True)]
    counts = [s.keep.sum() if aggregation == "rows" else (batch.mask & s.keep[:, None]).sum() for s in signals]
    assert torch.allclose(losses[0] * counts[0], losses[1] * counts[1])


def test_kl_reaches_zeroed_rows_but_not_dropped_ones() -> None:
    batch = make_step()
    logprobs, entropy = current(batch)
    for name in ("dropped", "zero_advantage"):
        method = Raft(beta=0.1, rejected=name)
        signal = method.signal(batch)
        _, gradient, _ = run_update(method, batch, signal, logprobs, entropy, EVERY)
        rejected = batch.scorable & (signal.row_advantages == 0)
        assert (gradient[rejected] == 0).all() == (name == "dropped")


@pytest.mark.parametrize("cls", FAMILY)
def test_the_kl_estimate_is_bounded(cls: type[Method]) -> None:
    batch = make_step()
    far = replace(batch, ref_logprobs=batch.old_logprobs + 4)
    signal = cls().signal(far)
    logprobs, entropy = far.old_logprobs, far.entropy

    def loss(method: Method) -> float:
        return run_update(method, far, signal, logprobs, entropy, EVERY)[0].item()

    plain, bounded = loss(cls()), loss(cls(beta=0.5))
    assert bounded - plain == pytest.approx(0.5 * 10)
    assert loss(cls(beta=0.5, kl_max=None)) - plain == pytest.approx(
        0.5 * (torch.tensor(4.0).exp().item() - 5), rel=1e-5
    )
