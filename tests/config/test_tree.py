"""The settings tree: defaults, overrides, round trip, hash, and messages that say what to do."""

from pathlib import Path

import pytest

from edge_grpo.base.errors import ConfigError
from edge_grpo.config.sections import HfEngineSettings, VllmEngineSettings
from edge_grpo.config.tree import (
    Config,
    changes,
    config_hash,
    load_config,
    located,
    parse_tree,
    to_tree,
    to_yaml,
    updated,
)
from edge_grpo.methods import METHODS
from edge_grpo.methods.dapo import Dapo
from edge_grpo.methods.edge_grpo import EdgeGrpo
from edge_grpo.methods.grpo import Grpo


def write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return str(file)


def test_no_value_at_all_is_the_embedded_default() -> None:
    assert load_config() == Config()
    assert Config().method == EdgeGrpo()
    assert Config().model.path == "bundled"


def test_names_that_scripts_rely_on() -> None:
    tree = to_tree(Config())
    for name in [
        "model.path",
        "data.path",
        "rollout.group_size",
        "rollout.prompts_per_step",
        "rollout.max_new_tokens",
        "rollout.temperature",
        "train.steps",
        "train.learning_rate",
        "train.seed",
        "train.checkpoint_every",
        "eval.every",
        "run.dir",
        "method.kind",
    ]:
        section, key = name.split(".")
        assert key in tree[section], name


@pytest.mark.parametrize("kind", METHODS)
def test_a_word_selects_a_method_and_yaml_round_trips(kind: str, tmp_path: Path) -> None:
    config = load_config(None, [f"method={kind}"])
    assert config.method == METHODS[kind]()
    assert load_config(write(tmp_path, to_yaml(to_tree(config)))) == config


def test_file_then_overrides(tmp_path: Path) -> None:
    file = write(tmp_path, "method: grpo\ntrain: {steps: 3, learning_rate: 1e-5}\n")
    config = load_config(file, ["train.steps=7", "method.clip_low=0.1", "rollout.stop=[x]"])
    assert config.method == Grpo(clip_low=0.1)
    assert (config.train.steps, config.train.learning_rate, config.rollout.stop) == (7, 1e-5, ("x",))


def test_a_mapping_holds_sections_and_dotted_names(tmp_path: Path) -> None:
    config = load_config({"train": {"steps": 3, "seed": 1}, "train.steps": 4, "method.clip_low": 0.1, "method": "grpo"})
    assert (config.train.steps, config.train.seed, config.method) == (4, 1, Grpo(clip_low=0.1))
    assert load_config({"data": {"path": tmp_path}, "rollout.stop": ("x",)}).data.path == str(tmp_path)
    given = {"train": {"steps": 3}}
    assert load_config(given, ["train.steps=5"]).train.steps == 5
    assert given == {"train": {"steps": 3}}
    assert load_config(Path(write(tmp_path, "train: {steps: 3}"))).train.steps == 3
    for wrong in ({"train.stepz": 3}, {"train": {"stepz": 3}}):
        with pytest.raises(ConfigError, match=r"^train.stepz: no such setting \(did you mean 'train.steps'\?\)"):
            load_config(wrong)
    with pytest.raises(ConfigError, match=r"^train\.steps\.x: 'train.steps' is a value, not a section"):
        load_config({"train.steps": 3, "train.steps.x": 1})


def test_a_method_word_drops_the_files_method_section(tmp_path: Path) -> None:
    file = write(tmp_path, "method: {kind: edge_grpo, correction: {reflect: 1.0, answer: 0.0, reference: 0.0}}\n")
    assert load_config(file, ["method=grpo", "method.beta=0.1"]).method == Grpo(beta=0.1)
    assert load_config(file).method.correction.reflect == 1.0


