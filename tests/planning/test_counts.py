"""The counts of a plan against a step that is really taken, and the rules of ranges."""

from collections.abc import Sequence

import pytest
from small_runs import SMALL

from edge_grpo.config.tree import Config, load_config
from edge_grpo.planning.counts import Counts, Range, counts_of, load_of
from edge_grpo.training.session import open_session

STEP = [word for word in SMALL if not word.startswith(("method.", "train.steps"))]


def counted(*words: str, ranks: int = 1) -> Counts:
    return counts_of(load_config(None, [*STEP, *words]), ranks=ranks)


@pytest.mark.parametrize(
    "words",
    [
        ["method=edge_grpo", "method.correction.max_new_tokens=110"],
        ["method=grpo"],
        ["method=share_grpo"],
        ["method=share_grpo", "method.every_variant=false", "method.num_variants=3"],
        ["method=mgrpo", "method.revisions=2"],
        ["method=disco", "train.mini_batches=2"],
        ["method=unlikeliness"],
        ["method=dapo", "method.top_up.max_rounds=2"],
    ],
    ids=" ".join,
)
def test_a_step_stays_within_its_plan(words: Sequence[str]) -> None:
    config = load_config(None, [*STEP, "train.micro_batch_rows=5", *words])
    plan, (sampled, prompts, rows, tokens, longest) = counts_of(config), taken(config)
    assert plan.prompts.low <= prompts <= plan.prompts.high
    most = plan.completions.high + plan.revisions.high
    assert plan.completions.low + plan.revisions.low <= sampled <= most
    assert plan.rows.low <= rows <= plan.rows.high
    assert tokens <= plan.tokens
    assert longest <= plan.longest


def taken(config: Config) -> tuple[int, int, int, float, int]:
    """A step: completions and revisions sampled, prompts used, rows trained, tokens, and the longest completion."""
    with open_session(config) as session:
        collected = session.collect()
        every = [row for group in (*collected.groups, *collected.dropped) for row in group.rows]
        groups = session.method.arrange(collected.groups)
        trained = [row for group in groups for row in group.rows]
        longest = max(len(row.rollout.completion_ids) for row in every)
        return len(every), collected.num_prompts, len(trained), collected.metrics["tokens"][0], longest


def test_variants_multiply_rows_twice() -> None:
    plan = counted("method=share_grpo", "method.num_variants=3")
    assert plan.completions == Range(3 * 3 * 4, 3 * 3 * 4)
    assert plan.rows == Range(3 * 9 * 4, 3 * 9 * 4)


def test_corrections_lengthen_a_row_and_never_add_one() -> None:
    plan = counted("method=edge_grpo", "method.correction.max_new_tokens=110")
    assert plan.longest == 12 + 110
    assert plan.corrected == Range(0, 3 * 3)  # the guard leaves one alone in each group of four
    assert plan.rows == Range(12, 12)
    assert counted("method=edge_grpo", "method.correction.amount=none").corrected == Range(0, 0)


def test_dynamic_sampling_is_a_range() -> None:
    plan = counted("method=dapo", "method.top_up.max_rounds=2")
    assert plan.prompts == Range(3, 9)
    assert plan.completions == Range(12, 36)
    assert plan.rows.low == 0


def test_updates_and_micro_batches_are_those_of_the_updater() -> None:
    plan = counted("method=grpo", "train.passes=2", "train.mini_batches=3", "train.micro_batch_rows=3")
    assert plan.updates == 6
    assert plan.micro_batches.high == 2  # four rows, three at a time
    assert plan.rows_at_once == 3
    assert counted("method=grpo", "train.mini_batches=50").updates == 3  # there are three prompts
    assert counted("method=disco", "train.mini_batches=1", "train.micro_batch_rows=3").rows_at_once == 4  # whole groups


def test_ranks_share_micro_batches() -> None:
    one, two = counted("method=grpo", "train.micro_batch_rows=4"), counted("method=grpo", ranks=2)
    assert (one.micro_batches.high, two.micro_batches.high) == (3, 1)
    assert two.rows_at_once == 6


def test_a_second_layer_is_decoded_after_longer_prompts() -> None:
    config = load_config(None, [*STEP, "method=mgrpo", "method.revisions=2"])
    load = load_of(config, counts_of(config), ranks=1, prompt=20)
    assert load.prompt == 20 + 12
    assert load.decoded == 24


def test_evaluations_follow_their_settings() -> None:
    assert counted("train.steps=6").evaluations == 4  # before, and after 2, 4 and 6
    assert counted("train.steps=7").evaluations == 5  # and at the end
    assert counted("train.steps=7", "eval.at_end=false", "eval.at_start=false").evaluations == 3
    assert counted("eval.every=0", "eval.at_start=false", "eval.at_end=false").evaluations == 0


def test_a_bound_on_tokens_ends_the_run_early() -> None:
    plan = counted("method=grpo", "train.max_tokens=1000")
    assert plan.tokens == 12 * 12
    assert plan.steps_at_cap == 7


def test_stored_pairs_are_not_sampled_and_nothing_is_evaluated() -> None:
    config = load_config(None, [*STEP, "method=rpo", "data.pairs=pairs.jsonl"])
    plan = counts_of(config)
    assert (plan.completions, plan.rows, plan.tokens) == (Range(0, 0), Range(6, 6), 0)
    assert plan.evaluations == 0
    assert load_of(config, plan, ranks=1, prompt=20).decoded == 0
