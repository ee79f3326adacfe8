"""Operations with backward passes of their own, because PyTorch's would keep or write several times the memory.

All of them compute what the plain expressions in their docstrings do, to rounding.
"""

from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

__all__ = ["CACHED", "head_scores", "pad", "products", "rms_norm", "rotate", "unpad"]

CACHED: Final = 2**19
"""Numbers that fit into a CPU core's cache."""


def head_scores(
    hidden: Float[Tensor, "tokens dim"],
    weight: Float[Tensor, "vocabulary dim"],
    token_ids: Int[Tensor, " tokens"],
    *,
    temperature: float,
    at_once: int,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    r"""Log-probability of given tokens and entropy, from hidden states; logits exist ``at_once`` tokens at a time.

    .. math::
        z = W h / T, \qquad \ell = z_\text{token} - \log\textstyle\sum_v e^{z_v}, \qquad H = -\sum_v p_v \log p_v

    The backward pass computes the logits again: memory grows with tokens x dim and with the vocabulary, never with
    tokens x vocabulary.

    Args:
        hidden: what the head reads.
        weight: the head's matrix, in the dtype of ``hidden``.
        token_ids: one per hidden state.
        temperature: T.
        at_once: how many tokens have logits at a time.
    Returns:
        nats, in float32 (float64 for float64 states); both are differentiable.
    Source:
        Definition; the same values as :func:`edge_grpo.functional.logits.logprobs_and_entropy` of the logits.
    """
    scores: tuple[Tensor, Tensor] = _HeadScores.apply(hidden, weight, token_ids, temperature, max(1, at_once))  # type: ignore[no-untyped-call]
    return scores


class _HeadScores(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, token_ids: Tensor, temperature: float, at_once: int
    ) -> tuple[Tensor, Tensor]:
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        for part, ids in zip(hidden.split(at_once), token_ids.split(at_once), strict=True):
            columns += _piece_scored(part, weight, ids, temperature)
        logprobs, entropies, log_totals = (torch.cat(column) for column in zip(*columns, strict=True))
        ctx.save_for_backward(hidden, weight, token_ids, log_totals, entropies)
        ctx.temperature, ctx.at_once = temperature, at_once
        ctx.set_materialize_grads(False)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, token_ids, log_totals, entropies = ctx.saved_tensors
        to_logprobs, to_entropies = grads
        if to_logprobs is None:
            to_logprobs = torch.zeros_like(log_totals)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden) if wants_hidden else None
        # summed in float32 over pieces
        weight_grad = torch.zeros(weight.shape, dtype=log_totals.dtype, device=weight.device) if wants_weight else None
        for start in range(0, len(hidden), ctx.at_once):
            own = slice(start, start + ctx.at_once)
            columns = (token_ids[own], log_totals[own], entropies[own], to_logprobs[own])
            last = None if to_entropies is None else to_entropies[own]
            grad = _piece_grad(hidden[own], weight, columns, last, ctx.temperature)
            if hidden_grad is not None:
                torch.mm(grad, weight, out=hidden_grad[own])
            if weight_grad is None:
                pass
            elif grad.dtype == weight_grad.dtype:
                weight_grad.addmm_(grad.T, hidden[own])
            else:
                weight_grad.add_(grad.T @ hidden[own])
            del grad  # before the next piece's logits
        return hidden_grad, None if weight_grad is None else weight_grad.to(weight.dtype), None, None, None