def test_the_kind_of_engine_drops_the_other_kinds_settings(tmp_path: Path) -> None:
    file = write(tmp_path, "rollout: {engine: {kind: vllm, urls: [http://a:1], retries: 2}}\n")
    config = load_config(file)
    assert config.rollout.engine == VllmEngineSettings(urls=("http://a:1",), retries=2)
    assert load_config(write(tmp_path, to_yaml(to_tree(config)))) == config
    assert load_config(file, ["rollout.engine.kind=hf"]).rollout.engine == HfEngineSettings()
    assert load_config(file, ["rollout.engine=hf"]) == load_config(None, ["rollout.engine.kind=hf"]) == Config()
    words = ["rollout.engine.kind=vllm", "rollout.engine.urls=[http://b:2]"]
    assert load_config(file, words).rollout.engine == VllmEngineSettings(urls=("http://b:2",), retries=2)
    assert load_config(None, ["rollout.engine=vllm", words[1]]) == load_config(None, words)


def test_a_server_must_be_able_to_evaluate_at_the_temperature() -> None:
    words = ["rollout.engine.kind=vllm", "rollout.engine.urls=[http://b:2]"]
    assert load_config(None, [*words, "eval.temperature=2"]).eval.temperature == 2
    assert load_config(None, ["eval.temperature=3"]).eval.temperature == 3
    with pytest.raises(ConfigError, match=r"^eval.temperature: got 3, wanted 0, or 0.01 to 2"):
        load_config(None, [*words, "eval.temperature=3"])


def test_a_part_of_a_section_keeps_the_methods_own_defaults_for_the_rest() -> None:
    method = load_config(None, ["method=dapo", "method.top_up.max_rounds=2"]).method
    assert method.top_up.max_rounds == 2
    assert method.top_up.fill == Dapo().top_up.fill
    assert load_config(None, ["method.correction.amount=balanced"]).method.correction.amount == "balanced"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.learning_rat=1", "train.learning_rat: no such setting (did you mean 'train.learning_rate'?)"),
        ("trian.steps=1", "trian.steps: no such setting (did you mean 'train.steps'?)"),
        ("train.steps=many", "train.steps: got 'many'"),
        ("train.steps=-1", "train.steps: got -1, wanted at least 0 (the default is 60)"),
        ("rollout.group_size=1", "rollout.group_size: got 1"),
        ("method=grop", "method: 'grop' is not a method; did you mean 'grpo'? known methods: edge_grpo, grpo"),
        ("method.clip_lo=0.1", "method.clip_lo: no such setting (did you mean 'method.clip_low'?)"),
        (
            "method.correction.amuont=all",
            "method.correction.amuont: no such setting (did you mean 'method.correction.amount'?)",
        ),
        ("method.correction.reflect=0.9", "method.correction: "),
        ("model.lora.rnak=3", "model.lora.rnak: no such setting (did you mean 'model.lora.rank'?)"),
        ("train=3", "train: got 3, wanted a section"),
        ("train.steps", "wanted section.setting=value"),
        ("train..steps=1", "wanted section.setting=value"),
        ("train.steps.x=1", "train.steps"),
        ("train.steps=[", "not YAML"),
        ("train.learning_rate=.nan", "train.learning_rate: got nan, wanted a finite number"),
        ("data.arithmetic.operands={1: 1.0}", "data.arithmetic"),
    ],
)
def test_mistakes_are_explained_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_an_override_below_a_plain_value_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'train\.steps' is a value, not a section"):
        load_config(write(tmp_path, "train: {steps: 3}"), ["train.steps.x=1"])


