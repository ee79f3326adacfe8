"""Suites: where benchmarks are looked up, and how bad files are reported."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.config.tree import read_yaml
from edge_grpo.data.settings import DataSettings
from edge_grpo.evaluation.suite import load_suite

ROOT = Path(__file__).parents[2]


Write = Callable[[str], str]


def rows(path: Path, *answers: str | int, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"problem": f"{i}?", "answer": answer, **columns} for i, answer in enumerate(answers)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def suite(tmp_path: Path) -> Write:
    def write(text: str) -> str:
        path = tmp_path / "suite.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_a_data_file_is_one_benchmark(tmp_path: Path) -> None:
    rows(tmp_path / "mine.jsonl", "1", 2)
    (one,) = load_suite(str(tmp_path / "mine.jsonl"), DataSettings())
    assert (one.name, [problem.answers for problem in one.problems]) == ("mine", [("1",), ("2",)])


def test_the_first_source_that_is_there_is_used(tmp_path: Path, suite: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = suite("benchmarks:\n  A: [gone.jsonl, here.jsonl]\n  B: {path: here.jsonl, fields: {answer: all}}\n")
    rows(tmp_path / "here.jsonl", "1", all=["1", "1.0"])
    one, two = load_suite(path, DataSettings())
    assert (one.name, one.problems[0].answers) == ("A", ("1",))
    assert (two.name, two.problems[0].answers) == ("B", ("1", "1.0"))
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "elsewhere/here.jsonl", "5", all=["5"])
    assert load_suite(path, DataSettings(), data_dir="elsewhere")[0].problems[0].answers == ("5",)


def test_a_hub_dataset_is_tried_where_no_file_is(suite: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, split: str) -> list[dict[str, object]]:
        asked.append((name, split))
        return [{"question": "1+1?", "final_answer": ["2", "two"]}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    fields = "fields: {prompt: question, answer: final_answer}"
    (one,) = load_suite(suite(f"benchmarks: {{A: [gone.jsonl, {{path: me/set, {fields}}}]}}"), DataSettings())
    assert asked == [("me/set", "test")]
    assert one.problems[0].answers == ("2", "two")


def test_the_suite_of_the_papers_benchmarks_reads_local_files(tmp_path: Path) -> None:
    names = {"AIME24": "aime24", "AMC23": "amc23", "MATH500": "math500", "Minerva": "minerva",
             "OlympiadBench": "olympiad_bench"}  # fmt: skip
    for name in names.values():
        rows(tmp_path / f"{name}.jsonl", "1", "2", answers=["1", "one"])
    path = str(ROOT / "configs/suites/math.yaml")
    found = load_suite(path, DataSettings(), data_dir=str(tmp_path))
    assert [each.name for each in found] == list(names)
    assert [each.problems[0].answers for each in found] == [("1",)] * 3 + [("1", "one")] * 2
    hub = [sources[1] for sources in read_yaml(path)["benchmarks"].values()]
    assert all(source["path"].count("/") == 1 for source in hub)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("benchmarks: {}", "suite.yaml: benchmarks: "),
        ("benchmarks: {A: []}", "suite.yaml: benchmarks.A"),
        ("benchmarks: {A: {file: a.jsonl}}", "benchmarks.A.0.file: no such setting"),
        ("benchmark: {A: a.jsonl}", "suite.yaml: has no 'benchmarks:' section"),
    ],
)
def test_a_wrong_suite_is_one_line(suite: Write, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_suite(suite(text), DataSettings())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_nowhere_is_named(tmp_path: Path, suite: Write) -> None:
    with pytest.raises(DataError, match=r"suite\.yaml: benchmark 'A': no such file: .*gone\.jsonl; .* --data-dir"):
        load_suite(suite("benchmarks: {A: gone.jsonl}"), DataSettings())
    with pytest.raises(ConfigError, match=r"nosuite\.yaml: no such"):
        load_suite(str(tmp_path / "nosuite.yaml"), DataSettings())