def _piece_scored(
    hidden: Tensor, weight: Tensor, token_ids: Tensor, temperature: float
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """:func:`_scored` of a piece, whose logits are gone afterwards."""
    z = _scaled(hidden, weight, temperature)
    size = _rows_at_once(z)
    return [_scored(*each) for each in zip(z.split(size), token_ids.split(size), strict=True)]


def _piece_grad(
    hidden: Tensor, weight: Tensor, columns: tuple[Tensor, ...], to_entropies: Tensor | None, temperature: float
) -> Tensor:
    """The gradient that the products of a piece get, in the dtype of its hidden states."""
    z = _scaled(hidden, weight, temperature)
    size = _rows_at_once(z)
    spread = [column.split(size) for column in (z, *columns)]
    last = [None] * len(spread[0]) if to_entropies is None else to_entropies.split(size)
    for each in zip(*spread, last, strict=True):
        _differentiate(*each)
    return z.div_(temperature).to(hidden.dtype)


def _scored(z: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, entropies and the logarithm of the mass of some logits, which are overwritten."""
    largest = z.amax(-1, keepdim=True)
    z -= largest
    picked = z.gather(-1, token_ids[:, None]).squeeze(-1)
    mass = z.exp()
    total = mass.sum(-1)
    log_total = total.log()
    # 0 log 0 = 0, where a logit is -inf
    entropy = log_total - mass.mul_(z.clamp_(min=torch.finfo(z.dtype).min)).sum(-1) / total
    return picked - log_total, entropy, log_total + largest.squeeze(-1)


def _differentiate(
    z: Tensor,
    token_ids: Tensor,
    log_totals: Tensor,
    entropies: Tensor,
    to_logprobs: Tensor,
    to_entropies: Tensor | None,
) -> None:
    """Overwrite some logits with the gradient that they get."""
    z -= log_totals[:, None]
    if to_entropies is None:
        z.exp_().mul_(-to_logprobs[:, None])
    else:
        z.clamp_(min=torch.finfo(z.dtype).min)
        factor = torch.addcmul(to_logprobs[:, None], z + entropies[:, None], to_entropies[:, None])
        z.exp_().mul_(factor.neg_())
    z.scatter_add_(-1, token_ids[:, None], to_logprobs[:, None].to(z.dtype))


def _rows_at_once(z: Tensor) -> int:
    """How many rows to work on at a time: on a CPU, what one pass over them leaves in the cache the next one finds."""
    return len(z) if z.is_cuda else max(1, CACHED // z.shape[-1])


def _scaled(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Logits divided by the temperature, at least float32, in memory of their own."""
    z = hidden @ weight.T
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return z if temperature == 1 else z.div_(temperature)


def rms_norm(x: Float[Tensor, "... dim"], weight: Float[Tensor, " dim"], eps: float) -> Float[Tensor, "... dim"]:
    r"""Root mean square normalisation over the last dimension, as Llama computes it.

    .. math:: y = w \cdot x / \sqrt{\operatorname{mean}(x^2) + \epsilon}

    Args:
        x: any leading dimensions; in half precision it is normalised in float32, and rounded before w.
        weight: w.
        eps: added to the mean square.
    """
    if not torch.is_grad_enabled():
        return _normed(x, weight, eps)[0]
    normed: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return normed


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised vectors, and what each was multiplied by."""
    exact = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
    scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return torch.mul(x, scale, out=torch.empty_like(x)).mul_(weight), scale


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, scale = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        (grad,) = grads
        normed = torch.mul(x, scale, out=torch.empty_like(x))
        product = grad * normed
        weight_grad = None
        if ctx.needs_input_grad[1]:
            weight_grad = product.flatten(0, -2).sum(0, dtype=scale.dtype).to(weight.dtype)
        mean = (product.mul_(weight)).sum(-1, keepdim=True, dtype=scale.dtype).div_(x.shape[-1])
        inner = torch.addcmul(grad * weight, normed, mean.to(x.dtype), value=-1)
        return torch.mul(inner, scale, out=inner), weight_grad, None


def rotate(
    x: Float[Tensor, "tokens heads dim"], cos: Float[Tensor, "tokens 1 half"], sin: Float[Tensor, "tokens 1 half"]
) -> Float[Tensor, "tokens heads dim"]:
    r"""Rotary position embedding: the two halves of each head, rotated by a token's angles.

    .. math:: (a, b) \mapsto (a \cos\theta - b \sin\theta, \; b \cos\theta + a \sin\theta)

    Args:
        x: queries or keys.
        cos: of the angles.
        sin: likewise.
    Source: Su et al. 2021, arXiv:2104.09864, in the half-split form of Llama's release.
    """
    if not torch.is_grad_enabled():
        return _rotated(x, cos, sin, 1.0)
    rotated: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return rotated


class _Rotate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, -1.0), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, way: float) -> Tensor:
    """Rotated by the angles, or back (``way`` -1)."""
    first, second = x.chunk(2, dim=-1)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    one, two = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=one).addcmul_(second, sin, value=-way)
    torch.mul(second, cos, out=two).addcmul_(first, sin, value=way)
    return out


def products(left: Float[Tensor, "... n dim"], right: Float[Tensor, "... m dim"]) -> Float[Tensor, "... n m"]:
    """``left @ right.mT`` in float32; the gradient's products are in the dtype of the two.

    Attention scores of some models (Qwen2.5) are so large that in bf16 they would be off by tenths.
    """
    found: Tensor = _Products.apply(left, right)  # type: ignore[no-untyped-call]
    return found


class _Products(Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        return left.float() @ right.float().mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        grad = grads[0].to(left.dtype)
        return grad @ right, grad.mT @ left


def pad(
    packed: Float[Tensor, "tokens ..."], slots: Int[Tensor, " slots"], back: Int[Tensor, " tokens"]
) -> Float[Tensor, "slots ..."]:
    """Rows of different lengths side by side: ``packed[slots]``.

    Args:
        packed: tokens without padding.
        slots: the token of each slot; any token for padding, whose gradient is dropped.
        back: the slot of each token.
    """
    padded: Tensor = _Pad.apply(packed, slots, back)  # type: ignore[no-untyped-call]
    return padded


def unpad(padded: Float[Tensor, "slots ..."], back: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens ..."]:
    """The inverse of :func:`pad`: ``padded[back]``; padding gets no gradient."""
    packed: Tensor = _Unpad.apply(padded, back)  # type: ignore[no-untyped-call]
    return packed


class _Pad(Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, slots: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return packed.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0].index_select(0, *ctx.saved_tensors), None, None


class _Unpad(Function):
    @staticmethod
    def forward(ctx: Any, padded: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        ctx.shape = padded.shape
        return padded.index_select(0, back)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (back,) = ctx.saved_tensors
        padded = grads[0].new_zeros(ctx.shape)
        padded[back] = grads[0]
        return padded, None
