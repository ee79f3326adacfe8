"""Which tokens a pass must compute: each distinct prompt once, each answer after it, and no padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["Bin", "Packing", "Shelf"]


_LONG: Final = 256  # tokens of an answer from which on it does not share a shelf with one half as long


@dataclass(frozen=True)
class Shelf:
    """Answers of similar length, which attention takes side by side, padded to ``longest`` tokens.

    ``prompt_of``: the number of each answer's prompt within the bin. ``padding`` is the ``slots`` and ``back`` of
    :func:`edge_grpo.models.kernels.pad`; None if no answer is shorter.
    """

    longest: int
    num_tokens: int
    prompt_of: Int[Tensor, " rows"]
    padding: tuple[Int[Tensor, " slots"], Int[Tensor, " tokens"]] | None


@dataclass(frozen=True)
class Bin:
    """The rows whose prompts have the same length, so that a prompt needs no padding.

    Its tokens are those of ``num_prompts`` prompts of ``prompt`` tokens each, then those of its answers by shelf.
    """

    prompt: int
    num_prompts: int
    shelves: tuple[Shelf, ...] = ()

    @property
    def sizes(self) -> list[int]:
        """Numbers of tokens: of all prompts, and of each shelf."""
        return [self.num_prompts * self.prompt, *(shelf.num_tokens for shelf in self.shelves)]


@dataclass(frozen=True)
class Packing:
    """All tokens of a pass in one line, bin by bin.

    ``position`` is that within a row. ``source``: for each token to be scored, row by row, the place of the one
    before it, whose hidden state predicts it.
    """

    ids: Int[Tensor, " tokens"]
    position: Int[Tensor, " tokens"]
    source: Int[Tensor, " scored"]
    bins: tuple[Bin, ...]

    @classmethod
    def of(cls, input_ids: Int[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]) -> "Packing":
        """Lay out a micro-batch.

        A row's prompt is what comes before its first masked token. What follows the last token that predicts a masked
        one is left out, and so are rows without a masked token.

        Args:
            input_ids: padded on the right.
            mask: the tokens to score; column 0 is False.
        """
        device, width = input_ids.device, input_ids.shape[1]
        chosen = mask.any(-1).nonzero().squeeze(-1).tolist()
        starts = mask.int().argmax(-1).tolist()
        ends = (width - 1 - mask.flip(-1).int().argmax(-1)).tolist()  # the last masked token is predicted, not read
        lines = input_ids.tolist()
        prompts: dict[tuple[int, ...], list[int]] = {}
        for row in chosen:
            prompts.setdefault(tuple(lines[row][: starts[row]]), []).append(row)
        ids: list[int] = []
        position: list[int] = []
        places: dict[int, tuple[int, int]] = {}  # by row: of its prompt's last token, and of its answer's first
        bins = []
        for length in sorted({len(prompt) for prompt in prompts}):
            same = {prompt: rows for prompt, rows in prompts.items() if len(prompt) == length}
            last: list[int] = []
            for prompt in same:
                ids += prompt
                position += range(length)
                last.append(len(ids) - 1)
            answers = [(ends[row] - length, number, row) for number, rows in enumerate(same.values()) for row in rows]
            shelves = []
            for shelf in _by_length(answers):
                for count, number, row in shelf:
                    places[row] = (last[number], len(ids))
                    ids += lines[row][length : ends[row]]
                    position += range(length, length + count)
                shelves.append(_shelf([count for count, _, _ in shelf], [number for _, number, _ in shelf], device))
            bins.append(Bin(length, len(same), tuple(shelves)))
        rows, columns = (each.tolist() for each in mask.nonzero(as_tuple=True))
        source = [
            places[row][0] if column == starts[row] else places[row][1] + column - 1 - starts[row]
            for row, column in zip(rows, columns, strict=True)
        ]
        packed = torch.tensor([ids, position], device=device)
        return cls(packed[0], packed[1], torch.tensor(source, device=device, dtype=torch.long), tuple(bins))

    @classmethod
    def of_prompts(cls, prompts: Sequence[tuple[int, ...]], device: torch.device) -> "Packing":
        """Lay out prompts alone; ``source`` is the place of each one's last token."""
        ids: list[int] = []
        position: list[int] = []
        ends = [0] * len(prompts)
        bins = []
        for length in sorted({len(prompt) for prompt in prompts}):
            same = [number for number, prompt in enumerate(prompts) if len(prompt) == length]
            for number in same:
                ids += prompts[number]
                position += range(length)
                ends[number] = len(ids) - 1
            bins.append(Bin(length, len(same)))
        packed = torch.tensor([ids, position], device=device)
        return cls(packed[0], packed[1], torch.tensor(ends, device=device), tuple(bins))


def _by_length(answers: list[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Answers, whose first entry is their length, in their order, unless long ones would pad much shorter ones."""
    longest = max(length for length, _, _ in answers)
    while longest >= _LONG and min(length for length, _, _ in answers) < longest // 2:
        yield [each for each in answers if each[0] >= longest // 2]
        answers = [each for each in answers if each[0] < longest // 2]
        longest = max(length for length, _, _ in answers)
    yield answers


def _shelf(lengths: list[int], prompt_of: list[int], device: torch.device) -> Shelf:
    longest, total = max(lengths), sum(lengths)
    padding = None
    if total < longest * len(lengths):
        length = torch.tensor(lengths)
        place = torch.arange(longest)
        first = length.cumsum(0) - length
        filled = place < length[:, None]
        slots = torch.where(filled, first[:, None] + place, 0).flatten()
        padding = (slots.to(device), filled.flatten().nonzero().squeeze(-1).to(device))
    return Shelf(longest, total, torch.tensor(prompt_of, device=device, dtype=torch.long), padding)
