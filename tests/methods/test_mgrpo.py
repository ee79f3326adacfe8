import random
from dataclasses import replace

import pytest
import torch
from methods.steps import by_hand, run_update
from pydantic import ValidationError
from torch import Tensor

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.metrics import means
from edge_grpo.base.records import Grade, Group, Problem, Rollout, Row, Segment, Span, Verdict
from edge_grpo.base.tensors import Scored
from edge_grpo.config.tree import parse_tree
from edge_grpo.data.prompts import REVISION_PHRASES
from edge_grpo.methods.grpo import Grpo
from edge_grpo.methods.mgrpo import Mgrpo
from edge_grpo.training.batching import collate

FIRST = [True, False, False, True]
SECOND = [[True, True], [True, False], [False, False], [True, False]]


def row(right: bool | None, *, prompt: int = 3, tokens: int = 2) -> Row:
    """An answer; None = the grader failed."""
    verdict = Verdict.ERROR if right is None else Verdict.CORRECT if right else Verdict.WRONG
    span = Span((5,) * tokens, Segment.SAMPLED, (-0.5,) * tokens, (0.2,) * tokens)
    return Row(Rollout((9,) * prompt, (span,), True), Grade(verdict, float(bool(right))))


def question(first: list[bool | None], second: list[list[bool]], number: int = 0) -> list[Group]:
    """A question with its answers and, for each of them, a group of revisions."""
    problem = Problem(f"p{number}", "?", ("1",))
    answers = Group(problem, tuple(map(row, first)), family=number)
    revisions = [
        Group(problem, tuple(row(right, prompt=7, tokens=3) for right in own), family=number, layer=2, parent=index)
        for index, own in enumerate(second)
    ]
    return [answers, *revisions]


def step_of(groups: list[Group]) -> Scored:
    """The collated groups as a scored step in float64, reference included."""
    batch = collate(groups, parts=[], weights=[], pad_id=0)
    nothing = torch.zeros(batch.mask.shape, dtype=torch.float64)
    columns = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    scores = {"old_logprobs": nothing - 1, "entropy": nothing + 1, "ref_logprobs": nothing - 1.5}
    return Scored(**{**columns, "reward": batch.reward.double()}, **scores)


STEP = question(FIRST, SECOND)  # 4 answers, then 4 pairs of revisions


# --- asking for revisions -------------------------------------------------------------------------------------------


def test_every_answer_is_revised_once_right_or_wrong() -> None:
    answers = [question(FIRST, [])[0], question([True, None], [], 1)[0]]
    asks = Mgrpo(revisions=3).plan(answers, random.Random(0))
    assert [(ask.group, ask.row, ask.count) for ask in asks] == [(0, 0, 3), (0, 1, 3), (0, 2, 3), (0, 3, 3), (1, 0, 3)]
    assert {ask.phrase for ask in asks} <= set(REVISION_PHRASES)
    assert Mgrpo().plan(STEP, random.Random(0)) == []


def test_phrases_are_drawn_for_each_answer() -> None:
    answers = [question(FIRST * 10, [])[0]]
    drawn = [ask.phrase for ask in Mgrpo().plan(answers, random.Random(1))]
    assert set(drawn) == set(REVISION_PHRASES)
    assert drawn == [ask.phrase for ask in Mgrpo().plan(answers, random.Random(1))]
    assert {ask.phrase for ask in Mgrpo(phrases=("Again.",)).plan(answers, random.Random(1))} == {"Again."}


# --- advantages and filters -----------------------------------------------------------------------------------------


def test_each_layer_is_compared_within_its_own_groups() -> None:
    signal = Mgrpo(std="population", std_eps=0.0).signal(step_of(STEP))
    assert signal.row_advantages[:4].tolist() == pytest.approx([1, -1, -1, 1])
    assert signal.row_advantages[4:].tolist() == pytest.approx([0, 0, 1, -1, 0, 0, 1, -1])
    sample = Mgrpo(std="sample", std_eps=0.0).signal(step_of(STEP))
    assert sample.row_advantages[6:8].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)])
    plain = Mgrpo(std="none").signal(step_of(STEP))
    assert plain.row_advantages.tolist() == [0.5, -0.5, -0.5, 0.5, 0, 0, 0.5, -0.5, 0, 0, 0.5, -0.5]


