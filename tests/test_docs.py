"""Every command, Python snippet, link and path in README.md and docs/ is checked.

The first line of a fence determines how it is checked:

- ```` ```bash ````, ```` ```console ````, ```` ```sh ````: every command must be one that ``CHECKS`` knows.
  ``edge-grpo train CONFIG key=value`` must resolve with ``show-config``, and in the slow tests it trains one tiny step;
  ``edge-grpo methods``, ``show-config`` and anything with ``--help`` are run; other ``edge-grpo`` commands have their
  options parsed, also behind ``torchrun``, which parses its own; ``make`` targets and files must exist. Lines of a
  ``console`` block without ``$`` are output.
- ```` ```bash parse-only ````: as above, but never trained (it needs a large model, a GPU or an hour).
- ```` ```python ````: run as a script, in a folder that has the repository's ``configs``, ``examples`` and ``docs``.
- ```` ```python parse-only ````: compiled, and its imports are resolved, those of ``examples`` too.
- A fence without a language, or with another one (``yaml``, ``text``, ``json``), is not a command; ``yaml`` must parse.

A word in capitals with an underscore, or one of ``PLACEHOLDERS``, is for the reader to fill in (``RUN_DIR``).
"""

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

from edge_grpo.cli.examples import EXAMPLES

ROOT = Path(__file__).resolve().parents[1]
SHELLS = {"bash", "console", "sh"}
PLACEHOLDERS = {"DIR", "FILE", "RUN", "MODEL", "CONFIG"}
PLACEHOLDER = re.compile(rf"(?:{'|'.join(sorted(PLACEHOLDERS))}|[A-Z]+(?:_[A-Z]+)+)(?=/|$)")
FENCE = re.compile(
    r"^(?P<indent>[ ]*)(?P<ticks>`{3,})(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)(?P=ticks)[ ]*$", re.M | re.S
)
LINK = re.compile(r"(?<!`)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
REPOSITORY_PATH = re.compile(
    r"`(?P<path>(?:\.ci|benchmarks|configs|docs|examples|src|tests)/[\w./-]*|Makefile|[\w.-]+\.(?:toml|md|cff|txt))`"
)
MADE_BY_RUNS = {"metrics.jsonl", "config.yaml"}
TINY_RUN = (
    "train.steps=1",
    "eval.every=0",
    "rollout.prompts_per_step=2",
    "rollout.group_size=4",
    "rollout.max_new_tokens=24",
)


@dataclass(frozen=True)
class Block:
    """One fence: where it starts, its language, whether it is only parsed, and its text."""

    path: Path
    line: int
    language: str
    parse_only: bool
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT).as_posix()}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a shell block, split into words, environment assignments removed."""

    block: Block
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.block} {shlex.join(self.words)}"


def pages() -> list[Path]:
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def blocks() -> list[Block]:
    found = []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            language, *flags = match["info"].split() or [""]
            line = text.count("\n", 0, match.start()) + 1
            assert set(flags) <= {"parse-only"}, f"{path.name}:{line}: unknown words after the language: {flags}"
            indent = match["indent"]
            body = "".join(part.removeprefix(indent) for part in match["body"].splitlines(keepends=True))
            found.append(Block(path, line, language, "parse-only" in flags, body))
    return found


def split_commands(text: str) -> list[tuple[str, ...]]:
    """The simple commands of a shell text; ``&&`` and new lines separate them."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>()")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, "&&"]:
            if word != "&&":
                words.append(word)
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                commands.append(tuple(words))
            words = []
    return commands


@cache
def commands() -> list[Command]:
    found = []
    for block in blocks():
        if block.language in SHELLS:
            text = block.text
            if re.search(r"^\$ ", text, re.M):
                prompted = re.findall(r"^\$ (?:.*\\\n)*.*$", text, re.M)
                text = "\n".join(part.removeprefix("$ ") for part in prompted)
            found += [
                Command(block, (words[0].removeprefix(".venv/bin/"), *words[1:])) for words in split_commands(text)
            ]
    return found