def test_every_mistake_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tree({"train": {"steps": "x", "sede": 1}})
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1\n", "holds list"), ("a: [", "not YAML"), ("\tx: 1", "not YAML"), ("method: 3\n", "method")],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(str(tmp_path))
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(str(tmp_path / "b.yaml"))
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(str(tmp_path / "empty.yaml")) == Config()


def test_the_hash_knows_every_setting_but_the_folder() -> None:
    tree = to_tree(Config())
    assert config_hash(tree) == config_hash(to_tree(load_config(None, ["run.dir=/elsewhere"])))
    assert config_hash(tree) != config_hash(to_tree(load_config(None, ["train.seed=1"])))
    assert config_hash(tree) != config_hash(to_tree(load_config(None, ["method=grpo"])))


def test_changes_are_named_by_dotted_path() -> None:
    assert changes({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}) == {
        "a.c": (2, 4),
        "d": (3, None),
        "e": (None, 5),
    }


def test_local_paths_become_absolute_and_everything_else_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home/model").mkdir(parents=True)
    for name in ("d.jsonl", "e.jsonl", "mine.py", "judge.py"):
        (tmp_path / "home" / name).write_text("")
    words = ["model.path=model", "data.path=d.jsonl", "data.eval_path=./e.jsonl", "reward.function=mine.py:reward"]
    monkeypatch.chdir(tmp_path / "home")
    tree = to_tree(load_config(None, words))
    home = str((tmp_path / "home").resolve())
    found = located(tree)
    assert {name: new for name, (_, new) in changes(tree, found).items()} == {
        "model.path": f"{home}/model",
        "data.path": f"{home}/d.jsonl",
        "data.eval_path": f"{home}/e.jsonl",
        "reward.function": f"{home}/mine.py:reward",
    }
    assert located(to_tree(load_config(None, ["reward.function=judge:reward"])))["reward"]["function"] == (
        f"{home}/judge:reward"
    )
    monkeypatch.chdir(tmp_path)
    assert located(found) == found
    names = ["model.path=Qwen/Qwen2.5-0.5B", "data.path=openai/gsm8k", "data.eval_path=~nobody-of-this-name/x"]
    for words in ([], names, ["reward.function=json:dumps"]):
        tree = to_tree(load_config(None, words))
        assert located(tree) == tree
    (tmp_path / "bundled").mkdir()
    assert located(to_tree(Config())) == to_tree(Config())
    with pytest.raises(ConfigError, match=r"reward\.function: no such file"):
        located(to_tree(load_config(None, ["reward.function=mine.py:reward"])))


DEEP = "[" * 1000 + "]" * 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  steps: 1\n  seed: 2\n  steps: 3\n", r", line 4: the key 'steps' is given twice$"),
        ("train: {steps: 1}\nmodel: {}\ntrain: {seed: 1}\n", r", line 3: the key 'train' is given twice$"),
        ("train:\n\tsteps: 1\n", r", line 2: not YAML \(found character '.t' that cannot start any token\)$"),
        ("a: b: c\n", r", line 1: not YAML \(mapping values are not allowed here\)$"),
        ("\0\1", r": not YAML \(unacceptable character"),
        ("- a\n- b\n", r": holds list, wanted sections"),
        ("x: " + DEEP, r": lists or sections are nested too deeply to be read$"),
        ("{a: " * 1000 + "1" + "}" * 1000, r": lists or sections are nested too deeply to be read$"),
        ("a: 1\n---\nb: 1\n", r", line 2: not YAML"),
        ("train: {steps: 2001-99-99}", r": not YAML \(month must be in 1\.\.12\)$"),
        ("a: !!python/object/apply:os.system [ls]", r", line 1: not YAML \(could not determine a constructor"),
        ('run: {dir: "\\ud800"}', r", line 1: lone surrogate"),
        ("a: &a [*a]\n", "a: no such setting"),
    ],
)
def test_an_unreadable_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_binary_file_and_a_folder_are_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "c.yaml", tmp_path):
        with pytest.raises(ConfigError, match=r": cannot be read \("):
            load_config(str(path))


