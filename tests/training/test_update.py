"""Updates: the schedule, skipping, and a gradient that no batching changes."""

import pytest
import torch
from support import PROBLEM, group, tiny_policy

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.metrics import means
from edge_grpo.base.records import Grade, Group, Row, Segment, Strategy, Verdict
from edge_grpo.config.sections import TrainSettings
from edge_grpo.methods import Needs
from edge_grpo.methods.grpo import Grpo
from edge_grpo.rollout.engine import Request, Sampling, inject
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.training.batching import collate
from edge_grpo.training.distributed import World
from edge_grpo.training.schedule import learning_rate
from edge_grpo.training.update import Updater, describe_scores, is_over, make_optimizer


def make(policy, **settings):
    train = TrainSettings(learning_rate=0.01, schedule="constant", **settings)
    optimizer = make_optimizer(policy, train)
    return Updater(
        policy=policy,
        optimizer=optimizer,
        method=Grpo(),
        train=train,
        temperature=1.0,
        max_new_tokens=8,
        world=World(),
    )


def batch():
    groups = [group(0, 2, 1, 2), group(2, 0, 0, 0), group(1, 1, 2, 0)]
    return collate(groups, parts=("accuracy",), weights=(1.0,), pad_id=0)


def after(policy):
    return torch.cat([weight.detach().flatten() for _, weight in policy.trained()])


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_micro_batch_size_does_not_change_the_update(size):
    whole, split = (tiny_policy(dtype=torch.float64) for _ in range(2))
    for policy, rows in ((whole, 64), (split, size)):
        updater = make(policy, micro_batch_rows=rows)
        scored = updater.score(batch())
        updater.step(scored, updater.signal(scored), step=0)
    assert torch.allclose(after(whole), after(split), atol=1e-7)  # scores are kept in float32


def test_an_update_raises_what_is_rewarded():
    policy = tiny_policy()
    updater = make(policy)
    before = updater.score(batch())
    signal = updater.signal(before)
    updater.step(before, signal, step=0)
    gain = (updater.score(batch()).old_logprobs - before.old_logprobs).sum(-1)
    assert gain[signal.row_advantages > 0].mean() > gain[signal.row_advantages < 0].mean()


def test_passes_and_mini_batches_are_updates():
    policy = tiny_policy()
    updater = make(policy, passes=2, mini_batches=3)
    scored = updater.score(batch())
    metrics = updater.step(scored, updater.signal(scored), step=0)
    assert metrics["grad_norm"][1] == 6
    assert means(metrics)["kl/old"] != 0


def test_scores_carry_no_gradient_and_the_first_ratio_is_one():
    policy = tiny_policy()
    updater = make(policy)
    scored = updater.score(batch())
    assert not scored.old_logprobs.requires_grad
    metrics = updater.step(scored, updater.signal(scored), step=0)
    assert means(metrics)["kl/old"] == pytest.approx(0.0, abs=1e-6)


def test_nothing_to_train_on_changes_nothing():
    policy = tiny_policy()
    updater = make(policy)
    scored = updater.score(batch())
    signal = updater.signal(scored)
    nothing = type(signal)(**{**vars(signal), "keep": torch.zeros_like(signal.keep)})
    before = after(policy)
    assert updater.step(scored, nothing, step=0)["empty_updates"] == (1.0, 1.0)
    assert torch.equal(after(policy), before)


def test_schedules():
    base = {"steps": 10, "learning_rate": 1.0}
    assert learning_rate(9, TrainSettings(**base, schedule="constant")) == 1.0
    cosine = [learning_rate(s, TrainSettings(**base, schedule="cosine")) for s in range(10)]
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[5] == pytest.approx(0.5)
    warm = [learning_rate(s, TrainSettings(**base, warmup_steps=4)) for s in range(10)]
    assert warm[:4] == [0.25, 0.5, 0.75, 1.0]
    assert warm[4] == 1.0
    assert warm[9] == pytest.approx(1 / 6)
    floor = TrainSettings(**base, final_learning_rate=0.5)
    assert learning_rate(10, floor) == 0.5


def test_vectors_are_not_decayed():
    optimizer = make_optimizer(tiny_policy(), TrainSettings(weight_decay=0.1))
    matrices, vectors = optimizer.param_groups
    assert matrices["weight_decay"] == 0.1
    assert vectors["weight_decay"] == 0.0
    assert all(weight.dim() <= 1 for weight in vectors["params"])


