"""Every format is recognized and read: groups, rewards, correctness, tokens, steps, and what is said about it."""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from report.written import Rewards, jsonl, messages, openrlhf, parquet, prime_rl, trace, trl, verl

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.report.sources import Asked, Rollouts, read_rollouts

GROUPS: list[tuple[str, Rewards]] = [("1+1?", [1.0, 0.0]), ("2+2?", [0.0, 0.0]), ("3+3?", [1.0, None])]


def read(path: Path, group_size: int = 0, **columns: Any) -> Rollouts:
    return read_rollouts(path, Asked(columns, group_size))


def rewards_of(found: Rollouts) -> list[tuple[int | None, list[float | None]]]:
    """The step and rewards of every group."""
    groups: dict[int, tuple[int | None, list[float | None]]] = {}
    for one in found.completions:
        groups.setdefault(one.group, (one.step, []))[1].append(one.reward)
    return list(groups.values())


def notes(found: Rollouts) -> str:
    return "\n".join(found.notes)


def write_trl(folder: Path) -> Path:
    for step in (1, 2):
        trl(folder, step, GROUPS, chat=step == 2)
    return folder


def write_verl(folder: Path) -> Path:
    for step in (1, 2):
        verl(folder, step, GROUPS)
    return folder


def write_prime_rl(folder: Path) -> Path:
    for step in (1, 2):
        prime_rl(folder, step, GROUPS)
        prime_rl(folder, step, GROUPS[:1], part="effective")
    jsonl(folder / "rollouts/step_1/eval/all/traces.jsonl", [trace("eval?", "e", 1.0)] * 3)
    return folder


@pytest.mark.parametrize(
    ("write", "name", "rewards"),
    [
        (write_trl, "TRL", [[1.5, 0.5], [0.5, 0.5], [1.5, None]]),
        (write_verl, "verl", [[1.0, 0.0], [0.0, 0.0], [1.0, None]]),
        (write_prime_rl, "prime-rl traces", [[2.0, 0.0], [0.0, 0.0], [2.0, None]]),
    ],
)
def test_training_rollouts(
    tmp_path: Path, write: Callable[[Path], Path], name: str, rewards: list[list[float | None]]
) -> None:
    found = read(write(tmp_path))
    assert (found.name, found.files) == (name, 2)
    assert sorted(map(str, rewards_of(found))) == sorted(str((step, own)) for step in (1, 2) for own in rewards)
    assert len({one.prompt for one in found.completions}) == (6 if name == "TRL" else 3)  # with roles in one file
    assert all(one.characters is not None and one.text is not None for one in found.completions)


def test_a_subfolder_and_a_single_file_do_too(tmp_path: Path) -> None:
    write_trl(tmp_path)
    whole = read(tmp_path).completions
    assert read(tmp_path / "completions").completions == whole
    assert len(read(tmp_path / "completions" / "completions_00001.parquet").completions) == len(whole) // 2


# --- TRL ------------------------------------------------------------------------------------------------------------


def test_trl_size_of_groups_divides_the_runs_of_a_prompt(tmp_path: Path) -> None:
    trl(tmp_path, 1, [("a", [1.0, 0.0]), ("a", [0.0, 0.0]), ("b", [1.0, 1.0]), ("a", [0.0, 1.0])])
    found = read(tmp_path)
    assert [own for _, own in rewards_of(found)] == [[1.5, 0.5], [0.5, 0.5], [1.5, 1.5], [0.5, 1.5]]
    assert "groups of 2: the size that divides all runs" in notes(found)


def test_trl_one_prompt_alone_needs_the_size(tmp_path: Path) -> None:
    trl(tmp_path, 1, [("a", [1.0, 0.0]), ("a", [0.0, 0.0])])
    assert len(rewards_of(read(tmp_path))) == 1
    assert len(rewards_of(read(tmp_path, group_size=2))) == 2


def test_trl_correctness_is_that_of_the_accuracy_reward(tmp_path: Path) -> None:
    trl(tmp_path, 1, GROUPS)
    assert [one.correct for one in read(tmp_path).completions] == [True, False, False, False, True, None]


def test_trl_rows_written_again_are_left_out(tmp_path: Path) -> None:
    trl(tmp_path, 1, GROUPS)
    trl(tmp_path, 2, GROUPS)
    found = read(tmp_path)
    assert len(found.completions) == 6
    assert "files left out because they repeat the rows of the file before: 1" in notes(found)