def test_merged_sections_may_be_refined(tmp_path: Path) -> None:
    file = write(tmp_path, "eval: &some {every: 3}\nrun: {}\ntrain: {steps: 2}\n")
    assert load_config(file).eval.every == 3
    file = write(tmp_path, "rollout: {<<: {group_size: 4, top_k: 3}, top_k: 5}\n")
    assert (load_config(file).rollout.group_size, load_config(file).rollout.top_k) == (4, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run.dir={a: 1, a: 2}", "^'run.dir={a: 1, a: 2}': the key 'a' is given twice"),
        (f"train.steps={DEEP}", "nested too deeply"),
        ("train.steps=" + "9" * 5000, "Exceeds the limit"),
        ("train.steps=" + "x" * 10**6, r"train.steps: got 'xxx.*\(1000002 characters\), wanted a whole number"),
        ("method=" + "x" * 10**6, r"method: 'xxx.*\(1000000 characters\)' is not a method"),
        ("x" * 10**6, r"\(1000000 characters\)': wanted section.setting=value"),
        (".".join("a" * 2000) + "=1", "no such setting"),
        ("train." + "b" * 10**5 + "=1", r"\(100006 characters\): no such setting"),
    ],
)
def test_a_long_value_is_shortened_in_its_message(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(None, [text])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_many_mistakes_are_cut_off(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\nand 80 more$") as caught:
        load_config(write(tmp_path, "".join(f"wrong_{i}: 1\n" for i in range(100))))
    assert len(str(caught.value).splitlines()) == 21


def test_arguments_of_the_chat_template_are_settings() -> None:
    config = load_config(None, ["data.chat_template_kwargs.enable_thinking=false"])
    assert config.data.chat_template_kwargs == {"enable_thinking": False}
    assert parse_tree(to_tree(config)) == config
    assert config_hash(to_tree(config)) != config_hash(to_tree(load_config()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.enable_thinking=false"], r"no such setting \(did you mean 'data\.chat_template_kwargs'\?\)"),
        (["data.chat_template_kwargs=3"], r"data\.chat_template_kwargs: got 3, wanted a mapping"),
        (["data.chat_template_kwargs.tokenize=true"], r"^data\.chat_template_kwargs: 'tokenize' is not an argument"),
        (
            ["data.template=plain", "data.chat_template_kwargs.enable_thinking=false"],
            r"with template=plain there is no chat template to read them; leave them empty, or set template=chat",
        ),
    ],
)
def test_arguments_that_no_template_would_read_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, words)


@pytest.mark.parametrize(
    "text",
    [
        "Mark the answer with # and a number.",
        "#### (.+)",
        "Think first.\nThen answer.",
        "Think first.\n# Then answer.",
    ],
)
def test_text_typed_on_the_command_line_is_kept_whole(text: str) -> None:
    assert load_config(None, [f"data.system_prompt={text}"]).data.system_prompt == text


def test_a_comment_after_a_typed_value_is_not_dropped_in_silence() -> None:
    assert load_config(None, ["data.system_prompt='a # b'"]).data.system_prompt == "a # b"
    with pytest.raises(ConfigError, match=r"train\.steps: got '3 # short', wanted a whole number"):
        load_config(None, ["train.steps=3 # short"])


@pytest.mark.parametrize("word", ["train.steps=yes", "method.beta=true", "model.lora.rank=off"])
def test_booleans_are_no_numbers(word: str) -> None:
    name = word.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^{name}: got (True|False), wanted a number \(YAML reads"):
        load_config(None, [word])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.lora.targets=[q_proj]"], "with rank=0 all weights are trained; set rank"),
        (["model.lora.rank=2", "model.lora.targets=[q_proj,'']"], "wanted names of layers, none of them empty"),
    ],
)
def test_targets_that_adapt_nothing_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.lora\.targets: .*{message}"):
        load_config(None, words)


def test_a_setting_of_an_earlier_version_is_answered_with_what_replaced_it() -> None:
    with pytest.raises(ConfigError, match=r"^run.tensorboard: no such setting any more; write run.trackers="):
        load_config(None, ["run.tensorboard=false"])
    assert updated({"run": {"tensorboard": False, "dir": "x"}})["run"] == {"trackers": [], "dir": "x"}
    today = to_tree(load_config())
    assert updated(today) == today
