from dataclasses import replace

import pytest
import torch
from methods.steps import by_hand, current, make_step, run_update
from pydantic import ValidationError
from support import tiny_policy

from edge_grpo.base.metrics import means
from edge_grpo.base.tensors import GroupHidden, Scored
from edge_grpo.functional import token_weights
from edge_grpo.methods.base import TopUp
from edge_grpo.methods.nthr import Nthr

RIGHT = [True, False, True, False]


def group_hidden(correct: list[bool] = RIGHT, *, seed: int = 0, scorable: list[bool] | None = None) -> GroupHidden:
    generator = torch.Generator().manual_seed(seed)
    row = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    return GroupHidden(
        hidden=torch.randn(8, 3, generator=generator, dtype=torch.float64),
        token_ids=torch.randint(20, (8,), generator=generator),
        row=row,
        correct=torch.tensor(correct),
        scorable=torch.tensor(scorable or [True] * 4),
        head_weight=torch.randn(20, 3, generator=generator, dtype=torch.float64),
    )


def step_with(scores: list[list[float]], correct: list[bool]) -> Scored:
    """One group; column 0 is a prompt, every row has as many tokens as it has scores."""
    batch = make_step(groups=1, size=len(scores))
    width = max(map(len, scores)) + 1
    mask = torch.arange(batch.mask.shape[1]) < torch.tensor([[len(line) + 1] for line in scores])
    mask = mask & (torch.arange(batch.mask.shape[1]) > 0)
    values = torch.full(mask.shape, torch.nan, dtype=torch.float64)
    for line, own in zip(scores, values, strict=True):
        own[1 : len(line) + 1] = torch.tensor(line, dtype=torch.float64)
    assert width <= mask.shape[1]
    flags = torch.tensor(correct)
    return replace(
        batch,
        mask=mask,
        attention=mask,
        correct=flags,
        reward=flags.double(),
        scorable=torch.ones_like(flags),
        group=torch.zeros(len(scores), dtype=torch.long),
        token_scores=values,
    )


# --- scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", ["full", "responses"])
def test_scores_are_those_of_the_function(vocabulary: str) -> None:
    x = group_hidden()
    entries = x.token_ids.unique() if vocabulary == "responses" else None
    anchors = x.correct[x.row]
    wanted = token_weights.token_scores(x.hidden, x.token_ids, x.head_weight, anchors, vocabulary=entries)
    assert torch.equal(Nthr(vocabulary=vocabulary).token_scores(x), wanted)
    assert Nthr().needs.token_scores


def test_a_right_answer_may_leave_out_its_own_tokens() -> None:
    x = group_hidden()
    both, others = Nthr(vocabulary="full").token_scores(x), Nthr(vocabulary="full", include_self=False).token_scores(x)
    wrong = ~x.correct[x.row]
    assert torch.equal(both[wrong], others[wrong])
    lonely = replace(x, correct=torch.tensor([False, False, True, False]))
    for row in (0, 2):
        anchors = (x.row != row) & x.correct[x.row]
        wanted = token_weights.token_scores(x.hidden, x.token_ids, x.head_weight, anchors)
        assert torch.allclose(others[x.row == row], wanted[x.row == row], atol=1e-12)
    alone = [Nthr(include_self=flag).token_scores(lonely) for flag in (True, False)]
    assert torch.equal(*alone)  # with one right answer there are no others


@pytest.mark.parametrize("correct", [[True] * 4, [False] * 4])
def test_groups_that_are_not_mixed_are_not_scored(correct: list[bool]) -> None:
    assert Nthr().token_scores(group_hidden(correct)).tolist() == [0] * 8


def test_rows_without_a_grade_are_neither_right_nor_wrong() -> None:
    x = group_hidden(scorable=[True, True, False, True])
    got = Nthr(vocabulary="full").token_scores(x)
    wanted = token_weights.token_scores(x.hidden, x.token_ids, x.head_weight, x.row == 0)
    assert torch.equal(got, torch.where(x.row == 2, 0.0, wanted))
    assert Nthr().token_scores(group_hidden(scorable=[False, True, False, True])).tolist() == [0] * 8


# --- selection and signal -------------------------------------------------------------------------------------------


def test_tokens_above_the_threshold_are_punished_less() -> None:
    batch = step_with([[4.0, 2.0], [5.0], [3.0, 3.5, 2.9], [9.0, 1.0]], [True, True, False, False])
    assert Nthr().thresholds(batch).tolist() == [3.0] * 4  # the smaller mean of the right answers
    signal = Nthr(eta=0.25).signal(batch)
    assert signal.advantages[0, 1:3].tolist() == [1.0, 1.0]
    assert signal.advantages[1, 1] == 1.0
    assert signal.advantages[2, 1:4].tolist() == [-1.0, -0.25, -1.0]  # strictly above
    assert signal.advantages[3, 1:3].tolist() == [-0.25, -1.0]
    shown = means(signal.metrics)
    assert shown["nthr/selected"] == pytest.approx(2 / 5)
    assert shown["nthr/eta"] == 0.25
    assert shown["nthr/wrong_rows_touched"] == 1.0


def test_no_threshold_at_all_even_where_the_smallest_mean_is_negative() -> None:
    batch = step_with([[-4.0], [5.0], [-9.0, 3.0]], [True, True, False])
    assert Nthr(threshold="all").selected(batch)[2].sum() == 2
    assert Nthr(threshold=0.0).selected(batch)[2].sum() == 1
    assert Nthr(threshold=1.0).selected(batch)[2].sum() == 1  # -4: nothing clamps it


