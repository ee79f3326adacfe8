"""House rules: what the layout, the documentation and the packaging promise, checked automatically."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "edge_grpo"
TESTS = ROOT / "tests"

# A page in docs/methods may serve several kinds. It then says so in one line: "Kinds: `grpo`, `dr_grpo`, `dapo`."
KINDS_LINE = re.compile(r"^Kinds: .*$", re.MULTILINE)

MAX_LINES = {"src/edge_grpo/training/loop.py": 250, "examples/one_step.py": 80, "README.md": 200}
MAX_LINES_OTHERWISE = 400
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "info", "process"}
SLOW_PACKAGES = ["transformers", "peft", "datasets", "scipy", "sympy", "pyarrow", "tensorboard"]
OPTIONAL_PACKAGES = {"vllm", "trl", "verl", "botorch"}
INSIDE_VLLM = PACKAGE / "rollout" / "vllm" / "inside"  # never imported here: it runs in the rollout server
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".txt", ".cfg", ".sh", ""}
MACHINE_PATH = re.compile(r"(?<![\w.:*$}])/(?:work|root|home|Users|opt)/\w")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


@cache
def repository_files() -> list[Path]:
    """Files that are, or on the next commit may be, part of the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / line for line in listed if (ROOT / line).is_file()]


def text_files() -> list[Path]:
    return [path for path in repository_files() if path.suffix in TEXT_SUFFIXES]


def offending_lines(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]


