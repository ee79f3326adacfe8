"""From logits to the next token: one draw per row, with its log-probability and the entropy of the distribution."""

from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edge_grpo.models.kernels import CACHED
from edge_grpo.rollout.engine import Sampling

__all__ = ["draw"]

_BLOCK: Final = 512  # tokens whose mass is summed before the block is chosen


def draw(
    logits: Float[Tensor, "rows vocabulary"], noise: Float[Tensor, " rows"], sampling: Sampling
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    r"""Draw one token per row by inverting the cumulative distribution at a given uniform number.

    .. math:: \text{token} = \min \{ v : \textstyle\sum_{w \le v} q_w > u \sum_w q_w \}

    where q is the softmax of logits / temperature, zero outside top-k and top-p.

    Args:
        logits: raw, at the last position.
        noise: uniform in [0, 1), one per row; unused at temperature 0, which takes the most likely token.
        sampling: temperature, top-p and top-k.
    Returns:
        token ids; their log-probability and the distribution's entropy in nats, both of softmax(logits / temperature)
        before top-p and top-k (as ``policy.score`` computes them); at temperature 0 those of softmax(logits).
    """
    # on a CPU, what one pass over some rows leaves in the cache the next one finds there
    rows = len(logits) if logits.is_cuda else max(1, CACHED // logits.shape[-1])
    drawn = [_draw(*each, sampling) for each in zip(logits.split(rows), noise.split(rows), strict=True)]
    tokens, logprobs, entropies = (torch.cat(column) for column in zip(*drawn, strict=True))
    return tokens, logprobs, entropies


def _draw(logits: Tensor, noise: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    scaled = logits.float() / (sampling.temperature or 1.0)
    scaled -= scaled.amax(-1, keepdim=True)
    mass = scaled.exp()
    total = mass.sum(-1)
    log_total = total.log()
    finite = scaled.clamp(min=torch.finfo(scaled.dtype).min)  # 0 log 0 = 0
    entropy = log_total - (mass * finite).sum(-1) / total
    if sampling.temperature == 0:
        token = scaled.argmax(-1)
    else:
        whole = sampling.top_k == 0 and sampling.top_p >= 1
        token = _invert(mass if whole else _truncate(mass / total[:, None], sampling), noise)
    return token, scaled.gather(-1, token[:, None]).squeeze(-1) - log_total, entropy


def _invert(mass: Float[Tensor, "rows vocabulary"], noise: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The token at which the cumulative mass exceeds a share of the whole; sums are float64."""
    vocabulary = mass.shape[-1]
    if vocabulary <= 2 * _BLOCK:
        return _first_beyond(mass.cumsum(-1, dtype=torch.float64), noise)
    rest = vocabulary % _BLOCK
    blocks = mass[:, : vocabulary - rest].unflatten(-1, (-1, _BLOCK)).sum(-1, dtype=torch.float64)
    if rest:
        blocks = torch.cat([blocks, mass[:, -rest:].sum(-1, keepdim=True, dtype=torch.float64)], dim=-1)
    cumulative = blocks.cumsum(-1)
    block = _first_beyond(cumulative, noise)[:, None]
    before = (cumulative - blocks).gather(-1, block)
    place = block * _BLOCK + torch.arange(_BLOCK, device=mass.device)
    inside = torch.where(place < vocabulary, mass.gather(-1, place.clamp(max=vocabulary - 1)), 0.0)
    fine = before + inside.cumsum(-1, dtype=torch.float64)
    threshold = noise[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(fine, threshold, right=True)
    last = torch.searchsorted(fine, fine[:, -1:].contiguous())  # the block's last token with nonzero mass
    return (block * _BLOCK + torch.minimum(found, last)).squeeze(-1).clamp(max=vocabulary - 1)


def _first_beyond(cumulative: Float[Tensor, "rows places"], noise: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The first place whose cumulative mass exceeds a share of the last one."""
    threshold = noise[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    # A product rounded up to the total mass would land past the last place with nonzero mass.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous()).squeeze(-1)
    return torch.minimum(found, last).clamp(max=cumulative.shape[-1] - 1)  # NaN would land past the end


def _truncate(probs: Float[Tensor, "rows vocabulary"], sampling: Sampling) -> Float[Tensor, "rows vocabulary"]:
    """Zero outside the ``top_k`` most likely tokens and outside the smallest set of mass ``top_p``."""
    top_k = min(sampling.top_k, probs.shape[-1])
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    keep = (ranked.cumsum(-1) - ranked) < sampling.top_p
    if top_k:
        keep[:, top_k:] = False
    keep[:, 0] = True
    return torch.zeros_like(probs).scatter(-1, order, ranked * keep)
