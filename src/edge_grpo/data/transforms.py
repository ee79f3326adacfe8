"""Ways to show an image differently, each with the sentence that tells the model so."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, get_args

import numpy as np

__all__ = ["SENTENCES", "Transform", "transformed"]

Transform = Literal[
    "rotate_90cw",
    "rotate_90ccw",
    "rotate_180cw",
    "gaussian_noise_mean0_std10",
    "gaussian_noise_mean0_std25",
    "gaussian_noise_mean0_std50",
    "vertically_flipped",
    "horizontally_flipped",
    "horizontally_vertically_flipped",
]
"""The names of the release."""

_UNDO: Final = "Picture it the other way round again, then solve the problem."
_NOISE: Final = "Solve the problem in spite of it."

SENTENCES: Final[Mapping[Transform, str]] = {
    "rotate_90cw": (
        "The image has been rotated clockwise by 90 degrees. Rotate it back, that is counterclockwise by 90 degrees, "
        "in your mind, then solve the problem."
    ),
    "rotate_90ccw": (
        "The image has been rotated counterclockwise by 90 degrees. Rotate it back, that is clockwise by 90 degrees, "
        "in your mind, then solve the problem."
    ),
    "rotate_180cw": f"The image has been rotated by 180 degrees, so that it is upside down. {_UNDO}",
    "gaussian_noise_mean0_std10": f"The image has some noise. {_NOISE}",
    "gaussian_noise_mean0_std25": f"The image has a fair amount of noise. {_NOISE}",
    "gaussian_noise_mean0_std50": f"The image has a lot of noise. {_NOISE}",
    "vertically_flipped": f"The image has been flipped vertically, so that top and bottom are swapped. {_UNDO}",
    "horizontally_flipped": f"The image has been flipped horizontally, so that left and right are swapped. {_UNDO}",
    "horizontally_vertically_flipped": (f"The image has been flipped both horizontally and vertically. {_UNDO}"),
}
"""What a prompt says about a transformed image, before the question: what was done to it, so that it can be undone."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
_MOVED: Final[Mapping[str, Callable[[Pixels], Pixels]]] = {
    "rotate_90cw": lambda pixels: np.rot90(pixels, -1),
    "rotate_90ccw": lambda pixels: np.rot90(pixels, 1),
    "rotate_180cw": lambda pixels: np.rot90(pixels, 2),
    "vertically_flipped": lambda pixels: pixels[::-1],
    "horizontally_flipped": lambda pixels: pixels[:, ::-1],
    "horizontally_vertically_flipped": lambda pixels: pixels[::-1, ::-1],
}
_NOISY: Final = "gaussian_noise_mean0_std"


def transformed(pixels: Pixels, name: str, *, seed: int = 0) -> Pixels:
    """An image with one of the transforms applied; rotations by 90 degrees swap its sides.

    Noise adds to every value of every channel a number from a normal distribution with mean 0 and the standard
    deviation in its name; sums are cut to 0..255 and their fractions dropped.

    Args:
        pixels: height x width x RGB, 0..255.
        name: one of :data:`Transform`.
        seed: of the noise.
    Raises:
        KeyError: there is no such transform.
    Source:
        Yao et al. 2025, R1-ShareVL, arXiv:2505.16673, as released: the same nine transforms. The sentences are ours,
        and differ in what they say: the release calls a clockwise rotation counterclockwise, and the reverse.
    Example:
        >>> transformed(np.array([[[1, 1, 1], [2, 2, 2]]], dtype=np.uint8), "rotate_90cw")[:, :, 0].tolist()
        [[1], [2]]
    """
    if name not in get_args(Transform):
        raise KeyError(name)
    if name in _MOVED:
        return np.ascontiguousarray(_MOVED[name](pixels))
    noise = np.random.default_rng(seed).normal(0.0, float(name.removeprefix(_NOISY)), pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)
