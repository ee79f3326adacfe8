"""What every recipe of a bundled model must do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch


def check_recipe(make: Callable[..., Path], recipe: Any, made: Path, folder: Path) -> None:
    """The same recipe gives the same files, byte for byte, whatever the global generator; another seed does not."""
    torch.rand(3)
    again = make(folder / "again", recipe)
    names = sorted(file.name for file in made.iterdir())
    assert names == sorted(file.name for file in again.iterdir())
    for name in names:
        assert (made / name).read_bytes() == (again / name).read_bytes(), name
    other = make(folder / "other", replace(recipe, seed=1))
    assert (other / "model.safetensors").read_bytes() != (made / "model.safetensors").read_bytes()
