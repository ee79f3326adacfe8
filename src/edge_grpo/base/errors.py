"""The few errors a user can cause; the command line prints each as one line and exits with code 2."""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EdgeGrpoError",
    "EngineError",
    "RankLostError",
    "ShapeError",
    "TrainingError",
]


class EdgeGrpoError(Exception):
    """Base of all errors below: the message says where, what was found, what was wanted and what to do.

    ``shared``: all ranks of a run raised it together, so that one of them reports it.
    """

    shared: bool = False


class ConfigError(EdgeGrpoError):
    """A setting is unknown, has the wrong type, or contradicts another."""


class DataError(EdgeGrpoError):
    """A data file, row or field is missing or unusable."""


class ShapeError(EdgeGrpoError):
    """Tensors or groups do not have the shape a function requires."""


class EngineError(EdgeGrpoError):
    """A model or rollout engine cannot be loaded or cannot do what was asked."""


class CheckpointError(EdgeGrpoError):
    """A run folder or checkpoint is missing, damaged, or belongs to another configuration."""


class TrainingError(EdgeGrpoError):
    """Training cannot continue: gradients stay non-finite, or no group is left to train on."""


class RankLostError(EdgeGrpoError):
    """Another process of the same run ended or cannot be reached."""
