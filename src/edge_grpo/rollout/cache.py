"""What a model makes of the tokens so far: kept in its cache, or computed again for every token."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from edge_grpo.base.errors import EngineError
from edge_grpo.models.policy import Policy
from edge_grpo.models.scoring import causal, decoder
from edge_grpo.rollout.engine import Start
from edge_grpo.rollout.slots import Slots

__all__ = ["CACHED", "Cached", "Context", "Decoding", "Recomputed", "check_batched", "pick"]


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
    """Keeps keys, values and recurrent states in the model's own cache; pictures are encoded with the prompts.

    Families that give the tokens of a picture positions in two dimensions count on from another number than that of
    the tokens; it is read from the model after the prompts, and kept row by row.

    Args:
        policy: the model.
        starts: one per row; not empty.
        pad_id: any valid token id.
        padded: whether they may differ in length: shorter ones are padded on the left, and masked.
    """

    def __init__(self, policy: Policy, starts: Sequence[Start], pad_id: int, *, padded: bool = True) -> None:
        self._policy, self._model = policy, policy.model
        self._accepts = inspect.signature(causal(policy.model).forward).parameters
        self._name = next((name for name in ("past_key_values", "cache_params") if name in self._accepts), "")
        if not self._name:
            raise EngineError(f"{type(causal(policy.model)).__name__} has no cache that can be handed back to it")
        prompts = [start.token_ids for start in starts]
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        ids, mask = ids.to(policy.device), mask.to(policy.device)
        self._attention = mask if padded else None
        self._position = mask.sum(-1, keepdim=True)
        self._cache: Any = None
        scenes = [start.scene for start in starts]
        inputs = policy.inputs(ids, scenes, [width - len(prompt) for prompt in prompts])
        places: Any = decoder(causal(policy.model)) if any(scenes) else None
        own = hasattr(places, "rope_deltas")  # then the model finds the positions by itself
        self._run(ids, None if own else (mask.cumsum(-1) - 1).clamp(min=0), inputs, logits_to_keep=1)
        self._offset: Tensor | None = places.rope_deltas.to(policy.device) if own else None

    def _run(
        self,
        ids: Int[Tensor, "rows new"],
        position: Int[Tensor, "... rows new"] | None,
        inputs: Mapping[str, Tensor],
        **wishes: int,
    ) -> None:
        """A forward pass over the new tokens; the first one makes the cache."""
        given: dict[str, Any] = {
            **wishes,
            "position_ids": position,
            "attention_mask": self._attention,
            self._name: self._cache,
        }
        known = {name: value for name, value in given.items() if name in self._accepts and value is not None}
        output = self._model(**{"input_ids": ids, **inputs}, use_cache=True, **known)
        self._cache, self.logits = output[self._name], output.logits[:, -1]

    def select(self, rows: Int[Tensor, " chosen"]) -> None:
        """Keep only these rows, in this order; a row may be repeated."""
        self._cache.reorder_cache(rows)  # unlike `batch_select_indices`, it covers recurrent states
        self._position, self.logits = self._position[rows], self.logits[rows]
        if self._offset is not None:
            self._offset = self._offset[rows]
        if self._attention is not None:
            self._attention = self._attention[rows]

    def extend(self, tokens: Int[Tensor, " rows"]) -> None:
        """Append one token to each row."""
        if self._attention is not None:
            self._attention = torch.cat([self._attention, self._attention.new_ones(len(tokens), 1)], dim=-1)
        position = self._position if self._offset is None else (self._position + self._offset).expand(3, -1, -1)
        self._run(tokens[:, None], position, self._policy.inputs(tokens[:, None]))
        self._position = self._position + 1


class Recomputed:
    """Runs the whole rows again for every token, padded on the right as in scoring: slow, and always right.

    Args:
        policy: the model.
        starts: one per row; not empty.
        pad_id: any valid token id.
    """

    def __init__(self, policy: Policy, starts: Sequence[Start], pad_id: int) -> None:
        self._policy, self._pad_id = policy, pad_id
        rows = [torch.tensor(start.token_ids, device=policy.device) for start in starts]
        self._ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
        self._lengths = torch.tensor([len(row) for row in rows], device=policy.device)
        self._scenes = [start.scene for start in starts]
        self._run()

    def _run(self) -> None:
        places = torch.arange(self._ids.shape[1], device=self._ids.device)
        inputs = self._policy.inputs(self._ids, self._scenes)
        self.logits = self._policy.scorer.next_logits(self._ids, places < self._lengths[:, None], inputs)

    def select(self, rows: Int[Tensor, " chosen"]) -> None:
        """Keep only these rows, in this order; a row may be repeated."""
        self._scenes = [self._scenes[row] for row in rows.tolist()]
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

    def start(self, policy: Policy, starts: Sequence[Start], pad_id: int) -> Context:
        """The rows, ready to be extended; one that occurs twice is computed once."""
        if self.refilled:
            return Slots(policy, [start.token_ids for start in starts])
        different = {start: place for place, start in enumerate(dict.fromkeys(starts))}
        some = list(different)
        context = Cached(policy, some, pad_id, padded=self.padded) if self.cached else Recomputed(policy, some, pad_id)
        context.select(torch.tensor([different[start] for start in starts], device=policy.device))
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


_TEXT: Final = (Start((0, 1, 2, 3, 4, 5, 6)), Start((3, 4, 5, 0)))


@torch.inference_mode()
def pick(policy: Policy, pad_id: int, starts: Sequence[Start] = _TEXT) -> Decoding:
    """The fastest way of decoding that gives, on a few tokens, the logits of full passes over unpadded rows.

    Args:
        policy: the model.
        pad_id: any valid token id.
        starts: two rows of different lengths to try.
    """
    exact = not policy.autocast and policy.model.dtype in (torch.float32, torch.float64)
    for way in (*([SLOTS] if policy.scorer.is_packed else []), CACHED, *_OTHERS[:-1]):
        if _is_right(way, policy, pad_id, starts, relative=1e-3 if exact else 5e-2):
            return way
    return _OTHERS[-1]


@torch.inference_mode()
def check_batched(policy: Policy, starts: Sequence[Start], pad_id: int) -> None:
    """Make sure that rows with pictures are scored alike alone and beside others.

    Raises:
        EngineError: they are not.
    """
    exact = not policy.autocast and policy.model.dtype in (torch.float32, torch.float64)
    together = Recomputed(policy, starts, pad_id).logits.float()
    alone = torch.cat([Recomputed(policy, [start], pad_id).logits for start in starts]).float()
    if not float((together - alone).abs().max()) <= (1e-3 if exact else 5e-2) * float(alone.abs().max()):
        raise EngineError(
            f"model.path: {type(causal(policy.model)).__name__} scores a row with pictures differently beside others; "
            "use another vision-language model"
        )


def _is_right(way: Decoding, policy: Policy, pad_id: int, starts: Sequence[Start], *, relative: float) -> bool:
    """Whether rows that are swapped, repeated, extended and dropped keep the logits of full passes."""
    one, other = starts
    rows = [one, other if way.padded else replace(one, token_ids=(*one.token_ids[:-1], 2))]
    try:
        with policy.precision():
            context = way.start(policy, rows, pad_id)
            for chosen, tokens in (((1, 0, 1), (1, 2, 3)), ((0, 1, 2), (2, 5, 1)), ((2, 1), (4, 6))):
                context.select(torch.tensor(chosen, device=policy.device))
                context.extend(torch.tensor(tokens, device=policy.device))
                pairs = zip(chosen, tokens, strict=True)
                rows = [replace(rows[row], token_ids=(*rows[row].token_ids, token)) for row, token in pairs]
        for row, ours in zip(rows, context.logits, strict=True):
            ids = torch.tensor([row.token_ids], device=policy.device)
            every, inputs = torch.ones_like(ids, dtype=torch.bool), policy.inputs(ids, [row.scene])
            theirs = policy.scorer.next_logits(ids, every, inputs)[0].float()
            if not float((ours.float() - theirs).abs().max()) <= relative * float(theirs.abs().max()):
                return False
    except torch.OutOfMemoryError:
        raise
    except Exception:  # noqa: BLE001 - whatever a family's cache raises, the next way is tried
        return False
    return True
