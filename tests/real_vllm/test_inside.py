"""What the file inside the server makes of folders, in an interpreter that has vLLM; no server is needed."""

import json
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from real_vllm.servers import PYTHON
from safetensors.torch import save_file

PROGRAM = """
import sys
from edge_grpo_vllm import check_shapes, shapes_of
for given, wanted, tied in {cases!r}:
    try:
        check_shapes(shapes_of(given), shapes_of(wanted), tied=tied)
        print("SAID taken")
    except ValueError as error:
        print("SAID", error)
"""


def said(*cases: tuple[Path, Path, bool]) -> list[str]:
    """What comes of each new folder, for a model that is served from the second one."""
    program = PROGRAM.format(cases=[(str(given), str(wanted), tied) for given, wanted, tied in cases])
    inside = str(files("edge_grpo") / "rollout" / "vllm" / "inside")
    done = subprocess.run(
        [str(PYTHON), "-c", program], env={"PYTHONPATH": inside}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("SAID ") for line in done.stdout.splitlines() if line.startswith("SAID ")]


@pytest.fixture
def folder(tmp_path: Path) -> "Folder":
    return Folder(tmp_path)


class Folder:
    """Makes folders of small tensors."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str, files: dict[str, list[str]], index: list[str] | None = None) -> Path:
        place = self.root / name
        place.mkdir()
        for file, names in files.items():
            save_file({own: torch.ones(2) for own in names}, place / file)
        if index is not None:
            listed = {own: file for file in index for own in files[file]}
            (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
        return place


def test_names_are_compared_as_models_are_saved(folder: Folder) -> None:
    plain = folder("plain", {"model.safetensors": ["model.norm.weight", "model.embed_tokens.weight"]})
    split = folder("split", {"a.safetensors": ["model.norm.weight"], "b.safetensors": ["model.embed_tokens.weight"]})
    bare = folder("bare", {"model.safetensors": ["norm.weight", "embed_tokens.weight", "layers.0.attn.bias"]})
    head = folder("head", {"x.safetensors": ["model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"]})
    twice = folder(
        "twice",
        {
            "model-1.safetensors": ["model.norm.weight", "model.embed_tokens.weight"],
            "consolidated.safetensors": ["output.weight"],
        },
        index=["model-1.safetensors"],
    )
    doubled = folder("doubled", {"a.safetensors": ["norm.weight"], "b.safetensors": ["norm.weight"]})
    assert said(
        (split, plain, True),
        (plain, bare, True),
        (head, plain, True),
        (head, plain, False),
        (plain, head, False),
        (split, twice, True),
        (doubled, plain, True),
    ) == [
        "taken",
        "taken",
        "taken",
        "the new weights hold lm_head.weight, which the served model lacks",
        "the new weights lack lm_head.weight",
        "taken",
        f"two files of {doubled} hold norm.weight",
    ]