def test_entropy_is_told_apart_by_who_wrote_the_token():
    updater = make(tiny_policy())
    scored = updater.score(batch())
    segment = scored.segment.clone()
    segment[0][scored.mask[0]] = int(Segment.INJECTED)
    figures = describe_scores(type(scored)(**{**vars(scored), "segment": segment}))
    assert figures["entropy/all_tokens"][1] - figures["entropy"][1] == int(scored.mask[0].sum())


def test_rows_sampled_whole_need_no_scoring(monkeypatch):
    policy = tiny_policy()
    engine = DecodeEngine(policy, stop_ids=[2], pad_id=0)
    assert engine.exact
    (rollouts,) = engine.sample([Request((10, 11, 12), tuple(range(6)))], Sampling(9))
    rows = tuple(Row(rollout, Grade(Verdict.WRONG, float(i))) for i, rollout in enumerate(rollouts))
    injected = Row(inject(rollouts[0], (30, 31, 2), finished=True), Grade(Verdict.CORRECT, 9.0), Strategy.ANSWER)
    made = collate([Group(PROBLEM, (*rows, injected))], parts=(), weights=(), pad_id=0)
    updater = make(policy)
    slow = updater.score(made)
    updater.reuse_sampled = True
    seen = []
    score = policy.score
    monkeypatch.setattr(policy, "score", lambda *a, **k: seen.append(len(a[0])) or score(*a, **k))
    fast = updater.score(made)
    assert seen == [1]  # the corrected row alone
    assert torch.allclose(slow.old_logprobs, fast.old_logprobs, atol=2e-5)
    assert torch.allclose(slow.entropy, fast.entropy, atol=2e-5)
    assert torch.equal(slow.old_logprobs[-1], fast.old_logprobs[-1])


class Recording(Grpo):
    """Notes what the hooks see."""

    def __init__(self, *, forward=False, whole=False):
        object.__setattr__(self, "seen", [])
        object.__setattr__(self, "splits", [])
        object.__setattr__(self, "forward", forward)
        object.__setattr__(self, "whole", whole)
        super().__init__()

    @property
    def needs(self):
        return Needs(forward_totals=self.forward, whole_groups=self.whole)

    def totals(self, x):
        self.seen.append(bool(torch.equal(x.logprobs, x.old_logprobs)))
        self.splits.append(x.group.tolist())
        return super().totals(x)


def run(method, **settings):
    updater = make(tiny_policy(), passes=2, mini_batches=1, **settings)
    updater.method = method
    scored = updater.score(batch())
    updater.step(scored, updater.signal(scored), step=0)
    return method


def test_totals_see_current_log_probs_where_they_are_needed():
    assert run(Recording()).seen == [True, True]
    assert run(Recording(forward=True)).seen == [True, False]  # no drift before the first update


def test_whole_groups_are_never_split():
    assert any(len(set(rows)) > 1 for rows in run(Recording(), micro_batch_rows=3).splits)
    splits = run(Recording(whole=True), micro_batch_rows=3).splits
    assert sorted(splits[:3]) == [[0] * 4, [1] * 4, [2] * 4]


def test_token_scores_are_asked_for_group_by_group():
    class Asking(Grpo):
        needs = Needs(token_scores=True)

        def token_scores(self, x):
            assert x.hidden.shape == (len(x.token_ids), x.head_weight.shape[1])
            logits = x.hidden @ x.head_weight.T
            chosen = logits.log_softmax(-1).gather(-1, x.token_ids[:, None]).squeeze(-1)
            return chosen + 100.0 * len(x.correct) + x.row

    updater = make(tiny_policy(), micro_batch_rows=3)
    updater.method = Asking()
    scored = updater.score(batch())
    within = torch.tensor([0, 1, 2, 3] * 3)[:, None]
    wanted = torch.where(scored.mask, scored.old_logprobs + 400.0 + within, 0.0)
    assert torch.allclose(scored.token_scores, wanted, atol=1e-3)


def test_token_scores_that_a_method_wants_and_does_not_compute():
    class Asking(Grpo):
        needs = Needs(token_scores=True)

    updater = make(tiny_policy(), micro_batch_rows=3)
    updater.method = Asking()
    with pytest.raises(ConfigError, match=r"^Asking\.token_scores: .* write it$"):
        updater.score(batch())


def test_a_bound_on_tokens_brings_the_rate_down_and_ends_the_run():
    train = TrainSettings(steps=1000, max_tokens=100, learning_rate=1.0)
    assert learning_rate(1, train, tokens=25) == 0.75
    assert learning_rate(900, train, tokens=0) == pytest.approx(0.1)
    assert [is_over(train, 1, tokens) for tokens in (0, 99, 100, 130)] == [False, False, True, True]
    assert is_over(train, 1000, 0)
