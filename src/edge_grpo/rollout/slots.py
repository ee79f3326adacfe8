"""Decoding without overhead: keys and values are written in place, and rows come and go without moving the others."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edge_grpo.models.dense import Dense, Heads
from edge_grpo.models.packing import Packing
from edge_grpo.models.policy import Policy

__all__ = ["Slots", "grown"]

_KEPT: Final = 0.75
"""Rows are moved together once fewer than this share of the slots are in use."""

_ROOM: Final = 64  # tokens by which slots grow at least


def grown(room: int, tokens: int) -> int:
    """The tokens that a slot has room for, once it must hold ``tokens``."""
    return room if tokens <= room else max(tokens + _ROOM, room * 3 // 2)


class Slots:
    """A :class:`edge_grpo.rollout.cache.Context` over the layers that :class:`edge_grpo.models.dense.Dense` computes.

    A slot holds the keys and values of one row, from its first token on. Rows that are dropped leave their slots empty
    until enough are; then the others are moved together. ``extend`` computes living rows alone, apart from attention.

    Args:
        policy: the model; must have a ``dense``.
        prompts: one per row; not empty.
    """

    def __init__(self, policy: Policy, prompts: Sequence[tuple[int, ...]]) -> None:
        dense = policy.scorer.dense
        assert dense is not None, "chosen by the caller"
        self._dense: Dense = dense
        self._device = policy.device
        heads, dim = dense.kv_shape
        self._keys, self._values = (
            [torch.empty((0, heads, 0, dim), dtype=dense.dtype, device=policy.device) for _ in range(dense.num_layers)]
            for _ in range(2)
        )
        none = torch.empty(0, dtype=torch.long, device=policy.device)
        self._slot, self._length = none, none
        self._whole = True  # whether the rows are the slots, in their order
        self._longest = 0
        self.logits = torch.empty((0, 0), device=policy.device)
        self.admit(prompts)

    def admit(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Append a row per prompt; a prompt that occurs twice is computed once."""
        different = list(dict.fromkeys(prompts))
        packing = Packing.of_prompts(different, self._device)
        attend = self._dense.attention(packing)
        kept: list[Heads] = []

        def keep(number: int, heads: Heads) -> Tensor:
            kept.append(heads)
            return attend(number, heads)

        logits: Tensor = self._dense(packing.ids, packing.position, keep, packing.source)
        place = {prompt: number for number, prompt in enumerate(different)}
        which = torch.tensor([place[prompt] for prompt in prompts], device=self._device)
        length = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        self._compact()
        first, longest = len(self._slot), max(map(len, prompts))
        self._make_room(first + len(prompts), longest)
        # what lies beyond a prompt's end is never attended to
        tokens = (packing.source[which] + 1 - length)[:, None] + torch.arange(longest, device=self._device)
        tokens = tokens.clamp(max=len(packing.ids) - 1)
        for held, column in (
            (self._keys, [each.keys for each in kept]),
            (self._values, [each.values for each in kept]),
        ):
            for layer, new in zip(held, column, strict=True):
                layer[first:, :, :longest] = new[tokens].transpose(1, 2)
        own = torch.arange(first, first + len(prompts), device=self._device)
        logits = logits[which]
        self._slot, self._length = torch.cat([self._slot, own]), torch.cat([self._length, length])
        self._longest = max(self._longest, longest)
        self.logits = torch.cat([self.logits, logits]) if len(self.logits) else logits

    def select(self, rows: Int[Tensor, " chosen"]) -> None:
        """Keep only these rows, in this order; a row may be repeated."""
        ascending = bool((rows.diff() > 0).all())
        self._slot, self._length, self.logits = self._slot[rows], self._length[rows], self.logits[rows]
        self._whole = False
        if len(rows) < _KEPT * len(self._keys[0]) or not ascending:
            self._compact()

    def extend(self, tokens: Int[Tensor, " rows"]) -> None:
        """Append one token to each row."""
        self._longest += 1
        self._make_room(len(self._keys[0]), self._longest)
        # half-precision products of part of a matrix are slower than those of all of it
        on_cpu, half = self._device.type == "cpu", self._dense.dtype == torch.bfloat16
        width = self._keys[0].shape[2] if on_cpu and half else self._longest
        seen = torch.arange(width, device=self._device) <= self._length[:, None]
        mask = torch.zeros((len(self._keys[0]), width), dtype=self._dense.dtype, device=self._device)
        mask[self._slot] = torch.where(seen, 0.0, -torch.inf).to(mask.dtype)
        if on_cpu:
            mask = mask.repeat_interleave(self._keys[0].shape[1], 0)
        self.logits = self._dense(tokens, self._length, lambda number, heads: self._attend(number, heads, mask))
        self._length = self._length + 1

    def _attend(
        self, number: int, heads: Heads, mask: Float[Tensor, "slots tokens"]
    ) -> Float[Tensor, "rows heads dim"]:
        """Write the new keys and values, and attend to all of each row's own."""
        keys, values = self._keys[number], self._values[number]
        keys[self._slot, :, self._length], values[self._slot, :, self._length] = heads.keys, heads.values
        queries = heads.queries.unflatten(1, (keys.shape[1], -1))  # heads that share keys, as if they were a sequence
        if not self._whole:
            queries = queries.new_zeros((len(keys), *queries.shape[1:])).index_copy(0, self._slot, queries)
        keys, values = (each[:, :, : mask.shape[1]] for each in (keys, values))
        if self._device.type == "cpu":  # single tokens are too few for the fused kernel to gain
            one, other, last = (each.flatten(0, 1) for each in (queries, keys, values))
            scores = torch.baddbmm(mask[:, None], one, other.mT, alpha=self._dense.scale)
            out = torch.bmm(scores.softmax(-1), last).view(queries.shape)
        else:
            out = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask[:, None, None], scale=self._dense.scale
            )
        return (out if self._whole else out[self._slot]).flatten(1, 2)

    def _compact(self) -> None:
        """Move the rows together, in their order."""
        if self._whole:
            return
        self._longest = int(self._length.max()) if len(self._length) else 0
        for column in (self._keys, self._values):
            for layer, held in enumerate(column):
                column[layer] = held[self._slot]
        self._slot = torch.arange(len(self._slot), device=self._device)
        self._whole = True

    def _make_room(self, slots: int, tokens: int) -> None:
        """Let there be this many slots with room for this many tokens each."""
        have, long = self._keys[0].shape[0], self._keys[0].shape[2]
        if slots <= have and tokens <= long:
            return
        room = grown(long, tokens)
        filled = min(self._longest, long)
        for column in (self._keys, self._values):
            for layer, held in enumerate(column):
                # zeros, because attention multiplies what it masks by 0
                larger = held.new_zeros((max(slots, have), held.shape[1], room, held.shape[3]))
                larger[:have, :, :filled] = held[:, :, :filled]
                column[layer] = larger
