"""What can be checked of the file inside the server where there is no vLLM; `tests/vllm` runs it."""

import ast
import sys
from importlib.resources import files
from pathlib import Path

from edge_grpo.rollout.vllm.server import Installed, Server

INSIDE = Path(str(files("edge_grpo"))) / "rollout" / "vllm" / "inside"
TREE = ast.parse((INSIDE / "edge_grpo_vllm.py").read_text(encoding="utf-8"))


def test_it_imports_what_vllm_brings_and_nothing_else() -> None:
    imported = {alias.name for node in ast.walk(TREE) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(TREE) if isinstance(node, ast.ImportFrom)}
    others = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert others == {"torch", "vllm", "safetensors", "starlette"}


def test_the_command_line_names_classes_that_it_has() -> None:
    words = Server("/model", {}, Installed("python", "0.32.0", "cpu")).command()
    named = [word.partition(".")[2] for word in words if word.startswith("edge_grpo_vllm.")]
    classes = {node.name for node in TREE.body if isinstance(node, ast.ClassDef)}
    assert len(named) == 2
    assert classes.issuperset(named)
