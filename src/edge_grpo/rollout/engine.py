"""The Engine protocol: what the sampler asks of anything that generates tokens, and the records they exchange."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from edge_grpo.base.errors import EngineError
from edge_grpo.base.records import Rollout, Scene, Segment, Span
from edge_grpo.config.sections import RolloutSettings
from edge_grpo.models.policy import Policy

__all__ = ["Continuation", "Engine", "Request", "Sampling", "ServerError", "Start", "inject", "start_of"]


class ServerError(EngineError):
    """An engine outside this process cannot do what was asked; what was trained so far is intact."""


@dataclass(frozen=True)
class Sampling:
    """How to draw tokens: ``temperature`` 0 takes the most likely token; ``top_k`` 0 and ``top_p`` 1 are off."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    @classmethod
    def of(cls, rollout: RolloutSettings) -> "Sampling":
        """How completions are drawn in training."""
        return cls(rollout.max_new_tokens, rollout.temperature, rollout.top_p, rollout.top_k)


@dataclass(frozen=True)
class Request:
    """One prompt, with its scene if it has pictures, and the seed of each completion wanted for it."""

    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    scene: Scene | None = None


@dataclass(frozen=True)
class Start:
    """The tokens that sampling goes on from, a prompt first, with its scene if it has pictures."""

    token_ids: tuple[int, ...]
    scene: Scene | None = None


@dataclass(frozen=True)
class Continuation:
    """A rollout to resume: ``injected_ids`` are appended, then the policy samples.

    ``budget`` covers injected and sampled tokens together and must exceed the number of injected ones.
    """

    rollout: Rollout
    injected_ids: tuple[int, ...]
    budget: int
    seed: int


@runtime_checkable
class Engine(Protocol):
    """Samples completions. Token ids are never decoded and re-encoded along the way.

    A completion ends with its first stop token, or with the token that completes a stop string (``rollout.stop``) in
    the decoded text of the newly sampled tokens. All its tokens are kept, including what the last one holds after the
    string, and ``finished`` and ``ends_in_text`` are set. :func:`edge_grpo.models.stops.find_stops` gives both kinds.

    ``exact``: the recorded log-probs and entropies are those of ``policy.score`` to float32 rounding, so rows sampled
    in full need not be scored again before the step's first update. An engine that is not, but records entropies,
    gives the numbers of the policy it was last synchronised with to bf16 rounding: a step of one update goes by them,
    too, and puts that update's own log-probs in the place of the old ones.
    """

    @property
    def exact(self) -> bool:
        """See above; an attribute will do."""
        ...

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Rollout, ...]]:
        """One tuple of rollouts per request, one rollout per seed, in order.

        A rollout's draws depend only on its seed and the model's probabilities, not on its batch.
        """
        ...

    def resume(self, continuations: Sequence[Continuation], sampling: Sampling) -> list[Rollout]:
        """Append injected tokens to rollouts and continue sampling (each budget replaces ``sampling.max_new_tokens``).

        The result's spans are the old ones, relabelled as wrong prefix, then the injected one and the sampled one.
        """
        ...

    def sync(self, policy: Policy, version: int) -> None:
        """Take over the policy's weights: before the first sample of a run, after a restore, and after every step.

        Args:
            policy: holds the weights.
            version: the number of training steps behind them; 0 at the start.
        """
        ...

    def close(self) -> None:
        """Release the engine's resources; nothing is sampled afterwards."""
        ...


def inject(rollout: Rollout, token_ids: tuple[int, ...], *, finished: bool) -> Rollout:
    """Append text to a completion that was graded wrong.

    The stop token of a finished completion is dropped first; a stop string is text and stays. What was sampled becomes
    the wrong prefix.

    Args:
        rollout: the completion to extend.
        token_ids: the text, ending with a stop token if the completion should end there.
        finished: whether the result ends with a stop token.
    """
    spans = list(rollout.spans)
    if rollout.stop_length:
        last = spans[-1]
        spans[-1] = replace(
            last, token_ids=last.token_ids[:-1], logprobs=last.logprobs[:-1], entropies=last.entropies[:-1]
        )
    prefix = tuple(
        replace(span, segment=Segment.WRONG_PREFIX) if span.segment is Segment.SAMPLED else span
        for span in spans
        if span.token_ids
    )
    spans = [*prefix, Span(token_ids, Segment.INJECTED)]
    return Rollout(rollout.prompt_ids, tuple(spans), finished, scene=rollout.scene)


def start_of(continuation: Continuation) -> tuple[Rollout, int]:
    """What a continuation samples from, its injected tokens included, and how many tokens may be sampled.

    Raises:
        EngineError: the budget leaves no room for a sampled token.
    """
    injected = continuation.injected_ids
    room = continuation.budget - len(injected)
    if room < 1:
        raise EngineError(
            f"a continuation with a budget of {continuation.budget} tokens injects {len(injected)}; leave room for at "
            "least one sampled token"
        )
    return inject(continuation.rollout, injected, finished=False), room
