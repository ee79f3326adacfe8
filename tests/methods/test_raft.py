import dataclasses

import pytest
import torch
from methods.steps import by_hand, current, make_group, make_step, run_update
from pydantic import ValidationError

from edge_grpo.methods.raft import Raft


def test_mean_of_the_log_likelihood_without_a_ratio() -> None:
    x, totals = by_hand([[1.5, 1.0], [0.5]], [1.0, 1.0], logprobs=-3.0)
    loss = Raft().loss(x, totals)
    loss.backward()
    assert loss.item() == pytest.approx(3.0)
    assert x.logprobs.grad is not None
    assert x.logprobs.grad.tolist() == [[-0.25, -0.25], [-0.5, 0.0]]
    assert Raft(aggregation="tokens").loss(x, totals).item() == pytest.approx(3.0)


def test_only_right_answers_are_learnt_even_of_all_right_groups() -> None:
    batch = make_step()
    signal = Raft().signal(batch)
    assert torch.equal(signal.keep, batch.scorable & batch.correct)
    assert (signal.row_advantages[signal.keep] == 1).all()
    assert signal.keep[batch.group == 0].all()


def test_own_rewards_are_weights() -> None:
    batch = make_step()
    rewards = torch.linspace(-1, 1, 12, dtype=torch.float64)
    every = Raft(reward_values="run", accept="positive").signal(dataclasses.replace(batch, reward=rewards))
    assert torch.equal(every.row_advantages, torch.where(batch.scorable, rewards.clamp(min=0), 0))
    best = Raft(reward_values="run").signal(dataclasses.replace(batch, reward=rewards)).row_advantages
    for name in range(3):
        own = torch.where(batch.scorable & (batch.group == name), rewards, -1.0)
        assert best[batch.group == name].max() == own.max().clamp(min=0)
        assert (best[batch.group == name] != 0).sum() == (own.max() > 0)


def test_the_old_policy_does_not_matter() -> None:
    batch = make_step()
    logprobs, entropy = current(batch)
    signal, every = Raft().signal(batch), [torch.arange(12)]
    moved = dataclasses.replace(batch, old_logprobs=batch.old_logprobs - 1)
    here, there = (run_update(Raft(), b, signal, logprobs, entropy, every) for b in (batch, moved))
    assert torch.equal(here[1], there[1])


def test_groups_with_a_right_answer_are_useful() -> None:
    assert Raft().useful(make_group([True, True]))
    assert Raft().useful(make_group([False, True]))
    assert not Raft().useful(make_group([False, False]))
    assert Raft(reward_values="run").useful(make_group([False, False]))  # a readable answer earns 1


def test_settings_that_could_do_nothing_are_refused() -> None:
    for name, value in {"off_policy_threshold": 1.0, "ratio_level": "sequence", "clip_high": 0.2}.items():
        with pytest.raises(ValidationError, match=name):
            Raft(**{name: value})  # type: ignore[arg-type]
