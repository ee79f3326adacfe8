"""Weights in the dtype that passes compute in: half-precision copies of float32 master weights."""

import weakref

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Compute"]


class Compute:
    """Gives a weight in a dtype: itself, or a copy that is refreshed when the weight has changed.

    A copy's gradient is added to the weight's own in the weight's dtype and then dropped, so that gradients are summed
    over micro-batches in float32. Small updates are lost in rounding if bf16 weights are trained themselves.

    A copy goes when its weight does. Weights must be changed in place by torch's own operations, which count their
    changes, or replaced: what is written through ``.data`` is not seen.

    Args:
        dtype: that of the passes.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._copies = WeakTensorKeyDictionary()

    def __deepcopy__(self, memo: dict[int, object]) -> "Compute":
        """A copied model makes copies of its own."""
        return Compute(self.dtype)

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight, or its copy as of now."""
        if weight.dtype == self.dtype:
            return weight
        state = (weight._version, weight.data_ptr())
        held: tuple[Tensor | None, object] = self._copies.get(weight, (None, None))
        copy, known = held
        if copy is not None and known == state and copy.requires_grad == weight.requires_grad:
            return copy
        with torch.inference_mode(False), torch.no_grad():
            if copy is None or copy.requires_grad != weight.requires_grad or copy.device != weight.device:
                copy = weight.detach().to(self.dtype).requires_grad_(weight.requires_grad)
                if weight.requires_grad:
                    copy.register_post_accumulate_grad_hook(_Returned(weight))
            else:
                copy.copy_(weight)
        self._copies[weight] = (copy, state)
        return copy


class _Returned:
    """Adds a copy's gradient to that of its weight."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weakref.ref(weight)  # else a copy would keep its weight alive, and so itself

    def __call__(self, copy: Tensor) -> None:
        weight = self.weight()
        if copy.grad is None or weight is None:
            return
        if weight.grad is None:
            weight.grad = copy.grad.to(weight.dtype)
        else:
            weight.grad.add_(copy.grad)
        copy.grad = None
