"""Random numbers that depend on their purpose, never on when or in which batch they are drawn."""

import hashlib
import random

import numpy as np

__all__ = ["derive_seed", "python_random", "uniforms"]


def derive_seed(*parts: int | str) -> int:
    r"""A 64-bit seed from a path such as ``(run seed, "sample", step, row, sample)``.

    .. math:: \text{seed} = \text{BLAKE2b}_{64}(\text{part}_1, \text{part}_2, \dots)

    Args:
        parts: integers or strings; their order and types matter.
    Returns:
        an integer in [0, 2**64), the same on every machine and Python version.
    Example:
        >>> derive_seed(0, "sample", 3) == derive_seed(0, "sample", 3)
        True
        >>> derive_seed(0, "sample", 3) == derive_seed(0, "sample", "3")
        False
    """
    text = "/".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def python_random(*parts: int | str) -> random.Random:
    """A ``random.Random`` dedicated to the path ``parts`` (see :func:`derive_seed`)."""
    return random.Random(derive_seed(*parts))


def uniforms(seed: int, start: int, count: int) -> np.ndarray:
    """Numbers ``start`` to ``start + count - 1`` of the uniform [0, 1) float64 stream of ``seed``.

    The stream is counter-based (Philox), so any stretch can be drawn without drawing what precedes it.

    Example:
        >>> whole = uniforms(7, 0, 10)
        >>> bool((uniforms(7, 6, 4) == whole[6:]).all())
        True
    """
    bits = np.random.Philox(key=seed)
    block = start // 4  # Philox makes four 64-bit numbers per counter value
    bits.advance(block)
    return np.random.Generator(bits).random(start - 4 * block + count)[start - 4 * block :]
