"""The groups of a step: stored pairs unchanged, skipped problems reported."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from support import tiny_policy, tiny_sampler

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.records import Pair, Prompt
from edge_grpo.config.tree import load_config
from edge_grpo.data.pairs import EncodedPair
from edge_grpo.rewards import Rewards, RewardSettings
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.training.session import open_session
from edge_grpo.training.source import Source, StoredPairs, open_source


def pair(number: int) -> EncodedPair:
    return EncodedPair(Pair(str(number), "q", "yes", "no"), (1, 2), (3, number, 9), (4, 9))


def test_every_pair_is_a_group_of_right_and_wrong() -> None:
    source = StoredPairs([pair(5), pair(6), pair(7)], num_groups=2, stop_id=9, seed=0)
    one, two = source.groups(0, 0), source.groups(1, 2)
    assert one.num_prompts == 2
    taken = [group.rows[0].rollout.completion_ids for made in (one, two) for group in made.groups]
    assert sorted(taken[:3]) == [(3, 5, 9), (3, 6, 9), (3, 7, 9)], "each pair once per epoch"
    assert [[row.grade.correct for row in group.rows] for group in one.groups] == [[True, False]] * 2
    assert one.metrics["tokens"] == (0.0, 1.0)
    assert source.groups(0, 0) == one


def write(tmp_path: Path, *lines: str) -> Path:
    tmp_path.mkdir(exist_ok=True)
    file = tmp_path / "d.jsonl"
    file.write_text("\n".join(lines))
    return file


GOOD = ['{"problem": "Compute %d+1.", "answer": "%d"}' % (i, i + 1) for i in range(6)]  # noqa: UP031
ENGINE = DecodeEngine(tiny_policy(), stop_ids=[2], pad_id=0)
SPLIT = ["eval.size=2", "rollout.max_new_tokens=6"]


def opened(*words: str, grader: Rewards | None = None) -> tuple[Source, Sequence[Prompt], list[str]]:
    """The source of a configuration, its held-out problems, and the messages shown."""
    said: list[str] = []
    config = load_config(None, [*SPLIT, *words])
    sampler = tiny_sampler(ENGINE, lambda *_: True, data=config.data, context=512)
    sampler.grader = grader or sampler.grader
    source, held_out = open_source(config, config.method, sampler, said.append)
    return source, held_out, said


def test_skipped_data_is_reported(tmp_path: Path) -> None:
    file = write(tmp_path, *GOOD, '{"problem": "x"}', f'{{"problem": "{"long " * 50}", "answer": "1"}}')
    words = ["data.bad_rows=skip", "data.over_long=skip", "data.max_prompt_tokens=60"]
    source, held_out, said = opened(f"data.path={file}", *words)
    assert source.num_items + len(held_out) == 6
    told = " ".join(said)
    assert "1 bad rows skipped" in told
    assert "1 over-long prompts skipped" in told


def test_long_prompts_and_bad_references_are_reported(tmp_path: Path) -> None:
    long = f'{{"problem": "{"long " * 70}", "answer": "1"}}'
    solved = '{"problem": "Compute 3+4.", "answer": "7", "solution": "So 3+4=7 pens."}'
    marked = '{"problem": "Compute 4+4.", "answer": "So 8.\\n#### 8"}'
    file = write(tmp_path, *GOOD, long, solved, marked)
    words = [f"data.path={file}", f"data.eval_path={write(tmp_path / 'e', *GOOD)}", "data.max_prompt_tokens=400"]
    with Rewards(RewardSettings(workers=1)) as rewards:
        _, _, said = opened(*words, "rollout.max_new_tokens=6", grader=rewards)
        assert said == [
            "training data: 1 answers read after the last '####'; a row without a solution gets the worked text around "
            "its answer",
            "training data: 1 of 2 worked solutions have no readable answer, such as 'So 3+4=7 pens.' of problem 'd:8' "
            "(it ends 'So 3+4=7 pens.'): methods that correct use the answer instead. End them in \\boxed{ANSWER} or "
            "'#### ANSWER', or set data.fields.solution",
            "training data: 1 of 9 prompts (11.1%) have 256 tokens or more, and their answers are never corrected; "
            "raise method.correction.max_prompt_tokens",
        ]
        assert "prompts" not in " ".join(opened(*words, "method=grpo", grader=rewards)[2])
        bad = write(tmp_path, '{"problem": "?", "answer": "Ann has 3+4=7 pens left"}')
        with pytest.raises(DataError, match="training data: none of 1 reference answers is usable"):
            opened(f"data.path={bad}", *words[1:], grader=rewards)


def test_no_problem_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="max_prompt_tokens"):
        opened(f"data.path={write(tmp_path, *GOOD)}", "data.over_long=skip", "data.max_prompt_tokens=2")


def test_without_evaluation_nothing_is_held_out(tmp_path: Path) -> None:
    file = write(tmp_path, *GOOD)
    none = ["eval.every=0", "eval.at_start=false", "eval.at_end=false"]
    assert opened(f"data.path={file}", *none)[0].num_items == 6
    assert opened(f"data.path={file}")[0].num_items == 4


def test_a_prompt_that_the_model_cannot_hold_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"exceed the model's context of 512"):
        opened(f"data.path={write(tmp_path, *GOOD)}", "rollout.max_new_tokens=500")


def test_pairs_need_a_method_that_learns_from_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set method=rpo"):
        opened(f"data.pairs={write(tmp_path, *GOOD)}")


def test_data_too_small_for_the_held_out_problems_gives_a_fifth_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text("".join(f'{{"problem": "{n} + 0?", "answer": "{n}"}}\n' for n in range(2)))
    said: list[str] = []
    with open_session(load_config(None, [f"data.path={tmp_path}/few.jsonl"]), say=said.append) as session:
        assert (session.source.num_items, len(session.held_out)) == (1, 1)
    assert "held-out data: 1 of only 2 problems, not eval.size=200; set data.eval_path, or lower eval.size" in said
