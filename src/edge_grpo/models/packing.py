"""Which tokens a pass must compute: each distinct prompt once, each answer after it, and no padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["Bin", "Packing"]


@dataclass(frozen=True)
class Bin:
    """The rows whose prompts have the same length, so that their attention needs one mask.

    Its tokens are those of ``num_prompts`` prompts of ``prompt`` tokens each, then those of its answers, which are
    padded to ``answer`` tokens for attention alone. ``prompt_of``: the number of each answer's prompt within the bin.
    ``slots`` and ``back`` are as in :func:`edge_grpo.models.kernels.pad`; None if no answer is shorter.
    """

    prompt: int
    num_prompts: int
    answer: int
    prompt_of: Int[Tensor, " rows"]
    num_tokens: int
    slots: Int[Tensor, " slots"] | None
    back: Int[Tensor, " tokens"] | None


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
            prompt_of, counts = [], []
            for number, rows in enumerate(same.values()):
                for row in rows:
                    places[row] = (last[number], len(ids))
                    ids += lines[row][length : ends[row]]
                    position += range(length, ends[row])
                    prompt_of.append(number)
                    counts.append(ends[row] - length)
            bins.append(_bin(length, len(same), prompt_of, counts, device))
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
            bins.append(_bin(length, len(same), [], [], device))
        packed = torch.tensor([ids, position], device=device)
        return cls(packed[0], packed[1], torch.tensor(ends, device=device), tuple(bins))


def _bin(prompt: int, num_prompts: int, prompt_of: list[int], counts: Sequence[int], device: torch.device) -> Bin:
    """The bin of answers with these numbers of tokens."""
    longest, total = max(counts, default=0), sum(counts)
    slots = back = None
    if total < longest * len(counts):
        length = torch.tensor(counts)
        place = torch.arange(longest)
        first = length.cumsum(0) - length
        filled = place < length[:, None]
        slots = torch.where(filled, first[:, None] + place, 0).flatten().to(device)
        back = filled.flatten().nonzero().squeeze(-1).to(device)
    return Bin(
        prompt=prompt,
        num_prompts=num_prompts,
        answer=longest,
        prompt_of=torch.tensor(prompt_of, device=device, dtype=torch.long),
        num_tokens=num_prompts * prompt + total,
        slots=slots,
        back=back,
    )
