"""What a model makes of the tokens so far: kept in its cache, or computed again for every token."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from edge_grpo.base.errors import EngineError
from edge_grpo.models.policy import Policy
from edge_grpo.models.scoring import causal
from edge_grpo.rollout.slots import Slots

__all__ = ["CACHED", "Cached", "Context", "Decoding", "Recomputed", "pick"]

Prompts = Sequence[tuple[int, ...]]


@runtime_checkable
class Context(Protocol):
    """The tokens so far of a batch of rows. ``logits``: raw, of each row's next token."""

    logits: Float[Tensor, "rows vocabulary"]

    def select(self, rows: Int[Tensor, " chosen"]) -> None:
        """Keep only these rows, in this order; a row may be repeated."""
        ...

    def extend(self, tokens: Int[Tensor, " rows"]) -> None:
        """Append one token to each row."""
        ...


class Cached:
    """Keeps keys, values and recurrent states in the model's own cache.

    Args:
        policy: the model.
        prompts: one per row; not empty.
        pad_id: any valid token id.
        padded: whether prompts may differ in length: shorter ones are padded on the left, and masked.
    """

    def __init__(self, policy: Policy, prompts: Prompts, pad_id: int, *, padded: bool = True) -> None:
        self._model = policy.model
        self._accepts = inspect.signature(causal(policy.model).forward).parameters
        self._name = next((name for name in ("past_key_values", "cache_params") if name in self._accepts), "")
        if not self._name:
            raise EngineError(f"{type(causal(policy.model)).__name__} has no cache that can be handed back to it")
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        ids, mask = ids.to(policy.device), mask.to(policy.device)
        self._attention = mask if padded else None
        self._position = mask.sum(-1, keepdim=True)
        self._cache: Any = None
        self._run(ids, (mask.cumsum(-1) - 1).clamp(min=0), logits_to_keep=1)

    def _run(self, ids: Int[Tensor, "rows new"], position: Int[Tensor, "rows new"], **wishes: int) -> None:
        """A forward pass over the new tokens; the first one makes the cache."""
        given: dict[str, Any] = {
            **wishes,
            "position_ids": position,
            "attention_mask": self._attention,
            self._name: self._cache,
        }
        known = {name: value for name, value in given.items() if name in self._accepts and value is not None}
        output = self._model(input_ids=ids, use_cache=True, **known)
        self._cache, self.logits = output[self._name], output.logits[:, -1]

    def select(self, rows: Int[Tensor, " chosen"]) -> None:
        """Keep only these rows, in this order; a row may be repeated."""
        self._cache.reorder_cache(rows)  # unlike `batch_select_indices`, it covers recurrent states
        self._position, self.logits = self._position[rows], self.logits[rows]
        if self._attention is not None:
            self._attention = self._attention[rows]

    def extend(self, tokens: Int[Tensor, " rows"]) -> None:
        """Append one token to each row."""
        if self._attention is not None:
            self._attention = torch.cat([self._attention, self._attention.new_ones(len(tokens), 1)], dim=-1)
        self._run(tokens[:, None], self._position)
        self._position = self._position + 1


class Recomputed:
    """Runs the whole rows again for every token, padded on the right as in scoring: slow, and always right.

    Args:
        policy: the model.
        prompts: one per row; not empty.
        pad_id: any valid token id.
    """

    def __init__(self, policy: Policy, prompts: Prompts, pad_id: int) -> None:
        self._policy, self._pad_id = policy, pad_id
        rows = [torch.tensor(prompt, device=policy.device) for prompt in prompts]
        self._ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=policy.device)
        self._run()

    def _run(self) -> None:
        places = torch.arange(self._ids.shape[1], device=self._ids.device)
        self.logits = self._policy.scorer.next_logits(self._ids, places < self._lengths[:, None])

    def select(self, rows: Int[Tensor, " chosen"]) -> None:
        """Keep only these rows, in this order; a row may be repeated."""
        self._ids, self._lengths, self.logits = self._ids[rows], self._lengths[rows], self.logits[rows]

    def extend(self, tokens: Int[Tensor, " rows"]) -> None:
        """Append one token to each row."""
        column = self._ids.new_full((len(tokens), 1), self._pad_id)
        self._ids = torch.cat([self._ids, column], dim=-1).scatter(-1, self._lengths[:, None], tokens[:, None])
        self._lengths = self._lengths + 1
        self._ids = self._ids[:, : int(self._lengths.max())]
        self._run()


@dataclass(frozen=True)
class Decoding:
    """How a model is decoded.

    ``cached``: with its cache; ``padded``: prompts of different lengths share a batch; ``refilled``: rows that wait
    take the places of those that ended.
    """

    cached: bool = True
    padded: bool = True
    refilled: bool = False
    note: str = ""

    def start(self, policy: Policy, prompts: Prompts, pad_id: int) -> Context:
        """The prompts, ready to be extended; one that occurs twice is computed once."""
        if self.refilled:
            return Slots(policy, prompts)
        different = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        some = list(different)
        context = Cached(policy, some, pad_id, padded=self.padded) if self.cached else Recomputed(policy, some, pad_id)
        context.select(torch.tensor([different[prompt] for prompt in prompts], device=policy.device))
        return context


CACHED: Final = Decoding()
SLOTS: Final = Decoding(refilled=True)

_OTHERS: Final = (
    Decoding(
        padded=False,
        note="its recurrent layers see padding, so prompts of different lengths are decoded one length at a time",
    ),
    Decoding(
        cached=False,
        note="its cache cannot serve rows that end at different times, so every token is sampled from a full pass over "
        "its row: the same samples, slowly",
    ),
)


@torch.inference_mode()
def pick(policy: Policy, pad_id: int) -> Decoding:
    """The fastest way of decoding that gives, on a few tokens, the logits of full passes over unpadded rows."""
    exact = not policy.autocast and policy.model.dtype in (torch.float32, torch.float64)
    for way in (*([SLOTS] if policy.scorer.is_packed else []), CACHED, *_OTHERS[:-1]):
        if _is_right(way, policy, pad_id, relative=1e-3 if exact else 5e-2):
            return way
    return _OTHERS[-1]


def _is_right(way: Decoding, policy: Policy, pad_id: int, *, relative: float) -> bool:
    """Whether rows that are swapped, repeated, extended and dropped keep the logits of full passes."""
    rows: list[tuple[int, ...]] = [(0, 1, 2, 3, 4, 5, 6), (3, 4, 5, 0) if way.padded else (3, 4, 5, 0, 2, 1, 6)]
    try:
        with policy.precision():
            context = way.start(policy, rows, pad_id)
            for chosen, tokens in (((1, 0, 1), (1, 2, 3)), ((0, 1, 2), (2, 5, 1)), ((2, 1), (4, 6))):
                context.select(torch.tensor(chosen, device=policy.device))
                context.extend(torch.tensor(tokens, device=policy.device))
                rows = [(*rows[row], token) for row, token in zip(chosen, tokens, strict=True)]
        for row, ours in zip(rows, context.logits, strict=True):
            ids = torch.tensor([row], device=policy.device)
            theirs = policy.scorer.next_logits(ids, torch.ones_like(ids, dtype=torch.bool))[0].float()
            if not float((ours.float() - theirs).abs().max()) <= relative * float(theirs.abs().max()):
                return False
    except torch.OutOfMemoryError:
        raise
    except Exception:  # noqa: BLE001 - whatever a family's cache raises, the next way is tried
        return False
    return True
