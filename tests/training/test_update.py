"""Updates: the schedule, skipping, the rollout's temperature everywhere, and a gradient independent of batching."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from jaxtyping import Float
from support import PROBLEM, group, row, tiny_policy
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.metrics import Metrics, means
from edge_grpo.base.records import Grade, Group, Row, Segment, Strategy, Verdict
from edge_grpo.base.tensors import Batch, GroupHidden, LossInputs, Totals
from edge_grpo.base.world import World
from edge_grpo.config.sections import TrainSettings
from edge_grpo.methods.base import Method, Needs
from edge_grpo.methods.grpo import Grpo
from edge_grpo.models.policy import Policy
from edge_grpo.models.scoring import Scorer
from edge_grpo.rollout.engine import Request, Sampling, inject
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.training.batching import collate
from edge_grpo.training.described import describe_gap, describe_scores
from edge_grpo.training.schedule import learning_rate
from edge_grpo.training.update import Updater, is_over, make_optimizer

TEMPERATURES = [1.0, 0.7]


def make(
    policy: Policy, method: Method | None = None, *, temperature: float = 1.0, reuse: bool = False, **settings: Any
) -> Updater:
    train = TrainSettings(learning_rate=0.01, schedule="constant", **settings)
    return Updater(
        policy=policy,
        optimizer=make_optimizer(policy, train),
        method=method or Grpo(),
        train=train,
        temperature=temperature,
        max_new_tokens=8,
        world=World(),
        reuse_sampled=reuse,
    )


GROUPS = (group(0, 2, 1, 2), group(2, 0, 0, 0), group(1, 1, 2, 0))


def batch(groups: Sequence[Group] = GROUPS) -> Batch:
    """Rows of which the sampler knows no entropies, so that they are scored."""
    made = collate(groups, parts=("accuracy",), weights=(1.0,), pad_id=0)
    return replace(made, sampling_entropy=torch.full_like(made.sampling_entropy, torch.nan))


def take_step(updater: Updater, own: Batch | None = None) -> Metrics:
    scored = updater.score(own or batch())
    return updater.step(scored, updater.signal(scored), step=0)


def weights(policy: Policy) -> Tensor:
    return torch.cat([weight.detach().flatten() for _, weight in policy.trained()])


def full_logprobs(policy: Policy, own: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of the batch's tokens, from all logits at once; 0 outside the mask."""
    with torch.no_grad():
        logits = policy.model(input_ids=own.input_ids, attention_mask=own.attention.long()).logits[:, :-1]
    table = (logits / temperature).log_softmax(-1)
    chosen = table.gather(-1, own.input_ids[:, 1:, None]).squeeze(-1)
    entropy = -(table.exp() * table).sum(-1)
    return tuple(torch.where(own.mask, nn.functional.pad(each, (1, 0)), 0.0) for each in (chosen, entropy))


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_micro_batch_size_does_not_change_the_update(size: int) -> None:
    whole, split = (tiny_policy(dtype=torch.float64) for _ in range(2))
    for policy, rows in ((whole, 64), (split, size)):
        take_step(make(policy, micro_batch_rows=rows))
    assert torch.allclose(weights(whole), weights(split), atol=1e-7)  # scores are kept in float32


def test_an_update_raises_what_is_rewarded() -> None:
    updater = make(tiny_policy())
    before = updater.score(batch())
    signal = updater.signal(before)
    updater.step(before, signal, step=0)
    gain = (updater.score(batch()).old_logprobs - before.old_logprobs).sum(-1)
    assert gain[signal.row_advantages > 0].mean() > gain[signal.row_advantages < 0].mean()


def test_passes_and_mini_batches_are_updates() -> None:
    metrics = take_step(make(tiny_policy(), passes=2, mini_batches=3))
    assert metrics["grad_norm"][1] == 6
    assert means(metrics)["kl/old"] != 0


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_policy_and_reference_are_scored_at_the_rollouts_temperature(temperature: float) -> None:
    policy = tiny_policy(reference=True)
    scored = make(policy, Grpo(beta=0.1), temperature=temperature).score(batch())
    logprobs, entropy = full_logprobs(policy, scored, temperature)
    assert scored.ref_logprobs is not None
    assert torch.allclose(scored.old_logprobs, logprobs, atol=1e-4)
    assert torch.allclose(scored.ref_logprobs, logprobs, atol=1e-4)
    assert torch.allclose(scored.entropy, entropy, atol=1e-4)


@dataclass
class Seen:
    """What a recording method saw: the totals and the loss of each micro-batch."""

    totals: list[LossInputs] = field(default_factory=list)
    loss: list[LossInputs] = field(default_factory=list)


