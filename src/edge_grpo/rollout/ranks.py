"""Engines on several ranks: all ranks ask for the same rollouts, and all get them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from edge_grpo.base.records import Rollout
from edge_grpo.base.world import World
from edge_grpo.models.policy import Policy
from edge_grpo.models.replica import Replica
from edge_grpo.rollout.engine import Continuation, Engine, Request, Sampling

__all__ = ["EachRank", "FirstRank"]


class EachRank:
    """An engine in every rank, which samples that rank's share of the requests.

    Args:
        engine: this rank's.
        world: the ranks.
        whole: gives each rank all weights of the policy. The ranks enter it together; inside it, an error or a signal
            may interrupt one of them.
    """

    def __init__(self, engine: Engine, world: World, whole: Callable[[], AbstractContextManager[None]]) -> None:
        self._engine, self._world, self._whole = engine, world, whole

    @property
    def exact(self) -> bool:
        """Whether the recorded numbers are those of the policy (see :class:`edge_grpo.rollout.engine.Engine`)."""
        return self._engine.exact

    @property
    def note(self) -> str:
        """What the engine has to say about how this model is decoded."""
        return getattr(self._engine, "note", "")

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        """One tuple of rollouts per request, in order."""
        with self._whole():
            return self._world.share(requests, lambda own: self._engine.sample(own, sampling))

    def resume(self, continuations: Sequence[Continuation], sampling: Sampling) -> list[Rollout]:
        """One rollout per continuation, in order."""
        with self._whole():
            return self._world.share(continuations, lambda own: self._engine.resume(own, sampling))

    def sync(self, policy: Policy, version: int) -> None:
        """Hand each rank's engine the weights."""
        self._engine.sync(policy, version)

    def close(self) -> None:
        """Close this rank's engine."""
        self._engine.close()


class FirstRank:
    """One engine for all ranks, such as a client of rollout servers; rank 0 asks for everything.

    Args:
        make: opens the engine; called on rank 0, with a policy that has all its weights.
        world: the ranks.
        replica: gives that policy.
    Raises:
        EngineError: the engine cannot be opened.
    """

    exact = False

    def __init__(self, make: Callable[[Policy], Engine], world: World, replica: Replica) -> None:
        self._world, self._replica = world, replica
        self._engines: list[Engine] = []
        policy = replica.refreshed()
        world.first(lambda: self._engines.append(make(policy)))

    @property
    def context(self) -> int | None:
        """The engine's own limit of prompt and completion, in tokens."""
        return self._world.first(lambda: getattr(self._engines[0], "context", None))

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        """One tuple of rollouts per request, in order."""
        return self._world.first(lambda: self._engines[0].sample(requests, sampling))

    def resume(self, continuations: Sequence[Continuation], sampling: Sampling) -> list[Rollout]:
        """One rollout per continuation, in order."""
        return self._world.first(lambda: self._engines[0].resume(continuations, sampling))

    def sync(self, policy: Policy, version: int) -> None:  # noqa: ARG002 - the replica has its weights
        """Hand the engine the weights of all ranks."""
        whole = self._replica.refreshed()
        self._world.first(lambda: self._engines[0].sync(whole, version))

    def close(self) -> None:
        """Close the engine."""
        for engine in self._engines:
            engine.close()