@pytest.mark.parametrize(("rule", "wanted"), [("balance", 0.5), ("p", 0.25), ("1-p", 0.75), (0.1, 0.1)])
def test_rules_for_eta(rule: float, wanted: float) -> None:
    assert Nthr(eta=rule).factor(torch.tensor([0.25])).item() == pytest.approx(wanted)


def test_the_population_deviation_is_the_papers() -> None:
    batch = step_with([[0.0], [0.0], [0.0], [0.0]], [True, False, False, False])
    p = 0.25
    got = Nthr().signal(batch).row_advantages.tolist()
    assert got == pytest.approx([((1 - p) / p) ** 0.5, *[-((p / (1 - p)) ** 0.5)] * 3])
    sample = Nthr(std="sample").signal(batch).row_advantages.tolist()
    assert sample == pytest.approx([value * (3 / 4) ** 0.5 for value in got])


def test_a_wrong_answer_that_is_rewarded_is_not_scaled() -> None:
    batch = step_with([[0.0], [5.0], [0.0]], [True, False, False])
    signal = Nthr(eta=0.0).signal(replace(batch, reward=torch.tensor([2.0, 1.5, 0.0], dtype=torch.float64)))
    assert signal.advantages[1, 1] == signal.row_advantages[1] > 0


def test_groups_without_a_right_answer_are_plain_grpo() -> None:
    batch = make_step()
    batch = replace(batch, correct=torch.zeros_like(batch.correct))
    assert not Nthr(threshold="all").selected(batch).any()
    signal = Nthr(threshold="all", eta=0.0).signal(batch)
    assert torch.equal(signal.advantages.abs().sum(-1) > 0, signal.row_advantages != 0)


def test_with_eta_one_the_scores_do_not_matter() -> None:
    batch = make_step()
    method = Nthr(eta=1.0)
    other = replace(batch, token_scores=-5 * batch.token_scores)
    assert torch.equal(method.signal(batch).advantages, method.signal(other).advantages)


# --- loss -----------------------------------------------------------------------------------------------------------


def test_mean_over_all_tokens() -> None:
    x, totals = by_hand([[1.5, 1.0], [0.5]], [1.0, -2.0])
    assert Nthr(beta=0.0).loss(x, totals).item() == pytest.approx((-1.2 - 1.0 + 2 * 0.8) / 3)


def test_selection_changes_the_gradient_of_the_selected_tokens_alone() -> None:
    batch = make_step()
    logprobs, entropy = current(batch)
    every = [torch.arange(len(batch.group))]
    plain, mine = Nthr(eta=1.0, beta=0.0), Nthr(eta=0.5, beta=0.0)
    gradients = [run_update(m, batch, m.signal(batch), logprobs, entropy, every)[1] for m in (plain, mine)]
    chosen = mine.selected(batch) & (plain.signal(batch).advantages < 0)
    assert chosen.any()
    assert torch.allclose(gradients[1][chosen], gradients[0][chosen] / 2)
    assert torch.equal(gradients[1][~chosen], gradients[0][~chosen])


def test_settings_of_the_paper() -> None:
    method = Nthr()
    assert (method.threshold, method.eta, method.std, method.clip_low, method.clip_high) == (
        1.0,
        "balance",
        "population",
        0.2,
        0.2,
    )
    assert method.beta == 1e-4
    assert method.needs.reference
    assert method.needs.top_up == TopUp(max_rounds=10, fill=False)
    for wrong in ({"eta": -0.1}, {"eta": "q"}, {"threshold": "none"}):
        with pytest.raises(ValidationError):
            Nthr(**wrong)  # type: ignore[arg-type]


def test_with_a_model_minus_gwhes_is_the_slope_along_the_grpo_gradient_of_its_head() -> None:
    """End to end: states before each token, head and temperature are those that the log-probs come from."""
    policy, temperature = tiny_policy("llama", dtype=torch.float64), 0.7
    ids = torch.randint(5, 40, (4, 12), generator=torch.Generator().manual_seed(0))
    length = torch.tensor([12, 9, 12, 10])
    attention = torch.arange(12) < length[:, None]
    mask = attention & (torch.arange(12) >= 4)
    correct = torch.tensor([True, False, False, True])
    x = GroupHidden(
        hidden=policy.hidden_states(ids, attention, mask),
        token_ids=ids[mask],
        row=mask.nonzero()[:, 0],
        correct=correct,
        scorable=torch.ones(4, dtype=torch.bool),
        head_weight=policy.head_weight(temperature=temperature),
    )
    right = Nthr(vocabulary="full").token_scores(x)
    wrong = token_weights.token_scores(x.hidden, x.token_ids, x.head_weight, ~correct[x.row])
    negative, positive = token_weights.gwhes(right, wrong, x.row, correct)
    head = policy.model.get_output_embeddings().weight
    logprobs = policy.score(ids, attention, mask, temperature=temperature).logprobs
    advantages = torch.where(correct, 1.0, -1.0).double()
    (step,) = torch.autograd.grad((advantages[:, None] * logprobs).sum(), head, retain_graph=True)
    for index in (0, 3):
        (slope,) = torch.autograd.grad(logprobs[index].sum(), head, retain_graph=True)
        wanted = (slope * step).sum().item() * temperature**2  # by the head, where the scores are by head / temperature
        assert (positive - negative)[index].item() == pytest.approx(wanted, rel=1e-9)
