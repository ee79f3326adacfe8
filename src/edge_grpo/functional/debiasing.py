"""The bias that groups without a signal put on a batch mean, and the factor that corrects it."""

__all__ = ["debiasing_factor", "useful_share"]


def useful_share(useful: int, wanted: int) -> float:
    r"""Share of a batch's slots that useful groups can fill.

    .. math:: \alpha^{-1} = \min(1, (B - M) / B)

    Args:
        useful: groups :math:`B - M` with unequal rewards, sampled over all rounds of a step and all ranks.
        wanted: groups :math:`B` that a step trains on, on all ranks.

    Returns:
        0 to 1; 1 if no groups were wanted.

    Source:
        Chu et al. 2025, GPG, arXiv:2504.02546. Official code, ``inverse_alpha``: same, counted for each micro-batch.

    Example:
        >>> useful_share(3, 4)
        0.75
    """
    return min(1.0, useful / wanted) if wanted else 1.0


def debiasing_factor(share: float, *, eps: float = 0.0) -> float:
    r"""Ratio of a mean over useful groups to the same mean over all groups.

    .. math:: \alpha = \frac{1}{\alpha^{-1} + \epsilon}, \qquad \alpha = \frac{B}{B - M}

    Args:
        share: :func:`useful_share`.
        eps: added to the share.

    Returns:
        1 or more without ``eps``; 1 if no group is useful, so a loss of 0 stays 0.

    Source:
        Chu et al. 2025, GPG, arXiv:2504.02546 ("accurate gradient estimation"). Official code: 1 / 0 if no group is
        useful; eps is 0 in the language-model trainer and 1e-5 in the image trainers.

    Example:
        >>> debiasing_factor(0.5)
        2.0
    """
    return 1.0 / (share + eps) if share > 0 else 1.0
