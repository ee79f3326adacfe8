"""From logits to the log-probability of given tokens and the entropy of the distribution."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edge_grpo.functional._arguments import checked

__all__ = ["logprobs_and_entropy"]


@checked
def logprobs_and_entropy(
    logits: Float[Tensor, "*shape vocab"], token_ids: Int[Tensor, "*shape"], *, temperature: float
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    r"""Log-probability of each given token, and entropy, of the temperature-scaled distribution.

    .. math::
        \pi = \operatorname{softmax}(z / \tau), \qquad
        \ell = \log \pi_{\text{token}}, \qquad H = -\sum_v \pi_v \log \pi_v

    Args:
        logits: raw scores :math:`z`, not yet divided by the temperature; -inf excludes a token.
        token_ids: the token to score, one per distribution.
        temperature: :math:`\tau > 0`, the one the rollout was sampled at.

    Returns:
        log-probabilities (nats, at most 0) and entropies (nats, between 0 and the logarithm of the vocabulary size),
        both in float32 if the logits have half precision. Both are differentiable.
    Source:
        Definition; same as TRL 1.16.0 ``selective_log_softmax_and_entropy``. The EDGE-GRPO release uses the same
        temperature-scaled entropy.

    Example:
        >>> logprobs, entropy = logprobs_and_entropy(torch.zeros(1, 4), torch.tensor([2]), temperature=0.6)
        >>> logprobs, entropy
        (tensor([-1.3863]), tensor([1.3863]))
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    log_pi = torch.log_softmax(logits / temperature, dim=-1)
    logprobs = log_pi.gather(-1, token_ids.long().unsqueeze(-1)).squeeze(-1)
    finite = log_pi.clamp_min(torch.finfo(log_pi.dtype).min)  # makes 0 log 0 equal 0, in value and gradient
    return logprobs, -(log_pi.exp() * finite).sum(-1)
