"""The files of a reward function: its own and the neighbours it imports; their digest changes with each of them."""

from pathlib import Path

import pytest

from edge_grpo.base.digests import digest
from edge_grpo.evaluation.store import code_digest
from edge_grpo.rewards.sources import source_files


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    files = {
        "mine.py": "import json, direct\nfrom package import deep\nfrom package.deep import x\ndef reward(): ...\n",
        "direct.py": "def f():\n    import late\n",
        "late.py": "import mine\n",
        "unused.py": "",
        "alone.py": "import json\n",
        "broken.py": "def (\n",
        "package/__init__.py": "",
        "package/deep.py": "from . import beside\nfrom ..nowhere import x\n",
        "package/beside.py": "",
        "package/other.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_neighbours_are_found_from_the_text_alone(folder: Path) -> None:
    found = source_files(f"{folder}/mine.py:reward")
    names = [str(file.relative_to(folder)) for file in found]
    assert names == ["mine.py", "direct.py", "late.py", "package/__init__.py", "package/beside.py", "package/deep.py"]
    assert source_files(f"{folder}/mine:reward") == found
    assert source_files(f"{folder}/package.deep:reward")[0] == folder / "package" / "deep.py"
    assert source_files(f"{folder}/broken.py:reward") == (folder / "broken.py",)
    assert source_files("json:dumps") == ()
    assert source_files("") == ()


def test_the_digest_covers_the_neighbours(folder: Path) -> None:
    before = code_digest(f"{folder}/mine.py:reward")
    (folder / "unused.py").write_text("x = 1\n")
    assert code_digest(f"{folder}/mine.py:reward") == before
    (folder / "late.py").write_text("x = 1\n")
    assert code_digest(f"{folder}/mine.py:reward") != before
    assert code_digest(f"{folder}/alone.py:reward") == digest((folder / "alone.py").read_bytes())