def test_trl_steps_that_were_not_logged(tmp_path: Path) -> None:
    for step in (5, 10):
        trl(tmp_path, step, GROUPS[: step // 5])
    assert "2 of the steps 5 to 10 are in the files" in notes(read(tmp_path))


def test_trl_columns_that_are_no_rewards_contradict_the_advantages(tmp_path: Path) -> None:
    trl(tmp_path, 1, GROUPS[:2], seconds=[1.0, 2.0, 3.0, 4.0])
    found = read(tmp_path)
    assert [column.column for column in found.columns if column.role == "reward"] == [
        *("accuracy_reward", "format_reward", "seconds")
    ]
    assert "the reward is the sum of 3 columns" in notes(found)
    assert "in 2 of 2 groups the advantages do not fit the reward" in notes(found)
    assert "do not fit" not in notes(read(tmp_path, reward=["accuracy_reward", "format_reward"]))


# --- verl, OpenRLHF, prime-rl ---------------------------------------------------------------------------------------


def test_verl_without_acc_knows_no_correctness(tmp_path: Path) -> None:
    assert {one.correct for one in read(verl(tmp_path, 3, GROUPS, acc=False)).completions} == {None}
    assert [one.correct for one in read(verl(tmp_path, 3, GROUPS[:1])).completions] == [True, False]


def test_openrlhf_groups_are_the_outputs_of_an_input(tmp_path: Path) -> None:
    found = read(openrlhf(tmp_path / "rm.jsonl", [("a", [0.5, -1.0]), ("b", [2.0, 2.0])]))
    assert found.name == "OpenRLHF"
    assert rewards_of(found) == [(None, [0.5, -1.0]), (None, [2.0, 2.0])]


def test_prime_rl_tokens_old_rewards_judges_and_episodes(tmp_path: Path) -> None:
    judge = {**trace("1+1?", "g", 1.0), "agent": {"name": "judge", "trainable": False}}
    counted = trace("1+1?", "h", 1.0)
    counted["nodes"][1]["mask"] = []
    episode = {"traces": [trace("1+1?", "h", 0.0)], "info": {}}
    rows = [trace("1+1?", "g", 0.5, old=True), trace("1+1?", "g", None, old=True), judge, counted, episode]
    found = read(jsonl(tmp_path / "step_4" / "traces.jsonl", rows))
    assert rewards_of(found) == [(4, [0.5, None]), (4, [2.0, 0.0])]
    assert [one.tokens for one in found.completions] == [2, 2, 3, 2]
    assert "traces of agents that are not trained left out: 1" in notes(found)
    assert "traces that failed or were not scored, so are unscorable: 1" in notes(found)


def test_prime_rl_filtered_traces_alone_are_doubtful(tmp_path: Path) -> None:
    prime_rl(tmp_path, 1, GROUPS, part="effective")
    assert "dead groups may be missing" in notes(read(tmp_path))


# --- any rows -------------------------------------------------------------------------------------------------------


def test_columns_are_guessed_and_said(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "uid": i // 2, "score": i % 2, "passed": bool(i % 2), "response_length": 3, "iteration": 1}
        for i in range(4)
    ]
    for path in (jsonl(tmp_path / "a.jsonl", rows), parquet(tmp_path / "b" / "b.parquet", rows)):
        found = read(path)
        assert {str(column) for column in found.columns} == {
            "reward: column 'score' (guessed)",
            "group: column 'uid' (guessed)",
            "prompt: column 'question' (guessed)",
            "step: column 'iteration' (guessed)",
            "correct: column 'passed' (guessed)",
            "tokens: column 'response_length' (guessed)",
        }
        assert rewards_of(found) == [(1, [0.0, 1.0]), (1, [0.0, 1.0])]
        assert {one.tokens for one in found.completions} == {3}


def test_named_columns_win(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "task": i // 2, "reward": 0, "r1": "0.5", "r2": i, "ids": [1, 2]} for i in range(4)]
    found = read(jsonl(tmp_path / "a.jsonl", rows), reward=["r1", "r2"], group=["task"], tokens=["ids"])
    assert rewards_of(found) == [(None, [0.5, 1.5]), (None, [2.5, 3.5])]
    assert {one.tokens for one in found.completions} == {2}
    assert "reward: column 'r1' (given)" in map(str, found.columns)


def test_the_step_may_be_in_the_names(tmp_path: Path) -> None:
    for step in (2, 10):
        jsonl(tmp_path / f"rollouts-step_{step}.jsonl", [{"prompt": "p", "reward": 0}, {"prompt": "p", "reward": 1}])
    found = read(tmp_path)
    assert rewards_of(found) == [(2, [0.0, 1.0]), (10, [0.0, 1.0])]
    assert "the step is the number in the names" in notes(found)


def test_conversations_are_prompts(tmp_path: Path) -> None:
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    rows = [{"messages": messages("hi"), "reward": 1}, {"messages": parts, "reward": 1}]
    assert [one.prompt for one in read(jsonl(tmp_path / "a.jsonl", rows * 2)).completions[:2]] == [
        "user: hi",
        "user: <image>what?",
    ]


def test_bad_lines_and_odd_values_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = '{"prompt": "p", "reward": 1, "correct": 1}\n'
    odd = '{"prompt": "p", "reward": NaN, "correct": 2}\n{"prompt": "p", "reward": "bad"}\n{"prompt": "p"}\n'
    path.write_text("\ufeff" + good + "\n{oops\n[1]\n" + odd + good)
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    found = read(path)
    assert rewards_of(found) == [(None, [1.0, None, None, None, 1.0])]
    assert [one.correct for one in found.completions] == [True, None, None, None, True]
    assert "unreadable lines left out: 3, the first: a.jsonl, line 3: not JSON" in notes(found)
    assert "rows whose reward is no number (such as 'bad'): 1" in notes(found)
    assert "rows without a reward: 2" in notes(found)
    assert "rows whose 'correct' is neither 0 nor 1, taken as unknown: 1" in notes(found)


def test_rows_without_a_group_or_prompt_are_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "reward": 1} for prompt in ("p", None, "p")]
    found = read(jsonl(tmp_path / "a.jsonl", rows))
    assert rewards_of(found) == [(None, [1.0, 1.0])]
    assert found.notes == ["rows without a group or prompt left out: 1"]


def test_numbers_of_every_type(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "reward": reward} for reward in (Decimal("0.5"), Decimal("1"))]
    assert rewards_of(read(parquet(tmp_path / "a.parquet", rows))) == [(None, [0.5, 1.0])]


