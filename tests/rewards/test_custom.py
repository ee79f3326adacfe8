"""A custom reward function is found from any folder, and rejected with advice if its signature is wrong."""

import re
from pathlib import Path

import pytest

from edge_grpo.base.errors import ConfigError
from edge_grpo.base.records import Problem
from edge_grpo.rewards import Rewards, RewardSettings
from edge_grpo.rewards.custom import call, check, locate
from edge_grpo.rewards.styles import Batch

PAGE = Path(__file__).parents[2] / "docs" / "coming_from.md"


@pytest.mark.parametrize(
    "parameters",
    [
        "prompts, completions, **kwargs",
        "completions, ground_truth, **kwargs",
        "completions, **kwargs",
        "problems, completions",
        "prompts, outputs",
    ],
)
def test_another_signature_is_recognized_by_its_parameter_names(tmp_path: Path, parameters: str) -> None:
    path = tmp_path / "theirs.py"
    path.write_text(f"def reward({parameters}):\n    return [1.0]\n")
    wrong = check(f"{path}:reward")
    assert f"it takes ({parameters}), but is called with (completions, problems) and optionally 'finished'" in wrong
    assert "docs/coming_from.md" in wrong
    assert "\n" not in wrong
    with pytest.raises(ConfigError, match="coming_from"), Rewards(RewardSettings(function=f"{path}:reward")):
        pass


@pytest.mark.parametrize(
    "parameters", ["completions, problems", "completions, problems, finished", "texts, tasks", "*args", "a, b, c=1"]
)
def test_parameters_may_have_other_names(tmp_path: Path, parameters: str) -> None:
    path = tmp_path / "ours.py"
    path.write_text(f"def reward({parameters}):\n    return [1.0]\n")
    assert check(f"{path}:reward") == ""
    assert call(f"{path}:reward", Batch(["x"], [Problem("p", "?", ("1",))], [True])) == [1.0]


def test_the_documented_function_for_trl_works(tmp_path: Path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (snippet,) = [text for text in snippets if "def reward(completions, answer, **kwargs)" in text]
    path = tmp_path / "theirs.py"
    path.write_text(snippet)
    problems = [Problem("a", "1+1?", ("2",), meta={"level": 1}), Problem("b", "1+2?", ("3",))]
    assert check(f"{path}:reward", "trl") == ""
    assert call(f"{path}:reward", Batch(["it is 2", "it is 2"], problems, [True, True]), "trl") == [1.0, 0.0]


def test_a_file_finds_its_neighbours_first(tmp_path: Path) -> None:
    """Even one that is called like a module of the standard library, as with ``python mine.py``."""
    (tmp_path / "scores.py").write_text("from tabnanny import VALUE\n")
    (tmp_path / "tabnanny.py").write_text("VALUE = 3.0\n")
    (tmp_path / "mine.py").write_text(
        "from scores import VALUE\ndef reward(completions, problems):\n    return [VALUE] * len(problems)\n"
    )
    with Rewards(RewardSettings(function=f"{tmp_path / 'mine.py'}:reward")) as rewards:
        (grade,) = rewards.grade([Problem("a", "?", ("1",))], ["x"], [True])
    assert grade.reward == 3.0


def test_a_relative_import_names_the_form_that_works(tmp_path: Path) -> None:
    package = tmp_path / "judges"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sibling.py").write_text("VALUE = 4.0\n")
    code = "from .sibling import VALUE\ndef reward(completions, problems): return [VALUE] * len(problems)\n"
    (package / "strict.py").write_text(code)
    better = f"{tmp_path}/judges.strict:reward"
    with (
        pytest.raises(ConfigError, match=rf"relative import.*; name the module .*: reward\.function={better}"),
        Rewards(RewardSettings(function=f"{package / 'strict.py'}:reward")),
    ):
        pass
    with Rewards(RewardSettings(function=better)) as rewards:
        assert rewards.grade([Problem("a", "?", ("1",))], ["x"], [True])[0].reward == 4.0


def test_an_exception_names_the_line_of_the_users_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import json\n\ndef inner(text):\n    return json.loads(text)\n\n"
        "def reward(completions, problems):\n    return [inner(text) for text in completions]\n"
    )
    with Rewards(RewardSettings(function=f"{path}:reward", workers=1)) as rewards:
        grades = rewards.grade([Problem("a", "?", ("1",))] * 2, ["1", "{"], [True, True], strict=False)
    assert grades[0].note == "no \\boxed{} could be read"
    assert grades[1].note.startswith("JSONDecodeError: Expecting property name")
    assert grades[1].note.endswith(f" ({path}:4)"), "not json's own file"
    path.write_text("def reward(completions, problems):\n    return []\n\nraise OSError('no such model')\n")
    with (
        pytest.raises(ConfigError, match=rf"OSError: no such model \({re.escape(str(path))}:4\)"),
        Rewards(RewardSettings(function=f"{path}:reward")),
    ):
        pass


def test_paths_work_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "home" / "judges"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "sibling.py").write_text("VALUE = 4.0\n")
    (package / "strict.py").write_text(
        "from judges.sibling import VALUE\nfrom . import sibling\n"
        "def reward(completions, problems):\n    return [VALUE] * len(problems)\n"
    )
    monkeypatch.chdir(tmp_path / "home")
    file, module = locate("judges/strict.py:reward"), locate("judges.strict:reward")
    assert file == f"{package.resolve()}/strict.py:reward"
    assert module == f"{package.parent.resolve()}/judges.strict:reward"
    assert locate("json:dumps") == "json:dumps"
    monkeypatch.chdir(tmp_path)
    assert locate("home/judges.strict:reward") == module
    for path in (file, module):
        assert locate(path) == path
    with Rewards(RewardSettings(function=module, memory_mb=1024)) as rewards:
        (grade,) = rewards.grade([Problem("a", "?", ("1",))], [r"\boxed{1}"], [True])
    assert (grade.reward, grade.correct) == (4.0, True)
    with pytest.raises(ConfigError, match=r"no such file: 'judges/strict\.py'"):
        locate("judges/strict.py:reward")
