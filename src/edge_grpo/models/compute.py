"""Weights in the dtype that passes compute in: half-precision copies of float32 master weights."""

import weakref
from functools import cache
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Compute", "has_layouts"]

_ROWS: Final = 64  # of the products that the layout is best for; others are right, too


class Compute:
    """Gives a weight in a dtype: itself, or a copy that is refreshed when the weight has changed.

    A copy's gradient is added to the weight's own in the weight's dtype and then dropped, so that gradients are summed
    over micro-batches in float32. Small updates are lost in rounding if bf16 weights are trained themselves.

    On a CPU, inference uses copies of its own, laid out for products with few rows, which saves up to a fifth of their
    time; they take as much memory again.

    A copy goes when its weight does. Weights must be changed in place by torch's own operations, which count their
    changes, or replaced: what is written through ``.data`` is not seen.

    Args:
        dtype: that of the passes.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._copies = WeakTensorKeyDictionary()
        self._layouts = WeakTensorKeyDictionary()

    def __deepcopy__(self, memo: dict[int, object]) -> "Compute":
        """A copied model makes copies of its own."""
        return Compute(self.dtype)

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight, or its copy as of now."""
        if weight.dtype == self.dtype:
            return weight
        state = _state(weight)
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

    def linear(
        self,
        x: Float[Tensor, "rows in"],
        weight: Float[Tensor, "out in"],
        bias: Float[Tensor, " out"] | None = None,
    ) -> Float[Tensor, "rows out"]:
        """``x @ weight.T + bias`` in the dtype of the passes."""
        own = None if bias is None else self(bias)
        if not self._lays_out(x, weight):
            return F.linear(x, self(weight), own)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._layout(weight), own, "none", [], "")
        return product

    def _lays_out(self, x: Tensor, weight: Tensor) -> bool:
        """Whether a layout is used: not of a weight that has the dtype already, as FSDP fills such ones uncounted."""
        fits = x.device.type == "cpu" and self.dtype == torch.bfloat16 != weight.dtype
        return fits and torch.is_inference_mode_enabled() and has_layouts()

    def _layout(self, weight: Tensor) -> Tensor:
        state = _state(weight)
        layout, known = self._layouts.get(weight, (None, None))
        if known != state:
            layout = torch.ops.mkldnn._reorder_linear_weight(weight.to(self.dtype), _ROWS)
            self._layouts[weight] = (layout, state)
        laid_out: Tensor = layout
        return laid_out


@cache
def has_layouts() -> bool:
    """Whether PyTorch was built with oneDNN, and this processor computes in bf16."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _state(weight: Tensor) -> tuple[int, int]:
    """Changes when the weight does."""
    return weight._version, weight.data_ptr()


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
