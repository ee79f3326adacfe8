"""What groups without a signal do to a mean over a batch, and the factor that undoes it."""

__all__ = ["debiasing_factor", "useful_share"]


def useful_share(useful: int, wanted: int) -> float:
    r"""Share of a batch's places that a useful group can take.

    .. math:: \alpha^{-1} = \min(1, (B - M) / B)

    Args:
        useful: groups :math:`B - M` with different rewards, sampled in all rounds of a step, on all ranks.
        wanted: groups :math:`B` that a step trains on, on all ranks.

    Returns:
        0 to 1; 1 where nothing was wanted.

    Source:
        Chu et al. 2025, GPG, arXiv:2504.02546. Official code, ``inverse_alpha``: same, counted for each micro-batch.

    Example:
        >>> useful_share(3, 4)
        0.75
    """
    return min(1.0, useful / wanted) if wanted else 1.0


def debiasing_factor(share: float, *, eps: float = 0.0) -> float:
    r"""The factor by which a mean over all groups is smaller than one over useful groups.

    .. math:: \alpha = \frac{1}{\alpha^{-1} + \epsilon}, \qquad \alpha = \frac{B}{B - M}

    Args:
        share: :func:`useful_share`.
        eps: added to the share.

    Returns:
        1 or more without ``eps``; 1 where no group is useful, so that a loss of 0 stays 0.

    Source:
        Chu et al. 2025, GPG, arXiv:2504.02546 ("accurate gradient estimation"). Official code: 1 / 0 where no group is
        useful; eps is 0 in the trainer for language models and 1e-5 in those for images.

    Example:
        >>> debiasing_factor(0.5)
        2.0
    """
    return 1.0 / (share + eps) if share > 0 else 1.0