def test_revisions_of_a_question_may_be_pooled() -> None:
    signal = Mgrpo(std="none", l2_grouping="per_question").signal(step_of(STEP))
    assert signal.row_advantages[:4].tolist() == [0.5, -0.5, -0.5, 0.5]
    assert signal.row_advantages[4:].tolist() == [0.5, 0.5, 0.5, -0.5, -0.5, -0.5, 0.5, -0.5]


def test_filters() -> None:
    batch = step_of(STEP)
    signals = {name: Mgrpo(l2_filter=name).signal(batch) for name in ("none", "group_any_success", "sample_success")}
    assert signals["none"].keep.all()
    dropped = (~signals["group_any_success"].keep).nonzero().squeeze(-1).tolist()
    assert dropped == (~signals["sample_success"].keep).nonzero().squeeze(-1).tolist() == [8, 9]
    silenced = (~signals["sample_success"].mask.any(-1)).nonzero().squeeze(-1).tolist()
    assert silenced == [7, 8, 9, 11]  # wrong revisions; wrong first answers stay
    assert signals["group_any_success"].mask.equal(batch.mask)
    advantages = [signal.row_advantages for signal in signals.values()]
    assert torch.equal(advantages[0], advantages[1])
    assert torch.equal(advantages[0], advantages[2])  # from the full group, filtered afterwards


def test_a_revision_without_a_second_one_is_not_kept() -> None:
    groups = question([True, False], [[True, False], [True]])
    signal = Mgrpo().signal(step_of(groups))
    assert signal.keep.tolist() == [True, True, True, True, False]
    assert signal.row_advantages[4] == 0


# --- the copied answer ----------------------------------------------------------------------------------------------


def test_nothing_but_the_revision_is_trained() -> None:
    """The answer inside a revision's prompt gets neither mask nor advantage nor gradient."""
    batch = step_of(STEP)
    method = Mgrpo(beta=0.1, l2_filter="none")
    signal = method.signal(batch)
    prompt = torch.where(batch.layer == 1, 3, 7)
    copied = torch.arange(batch.mask.shape[1]) < prompt[:, None]
    assert not (signal.mask & copied).any()
    logprobs = batch.old_logprobs + 0.1
    _, gradient, _ = run_update(method, batch, signal, logprobs, batch.entropy, [torch.arange(12)])
    assert (gradient[copied] == 0).all()
    assert (gradient[batch.mask] != 0).any()


# --- loss -----------------------------------------------------------------------------------------------------------


def gradient_of(method: Mgrpo, batch: Scored, splits: list[Tensor]) -> Tensor:
    return run_update(method, batch, method.signal(batch), batch.old_logprobs, batch.entropy, splits)[1]


def test_each_layer_is_divided_by_its_own_rows() -> None:
    batch = step_of(STEP)
    method = Mgrpo(std="none", lambda2=0.5)
    gradient = gradient_of(method, batch, [torch.arange(12)])
    assert gradient[0, 3:5].tolist() == pytest.approx([-0.5 / 4 / 2] * 2)  # 4 rows of 2 tokens
    assert gradient[6, 7:10].tolist() == pytest.approx([-0.5 * 0.5 / 6 / 3] * 3)  # 6 kept rows of 3 tokens
    assert gradient[8].abs().sum() == 0


def test_the_first_layer_alone_is_grpo() -> None:
    batch = step_of([STEP[0]])
    mine, theirs = Mgrpo(std_eps=1e-4), Grpo()
    logprobs = batch.old_logprobs + torch.linspace(-0.3, 0.3, 4, dtype=torch.float64)[:, None]
    every = [torch.arange(4)]
    got, wanted = (run_update(m, batch, m.signal(batch), logprobs, batch.entropy, every)[:2] for m in (mine, theirs))
    assert torch.allclose(got[0], wanted[0])
    assert torch.allclose(got[1], wanted[1])


