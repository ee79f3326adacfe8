"""Collection: sampling, corrections within their budgets, regrading, dynamic sampling, and the figures."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from support import PROBLEM, group, row, tiny_sampler, tiny_tokenizer

from edge_grpo.base.errors import DataError
from edge_grpo.base.metrics import means
from edge_grpo.base.records import Grade, Group, Problem, Prompt, Rollout, Row, Segment, Span, Strategy, Verdict
from edge_grpo.base.stopwatch import Stopwatch
from edge_grpo.data.prompts import encode_follow_up, encode_text
from edge_grpo.data.settings import DataSettings
from edge_grpo.methods import TopUp
from edge_grpo.methods.base import Method, Repair
from edge_grpo.methods.edge_grpo import Correction, EdgeGrpo
from edge_grpo.methods.grpo import Grpo
from edge_grpo.methods.grpo_matched import GrpoMatched
from edge_grpo.methods.mgrpo import Mgrpo
from edge_grpo.methods.share_grpo import ShareGrpo
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Continuation, Request, Sampling, inject
from edge_grpo.training.collect import Collector, describe

TOKENIZER = tiny_tokenizer()
STOP = TOKENIZER.eos_token_id


class ScriptedEngine:
    """Answers from a script: each seed gets the next text; a continuation always ends right."""

    exact = True

    def __init__(self, texts: Sequence[str], continued: str = "\n\\boxed{2}", *, finished: bool = True) -> None:
        self.texts, self.continued, self.finished = itertools.cycle(texts), continued, finished
        self.seeds, self.budgets = [], []

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        self.seeds += [request.seeds for request in requests]
        return [tuple(self.rollout(request.prompt_ids) for _ in request.seeds) for request in requests]

    def rollout(self, prompt_ids: tuple[int, ...]) -> Rollout:
        ids = (*encode_text(TOKENIZER, next(self.texts)), *([STOP] if self.finished else []))
        span = Span(ids, Segment.SAMPLED, (-1.0,) * len(ids), (0.5,) * len(ids))
        return Rollout(prompt_ids, (span,), self.finished)

    def resume(self, continuations: Sequence[Continuation], sampling: Sampling) -> list[Rollout]:
        self.budgets += [item.budget for item in continuations]
        ids = (*encode_text(TOKENIZER, self.continued), STOP)
        span = Span(ids, Segment.CONTINUED, (-1.0,) * len(ids), (0.5,) * len(ids))
        starts = [inject(item.rollout, item.injected_ids, finished=False) for item in continuations]
        return [Rollout(start.prompt_ids, (*start.spans, span), True) for start in starts]

    def sync(self, policy: Policy, version: int) -> None:
        pass

    def close(self) -> None:
        pass


def is_right(problem: Problem, text: str) -> bool:
    return text.rstrip(".").endswith(f"\\boxed{{{problem.answer}}}")


def make(
    method: Method,
    texts: Sequence[str],
    *,
    group_size: int = 4,
    max_new_tokens: int = 30,
    context: int | None = None,
    judge: Callable[[Problem, str], Grade | bool] = is_right,
    **engine: Any,
) -> Collector:
    sampler = tiny_sampler(ScriptedEngine(texts, **engine), judge, context=context)
    return Collector(sampler, method, sampling=Sampling(max_new_tokens), group_size=group_size, seed=0)


def prompts(count: int = 50, problem: Problem = PROBLEM) -> Iterator[Prompt]:
    return iter([Prompt(problem, (10, 11, 12))] * count)


def edge(**correction: Any) -> EdgeGrpo:
    return EdgeGrpo(correction=Correction(**{"guard": False, **correction}))


def text(row_: Row) -> str:
    return TOKENIZER.decode(row_.rollout.completion_ids, skip_special_tokens=True)


def test_without_corrections_rows_are_as_sampled() -> None:
    collected = make(Grpo(), ["\\boxed{2}", "\\boxed{3}"]).collect(prompts(), step=3, num_groups=2)
    assert [len(g.rows) for g in collected.groups] == [4, 4]
    assert [r.grade.correct for r in collected.groups[0].rows] == [True, False, True, False]
    assert all(r.strategy is Strategy.NONE for g in collected.groups for r in g.rows)
    assert collected.num_prompts == 2


def test_seeds_name_step_problem_and_sample() -> None:
    one, two = make(Grpo(), ["x"]), make(Grpo(), ["x"])
    one.collect(prompts(), step=1, num_groups=2)
    two.collect(prompts(), step=2, num_groups=2)
    seeds = [seed for c in (one, two) for request in c.sampler.engine.seeds for seed in request]
    assert len(set(seeds)) == 16
    again = make(Grpo(), ["x"])
    again.collect(prompts(), step=1, num_groups=1)
    assert again.sampler.engine.seeds[0] == one.sampler.engine.seeds[0]


def test_each_strategy_makes_the_text_it_should() -> None:
    wrong = "\\boxed{3}"
    reflect = make(edge(reflect=1, answer=0, reference=0), [wrong]).collect(prompts(), step=0, num_groups=1)
    answer = make(edge(reflect=0, answer=1, reference=0, max_new_tokens=110), [wrong]).collect(
        prompts(), step=0, num_groups=1
    )
    reference = make(edge(reflect=0, answer=0, reference=1), [wrong]).collect(prompts(), step=0, num_groups=1)
    assert text(reflect.groups[0].rows[0]) == "\\boxed{3} Wait! Something is wrong here.\n\\boxed{2}"
    want = "\\boxed{3}\nWait! Something is wrong here. After verification, the correct answer is \\boxed{2}."
    assert text(answer.groups[0].rows[0]) == want
    assert text(reference.groups[0].rows[0]) == PROBLEM.solution
    for collected in (reflect, answer, reference):
        for row_ in collected.groups[0].rows:
            assert row_.grade.correct
            assert not row_.first[1].correct
            assert row_.rollout.finished
            assert row_.rollout.completion_ids[-1] == STOP
            assert row_.rollout.completion_ids.count(STOP) == 1  # the first one was dropped


def test_right_rows_keep_their_tokens() -> None:
    collected = make(edge(), ["\\boxed{2}", "\\boxed{3}"]).collect(prompts(), step=0, num_groups=1)
    kept = collected.groups[0].rows[0]
    assert kept.first is None
    assert kept.rollout.completion_ids == (*encode_text(TOKENIZER, "\\boxed{2}"), STOP)


def test_a_text_that_does_not_fit_is_skipped_and_counted() -> None:
    long = Problem("p", "?", ("2",), "x" * 200 + "\\boxed{2}")
    for correction in (
        {"reflect": 0, "answer": 0, "reference": 1, "max_new_tokens": 64},
        {"reflect": 0, "answer": 1, "reference": 0, "max_new_tokens": 64},
        {"reflect": 1, "answer": 0, "reference": 0, "max_new_tokens": 30},
    ):
        collected = make(edge(**correction), ["no"]).collect(prompts(problem=long), step=0, num_groups=2)
        assert all(r.strategy is Strategy.NONE for g in collected.groups for r in g.rows)
        assert means(collected.metrics)["correction/skipped"] == 8
    fits = make(edge(reflect=0, answer=0, reference=1, max_new_tokens=200), ["no"]).collect(
        prompts(problem=long), step=0, num_groups=1
    )
    assert fits.groups[0].rows[0].strategy is Strategy.REFERENCE


@pytest.mark.parametrize("continued", ["\n\\boxed{2}", "\n\\boxed{7}"])
def test_balanced_continues_until_half_is_right(continued: str) -> None:
    method = EdgeGrpo(correction=Correction(amount="balanced", reflect=1, answer=0, reference=0))
    collector = make(method, ["\\boxed{3}"], group_size=8, continued=continued)
    (made,) = collector.collect(prompts(), step=0, num_groups=1).groups
    right = sum(r.grade.correct for r in made.rows)
    corrected = sum(r.strategy is Strategy.REFLECT for r in made.rows)
    assert (right, corrected) == ((4, 4) if "2" in continued else (0, 8))
    assert len(set(collector.sampler.engine.budgets)) == 1


def test_dynamic_sampling_draws_until_enough_groups_are_useful() -> None:
    script = ["\\boxed{3}"] * 8 + ["\\boxed{2}", "\\boxed{3}"] * 20
    method = Grpo(top_up=TopUp(max_rounds=3))
    collected = make(method, script).collect(prompts(), step=0, num_groups=3)
    assert len(collected.groups) == 3
    assert not any(g.collapsed for g in collected.groups)
    figures = means(collected.metrics)
    assert collected.num_prompts == figures["dynamic/prompts"] == 5
    assert figures["dynamic/extra_completions"] == 8
    assert figures["dynamic/useful"] == pytest.approx(3 / 5)
    assert figures["collapse/before"] == pytest.approx(2 / 5)
    assert figures["collapse/after"] == 0.0  # of what is trained


def test_questions_of_further_rounds_form_their_own_families() -> None:
    made = make(Grpo(top_up=TopUp(max_rounds=2)), ["no"], group_size=2)
    collected = made.collect(prompts(), step=0, num_groups=3)
    assert [g.family for g in collected.groups] == [0, 1, 2], "as many as were wanted"
    script = ["no"] * 6 + ["\\boxed{2}", "no"] * 3
    topped_up = make(Grpo(top_up=TopUp(max_rounds=1)), script, group_size=2).collect(prompts(), step=0, num_groups=3)
    assert [g.family for g in topped_up.groups] == [3, 4, 5]


def test_dynamic_sampling_is_bounded_and_fills_up_only_if_it_may() -> None:
    filled = make(Grpo(top_up=TopUp(max_rounds=2)), ["no"]).collect(prompts(), step=0, num_groups=3)
    assert (len(filled.groups), filled.num_prompts) == (3, 9)
    dropped = make(Grpo(top_up=TopUp(max_rounds=2, fill=False)), ["no"]).collect(prompts(), step=0, num_groups=3)
    assert (len(dropped.groups), dropped.num_prompts) == (0, 9)
    assert [len(each.dropped) for each in (filled, dropped)] == [6, 9]


def test_too_few_problems_is_a_clear_error() -> None:
    with pytest.raises(DataError, match="only 1 of 2"):
        make(Grpo(), ["x"]).collect(prompts(1), step=0, num_groups=2)


def test_figures_tell_before_from_after() -> None:
    wrong, right = row(1.0), row(2.0)
    fixed = Row(right.rollout, right.grade, Strategy.ANSWER, first=(wrong.rollout, wrong.grade))
    groups = [group(1, 1), group(2, 2), type(group(1, 1))(PROBLEM, (fixed, wrong))]
    figures = means(describe(groups, groups))
    assert figures["collapse/before"] == 1.0
    assert figures["collapse/after"] == pytest.approx(2 / 3)
    assert figures["collapse/before_all_wrong"] == pytest.approx(2 / 3)
    assert figures["collapse/before_all_right"] == pytest.approx(1 / 3)
    assert figures["collapse/after_all_wrong"] == pytest.approx(1 / 3)
    assert figures["accuracy"] == pytest.approx(2 / 6)
    assert figures["reward/before"] == pytest.approx(8 / 6)
    assert figures["reward/after"] == pytest.approx(9 / 6)
    assert figures["verdict/wrong"] == pytest.approx(4 / 6)
    assert figures["correction/answer_right"] == 1.0


def test_reward_parts_are_those_of_the_first_samples() -> None:
    fixed = Row(row(2.0).rollout, row(2.0).grade, Strategy.ANSWER, first=(row(0.0).rollout, row(0.0).grade))
    failed = row(0.0, verdict=Verdict.ERROR)
    groups = [Group(PROBLEM, (fixed, row(1.0), failed))]
    assert means(describe(groups, groups))["reward/part/accuracy"] == pytest.approx(0.25)


def test_collapse_after_is_about_the_rewards_that_the_method_compares() -> None:
    fixes = Correction(reflect=0, answer=1, reference=0)
    for method, after in ((EdgeGrpo(correction=fixes), 0.0), (GrpoMatched(correction=fixes), 1.0)):
        figures = means(make(method, ["\\boxed{3}"]).collect(prompts(), step=0, num_groups=2).metrics)
        assert figures["collapse/before"] == figures["collapse/before_all_wrong"] == 1.0
        assert figures["correction/rows"] == 0.75
        assert figures["collapse/after"] == figures["collapse/after_all_wrong"] == after


def test_seconds_are_counted_by_phase_and_corrections_keep_theirs() -> None:
    collector = make(edge(reflect=1, answer=0, reference=0), ["\\boxed{3}"])
    now = [0.0]
    collector.sampler.watch = watch = Stopwatch(lambda: now[0])
    engine, judge = collector.sampler.engine, collector.sampler.grader

    class Slow:
        """Passes calls on; each takes as many seconds as its name says."""

        def __init__(self, inner: Any, **seconds: float) -> None:
            self.inner, self.seconds = inner, seconds

        def __getattr__(self, name: str) -> Any:
            now[0] += self.seconds.get(name, 0.0)
            return getattr(self.inner, name)

    collector.sampler.engine = Slow(engine, sample=10.0, resume=100.0)
    collector.sampler.grader = Slow(judge, grade=1.0)
    collector.collect(prompts(), step=0, num_groups=2)
    assert watch.take("sample", "grade", "correct") == {"sample": 10.0, "grade": 1.0, "correct": 101.0}


def test_a_method_that_names_nothing_new_ends_the_corrections() -> None:
    class Stubborn(Grpo):
        """Requests the same impossible repair forever."""

        def plan(self, groups: Sequence[Group], rng: random.Random) -> list[Repair]:
            assert isinstance(rng, random.Random)
            return [Repair(0, 0, Strategy.ANSWER, "x" * 99, 5)]

    assert means(make(Stubborn(), ["no"]).collect(prompts(), step=0, num_groups=1).metrics)["correction/skipped"] == 1


def mgrpo(**own: Any) -> Mgrpo:
    return Mgrpo(revisions=2, phrases=("Check again.",), **own)


def test_revisions_are_groups_of_a_second_layer_on_the_answers_tokens() -> None:
    collected = make(mgrpo(), ["\\boxed{3}", "\\boxed{2}"], group_size=2).collect(prompts(), step=0, num_groups=2)
    first, second = ([g for g in collected.groups if g.layer == layer] for layer in (1, 2))
    assert [(g.family, g.parent, len(g.rows)) for g in second] == [(0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2)]
    asked = second[1].rows[1].rollout
    answer = first[0].rows[1].rollout
    tail = encode_follow_up(TOKENIZER, "Check again.", DataSettings())
    assert asked.prompt_ids == (*answer.prompt_ids, *answer.completion_ids[:-1], *tail)  # without its stop token
    assert asked.completion_ids == (*encode_text(TOKENIZER, "\\boxed{2}"), STOP)
    assert second[1].rows[1].grade.correct
    assert collected.num_prompts == 2


def test_a_revision_sees_every_token_of_an_unfinished_answer() -> None:
    made = make(mgrpo(), ["\\boxed{3}"], group_size=1, finished=False)
    first, second = made.collect(prompts(), step=0, num_groups=1).groups
    answer, asked = first.rows[0].rollout, second.rows[0].rollout
    tail = encode_follow_up(TOKENIZER, "Check again.", DataSettings())
    assert asked.prompt_ids == (*answer.prompt_ids, *answer.completion_ids, *tail)


class StoppedByText(ScriptedEngine):
    """Its answers end with a stop string, in whose last token there is nothing to drop."""

    def rollout(self, prompt_ids: tuple[int, ...]) -> Rollout:
        return replace(super().rollout(prompt_ids), finished=True, ends_in_text=True)


def test_no_token_of_an_answer_that_ended_with_a_stop_string_is_dropped() -> None:
    whole = encode_text(TOKENIZER, "\\boxed{3}\n")
    for method in (mgrpo(), edge(reflect=1, answer=0, reference=0)):
        engine = StoppedByText(["\\boxed{3}\n"], finished=False)
        made = Collector(tiny_sampler(engine, is_right), method, sampling=Sampling(30), group_size=2, seed=0)
        collected = made.collect(prompts(), step=0, num_groups=1)
        last = collected.groups[-1].rows[0].rollout
        kept = last.prompt_ids[3:] if collected.groups[-1].layer == 2 else last.completion_ids
        assert kept[: len(whole)] == whole
        assert means(collected.metrics)["length/unfinished"] == 0.0


def test_figures_are_about_answers_but_tokens_about_everything() -> None:
    made = make(mgrpo(), ["\\boxed{3}", "\\boxed{2}", "\\boxed{2}"], group_size=2)
    figures = means(made.collect(prompts(), step=0, num_groups=1).metrics)
    assert figures["accuracy"] == 0.5
    assert figures["tokens"] == 6 * (len(encode_text(TOKENIZER, "\\boxed{2}")) + 1)


def test_revisions_have_their_own_seeds() -> None:
    made = make(mgrpo(), ["x"], group_size=2)
    made.collect(prompts(), step=0, num_groups=2)
    made.collect(prompts(), step=1, num_groups=2)
    seeds = [seed for own in made.sampler.engine.seeds for seed in own]
    assert len(seeds) == len(set(seeds)) == 2 * (4 + 8)


def test_a_revision_that_would_not_fit_is_counted() -> None:
    made = make(mgrpo(), ["\\boxed{3}"], group_size=2, context=40)
    collected = made.collect(prompts(), step=0, num_groups=1)
    assert all(g.layer == 1 for g in collected.groups)
    assert means(collected.metrics)["revision/skipped"] == 2


def test_each_wording_of_a_question_is_a_group() -> None:
    problem = Problem("p", "Compute 1+1.", ("2",), variants=("What is 1+1?", "Find 1+1."))
    items = iter([Prompt(problem, (1,), ((2,), (3,)))] * 9)
    made = make(ShareGrpo(), ["\\boxed{2}", "\\boxed{3}"])
    collected = made.collect(items, step=0, num_groups=3)
    assert [(g.family, g.variant) for g in collected.groups] == [(f, v) for f in range(3) for v in range(2)]
    assert all(r.source == g.variant for g in collected.groups for r in g.rows)
    shown = {g.problem.prompt: g.rows[0].rollout.prompt_ids for g in collected.groups}
    assert shown.items() <= {"Compute 1+1.": (1,), "What is 1+1?": (2,), "Find 1+1.": (3,)}.items()
    assert len(shown) > 1
    seeds = [seed for own in made.sampler.engine.seeds for seed in own]
    assert len(set(seeds)) == len(seeds) == 24
    assert collected.num_prompts == 3


def test_a_question_is_useful_by_all_its_rows() -> None:
    problem = Problem("p", "Compute 1+1.", ("2",), variants=("What is 1+1?",))
    items = iter([Prompt(problem, (1,), ((2,),))] * 9)
    method = ShareGrpo(top_up=TopUp(max_rounds=1, fill=False))
    made = make(method, ["\\boxed{2}", "\\boxed{2}", "no", "no"], group_size=2)  # each phrasing uniform, not the two
    collected = made.collect(items, step=0, num_groups=1)
    assert collected.num_prompts == 1
    assert means(collected.metrics)["dynamic/useful"] == 1


def test_revisions_make_a_question_useful_each_answer_by_itself() -> None:
    method = mgrpo(top_up=TopUp(max_rounds=1, fill=False))
    nothing = make(method, ["no", "no", "\\boxed{2}", "\\boxed{2}", "no", "no"], group_size=2)
    assert means(nothing.collect(prompts(), step=0, num_groups=1).metrics)["dynamic/prompts"] == 2
    mixed = make(method, ["no", "no", "\\boxed{2}", "no", "no", "no"], group_size=2)
    assert means(mixed.collect(prompts(), step=0, num_groups=1).metrics)["dynamic/prompts"] == 1
