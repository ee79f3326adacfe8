"""Every completion of a step is in its rollout file, as the reward saw it: those left out of training are marked."""

import json
from collections import Counter
from pathlib import Path

import pytest
from small_runs import SMALL
from support import save_tiny

from edge_grpo.config.tree import load_config
from edge_grpo.runs import rollouts as read
from edge_grpo.training.loop import train

NOT_EVALUATED = ["eval.every=0", "eval.at_start=false", "eval.at_end=false"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def test_groups_that_dynamic_sampling_drops_are_kept_and_marked(model: Path, tmp_path: Path) -> None:
    own = [text for text in SMALL if not text.startswith("method.")]
    words = [f"model.path={model}", *own, "method=dapo", "method.top_up.max_rounds=2", *NOT_EVALUATED, "train.steps=1"]
    folder = train(load_config(None, [*words, f"run.dir={tmp_path / 'run'}"])).folder
    lines = read(folder).to_pylist()
    assert len(lines) == 9 * 4, "an empty step, and every completion of its three rounds"
    assert {(line["trained"], line["dropped"], line["advantage"]) for line in lines} == {
        (False, "dynamic_sampling", None)
    }
    assert sorted({line["group"] for line in lines}) == list(range(9))
    assert len({line["family"] for line in lines}) == 9
    assert all(line["completion"] and line["spans"] for line in lines)


def test_rows_that_a_method_leaves_out_are_kept_and_marked(model: Path, tmp_path: Path) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text(
        "def reward(texts, tasks):\n"
        "    odd = [sum(map(ord, one)) % 2 for one in texts]\n"
        "    return [{'reward': float(one), 'correct': one} for one in odd]\n"
    )
    data = tmp_path / "data.jsonl"
    rows_ = [{"problem": f"Compute {i}+1.", "answer": i + 1, "step": f"s{i}", "tags": [i]} for i in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_))
    own = [text for text in SMALL if not text.startswith("method.")]
    words = [f"model.path={model}", *own, "method=rpo", "method.max_pairs=1", *NOT_EVALUATED, "train.steps=2"]
    words += [f"data.path={data}", f"reward.function={judge}:reward", f"run.dir={tmp_path / 'run'}"]
    table = read(train(load_config(None, words)).folder)
    for step in (1, 2):
        lines = [line for line in table.to_pylist() if line["step"] == step]
        assert len(lines) == 12
        assert {(line["trained"], line["dropped"]) for line in lines} == {(True, ""), (False, "method")}
        assert all((line["advantage"] is None) is not line["trained"] for line in lines)
        assert all(line["data/step"] == f"s{int(line['answer']) - 1}" for line in lines)
        assert all(json.loads(line["data/tags"]) == [int(line["answer"]) - 1] for line in lines)
        questions = {(line["family"], line["problem"]) for line in lines}
        assert len(questions) == 3, "rows left out keep the family of their question"
        drawn = Counter((line["sampled_group"], line["problem"]) for line in lines)
        assert sorted(drawn.values()) == [4, 4, 4], "and all rows the number of the group they were sampled in"
        assert sorted(number for number, _ in drawn) == [0, 1, 2]


def test_a_reward_for_trl_sees_the_tokens_and_columns_of_several_files(model: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(
        "def reward(completion_ids, level, **kwargs):\n"
        "    return [{'tokens': len(ids), 'level': 100 * one} for ids, one in zip(completion_ids, level)]\n"
    )
    for name, level in (("a", 1), ("b", 2)):
        rows = [{"question": f"Compute {i}+{level}.", "answer": i + level, "level": level} for i in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config(
        {
            "model.path": model,
            "method": "grpo",
            "train.steps": 2,
            "data": {"path": {str(tmp_path / "a.jsonl"): 2, str(tmp_path / "b.jsonl"): 1}},
            "data.fields.prompt": "question",
            "reward": {"function": f"{tmp_path / 'theirs.py'}:reward", "function_style": "trl"},
            "rollout": {"prompts_per_step": 3, "group_size": 2, "max_new_tokens": 8},
            "eval.size": 2,
            "run.dir": tmp_path / "run",
        }
    )
    result = train(config)
    table = read(result.folder).to_pylist()
    assert len(table) == 2 * 3 * 2
    for line in table:
        tokens = sum(len(span["token_ids"]) for span in line["spans"])
        assert line["reward"] == tokens + 100 * line["data/level"]
    assert result.model
    assert "| `data.path` | a.jsonl x 2, b.jsonl |" in (result.model / "README.md").read_text()