@pytest.mark.parametrize("size", [1, 3, 5])
def test_micro_batches_with_both_layers_change_nothing(size: int) -> None:
    batch = step_of(STEP + question([False, False], [[True, False], [False, True]], 1))
    method = Mgrpo(beta=0.05, entropy_coef=0.01, entropy_quantile=0.5, lambda2=0.7, l2_filter="sample_success")
    rows = torch.randperm(len(batch.group), generator=torch.Generator().manual_seed(0))
    whole = gradient_of(method, batch, [torch.arange(len(rows))])
    assert torch.allclose(gradient_of(method, batch, list(rows.split(size))), whole, atol=1e-14)


def test_without_a_layer_its_term_is_zero() -> None:
    for groups in ([STEP[0]], STEP[1:]):
        batch = step_of(groups)
        assert gradient_of(Mgrpo(), batch, [torch.arange(len(batch.group))]).isfinite().all()


def test_lambda_weighs_the_second_layer() -> None:
    batch = step_of(STEP)
    everything = [torch.arange(12)]
    none, one, two = (gradient_of(Mgrpo(lambda2=weight), batch, everything) for weight in (0.0, 1.0, 2.0))
    assert none[4:].abs().sum() == 0
    assert torch.allclose(two[4:], 2 * one[4:])
    assert torch.equal(two[:4], one[:4])


def test_a_micro_batch_by_hand() -> None:
    x, totals = by_hand([[1.5, 1.0], [0.5]], [1.0, -2.0])
    x = replace(x, layer=torch.tensor([1, 2]))
    method = Mgrpo(lambda2=3.0)
    totals = replace(totals, extra=method.totals(x))
    assert method.loss(x, totals).item() == pytest.approx(-(1.2 + 1.0) / 2 + 3 * 2 * 0.8)


# --- metrics --------------------------------------------------------------------------------------------------------


def test_what_became_of_the_answers() -> None:
    shown = means(Mgrpo().signal(step_of(STEP)).metrics)
    assert shown["mgrpo/acc_t1"] == shown["mgrpo/acc_t1_pairs"] == 0.5
    assert shown["mgrpo/acc_t2"] == 0.5
    assert shown["mgrpo/delta"] == 0
    assert shown["mgrpo/wrong_to_right"] == shown["mgrpo/right_to_wrong"] == 1 / 8
    assert shown["mgrpo/only_layer_2"] == 0


def test_a_question_without_signal_in_the_first_layer_can_have_one_in_the_second() -> None:
    groups = question([False, False], [[True, False], [False, False]]) + question([True, False], [[True, True]] * 2, 1)
    batch = step_of(groups)
    signal = Mgrpo().signal(batch)
    assert means(signal.metrics)["mgrpo/only_layer_2"] == 0.5
    assert gradient_of(Mgrpo(), batch, [torch.arange(len(batch.group))])[:6].abs().sum() > 0
    hopeless = step_of(question([False, False], [[False, False]] * 2))
    assert means(Mgrpo().signal(hopeless).metrics)["mgrpo/only_layer_2"] == 0
    assert Mgrpo().signal(hopeless).row_advantages.tolist() == [0] * 6


def test_settings() -> None:
    assert (Mgrpo().clip_low, Mgrpo().clip_high, Mgrpo().beta, Mgrpo().lambda2) == (0.2, 0.2, 0.0, 1.0)
    with pytest.raises(ValidationError, match="want at least 2, or l2_grouping=per_question"):
        Mgrpo(revisions=1)
    assert Mgrpo(revisions=1, l2_grouping="per_question").revisions == 1
    with pytest.raises(ValidationError, match="phrases"):
        Mgrpo(phrases=())


def test_a_phrase_says_something() -> None:
    for phrase, wanted in (("", "got ''; wanted some text"), (" ", "wanted some text"), ("\ud800", "lone surrogate")):
        with pytest.raises(ConfigError) as caught:
            parse_tree({"method": {"kind": "mgrpo", "phrases": ["Again.", phrase]}})
        assert str(caught.value).startswith("method.phrases.1: got ")
        assert wanted in str(caught.value)
        assert "\n" not in str(caught.value)