def recording(**needs: bool) -> tuple[Grpo, Seen]:
    """GRPO with some needs, and a record of its calls."""
    declared, seen = Needs(**needs), Seen()

    class Recording(Grpo):
        needs = declared

        def totals(self, x: LossInputs) -> dict[str, float]:
            seen.totals.append(x)
            return super().totals(x)

        def loss(self, x: LossInputs, totals: Totals) -> Float[Tensor, ""]:
            seen.loss.append(x)
            return super().loss(x, totals)

    return Recording(), seen


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_first_update_sees_the_scores_of_the_batch(temperature: float) -> None:
    method, seen = recording()
    metrics = take_step(make(tiny_policy(), method, temperature=temperature))
    (x,) = seen.loss
    assert not x.old_logprobs.requires_grad
    assert x.logprobs.requires_grad
    trained = x.mask
    assert torch.allclose(x.logprobs[trained], x.old_logprobs[trained], atol=1e-5), "every ratio is one"
    assert means(metrics)["kl/old"] == pytest.approx(0.0, abs=1e-6)


UNEVEN = [
    Group(PROBLEM, tuple(row(reward, tokens=3 + 5 * i + j, prompt=4 + 7 * j) for j, reward in enumerate((0, 2, 1, 2))))
    for i in range(5)
]


@pytest.mark.parametrize("settings", [{}, {"mini_batches": 3}, {"mini_batches": 2, "micro_batch_rows": 3, "passes": 2}])
@pytest.mark.parametrize("whole_groups", [False, True])
def test_the_first_ratio_is_exactly_1_in_bf16_too(settings: dict[str, Any], whole_groups: bool) -> None:
    method, seen = recording(whole_groups=whole_groups)
    updater = make(tiny_policy(dtype=torch.bfloat16), method, **settings)
    scored = updater.score(batch(UNEVEN))
    updater.step(scored, updater.signal(scored), step=7)
    x = seen.loss[0]
    assert torch.equal(x.logprobs[x.mask], x.old_logprobs[x.mask])
    assert len(seen.loss) > 1 or not settings


def test_totals_see_current_log_probs_where_they_are_needed() -> None:
    for needed, wanted in ((False, [True, True]), (True, [True, False])):  # no drift before the first update
        method, seen = recording(forward_totals=needed)
        take_step(make(tiny_policy(), method, passes=2))
        assert [torch.equal(x.logprobs, x.old_logprobs) for x in seen.totals] == wanted


def test_whole_groups_are_never_split() -> None:
    method, seen = recording()
    take_step(make(tiny_policy(), method, micro_batch_rows=3))
    assert any(len(set(x.group.tolist())) > 1 for x in seen.loss)
    method, seen = recording(whole_groups=True)
    take_step(make(tiny_policy(), method, micro_batch_rows=3))
    assert sorted(x.group.tolist() for x in seen.loss) == [[0] * 4, [1] * 4, [2] * 4]


def test_a_family_is_never_split_over_updates() -> None:
    families = [replace(group(0, 2), family=family, variant=variant) for family in range(4) for variant in range(2)]
    method, seen = recording()
    take_step(make(tiny_policy(), method, mini_batches=4, passes=2), batch(families))
    assert [len(set(x.family.tolist())) for x in seen.loss] == [1] * 8
    assert [len(set(x.group.tolist())) for x in seen.loss] == [2] * 8


def test_gradients_are_clipped_before_the_optimizer_sees_them() -> None:
    policy = tiny_policy()
    updater = make(policy, max_grad_norm=0.01, beta1=0.9)
    assert means(take_step(updater))["grad_norm"] > 0.02
    moments = torch.cat([state["exp_avg"].flatten() for state in updater.optimizer.state.values()])
    assert float(moments.norm()) == pytest.approx((1 - 0.9) * 0.01, rel=1e-3)


def test_nothing_to_train_on_changes_nothing() -> None:
    policy = tiny_policy()
    updater = make(policy)
    scored = updater.score(batch())
    signal = updater.signal(scored)
    before = weights(policy)
    nothing = replace(signal, keep=torch.zeros_like(signal.keep))
    assert updater.step(scored, nothing, step=0)["empty_updates"] == (1.0, 1.0)
    assert torch.equal(weights(policy), before)


def test_schedules() -> None:
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


def test_vectors_are_not_decayed() -> None:
    optimizer = make_optimizer(tiny_policy(), TrainSettings(weight_decay=0.1))
    matrices, vectors = optimizer.param_groups
    assert matrices["weight_decay"] == 0.1
    assert vectors["weight_decay"] == 0.0
    assert all(weight.dim() <= 1 for weight in vectors["params"])


def test_entropy_is_split_by_the_origin_of_the_token() -> None:
    scored = make(tiny_policy()).score(batch())
    segment = scored.segment.clone()
    segment[0][scored.mask[0]] = int(Segment.INJECTED)
    figures = describe_scores(replace(scored, segment=segment))
    assert figures["entropy/all_tokens"][1] - figures["entropy"][1] == int(scored.mask[0].sum())


