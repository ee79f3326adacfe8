"""The few errors that a user can cause; the command line prints each as one line and exits with code 2."""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EdgeGrpoError",
    "EngineError",
    "ShapeError",
    "TrainingError",
]


class EdgeGrpoError(Exception):
    """Base of all errors below: the message says where, what came, what was wanted and what to do."""


class ConfigError(EdgeGrpoError):
    """A setting is unknown, of the wrong type, or contradicts another one."""


class DataError(EdgeGrpoError):
    """A data file, row or field is missing or unusable."""


class ShapeError(EdgeGrpoError):
    """Tensors or groups do not have the shape that a function needs."""


class EngineError(EdgeGrpoError):
    """A model or rollout engine cannot be loaded or cannot do what was asked."""


class CheckpointError(EdgeGrpoError):
    """A run folder or checkpoint is missing, damaged, or belongs to another configuration."""


class TrainingError(EdgeGrpoError):
    """Training cannot go on: gradients stay non-finite, or no group is left to train on."""