def training_commands() -> list[Command]:
    """Commands that start a training run from a config and settings."""
    trains = [c for c in commands() if c.words[:2] == ("edge-grpo", "train")]
    return [c for c in trains if not any(word.startswith("--") for word in c.words)]


# --- what is known about each program ---------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder in which the documentation's paths resolve to the repository's files."""
    for name in ("configs", "docs", "examples", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    (shown,) = (block.text for block in blocks() if block.path.name == "tutorial.md" and block.language == "yaml")
    (tmp_path / "settings.yaml").write_text(shown, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill_in(words: tuple[str, ...], place: Path) -> list[str]:
    """The words with placeholders replaced by things that exist: the bundled model, a folder, a data file."""
    (place / "given").mkdir(exist_ok=True)
    data = place / "given.jsonl"
    data.write_text('{"problem": "1+1?", "answer": "2", "solution": "\\\\boxed{2}"}\n', encoding="utf-8")

    def replacement(name: str) -> str:
        if "MODEL" in name:
            return str(ROOT / "src" / "edge_grpo" / "base_model")
        return str(data if "FILE" in name or "DATA" in name else place / "given")

    filled = []
    for word in words:
        name, equals, value = word.partition("=") if not PLACEHOLDER.match(word) else ("", "", word)
        found = PLACEHOLDER.match(value)
        filled.append(name + equals + (replacement(found[0]) + value[found.end() :] if found else value))
    return filled


def call(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``edge-grpo WORDS`` in this process."""
    from edge_grpo.cli.main import main

    monkeypatch.setattr(sys, "argv", ["edge-grpo", *words])
    status: object = 0
    try:
        main()
    except SystemExit as end:
        status = end.code
    shown = capsys.readouterr()
    assert status in {0, None}, f"edge-grpo {shlex.join(words)} ended with {status}\n{shown.err}"


def parse_options(words: list[str]) -> None:
    """Let the command line parser read ``edge-grpo WORDS`` without running anything."""
    import typer

    from edge_grpo.cli import main as cli

    (app,) = (value for value in vars(cli).values() if isinstance(value, typer.Typer))
    group = typer.main.get_command(app)
    context = group.make_context("edge-grpo", [*words])
    name, sub, rest = group.resolve_command(context, [*words])
    sub.make_context(name, rest, parent=context)


def edge_grpo(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if words[0] == "train" and words[-2:-1] == ["--processes"]:
        parse_options(words)
        words = words[:-2]
    verb, *rest = words
    if verb in {"methods", "settings", "show-config"} or "--help" in rest or verb.startswith("--"):
        call(words, monkeypatch, capsys)
    elif verb == "train" and not any(word.startswith("--") for word in rest):
        call(["show-config", *rest], monkeypatch, capsys)
    else:
        parse_options(words)


def torchrun(words: list[str]) -> list[str]:
    """The ``edge-grpo`` words behind torchrun's own options."""
    from torch.distributed.run import get_args_parser

    found = get_args_parser().parse_args(words)
    assert (found.module, found.training_script) == (True, "edge_grpo")
    return list(found.training_script_args)


def make(words: list[str]) -> None:
    targets = [word for word in words if "=" not in word]
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(targets) <= set(known)
    variables = {word.partition("=")[0] for word in words if "=" in word}
    assert variables <= {"PYTHON", "TORCH_INDEX", "ARGS", "OMP_NUM_THREADS"}
    for word in words:
        if word.startswith("ARGS="):
            assert targets in (["demo"], ["compare"], ["compare-methods"], ["bench"], ["same-numbers"])


def python(words: list[str]) -> None:
    if words[:2] == ["-m", "venv"]:
        return
    if words[:2] == ["-m", "pip"]:
        pip(words[2:])
        return
    if words[:2] == ["-m", "pytest"]:
        assert (ROOT / words[2]).is_file(), f"no file {words[2]}"
        return
    script = ROOT / words[0]
    assert script.is_file(), f"no file {words[0]}"
    compile(script.read_text(encoding="utf-8"), str(script), "exec")


def pip(words: list[str]) -> None:
    """``pip install`` of this package, in the folder or by name, with extras that exist, or of pre-commit."""
    assert words[0] == "install"
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    for word in words[1:]:
        if word.startswith("-") or word in {"pre-commit", "constraints.txt"}:
            continue
        asked = re.fullmatch(r"(?:\.|edge-grpo)(?:\[(?P<extras>[\w,]+)\])?", word)
        assert asked, f"pip install {word}?"
        assert set((asked["extras"] or "").split(",")) <= {"", *extras}


def form(pattern: str) -> Callable[[list[str]], None]:
    def check(words: list[str]) -> None:
        assert re.fullmatch(pattern, " ".join(words)), f"expected {pattern}"

    return check


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": make,
    "python": python,
    "python3": python,
    "pip": pip,
    "git": form(r"clone \S+( \S+)?"),
    "cd": form(r"[\w.-]+"),
    "source": form(r"\.venv/bin/activate"),
    "tensorboard": form(r"--logdir \S+"),
    "pre-commit": form(r"install|run( --all-files)?"),
    "sbatch": form(r"examples/slurm\.sh \S+( \S+)+"),
}


# --- the checks -------------------------------------------------------------------------------------------------------


def test_the_pages_are_found() -> None:
    assert all(path.read_text(encoding="utf-8").strip() for path in pages()), "an empty page"
    assert training_commands(), "no page shows how to train"


@pytest.mark.parametrize("command", commands(), ids=str)
def test_command(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = fill_in(command.words, place)
    if program == "torchrun":
        program, words = "edge-grpo", torchrun(words)
    if program == "edge-grpo":
        edge_grpo(words, monkeypatch, capsys)
    else:
        assert program in CHECKS, f"{command.block}: a command unknown to this test: {shlex.join(command.words)}"
        CHECKS[program](words)


def test_troubleshooting_shows_the_commands_that_find_causes() -> None:
    shown = {c.words[1] for c in commands() if c.block.path.name == "troubleshooting.md" and c.words[0] == "edge-grpo"}
    assert {"doctor", "plan", "report", "diagnose", "settings"} <= shown


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_every_commands_help(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for example in EXAMPLES[name]:
        program, verb, *words = fill_in(tuple(shlex.split(example)), place)
        assert (program, verb) == ("edge-grpo", name)
        edge_grpo([verb, *words], monkeypatch, capsys)


def test_every_command_has_examples() -> None:
    import typer

    from edge_grpo.cli.main import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == set(EXAMPLES)
    assert [name for name, one in commands.items() if EXAMPLES[name][0] not in (one.epilog or "")] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in training_commands() if not c.block.parse_only], ids=str)
def test_training_command(command: Command, place: Path) -> None:
    words = fill_in(command.words[2:], place)
    program = Path(sys.executable).with_name("edge-grpo")
    start = [program, "train", *words, *TINY_RUN, f"run.dir={place / 'run'}"]
    done = subprocess.run(start, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (place / "run" / "final" / "config.json").is_file()


@pytest.mark.parametrize("block", [b for b in blocks() if b.language in {"python", "py"}], ids=str)
def test_python(block: Block, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    tree = ast.parse(block.text, filename=str(block))
    if not block.parse_only:
        script = place / "snippet.py"
        script.write_text(block.text, encoding="utf-8")
        done = subprocess.run([sys.executable, script], cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


@pytest.mark.parametrize("block", [b for b in blocks() if b.language in {"yaml", "yml"}], ids=str)
def test_yaml(block: Block) -> None:
    yaml.safe_load(block.text)


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    broken = []
    for match in LINK.finditer(text):
        target = match["target"].partition("#")[0]
        if target and "://" not in target and not target.startswith("mailto:") and not (path.parent / target).exists():
            broken.append(match["target"])
    named = {match["path"] for match in REPOSITORY_PATH.finditer(text)} - MADE_BY_RUNS
    broken += sorted(name for name in named if not (ROOT / name).exists() and not (path.parent / name).exists())
    assert broken == []


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_tests_that_are_named_exist(path: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", path.read_text(encoding="utf-8"))
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text("utf-8")]
    assert missing == []