@pytest.mark.parametrize("asked", [{"reward": ["nope"]}, {"prompt": ["nope"]}])
def test_a_column_that_is_not_there(tmp_path: Path, asked: dict[str, Any]) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "reward": 1}])
    with pytest.raises(ConfigError, match=r"has no column 'nope'; it has prompt, reward"):
        read(path, **asked)


@pytest.mark.parametrize(
    ("row", "told"),
    [({"prompt": "p"}, "no column of rewards among prompt"), ({"reward": 1}, "neither a column of groups nor one of")],
)
def test_what_cannot_be_guessed(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        read(jsonl(tmp_path / "a.jsonl", [row]))


def test_options_for_known_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--reward: .* is a file of prime-rl traces"):
        read(prime_rl(tmp_path, 1, GROUPS), reward=["x"])


# --- folders --------------------------------------------------------------------------------------------------------


def run_without_rollouts(folder: Path) -> Path:
    (folder / "config.yaml").touch()
    return jsonl(folder / "metrics.jsonl", [{"step": 1, "reward/before": 1.0}]).parent


def test_a_folder_of_several_formats(tmp_path: Path) -> None:
    verl(tmp_path, 1, GROUPS)
    openrlhf(tmp_path / "rm.jsonl", GROUPS[:1])
    with pytest.raises(DataError, match=r"several formats: OpenRLHF \(rm.jsonl\), verl \(1.jsonl\)"):
        read(tmp_path)


def test_empty_and_other_files_are_counted(tmp_path: Path) -> None:
    verl(tmp_path, 1, GROUPS)
    (tmp_path / "2.jsonl").write_text("")
    jsonl(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 0.1}])
    found = read(tmp_path)
    assert "1 empty file left out" in found.notes
    assert "1 file without rollouts left out, such as metrics.jsonl" in found.notes


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: folder / "nothing", "no such file or folder"),
        (run_without_rollouts, "has no rollouts"),
        (lambda folder: folder, "no .parquet or .jsonl file in it"),
        (lambda folder: jsonl(folder / "a.jsonl", []), "no rollouts: 1 empty file"),
        (lambda folder: jsonl(folder / "a.jsonl", []).rename(folder / "a.csv"), "unknown file type"),
        (lambda folder: jsonl(folder / "a.jsonl", []).rename(folder / "a.parquet"), "cannot be read as parquet"),
    ],
)
def test_nothing_to_read(tmp_path: Path, make: Callable[[Path], Path], told: str) -> None:
    with pytest.raises(DataError, match=told):
        read(make(tmp_path))


def test_progress_ends_at_the_size_of_the_files(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_verl(tmp_path)
    read_rollouts(tmp_path, Asked({}), lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert Counter(total for _, total in seen).keys() == {seen[-1][1]}
