"""From completions to kinds, steps, waste and always-dead prompts."""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path

import pytest
from report.written import jsonl

from edge_grpo.base.errors import DataError
from edge_grpo.report.diagnosis import Diagnosis, diagnose, in_ranges, plain
from edge_grpo.report.groups import Kind
from edge_grpo.report.remedies import remedies
from edge_grpo.report.sources import Completion, Rollouts

Rewards = Sequence[float | None]
TEXT = "x" * 300


def rollouts(
    groups: Sequence[tuple[int | None, str, Rewards]], *, right: float | None = 1.0, tokens: int | None = 10
) -> Rollouts:
    """Groups of step, prompt and rewards; ``right`` is the reward of right answers, None = unknown."""
    found = [
        Completion(
            step,
            number,
            prompt,
            reward,
            None if right is None or reward is None else reward >= right,
            tokens,
            characters=5,
            text=hash((number, i)),
        )
        for number, (step, prompt, rewards) in enumerate(groups)
        for i, reward in enumerate(rewards)
    ]
    return Rollouts("made up", 1, (), (), found)


def made(groups: Sequence[tuple[int | None, str, Rewards]], **options: float | None) -> Diagnosis:
    return diagnose(rollouts(groups, **options))  # type: ignore[arg-type]


MIXED: list[tuple[int | None, str, Rewards]] = [
    (1, "a", [0.0, 0.0, 0.0]),
    (1, "b", [1.0, 0.0, None]),
    (1, "c", [1.0, 1.0, 1.0]),
    (2, "a", [0.0, None, 0.0]),
    (2, "b", [1.0, 1.0, 1.0]),
    (2, "d", [0.5, None, None]),
    (2, "e", [0.005, 0.0, 0.0]),
]


def test_kinds_waste_and_effective_batch() -> None:
    found = made(MIXED)
    tally = found.overall
    assert {kind: count for kind, count in tally.kinds.items() if count} == {
        Kind.ALL_WRONG: 2,
        Kind.ALL_RIGHT: 2,
        Kind.UNSCORABLE: 1,
        Kind.USEFUL: 1,
        Kind.NEAR_CONSTANT: 1,
    }
    assert (tally.groups, tally.dead, tally.live, tally.completions) == (7, 5, 2, 21)
    assert tally.effective == 2 + 3  # one of the useful group could not be scored
    assert (found.unit, tally.cost, tally.wasted) == ("tokens", 210, 150)
    assert [(str(span), span.tally.groups, span.tally.dead) for span in found.spans] == [("1", 3, 2), ("2", 4, 3)]


def test_always_dead_prompts_are_those_never_live_most_seen_first() -> None:
    found = made(MIXED)
    assert found.prompts == 5
    assert [(one.prompt, one.times, dict(one.kinds)) for one in found.always_dead] == [
        ("a", 2, {Kind.ALL_WRONG: 2}),
        ("c", 1, {Kind.ALL_RIGHT: 1}),
        ("d", 1, {Kind.UNSCORABLE: 1}),
    ]


def test_correctness_is_taken_from_two_rewards_only() -> None:
    two = made([(1, "a", [-1.0, -1.0]), (1, "b", [1.0, 1.0]), (1, "c", [-1.0, -1.0])], right=None)
    assert (two.overall.kinds[Kind.ALL_WRONG], two.overall.kinds[Kind.ALL_RIGHT]) == (2, 1)
    assert "1 is taken for right, -1 for wrong" in two.notes[0]
    three = made([(1, "a", [-1.0, -1.0]), (1, "b", [1.0, 0.0])], right=None)
    assert three.overall.kinds[Kind.EQUAL] == 1
    assert "what is right is not known" in three.notes[0]
    one = made([(1, "a", [1.0, 1.0])], right=None)
    assert one.overall.kinds[Kind.EQUAL] == 1


def test_where_every_reward_is_zero_every_answer_is_wrong() -> None:
    found = made([(1, "a", [0.0, 0.0]), (1, "b", [0.0, None, 0.0]), (1, "c", [0.0, None])], right=None)
    assert (found.overall.kinds[Kind.ALL_WRONG], found.overall.kinds[Kind.UNSCORABLE]) == (2, 1)
    assert "every reward is 0, which is taken for wrong" in found.notes[0]
    guided = next(one for one in remedies(found) if one.name.startswith("guided"))
    assert guided.revived == 2


