"""Telling that memory ran out from other errors, without importing torch."""

__all__ = ["is_out_of_memory"]

_SIGNS = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the GPU or this machine has no memory left.

    It is PyTorch's own class for a GPU; a RuntimeError of its CPU allocator, cuBLAS or cuDNN; or Python's MemoryError.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
