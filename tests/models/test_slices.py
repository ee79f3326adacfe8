"""Tensors on disk: what any number of ranks wrote, any number reads."""

from collections.abc import Callable
from pathlib import Path

import pytest
import rank_jobs
import torch
from rank_pool import Pool
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edge_grpo.base.errors import CheckpointError
from edge_grpo.base.world import World
from edge_grpo.models import slices

Pools = Callable[[int], Pool]

TENSORS = {
    "matrix": torch.arange(15, dtype=torch.float32).reshape(5, 3),
    "vector": torch.arange(2, dtype=torch.bfloat16),
    "scalar": torch.tensor(7.0),
    "column": torch.arange(12, dtype=torch.float64).reshape(3, 4).T,
}


def zeros() -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}


def test_one_process_writes_ordinary_files(tmp_path: Path) -> None:
    slices.write(tmp_path, {"weights": {"matrix": TENSORS["matrix"]}, "more": {"vector": TENSORS["vector"]}}, World())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["more.safetensors", "weights.safetensors"]
    assert torch.equal(load_file(tmp_path / "weights.safetensors")["matrix"], TENSORS["matrix"])
    assert slices.shapes(tmp_path) == {"matrix": (5, 3), "vector": (2,)}


def test_a_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    slices.write(tmp_path, {"weights": TENSORS}, World())
    found = zeros()
    slices.read(tmp_path, found)
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor), name


def test_ordinary_files_of_other_programs_are_read(tmp_path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "weights.safetensors")
    assert slices.shapes(tmp_path) == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    found = zeros()
    slices.read(tmp_path, found)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize(("writers", "readers"), [(2, 2), (2, 3), (3, 2), (2, 1), (1, 3)])
def test_any_number_of_ranks_reads_what_any_number_wrote(
    pool: Pools, tmp_path: Path, writers: int, readers: int
) -> None:
    values = TENSORS["matrix"].numpy()
    if writers == 1:
        slices.write(tmp_path, {"weights": {"matrix": TENSORS["matrix"], "step": torch.tensor(3.0)}}, World())
    else:
        pool(writers).call(rank_jobs.write_slices, str(tmp_path), values)
        assert len(list(tmp_path.glob(f"weights-*-of-0000{writers}.safetensors"))) == writers
    assert slices.shapes(tmp_path) == {"matrix": (5, 3), "step": ()}
    if readers == 1:
        found = {"matrix": torch.zeros(5, 3), "step": torch.zeros(())}
        slices.read(tmp_path, found)
        assert torch.equal(found["matrix"], TENSORS["matrix"])
        assert found["step"] == 3.0
        return
    for matrix, step in pool(readers).call(rank_jobs.read_slices, str(tmp_path)):
        assert (matrix == values).all()
        assert step == 3.0


@pytest.mark.parametrize("damage", ["short", "empty", "gone"])
def test_damage_is_an_error(tmp_path: Path, damage: str) -> None:
    slices.write(tmp_path, {"weights": TENSORS}, World())
    file = tmp_path / "weights.safetensors"
    match damage:
        case "gone":
            file.unlink()
        case _:
            file.write_bytes(file.read_bytes()[:-9] if damage == "short" else b"")
    with pytest.raises(SafetensorError):
        slices.read(tmp_path, zeros())


def test_weights_of_another_model_do_not_fit(tmp_path: Path) -> None:
    slices.fit(tmp_path, TENSORS, {name: tuple(tensor.shape) for name, tensor in TENSORS.items()})
    for held in (
        {"matrix": (5, 3)},
        {**{name: tuple(tensor.shape) for name, tensor in TENSORS.items()}, "vector": (3,)},
    ):
        with pytest.raises(CheckpointError, match="its weights do not fit the model of this run"):
            slices.fit(tmp_path, TENSORS, held)
