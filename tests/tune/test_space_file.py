"""Space files: the files they refer to are found, and every mistake is reported in one line."""

import math
from pathlib import Path

import pytest
import yaml
from tune.spaces import TEXT, space_of, write_space

from edge_grpo.base.errors import ConfigError
from edge_grpo.tune.space import config_at, point_at
from edge_grpo.tune.space_file import load_space


def test_the_base_is_found_next_to_the_space_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "base.yaml").write_text("train: {steps: 7}\n")
    write_space(tmp_path / "below", "base: base.yaml\n" + TEXT.replace("train.steps=2, ", ""))
    monkeypatch.chdir(tmp_path)
    space = load_space("below/space.yaml")
    assert config_at(space, point_at(space, [0.5] * 4)).train.steps == 7


def changed(path: list[str], value: object) -> str:
    """The space file with one value changed; None removes it."""
    tree = yaml.safe_load(TEXT)
    section = tree
    for key in path[:-1]:
        section = section.setdefault(key, {})
    if value is None:
        del section[path[-1]]
    else:
        section[path[-1]] = value
    return yaml.safe_dump(tree)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ["space", "train.learning_rat"],
            {"type": "log", "low": 1e-5, "high": 1},
            "did you mean 'train.learning_rate'",
        ),
        (["space", "train.steps"], {"type": "lin", "low": 1, "high": 2}, "got type 'lin', wanted one of continuous"),
        (["space", "train.steps"], 3, "space.train.steps: got 3, wanted a range, such as {type: log,"),
        (["space", "train.steps"], [1, 3], "space.train.steps: got [1, 3], wanted a range, such as {type: log,"),
        (
            ["space", "train.steps"],
            {"low": 1, "high": 3},
            "space.train.steps: has no type, wanted one",
        ),
        (
            ["space", "train.passes"],
            {"type": "continuous", "low": 1, "high": 3},
            "wanted a whole number (the",
        ),
        (["space", "train.passes"], {"type": "continuous", "low": 1, "high": 3}, "; give its range 'type: integer'"),
        (
            ["space", "method.clip_low", "also"],
            "method.clip_high",
            "wanted a list of settings, such as [",
        ),
        (["space", "method.correction.amount", "values"], ["all"], "wanted a list of at least two values"),
        (["space", "method.correction.amount", "values"], [["a"], {"b": 1}], "wanted a number, text, true or false; "),
        (
            ["space", "eval.seed"],
            {"type": "integer", "low": 0, "high": 9},
            "space.eval.seed: cannot be searched, because all trials are evaluated in the same way; drop it",
        ),
        (
            ["space", "eval.every"],
            {"type": "integer", "low": 1, "high": 9},
            "space.eval.every: cannot be searched",
        ),
        (["settings"], ["train.passes=2"], "space.train.passes: also fixed in 'settings'"),
        (["settings"], {"train.steps": 1}, "got {'train.steps': 1}, wanted a list of section.setting=value"),
        (["settings"], [{"train.steps": 1}], "settings.0: got {'train.steps': 1}, wanted section.setting=value, such"),
        (["objective", "suite"], "missing.yaml", "objective.suite: no missing.yaml in "),
        (["objective", "data_dir"], "missing", "objective.data_dir: no missing in "),
        (["objective", "weightz"], {"3": 1}, "objective.weightz: no such setting (did you mean 'weights'?)"),
        (["early_stop"], True, "early_stop: got True, wanted a section, such as {enabled: true}"),
        (["early_stop"], {"enable": True}, "early_stop.enable: no such setting (did you mean 'enabled'?)"),
        (["space", "train.steps"], {"type": "integer", "low": 0}, "space.train.steps.high: is missing"),
        (["space", "train.steps"], {"type": "integer", "low": 2, "high": 1}, "wanted low < high"),
        (["space", "train.steps"], {"type": "integer", "low": 0, "high": 9, "log": True}, "wanted at least 1 with log"),
        (["space", "train.steps"], {"type": "integer", "low": 0, "high": 9, "hgih": 9}, "hgih: no such setting"),
        (
            ["space", "train.checkpoint_every"],
            {"type": "continuous", "low": 1.5, "high": 9},
            "train.checkpoint_every: got 1.5, wanted a whole",
        ),
        (["space", "train.beta1"], {"type": "continuous", "low": 0.5, "high": 1.5}, "train.beta1: got 1.5"),
        (["space", "train.beta1"], {"type": "log", "low": 0, "high": 0.5}, "low: got 0, wanted greater than 0"),
        (["space", "train.beta1"], {"type": "log", "low": 0.5, "high": 0.50001}, "differing within three digits"),
        (["space", "method.correction.amount", "values"], ["none", "al"], "got 'al'"),
        (["space", "train.schedule"], {"type": "categorical", "values": ["linear", "linear"]}, "wanted no duplicates"),
        (
            ["space", "method.clip_high"],
            {"type": "continuous", "low": 0.1, "high": 0.2},
            "method.clip_high is listed twice ('also' counts)",
        ),
        (
            ["space", "run.dir"],
            {"type": "categorical", "values": ["a", "b"]},
            "because the study decides where runs are kept",
        ),
        (["space"], None, "has no 'space:' section"),
        (["space"], {}, "space: got {}, wanted settings with their ranges, such as train.learning_rate: {type"),
        (["objective"], None, "has no 'objective:' section"),
        (["objective", "weights"], {"3": "x"}, "objective.weights.3: got 'x'"),
        (["objective", "weights"], {"3": 0}, "wanted none equal to 0"),
        (["objective", "weights"], {3: 1, "3": 1}, "a part is listed twice"),
        (["objective", "weights"], {"whole": 1}, "'whole' is reserved for the weighted sum"),
        (["space", "train.steps"], {"type": "integer", "low": 1, "high": 9, "log": 3}, "train.steps.log: got 3"),
        (["candidates"], 4096, "candidates: got 4096"),
        (["objective", "metric"], "maj@4", "metric 'maj@4': wanted pass@1/greedy or avg@k"),
        (["trails"], 3, "trails: no such setting (did you mean 'trials'?)"),
        (["trials"], 0, "trials: got 0"),
        (["settings"], ["train.steps"], "'train.steps': wanted section.setting=value"),
        (["base"], "missing.yaml", "missing.yaml: no such configuration file"),
        (["early_stop"], {"enabled": True, "after": 2}, "early_stop.after: no such setting"),
    ],
)
def test_mistakes_are_reported_in_one_line(tmp_path: Path, path: list[str], value: object, message: str) -> None:
    name = write_space(tmp_path, changed(path, value))
    with pytest.raises(ConfigError) as error:
        load_space(name)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{name}: ")
    assert "\n" not in str(error.value)


def test_early_stopping_needs_evaluations(tmp_path: Path) -> None:
    text = TEXT.replace("eval.every=1", "eval.every=0")
    with pytest.raises(ConfigError, match=r"eval\.every is 0"):
        space_of(tmp_path, text + "early_stop: {enabled: true}\n")
    assert space_of(tmp_path, TEXT + "early_stop: {enabled: true}\n").early_stop.enabled


def test_infinite_bounds_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finite"):
        space_of(tmp_path, changed(["space", "train.beta1"], {"type": "continuous", "low": 0.0, "high": math.inf}))


def test_files_are_found_next_to_the_space_or_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/base.yaml").write_text("train: {steps: 3}\n")
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    text = "base: base.yaml\n" + TEXT.replace("objective:", "objective:\n  data_dir: data\n  suite: me/set")
    space = space_of(tmp_path / "there", text)
    assert space.base == str(tmp_path / "there/base.yaml")
    assert (space.objective.data_dir, space.objective.suite) == (str(tmp_path / "data"), "me/set")
