"""Wrong settings: the intended names, and the values wanted."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.explain import ELSEWHERE, explain_all, setting_names
from edge_grpo.config.tree import Config, load_config, to_tree
from edge_grpo.methods import METHODS
from edge_grpo.methods.nthr import Nthr
from edge_grpo.methods.vespo import Vespo

PAGE = Path(__file__).parents[2] / "docs" / "coming_from.md"


def message_for(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_setting_names_match_the_tree() -> None:
    def below(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in tree.items():
            yield prefix + name
            if isinstance(value, dict) and name != "operands":
                yield from below(value, f"{prefix}{name}.")

    for kind, cls in METHODS.items():
        trees = [
            to_tree(load_config({"method": kind, "rollout.engine": engine}))
            for engine in ({"kind": "hf"}, {"kind": "vllm", "urls": ["http://a:1"]})
        ]
        assert set(setting_names(Config, cls)) == {name for tree in trees for name in below(tree)}


def test_every_trl_and_verl_name_leads_to_a_setting() -> None:
    known = set(setting_names(Config))
    assert {name: here for name, here in ELSEWHERE.items() if here not in known} == {}
    leaves = {name.rpartition(".")[2] for name in known} - {"seed"}  # of several seeds, it means the run's
    assert leaves & set(ELSEWHERE) == set()


def test_the_page_shows_the_whole_table() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("## Names of settings")[2].partition("\n## ")[0]
    shown = {}
    for here, elsewhere in re.findall(r"^\| `([\w.]+)`[^|]* \| ([^|]+) \|$", text, re.M):
        shown |= dict.fromkeys(re.findall(r"`(\w+)`", elsewhere), here)
    assert shown == ELSEWHERE


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("learning_rate=1", "'train.learning_rate'"),
        ("model.learning_rate=1", "'train.learning_rate'"),
        ("learning_rat=1", "'train.learning_rate'"),
        ("train.lr=1", "'train.learning_rate'"),
        ("actor_rollout_ref.actor.optim.lr=1", "'train.learning_rate'"),
        ("num_generations=4", "'rollout.group_size'"),
        ("train.max_completion_length=4", "'rollout.max_new_tokens'"),
        ("epsilon=0.1", "'method.clip_low'"),
        ("max_new_tokens=9", "'rollout.max_new_tokens' or 'eval.max_new_tokens' or 'method.correction.max_new_tokens'"),
        ("correction.reflect=1", "'method.correction.reflect'"),
    ],
)
def test_an_unknown_name_is_searched_for_in_all_sections(word: str, meant: str) -> None:
    name = word.partition("=")[0]
    assert message_for(word) == f"{name}: no such setting (did you mean {meant}?)"


def test_a_setting_of_other_methods_names_them() -> None:
    line = message_for("method=grpo", "method.correction.amount=all")
    assert line.startswith("method.correction.amount: no such setting of method=grpo; these have it: edge_grpo")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("engine=vllm", "engine.urls: got none, wanted the addresses that `edge-grpo serve` prints"),
        ("engine.kind=vlm", "engine: 'vlm' is not an engine; did you mean 'vllm'? known engines: hf, vllm"),
        ("engine=3", "engine: got 3, wanted the name of an engine, or a section with its settings"),
        ("engine.urls=[http://a:1]", "no such setting of this kind of engine; set rollout.engine.kind=vllm first"),
        ("engine=vllm engine.urls=[a:1]", "engine.urls: got 'a:1', wanted an address such as http://127.0.0.1:8000"),
        ("engine=vllm engine.urls=[http://a:x]", "engine.urls: got 'http://a:x', wanted an address such as http://"),
        ("engine=vllm engine.urls=[http://u:p@a]", "an API key into the environment variable EDGE_GRPO_API_KEY"),
        ("engine=vllm engine.urls=[http://a:1/v1/]", "wanted the server's address without /v1"),
        ("engine=vllm engine.urls=[http://a,http://a/]", "engine.urls: http://a is listed twice"),
        ("engine=vllm engine.urls=[http://a] engine.url=1", "(did you mean 'rollout.engine.urls'?)"),
        ("engine=vllm engine.urls=[http://a] engine.lora=x", "engine.lora: got 'x', wanted 'merged' or 'adapter'"),
        (
            "engine=vllm engine.urls=[http://a] engine.lora=adapter engine.transport=nccl",
            "engine.lora: adapters are files, which transport=nccl does not carry",
        ),
    ],
)
def test_mistakes_about_the_engine(words: str, message: str) -> None:
    assert message in message_for(*(f"rollout.{word}" for word in words.split()))


def test_a_method_in_capitals_is_recognised() -> None:
    assert "did you mean 'dr_grpo'?" in message_for("method=Dr-GRPO")


def test_only_settings_of_the_chosen_method_are_suggested() -> None:
    assert "clip_low" in message_for("epsilon=0.1")
    assert "clip_low" not in message_for("method=vespo", "epsilon=0.1")
    assert "method.clip_low" not in set(setting_names(Config, Vespo))
    assert "'method.k_positive'" in message_for("method=vespo", "k_positiv=1")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "rollout.group_size=1",
            "rollout.group_size: got 1, wanted at least 2 (the default is 8); a group-relative advantage needs at "
            "least 2 completions per problem",
        ),
        (
            "train.learning_rate=0",
            "train.learning_rate: got 0, wanted more than 0 (the default is 0.0001); to skip training, set "
            "train.steps=0",
        ),
        ("rollout.top_p=2", "rollout.top_p: got 2, wanted at most 1 (the default is 1.0)"),
        ("train.beta1=1", "train.beta1: got 1, wanted less than 1 (the default is 0.9)"),
        ("train.steps=1.5", "train.steps: got 1.5, wanted a whole number (the default is 60)"),
        ("train.beta1=x", "train.beta1: got 'x', wanted a number (the default is 0.9)"),
        ("eval.at_start=maybe", "eval.at_start: got 'maybe', wanted true or false (the default is True)"),
        ("data.template=x", "data.template: got 'x', wanted 'chat', 'qwen-math' or 'plain' (the default is 'chat')"),
        ("method.scale=x", "method.scale: got 'x', wanted 'group', 'batch' or 'none' (the default is 'group')"),
        ("rollout.stop=x", "rollout.stop: got 'x', wanted a list, such as '[a, b]'"),
        ("data.arithmetic.operands=3", "got 3, wanted a mapping, such as '{name: value}'"),
        ("method=3", "method: got 3, wanted the name of a method, or a section with its settings"),
        ("method.correction.reflect=0.9", "method.correction: reflect + answer + reference is 1.4"),
    ],
)
def test_a_wrong_value_says_what_was_wanted(word: str, message: str) -> None:
    assert message in message_for(word)


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        (
            {"eta": "half"},
            ["method.eta: got 'half', wanted 'balance', 'p' or '1-p' or a number (the default is 'balance')"],
        ),
        (
            {"threshold": float("nan"), "eta": -1},
            [
                "method.threshold: got nan, wanted a finite number or 'all' (the default is 1.0)",
                "method.eta: got -1, wanted 'balance', 'p' or '1-p' or at least 0 (the default is 'balance')",
            ],
        ),
        (
            {"float": 1, "eta": 1},
            ["method.float: no such setting; `edge-grpo show-config` lists all settings"],
        ),
    ],
)
def test_a_setting_with_several_types_is_explained_in_one_line(given: dict[str, object], lines: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Config).validate_python({"method": {"kind": "nthr", **given}})
    assert explain_all(caught.value.errors(), Config, Nthr).splitlines() == lines


def test_the_default_is_that_of_the_chosen_method() -> None:
    assert "(the default is 0.28)" in message_for("method=dapo", "method.clip_high=-1")
