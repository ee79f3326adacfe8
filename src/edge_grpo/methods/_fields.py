"""Types of settings that several methods declare: bounded numbers, and choices; TRL's names in brackets."""

from typing import Annotated, Literal

from pydantic import Field

__all__ = [
    "Aggregation",
    "ClipHigh",
    "ClipLow",
    "Count",
    "Fraction",
    "NonNegative",
    "Objectives",
    "Positive",
    "RatioCap",
    "RatioLevel",
    "SamplerCorrection",
    "Scale",
    "Share",
]

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]

ClipLow = Fraction
"""Half-width of the clip range below 1: Schulman et al. 2017, PPO, arXiv:1707.06347, section 6.1 (0.2)."""

ClipHigh = NonNegative
"""Half-width of the clip range above 1: the same; a wider one is DAPO's clip-higher, arXiv:2503.14476."""

RatioCap = Positive | None
"""Cap on the ratio where the advantage is negative (``delta``), None = no cap: INTELLECT-2, arXiv:2505.07291."""

Scale = Literal["group", "batch", "none"]
"""What a centred reward is divided by: the deviation of its group or of the batch, or nothing (``scale_rewards``)."""

Objectives = Literal["sum_then_normalize", "normalize_then_sum"]
"""Weighted sum of the reward parts first, or GDPO (``multi_objective_aggregation``)."""

Aggregation = Literal["rows", "tokens"]
"""Mean over rows of each row's mean over tokens, or mean over all tokens."""

RatioLevel = Literal["token", "sequence"]
SamplerCorrection = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
