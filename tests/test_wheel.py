"""The wheel names and holds all that training needs: installed into an empty environment, used from another folder.

The dependencies come from the package index that pip is configured for.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY_RUN = [
    "train.steps=1",
    "eval.every=0",
    "rollout.prompts_per_step=2",
    "rollout.group_size=4",
    "rollout.max_new_tokens=24",
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def command(*words: str | Path, cwd: Path) -> str:
    """Run a command without this process's Python settings; returns its output, or fails and shows it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that neither stale build products get in nor new ones are left in the working tree."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=unwanted)
    target = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", target)
    command(sys.executable, "-m", "pip", "wheel", *options, source, cwd=target)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with only the wheel and its declared dependencies, in the pinned versions."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    command(*pip, "install", "--quiet", "--no-input", "--constraint", ROOT / "constraints.txt", wheel, cwd=folder)
    command(*pip, "check", cwd=folder)
    return folder


def test_the_wheel_holds_the_package_and_the_base_model_and_nothing_else(wheel: Path) -> None:
    studies = {path.read_bytes() for path in (ROOT / "benchmarks").rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert [name for name in names if name.endswith(".py") and archive.read(name) in studies] == []
    inside = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "edge_grpo").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == inside
    assert {"edge_grpo/py.typed", "edge_grpo/tune/page.html", "edge_grpo/config/schema.json"} <= names
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= {
        name.removeprefix("edge_grpo/bundled/base_model/") for name in names
    }
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"edge_grpo"}


def test_a_step_is_trained_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    show = "import edge_grpo; print(edge_grpo.__file__)"
    imported = Path(command(environment / "bin" / "python", "-c", show, cwd=tmp_path).strip())
    assert imported.is_relative_to(environment)

    run = tmp_path / "run"
    command(environment / "bin" / "edge-grpo", "train", *TINY_RUN, f"run.dir={run}", cwd=tmp_path)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows
    assert (run / "config.yaml").is_file()
    assert list((run / "rollouts").glob("*.parquet"))
    assert (run / "final" / "config.json").is_file()
