"""Measurements on a model outside a training run."""
