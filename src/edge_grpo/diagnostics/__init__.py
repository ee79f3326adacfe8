"""Measurements on a model that are no part of a training run."""