def test_one_outlier_does_not_make_other_groups_nearly_constant() -> None:
    groups: list[tuple[int | None, str, Rewards]] = [(1, f"p{i}", [0.0, 1.0]) for i in range(20)]
    assert made([*groups, (1, "odd", [0.0, -200.0])]).overall.kinds[Kind.USEFUL] == 21


@pytest.mark.parametrize(
    ("tokens", "characters", "unit", "wasted"),
    [(7, 5, "tokens", 14), (None, 5, "characters", 10), (None, None, "completions", 2)],
)
def test_waste_is_counted_in_what_is_known_of_all(
    tokens: int | None, characters: int | None, unit: str, wasted: int
) -> None:
    rows = [Completion(1, i // 2, "p", float(i == 3), None, 7, 5, None) for i in range(3)]
    rows.append(Completion(1, 1, "p", 1.0, None, tokens, characters, None))
    rows[2] = rows[2]._replace(tokens=tokens, characters=characters)
    found = diagnose(Rollouts("made up", 1, (), (), rows))
    assert (found.unit, found.overall.wasted) == (unit, wasted)


def test_every_step_is_told_and_ranges_cover_them_all() -> None:
    found = made([(step, f"p{step}", [0.0, float(step % 2)]) for step in range(1, 48)])
    assert (found.steps, [str(span) for span in found.spans]) == (47, [str(step) for step in range(1, 48)])
    assert [one["first"] for one in plain(found, [], 0)["steps"]] == list(range(1, 48))
    ranges = in_ranges(found.spans)
    assert len(ranges) == 20
    assert ranges[0].first == 1
    assert [b.first - a.last for a, b in pairwise(ranges)] == [1] * 19  # type: ignore[operator]
    assert ranges[-1].last == 47
    assert reduce(add, (span.tally for span in ranges)) == found.overall
    assert in_ranges(found.spans[:20]) == found.spans[:20]


def test_the_size_of_groups_is_one_number_if_all_have_it() -> None:
    assert made([(1, "a", [1.0, 0.0]), (1, "b", [0.0, 0.0])]).size_range == "2"
    assert made([(1, "a", [1.0, 0.0]), (1, "b", [0.0, 0.0]), (1, "c", [0.0] * 5)]).size_range == "2 to 5, mostly 2"


def test_rollouts_without_steps_are_one_span() -> None:
    assert [str(span) for span in made([(None, "a", [1.0, 0.0]), (None, "b", [1.0, 0.0])]).spans] == ["all"]


def test_single_completions_and_odd_sizes_are_told() -> None:
    found = made([(1, "a", [1.0, 0.0]), (1, "b", [1.0, 0.0]), (1, "c", [1.0] * 4), (1, "d", [1.0])])
    assert (found.singles, found.overall.groups, found.size) == (1, 3, 2)
    told = "\n".join(found.notes)
    assert "groups of one completion left out: 1" in told
    assert "groups with more than the usual 2 completions: 1" in told
    with pytest.raises(DataError, match=r"all 2 groups have one completion.*--group COLUMN"):
        made([(1, "a", [1.0]), (1, "b", [1.0])])


def test_plain_data_is_json() -> None:
    found = made(MIXED)
    content = json.loads(json.dumps(plain(found, remedies(found), 1), allow_nan=False))
    assert content["overall"]["kinds"]["all wrong"] == 2
    assert content["always_dead"]["count"] == 3
    assert [one["prompt"] for one in content["always_dead"]["first"]] == ["a"]
    assert len(content["remedies"]) == 6


@pytest.mark.slow
def test_a_million_rows(tmp_path: Path) -> None:
    """The command takes less than a minute of one core, and less than 2 GB (pytest before it counts, too)."""
    rows = ({"step": i // 8000, "prompt": f"p{i // 8}", "completion": TEXT, "reward": i % 3 // 2} for i in range(10**6))
    path = jsonl(tmp_path / "a.jsonl", rows)
    command = [sys.executable, "-m", "edge_grpo", "diagnose", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert json.loads(done.stdout)["overall"]["groups"] == 125_000
    assert used.ru_utime + used.ru_stime < 60
    assert used.ru_maxrss < 2e6
