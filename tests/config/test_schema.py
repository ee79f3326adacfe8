"""The JSON schema of settings files: kept true, and of one mind with the loader."""

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_grpo.base.errors import ConfigError
from edge_grpo.config import reference
from edge_grpo.config.schema import build, text
from edge_grpo.config.tree import load_config, to_tree
from edge_grpo.config.yaml_text import read_yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs").glob("*.yaml"))
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")

ACCEPTED: list[dict[str, Any]] = [
    {},
    {"method": "grpo"},
    {"method": {"clip_low": 0.1}},  # without a kind: that of the default method
    {"method": {"kind": "nthr", "eta": 0.5}},
    {"method": {"kind": "unlikeliness", "max_rows": None}},
    {"rollout": {"engine": "hf"}},
    {"rollout": {"engine": {"kind": "vllm", "urls": ["http://127.0.0.1:8000"]}}},
    {"data": {"path": "a.jsonl"}},
    {"data": {"path": ["a.jsonl", "b.jsonl"]}},
    {"data": {"path": {"a.jsonl": 2, "b.jsonl": 0.5}}},
    {"data": {"chat_template_kwargs": {"enable_thinking": False}}},
    {"data": {"arithmetic": {"operands": {2: 1.0}}}},
    {"model": {"lora": {"rank": 8, "targets": ["q_proj"]}}},
    {"train": {"steps": 3, "learning_rate": 1}},
    {"run": {"trackers": []}},
]
REJECTED: list[dict[str, Any]] = [
    {"trian": {"steps": 3}},
    {"train": {"step": 3}},
    {"train": {"steps": "many"}},
    {"train": {"steps": 1.5}},
    {"train": {"steps": True}},
    {"train": {"learning_rate": 0}},
    {"train": {"schedule": "square"}},
    {"train": None},
    {"method": "gpro"},
    {"method": {"kind": "gpro"}},
    {"method": {"kind": "grpo", "correction": {}}},
    {"rollout": {"group_size": 1}},
    {"rollout": {"engine": {"urls": ["http://127.0.0.1:8000"]}}},
    {"rollout": {"stop": "word"}},
    {"data": {"path": {"a.jsonl": -1}}},
    {"model": {"lora": 8}},
    {"run": {"tensorboard": True}},
    {"run": {"trackers": ["tensorbord"]}},
    {"run": {"project": "a/b"}},
]


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = build()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def as_an_editor_reads(value: Any) -> Any:
    """YAML 1.2: names are text, and 1e-4 is a number."""
    if isinstance(value, dict):
        return {str(name): as_an_editor_reads(each) for name, each in value.items()}
    if isinstance(value, list):
        return [as_an_editor_reads(each) for each in value]
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


def test_the_packages_file_is_the_schema() -> None:
    file = resources.files("edge_grpo.config").joinpath("schema.json")
    assert file.read_text("utf-8") == text(build()), "run: make schema"
    assert (ROOT / "configs/schema.json").read_text("utf-8") == file.read_text("utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_shipped_files_are_valid_and_name_the_schema(path: Path, validator: Any) -> None:
    validator.validate(as_an_editor_reads(read_yaml(str(path))))
    first = path.read_text("utf-8").split("\n", 1)[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert named != first
    assert (path.parent / named).is_file()


@pytest.mark.parametrize("tree", ACCEPTED, ids=str)
def test_what_the_loader_accepts_is_valid(tree: dict[str, Any], validator: Any) -> None:
    load_config(tree)
    validator.validate(as_an_editor_reads(tree))


@pytest.mark.parametrize("tree", REJECTED, ids=str)
def test_what_the_loader_rejects_is_not_valid(tree: dict[str, Any], validator: Any) -> None:
    with pytest.raises(ConfigError):
        load_config(tree)
    assert not validator.is_valid(as_an_editor_reads(tree))


@pytest.mark.parametrize("kind", reference.method_setting().choices)
def test_the_resolved_settings_of_every_method_are_valid(kind: str, validator: Any) -> None:
    validator.validate(as_an_editor_reads(to_tree(load_config({"method": kind}))))


# --- the list of settings ---------------------------------------------------------------------------------------------


def leaves(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The settings of a resolved tree."""
    for name, value in tree.items():
        if isinstance(value, dict) and name not in ("operands", "chat_template_kwargs", "engine"):
            yield from leaves(value, f"{prefix}.{name}")
        elif name not in ("kind", "engine"):
            yield f"{prefix}.{name}", value


def test_every_setting_has_a_type_and_a_meaning() -> None:
    every = [one for section in reference.sections() for one in section.settings]
    assert [one.name for one in every if not one.type or "any value" in one.type] == []
    assert [(one.kind, one.name) for one in every if len(one.meaning.split()) < 2] == []
    assert [section.name for section in reference.sections() if not section.meaning] == []
    assert [name for name in reference.method_setting().choices if not reference.find(f"method.{name}").source] == []


def test_the_list_has_every_setting_with_its_default() -> None:
    listed = {(one.kind, one.name): one.default for section in reference.sections() for one in section.settings}
    for kind in reference.method_setting().choices:
        tree = to_tree(load_config({"method": kind}))
        for name, value in leaves(tree["method"], "method"):
            assert listed[kind, name] == value, (kind, name)
    for section in set(tree) - {"method", "train"}:  # some methods have defaults of their own for train
        assert {listed["", name] == value for name, value in leaves(tree[section], section)} == {True}, section


def test_a_name_is_a_section_a_part_of_one_or_a_setting() -> None:
    assert {one.name for one in reference.find("model.lora").settings} == {
        "model.lora.rank",
        "model.lora.alpha",
        "model.lora.targets",
    }
    (one,) = reference.find("train.learning_rate").settings
    assert (one.type, one.default) == ("number, more than 0", 1e-4)
    (one,) = reference.find("method.cispo.cap").settings
    assert (one.kind, one.default, one.meaning) == ("cispo", 5.0, "C, the largest weight.")
    assert reference.find("method.beta").settings[0].kind == "edge_grpo"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("rollout.group_sise", "rollout.group_size"), ("lr", "train.learning_rate"), ("rank", "model.lora.rank")],
)
def test_a_wrong_name_is_answered_with_the_right_one(wrong: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"'{re.escape(meant)}'"):
        reference.find(wrong)
