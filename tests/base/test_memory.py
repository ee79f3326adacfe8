"""Running out of memory is recognised in PyTorch's own words."""

import pytest
import torch

from edge_grpo.base.memory import is_out_of_memory


def test_the_allocators_error_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("CUDA error: out of memory"),
        MemoryError(),
    ],
)
def test_so_are_the_others(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("can't allocate memory")])
def test_other_errors_are_not(error: Exception) -> None:
    assert not is_out_of_memory(error)
