"""When two studies are the same study."""

from pathlib import Path
from typing import Any

import pytest
from support import PROBLEM, save_tiny
from tune.spaces import TEXT, space_of

from edge_grpo.config.tree import load_config
from edge_grpo.evaluation.suite import Benchmark
from edge_grpo.tune.identity import identity_of

ASKED = (Benchmark("3", "", (PROBLEM,)),)


def identity(folder: Path, text: str, **options: bool) -> dict[str, Any]:
    space = space_of(folder, text)
    base = load_config(space.base or None, space.settings)
    return identity_of(space, base, ASKED, **{"decomposed": True, **options})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything a study may refer to."""
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "one")
    save_tiny(tmp_path / "two")
    (tmp_path / "train.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n')
    (tmp_path / "judge.py").write_text("def reward(completions, problems):\n    return [1.0 for _ in problems]\n")
    (tmp_path / "base.yaml").write_text("train: {weight_decay: 0.3}\n")
    return tmp_path


REFERRING = "base: base.yaml\n" + TEXT.replace(
    "settings: [", "settings: [model.path=one, data.path=train.jsonl, reward.function='judge.py:reward', "
)


@pytest.mark.parametrize("file", ["one/model.safetensors", "train.jsonl", "judge.py", "base.yaml"])
def test_it_changes_with_the_content_of_every_file_it_refers_to(place: Path, file: str) -> None:
    before = identity(place, REFERRING)
    assert identity(place, REFERRING) == before
    path = place / file
    content = bytearray(path.read_bytes())
    content[content.rindex(b"1") if b"1" in content else content.rindex(b"3")] += 1
    path.write_bytes(content)
    assert identity(place, REFERRING) != before


def test_searched_models_count_too(place: Path) -> None:
    text = REFERRING.replace("model.path=one, ", "").replace(
        "space:", "space:\n  model.path: {type: categorical, values: [one, two]}", 1
    )
    before = identity(place, text)
    weights = bytearray((place / "two/model.safetensors").read_bytes())
    weights[-1] ^= 1
    (place / "two/model.safetensors").write_bytes(weights)
    after = identity(place, text)
    assert after["base"] == before["base"]
    assert after["content"] != before["content"]


def test_the_number_of_trials_and_file_names_do_not_count(place: Path) -> None:
    before = identity(place, REFERRING)
    (place / "other.yaml").write_text((place / "base.yaml").read_text())
    assert identity(place, REFERRING.replace("trials: 8", "trials: 9").replace("base.yaml", "other.yaml")) == before


def test_ranges_the_kind_of_search_and_problems_count(place: Path) -> None:
    before = identity(place, REFERRING)
    assert identity(place, REFERRING.replace("high: 0.4", "high: 0.3")) != before
    assert identity(place, REFERRING, decomposed=False) != before
    space = space_of(place, REFERRING)
    other = (Benchmark("3", "", (PROBLEM, PROBLEM)),)
    assert identity_of(space, load_config(space.base, space.settings), other, decomposed=True) != before
