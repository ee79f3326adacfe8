"""Subsets of hub datasets: from the cache without a network, and from a folder laid out like a hub dataset."""

import json
from pathlib import Path

import datasets
import pytest

from edge_grpo.base.errors import DataError
from edge_grpo.config.tree import load_config
from edge_grpo.data.problems import load_eval, load_problems, load_train_eval
from edge_grpo.data.settings import DataSettings
from edge_grpo.evaluation.suite import load_suite

CARD = """---
configs:
- config_name: main
  data_files: [{split: train, path: main.jsonl}]
- config_name: socratic
  data_files: [{split: train, path: socratic.jsonl}]
---
"""


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two subsets, and an empty cache."""
    folder = tmp_path / "gsm"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    for name in ("main", "socratic"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"problem": f"{name}?", "answer": "2"}) + "\n")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture(name="cached")
def _cached(folder: Path, tmp_path: Path) -> str:
    """The name of a hub dataset that is only in the cache."""
    for subset in ("main", "socratic"):
        datasets.load_dataset(str(folder), subset, split="train")
    (tmp_path / "cache" / "gsm").rename(tmp_path / "cache" / "acme___gsm")
    return "acme/gsm"


def test_a_subset_is_chosen(folder: Path, cached: str) -> None:
    for path in (str(folder), cached):
        assert [one.prompt for one in load_problems(path, subset="socratic").problems] == ["socratic?"]


def test_several_subsets_are_named_with_the_setting(folder: Path, cached: str) -> None:
    for path in (str(folder), cached):
        with pytest.raises(DataError, match=r"several subsets; it has .*(main|socratic).*, .*") as raised:
            load_problems(path)
        assert str(raised.value).endswith("Set data.subset")
        assert "\n" not in str(raised.value)
        with pytest.raises(DataError, match=r"no subset 'sokratic'; it has .*socratic.*Set data\.eval_subset"):
            load_problems(path, subset="sokratic", prefix="data.eval_")


def test_a_folder_that_is_no_dataset_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"this folder cannot be read as a dataset \(.*\); name a file in it") as raised:
        load_problems(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_an_unknown_split_names_its_setting(folder: Path) -> None:
    with pytest.raises(DataError, match=r'Unknown split "test".*Set data\.eval_split'):
        load_problems(str(folder), subset="main", split="test", prefix="data.eval_")


def test_settings_and_suites_choose_subsets(folder: Path, tmp_path: Path) -> None:
    data = DataSettings(
        path=str(folder), subset="main", eval_path=str(folder), eval_subset="socratic", eval_split="train"
    )
    train, held_out = load_train_eval(data, num_eval=5, seed=0)
    assert [[one.prompt for one in side.problems] for side in (train, held_out)] == [["main?"], ["socratic?"]]
    assert load_config(None, ["data.pairs_subset=main"]).data.pairs_subset == "main"
    suite = tmp_path / "suite.yaml"
    source = "{path: gsm, subset: SUBSET, split: train}"
    suite.write_text("benchmarks:\n  gsm: " + source.replace("SUBSET", "socratic"))
    assert [one.prompt for one in load_suite(str(suite), DataSettings())[0].problems] == ["socratic?"]
    suite.write_text("benchmarks:\n  gsm: " + source.replace("SUBSET", "main2"))
    with pytest.raises(DataError, match=r"no subset 'main2'.*Set benchmarks\.gsm\.subset"):
        load_suite(str(suite), DataSettings())


def test_files_and_saved_datasets_have_no_subsets(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.subset: got 'main', but .*main\.jsonl is a file"):
        load_problems(str(folder / "main.jsonl"), subset="main")
    saved = str(tmp_path / "saved")
    datasets.Dataset.from_dict({"problem": ["?"], "answer": ["1"]}).save_to_disk(saved)
    with pytest.raises(DataError, match=r"^data\.eval_subset: .*saved was written by save_to_disk"):
        load_eval(DataSettings(eval_path=saved, eval_subset="main"), num_eval=1, seed=0)
