from dataclasses import replace
from typing import Any

import pytest
import torch
from methods.steps import by_hand, current, make_step, run_update

from edge_grpo.base.metrics import means
from edge_grpo.base.records import Grade, Group, Problem, Rollout, Row, Segment, Span, Verdict
from edge_grpo.base.tensors import Scored
from edge_grpo.methods.share_grpo import ShareGrpo
from edge_grpo.training.batching import collate


def answer(token: int, reward: float, prompt: int, *, verdict: Verdict | None = None) -> Row:
    span = Span((token, token), Segment.SAMPLED, (-0.1, -0.2), (0.3, 0.4))
    verdict = verdict or (Verdict.CORRECT if reward == 1 else Verdict.WRONG)
    return Row(Rollout((prompt,) * 3, (span,), True), Grade(verdict, reward), source=prompt)


def family(rewards: list[list[float]], number: int = 0) -> list[Group]:
    """A question with one group for each of its variants; an answer's tokens identify it."""
    problem = Problem(f"p{number}", "?", ("1",))
    groups = []
    for j, own in enumerate(rewards):
        rows = tuple(answer(100 * number + 10 * j + k, reward, j) for k, reward in enumerate(own))
        groups.append(Group(problem, rows, family=number, variant=j))
    return groups


def step_of(groups: list[Group]) -> Scored:
    """The collated groups as a scored step in float64."""
    batch = collate(groups, parts=[], weights=[], pad_id=0)
    nothing = torch.zeros(batch.mask.shape, dtype=torch.float64)
    columns = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    return Scored(**{**columns, "reward": batch.reward.double()}, old_logprobs=nothing, entropy=nothing)


def standing(reward: float, others: list[float]) -> float:
    values = torch.tensor(others, dtype=torch.float64)
    return float((reward - values.mean()) / (values.std() + 1e-6)) if values.min() < values.max() else 0.0


# --- every answer under every variant -------------------------------------------------------------------------------


def test_every_answer_is_paired_with_every_variant() -> None:
    groups = family([[1.0, 0.0], [0.0, 1.0]]) + family([[1.0, 1.0], [0.0, 0.0]], 1)
    arranged = ShareGrpo().arrange(groups)
    assert [(group.family, group.variant) for group in arranged] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for group, before in zip(arranged, groups, strict=True):
        assert [row.rollout.completion_ids[0] % 100 for row in group.rows] == [0, 1, 10, 11]
        assert {row.rollout.prompt_ids for row in group.rows} == {before.rows[0].rollout.prompt_ids}
        assert [row.source for row in group.rows] == [0, 0, 1, 1]


def test_an_answer_under_another_variant_has_no_sampling_logprobs() -> None:
    first, second = ShareGrpo().arrange(family([[1.0, 0.0], [0.0, 1.0]]))
    own, moved = first.rows[:2], first.rows[2:]
    assert all(span.logprobs and span.entropies for row in own for span in row.rollout.spans)
    assert not any(span.logprobs or span.entropies for row in moved for span in row.rollout.spans)
    assert [row.grade for row in moved] == [row.grade for row in second.rows[2:]]
    batch = step_of([first, second])
    foreign = batch.source != batch.variant
    assert batch.sampling_logprobs[foreign].isnan().all()
    assert batch.sampling_logprobs[~foreign][batch.mask[~foreign]].isfinite().all()


