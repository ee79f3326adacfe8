"""A divided policy in one piece, for what needs all of its weights at once."""

from collections.abc import Callable

import torch

from edge_grpo.base.world import World
from edge_grpo.models.policy import Policy
from edge_grpo.models.sharding import full

__all__ = ["Replica"]


class Replica:
    """Gives rank 0 a policy with all weights: a copy in CPU memory if they are divided among ranks.

    Args:
        policy: the one that is trained.
        world: the ranks.
        load: loads the model that it began as, on the CPU.
    """

    def __init__(self, policy: Policy, world: World, load: Callable[[], Policy]) -> None:
        self._policy, self._world, self._load = policy, world, load
        self._copies: list[Policy] = []

    @torch.no_grad()
    def refreshed(self) -> Policy:
        """The policy as it is now, with all weights on rank 0; all ranks must ask for it.

        Raises:
            EngineError: the model that it began as cannot be loaded again.
        """
        if not self._policy.is_sharded:
            return self._policy
        if not self._world.first(lambda: bool(self._copies)):
            self._world.first(lambda: self._copies.append(self._load()))
        copies = {name: weight for copy in self._copies for name, weight in copy.trained()}
        for name, weight in self._policy.trained():
            values = full(weight)
            if name in copies:
                copies[name].copy_(values)
        return self._copies[0] if self._copies else self._policy