def test_the_gap_to_the_sampler_is_measured_where_it_gave_log_probs() -> None:
    scored = make(tiny_policy()).score(batch())
    apart = torch.full_like(scored.old_logprobs, torch.nan)
    places = scored.mask.nonzero()[:4]
    for place, gap in zip(map(tuple, places.tolist()), (0.1, -0.1, 0.5, -0.3), strict=True):
        apart[place] = scored.old_logprobs[place] + gap
    figures = describe_gap(replace(scored, sampling_logprobs=apart))
    assert figures == {
        "sampler/gap": (pytest.approx(1.0), 4.0),
        "sampler/gap_max": (pytest.approx(0.5), 1.0),
        "sampler/gap_beyond": (2.0, 4.0),
    }
    none = describe_gap(replace(scored, sampling_logprobs=torch.full_like(apart, torch.nan)))
    assert {count for _, count in none.values()} == {0.0}, "undefined, not 0"


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_rows_sampled_whole_need_no_scoring(temperature: float) -> None:
    policy = tiny_policy()
    engine = DecodeEngine(policy, stop_ids=[2], pad_id=0)
    assert engine.exact
    (rollouts,) = engine.sample([Request((10, 11, 12), tuple(range(6)))], Sampling(9, temperature))
    rows = tuple(Row(rollout, Grade(Verdict.WRONG, float(i))) for i, rollout in enumerate(rollouts))
    injected = Row(inject(rollouts[0], (30, 31, 2), finished=True), Grade(Verdict.CORRECT, 9.0), Strategy.ANSWER)
    made = collate([Group(PROBLEM, (*rows, injected))], parts=(), weights=(), pad_id=0)
    slow = make(policy, temperature=temperature).score(made)
    scored_rows: list[int] = []
    handle = register_module_forward_hook(
        lambda module, args, _: scored_rows.append(len(args[0])) if isinstance(module, Scorer) else None
    )
    try:
        fast = make(policy, temperature=temperature, reuse=True).score(made)
    finally:
        handle.remove()
    assert scored_rows == [1], "the corrected row alone"
    assert torch.allclose(slow.old_logprobs, fast.old_logprobs, atol=2e-5)
    assert torch.allclose(slow.entropy, fast.entropy, atol=2e-5)
    assert torch.equal(slow.old_logprobs[-1], fast.old_logprobs[-1])


def test_a_step_that_reuses_the_samplers_numbers_is_the_one_that_scores_them() -> None:
    (sampled,) = DecodeEngine(tiny_policy(), stop_ids=[2], pad_id=0).sample(
        [Request((10, 11, 12), tuple(range(8)))], Sampling(9)
    )
    rewards = (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    graded = tuple(Row(each, Grade(Verdict.CORRECT, own)) for each, own in zip(sampled, rewards, strict=True))
    injected = Row(inject(sampled[0], (30, 31, 2), finished=True), Grade(Verdict.CORRECT, 2.0), Strategy.ANSWER)
    groups = (Group(PROBLEM, (*graded[:4], injected)), Group(PROBLEM, graded[4:]))
    made, plain = collate(groups, parts=(), weights=(), pad_id=0), batch(groups)
    found = []
    for own in (made, plain):
        updater = make(tiny_policy(), micro_batch_rows=3)
        scored = updater.score(own)
        metrics = updater.step(scored, updater.signal(scored), step=0)
        found.append((int(updater.reused(own).sum()), means(metrics), weights(updater.policy)))
    (reused, ours, there), (none, theirs, here) = found
    assert (reused, none) == (8, 0)
    assert torch.allclose(there, here, atol=1e-6)
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    assert ours.keys() == theirs.keys()
    assert ours["sampler/gap"] == pytest.approx(0.0, abs=1e-5)


class Asking(Grpo):
    """Requires token scores but does not compute them."""

    needs = Needs(token_scores=True)


class AskingForLogprobs(Asking):
    """Computes log-probs from hidden states and adds the row number and the number of rows."""

    def token_scores(self, x: GroupHidden) -> Float[Tensor, " tokens"]:
        assert x.hidden.shape == (len(x.token_ids), x.head_weight.shape[1])
        logits = x.hidden @ x.head_weight.T
        chosen = logits.log_softmax(-1).gather(-1, x.token_ids[:, None]).squeeze(-1)
        return chosen + 100.0 * len(x.correct) + x.row


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_token_scores_are_computed_group_by_group_at_the_rollouts_temperature(temperature: float) -> None:
    policy = tiny_policy()
    scored = make(policy, AskingForLogprobs(), temperature=temperature, micro_batch_rows=3).score(batch())
    within = torch.tensor([0, 1, 2, 3] * 3)[:, None]
    logprobs, _ = full_logprobs(policy, scored, temperature)
    wanted = torch.where(scored.mask, logprobs + 400.0 + within, 0.0)
    assert scored.token_scores is not None
    assert torch.allclose(scored.token_scores, wanted, atol=1e-3)


def test_token_scores_that_a_method_wants_and_does_not_compute_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^Asking\.token_scores: .* define it$"):
        make(tiny_policy(), Asking(), micro_batch_rows=3).score(batch())


def test_a_bound_on_tokens_brings_the_rate_down_and_ends_the_run() -> None:
    train = TrainSettings(steps=1000, max_tokens=100, learning_rate=1.0)
    assert learning_rate(1, train, tokens=25) == 0.75
    assert learning_rate(900, train, tokens=0) == pytest.approx(0.1)
    assert [is_over(train, 1, tokens) for tokens in (0, 99, 100, 130)] == [False, False, True, True]
    assert is_over(train, 1000, 0)