def test_variants_in_any_order_give_the_same_rows() -> None:
    groups = family([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert ShareGrpo().arrange(groups[::-1]) == ShareGrpo().arrange(groups)[::-1]


def test_what_is_left_alone() -> None:
    groups = family([[1.0, 0.0], [0.0, 1.0]])
    assert ShareGrpo(every_variant=False).arrange(groups) == groups
    alone = [replace(group, family=None) for group in groups]
    assert ShareGrpo().arrange(alone) == alone


# --- advantages -----------------------------------------------------------------------------------------------------


def test_standing_in_the_family_and_under_the_own_variant() -> None:
    rewards = [[1.0, 0.1, 0.9], [0.1, 0.1, 0.0]]
    every = [reward for own in rewards for reward in own]
    signal = ShareGrpo().signal(step_of(ShareGrpo().arrange(family(rewards))))
    for i in range(2):
        for j in range(2):
            for k, reward in enumerate(rewards[j]):
                wanted = standing(reward, every) + (standing(reward, rewards[j]) if i == j else 0.0)
                assert signal.row_advantages[6 * i + 3 * j + k].item() == pytest.approx(wanted, abs=1e-6)


def test_the_release_counts_every_copy() -> None:
    rewards = [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    groups = ShareGrpo().arrange(family(rewards))
    family_only = {"parts": "family", "std_eps": 0.0}
    answers = ShareGrpo(statistics="answers", **family_only).signal(step_of(groups)).row_advantages
    rows = ShareGrpo(statistics="rows", **family_only).signal(step_of(groups)).row_advantages
    copies, count = 12, 6
    assert torch.allclose(rows, answers * ((copies - 1) / copies * count / (count - 1)) ** 0.5)
    assert (rows[0] / answers[0]).item() == pytest.approx(1.0488, abs=1e-4)


def test_limits() -> None:
    def rows(rewards: list[list[float]], **settings: str) -> torch.Tensor:
        method = ShareGrpo(**settings)  # type: ignore[arg-type]
        return method.signal(step_of(method.arrange(family(rewards)))).row_advantages

    for statistics in ("answers", "rows"):
        assert rows([[0.1] * 6, [0.1] * 6], statistics=statistics).tolist() == [0] * 24  # no rounding error
    rescued = [[1.0, 1.0], [0.0, 0.0]]
    assert rows(rescued, parts="variant").tolist() == [0] * 8
    assert torch.equal(rows(rescued), rows(rescued, parts="family"))
    assert (rows(rescued) != 0).all()
    single = rows([[1.0], [0.0]])  # one answer per variant: nothing to compare it with there
    assert single.isfinite().all()
    assert torch.equal(single, rows([[1.0], [0.0]], parts="family"))


def test_with_one_variant_it_is_twice_grpo() -> None:
    batch = make_step()
    both, one = (ShareGrpo(num_variants=1, parts=parts).signal(batch) for parts in ("both", "variant"))
    assert torch.allclose(both.row_advantages, 2 * one.row_advantages)


def test_a_row_without_a_grade_takes_no_part_under_any_variant() -> None:
    groups = family([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5]])
    rows = list(groups[0].rows)
    rows[2] = answer(2, 7.0, 0, verdict=Verdict.ERROR)
    groups[0] = replace(groups[0], rows=tuple(rows))
    batch = step_of(ShareGrpo().arrange(groups))
    signal = ShareGrpo().signal(batch)
    assert (~signal.keep).nonzero().squeeze(-1).tolist() == [2, 8]
    assert signal.row_advantages[[2, 8]].tolist() == [0, 0]
    assert signal.row_advantages[3].item() == pytest.approx(standing(0.0, [1, 0, 0, 1, 0.5]), abs=1e-6)


def test_what_the_family_rescued_is_counted() -> None:
    batch = step_of(ShareGrpo().arrange(family([[1.0, 1.0], [0.0, 0.0]])))
    shown = means(ShareGrpo().signal(batch).metrics)
    assert shown["share/rescued_by_family"] == 1
    assert shown["share/rows_with_signal"] == 1


# --- loss -----------------------------------------------------------------------------------------------------------


def test_dual_clip_and_token_mean() -> None:
    x, totals = by_hand([[5.0, 1.0], [1.5]], [-1.0, 2.0])
    assert ShareGrpo().loss(x, totals).item() == pytest.approx((3.0 + 1.0 - 2 * 1.3) / 3)
    assert ShareGrpo(delta=None).loss(x, totals).item() == pytest.approx((5.0 + 1.0 - 2 * 1.3) / 3)
    by_answer = ShareGrpo(weighting="answers").loss(x, totals).item()
    assert by_answer == pytest.approx(((3.0 + 1.0) / 2 - 2 * 1.3) / 2)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize(
    "settings", [{}, {"weighting": "answers"}, {"statistics": "rows", "beta": 0.1}, {"parts": "family", "delta": None}]
)
def test_micro_batches_of_repaired_rows_change_nothing(size: int, settings: dict[str, Any]) -> None:
    method = ShareGrpo(**settings)
    families = [[[1.0, 0.0, 0.3], [0.0, 1.0, 0.5]], [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]
    groups = [group for number, rewards in enumerate(families) for group in family(rewards, number)]
    groups[1] = replace(groups[1], rows=(answer(13, 0.0, 1, verdict=Verdict.ERROR), *groups[1].rows[1:]))
    batch = with_lengths(step_of(method.arrange(groups)))
    assert (batch.source != batch.variant).sum() == 12
    signal = method.signal(batch)
    assert 0 < signal.keep.sum() < len(signal.keep)
    logprobs, entropy = current(batch)
    logprobs = torch.where(torch.arange(len(logprobs))[:, None] % 4 == 0, logprobs + 1.5, logprobs)  # off by this much
    rows = torch.arange(len(batch.group))
    mixed = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))]  # families apart
    whole = run_update(method, batch, signal, logprobs, entropy, [rows])
    parts = run_update(method, batch, signal, logprobs, entropy, list(mixed.split(size)))
    assert whole[1].abs().sum() > 0
    for mine, theirs in zip(parts, whole, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


def with_lengths(batch: Scored) -> Scored:
    """The step with old and reference log-probs, and every third answer a token shorter, under each variant alike."""
    generator = torch.Generator().manual_seed(0)
    first = batch.mask.int().argmax(-1)
    answer_id = batch.input_ids.gather(1, first[:, None]).squeeze(-1)
    last = batch.mask & (torch.arange(batch.mask.shape[1]) == first[:, None] + 1)
    gone = last & (answer_id % 3 == 0)[:, None]
    old = -0.5 - torch.rand(batch.mask.shape, generator=generator, dtype=torch.float64)
    ref = old - 0.3 * torch.rand(batch.mask.shape, generator=generator, dtype=torch.float64)
    return replace(
        batch, mask=batch.mask & ~gone, attention=batch.attention & ~gone, old_logprobs=old, ref_logprobs=ref
    )


def test_the_dual_clip_is_observed() -> None:
    x, totals = by_hand([[5.0, 1.0], [1.5]], [-1.0, 2.0])
    shown = means(ShareGrpo().observe(x, totals))
    assert shown["clip/dual"] == pytest.approx(1 / 3)
    assert shown["clip/high"] == pytest.approx(1 / 3)
    assert "clip/dual" not in ShareGrpo(delta=None).observe(x, totals)


def test_settings_of_the_release() -> None:
    method = ShareGrpo()
    assert (method.num_variants, method.clip_low, method.clip_high, method.delta, method.beta) == (2, 0.2, 0.3, 3.0, 0)
