"""EDGE-GRPO and its family: reinforcement-learning post-training without advantage collapse.

Importing this package is cheap: it imports no torch. Use ``from edge_grpo.training.loop import train`` for the loop,
``edge_grpo.methods`` for the published methods and ``edge_grpo.functional`` for their pure functions.
"""

__version__ = "0.1.0"
