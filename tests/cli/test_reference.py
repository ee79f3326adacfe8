"""``edge-grpo settings``: as text, as JSON, as Markdown, and as the schema for editors."""

import json

import pytest
from support import Command


def test_without_a_name_the_sections_are_listed(command: Command) -> None:
    code, out, _ = command("settings")
    assert code == 0
    assert [name for name in ("model", "train", "run", "method") if f"\n{name} " not in f"\n{out}"] == []
    assert "edge_grpo" in out


def test_a_setting_is_explained(command: Command) -> None:
    code, out, _ = command("settings", "rollout.max_rows")
    assert code == 0
    assert out.startswith("rollout.max_rows  integer, at least 1  default 256\n")
    assert "memory only" in out


def test_a_method_is_explained_with_its_source(command: Command) -> None:
    _, out, _ = command("settings", "method.gspo")
    assert "method.clip_low  number, at least 0, at most 1  default 0.0003" in out
    assert "arXiv:2507.18071" in out


def test_a_wrong_name_is_one_line(command: Command) -> None:
    code, out, err = command("settings", "train.step")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "did you mean 'train.steps'?" in err


def test_json_is_for_machines(command: Command) -> None:
    _, out, _ = command("settings", "train.steps", "--json")
    ((one,),) = (section["settings"] for section in json.loads(out))
    assert (one["name"], one["type"], one["default"]) == ("train.steps", "integer, at least 0", 60)


def test_the_schema_is_printed(command: Command) -> None:
    _, out, _ = command("settings", "--schema")
    assert json.loads(out)["$defs"]["TrainSettings"]["properties"]["steps"]["minimum"] == 0


def test_the_page_has_a_row_for_every_setting(command: Command) -> None:
    _, listed, _ = command("settings", "--json")
    _, page, _ = command("settings", "--markdown")
    settings = [one["name"] for section in json.loads(listed) for one in section["settings"]]
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == settings
    assert {row.replace("\\|", "").count("|") for row in rows} == {5}, "a cell that breaks its row"


@pytest.mark.parametrize("words", [("--json", "--schema"), ("train", "--schema")])
def test_options_that_exclude_each_other_are_one_line(command: Command, words: tuple[str, ...]) -> None:
    code, _, err = command("settings", *words)
    assert code == 2
    assert "--schema" in err