@cache
def method_kinds() -> dict[str, Path]:
    """Kind -> file, for every class with an annotation ``kind: Literal["..."]`` in ``methods/``."""
    kinds = {}
    for path in sorted((PACKAGE / "methods").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "kind":
                found = re.fullmatch(r"(?:\w+\.)?Literal\['(\w+)'\]", ast.unparse(node.annotation))
                if found:
                    assert found[1] not in kinds, f"two methods are called {found[1]}"
                    kinds[found[1]] = path
    return kinds


def fresh_import(statements: str) -> str:
    """What ``statements`` print in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", statements], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- layout ---------------------------------------------------------------------------------------------------------


def test_no_file_is_too_long() -> None:
    checked = [p for p in repository_files() if p.suffix == ".py" or relative(p) in MAX_LINES]
    counts = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in checked}
    assert {name: n for name, n in counts.items() if n > MAX_LINES.get(name, MAX_LINES_OTHERWISE)} == {}


@pytest.mark.parametrize("name", sorted(MAX_LINES))
def test_files_with_a_promised_length_exist(name: str) -> None:
    assert (ROOT / name).is_file()


def test_module_names_say_something() -> None:
    names = {relative(path) for path in PACKAGE.rglob("*") if path.stem in VAGUE_NAMES}
    assert names == set()


def test_every_folder_of_the_package_is_a_package_in_the_repository() -> None:
    tracked = set(repository_files())
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert sorted(relative(folder) for folder in folders if folder / "__init__.py" not in tracked) == []


def test_nothing_is_left_unfinished() -> None:
    assert offending_lines(UNFINISHED) == []


def test_no_path_of_a_developers_machine() -> None:
    assert offending_lines(MACHINE_PATH) == []


def test_no_large_file_but_the_base_model() -> None:
    sizes = {relative(path): path.stat().st_size for path in repository_files()}
    assert {name: size for name, size in sizes.items() if size > 4 * 2**20} == {}
    model = sum(size for name, size in sizes.items() if name.startswith("src/edge_grpo/bundled/base_model/"))
    assert 0 < model <= 4 * 2**20


# --- methods --------------------------------------------------------------------------------------------------------


def test_the_kinds_are_found() -> None:
    assert {"edge_grpo", "grpo", "dr_grpo", "dapo", "gspo", "cispo"} <= set(method_kinds())


def test_every_method_names_its_source() -> None:
    without = [kind for kind, path in method_kinds().items() if "Source:" not in path.read_text(encoding="utf-8")]
    assert without == []


def test_every_method_has_a_page() -> None:
    pages = {path: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "methods").glob("*.md")}
    shared = {
        kind for text in pages.values() for line in KINDS_LINE.findall(text) for kind in re.findall(r"`(\w+)`", line)
    }
    own = {path.stem for path in pages}
    assert sorted(set(method_kinds()) - own) == []
    assert sorted(shared - set(method_kinds())) == [], "a page names a kind that does not exist"


def test_every_method_has_a_config() -> None:
    configured = set()
    for path in (ROOT / "configs").glob("*.yaml"):
        section = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("method")
        configured.add(section.get("kind") if isinstance(section, dict) else section)
    assert sorted(set(method_kinds()) - configured) == []


# --- imports --------------------------------------------------------------------------------------------------------


def test_the_package_imports_no_torch() -> None:
    assert fresh_import("import sys, edge_grpo; print('torch' in sys.modules)") == "False"


def test_grading_and_data_import_no_torch() -> None:
    names = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for folder in ("rewards", "data")
        for path in sorted((PACKAGE / folder).rglob("*.py"))
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules:\n"
        "        print(name)\n"
        "        break\n"
    )
    assert fresh_import(program) == "", "the first module after which torch was loaded"


def command_in_a_fresh_process(*words: str) -> str:
    """Exit code, and which of ``SLOW_PACKAGES`` and torch ``edge-grpo WORDS`` imported."""
    program = (
        "import sys\n"
        "from edge_grpo.cli.main import main\n"
        f"sys.argv = ['edge-grpo', *{list(words)!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        f"    found = [name for name in {['torch', *SLOW_PACKAGES]!r} if name in sys.modules]\n"
        "    print('imported:', stop.code or 0, *found)\n"
    )
    return fresh_import(program).rpartition("imported: ")[2]


def test_settings_import_no_model_code() -> None:
    program = f"import sys, edge_grpo.config.tree; print([name for name in {SLOW_PACKAGES!r} if name in sys.modules])"
    assert fresh_import(program) == "[]"


def test_help_imports_no_torch() -> None:
    assert command_in_a_fresh_process("--help") == "0"


def test_settings_are_shown_without_model_code() -> None:
    assert command_in_a_fresh_process("show-config") == "0 torch"


@pytest.mark.parametrize("command", ["train", "show-config", "eval", "lld", "grade pyproject.toml", "screen x.jsonl"])
def test_a_mistyped_setting_is_reported_before_model_code_is_imported(command: str) -> None:
    assert command_in_a_fresh_process(*command.split(), "train.stepz=3") == "2 torch"


def test_optional_packages_are_imported_in_one_place_and_only_when_used() -> None:
    found: dict[str, set[str]] = {}
    for path in set(PACKAGE.rglob("*.py")) - set(INSIDE_VLLM.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lazy = {inner for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {full.partition(".")[0] for full in names} & OPTIONAL_PACKAGES:
                assert node in lazy, f"{relative(path)} imports {name} at the top"
                found.setdefault(name, set()).add(relative(path.parent))
    assert {name: folders for name, folders in found.items() if len(folders) > 1} == {}


# --- packaging ------------------------------------------------------------------------------------------------------


@cache
def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, object] = tomllib.load(file)["project"]
    return table


def requirements() -> dict[str, list[Requirement]]:
    """By extra; the package's own under the empty name."""
    listed = {"": project()["dependencies"], **project()["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in listed.items()}


def pins(file: str = "constraints.txt") -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), f"{file} holds lines of the form name==version only"
    return {canonicalize_name(name): version for name, version in pairs}


def test_dependency_ranges_are_wide() -> None:
    for requirement in requirements()[""]:
        operators = {part.operator for part in requirement.specifier}
        assert ">=" in operators, f"{requirement}: no lower bound"
        assert operators <= {">=", "<"}, f"{requirement}: wanted a range without exclusions"


def test_ranges_admit_what_other_tools_pin() -> None:
    assert project()["requires-python"] == ">=3.11"
    ranges = {requirement.name: requirement.specifier for requirement in requirements()[""]}
    assert all(version in ranges["torch"] for version in ("2.9.0", "2.13.0", "2.99"))
    assert all(version in ranges["transformers"] for version in ("5.5.0", "5.10.2", "5.99"))


def test_every_requirement_has_a_pin_inside_its_range() -> None:
    for extra, group in requirements().items():
        file = "requirements-trackers.txt" if extra in ("wandb", "trackio", "mlflow") else "constraints.txt"
        known = pins(file)
        for requirement in group:
            name = canonicalize_name(requirement.name)
            assert name in known, f"{file} lacks {name}"
            assert known[name] in requirement.specifier, f"{name}: {known[name]} is outside {requirement.specifier}"


def test_torch_is_pinned_without_a_local_version() -> None:
    assert pins()["torch"] == "2.13.0"
    assert [name for name, version in pins().items() if "+" in version] == []


def test_the_version_is_the_same_everywhere() -> None:
    import edge_grpo

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project()["dynamic"] == ["version"]
    assert edge_grpo.__version__ == str(citation["version"])
    assert edge_grpo.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_build_reads_the_version_without_importing_the_package() -> None:
    source = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(source) if isinstance(node, ast.Import | ast.ImportFrom)]
    values = [node.value for node in source.body if isinstance(node, ast.Assign)]
    assert [ast.literal_eval(value) for value in values]
