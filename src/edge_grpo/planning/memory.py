"""Memory of a run by part and by phase, in bytes per rank, from the sizes of the model and of a step.

What each part is follows the code: master weights and optimizer (:mod:`edge_grpo.training.update`), copies and layouts
in bf16 (:mod:`edge_grpo.models.compute`), activations of packed passes (:mod:`edge_grpo.models.dense`), logits
(:mod:`edge_grpo.models.kernels`), keys and values (:mod:`edge_grpo.rollout.slots`), divided weights
(:mod:`edge_grpo.models.sharding`). Completions are as long as they may get. Allocator losses and the CUDA context are
left out, and so is what Python and its libraries take.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from edge_grpo.models.dense import SCORES
from edge_grpo.models.scoring import LOGITS_AT_ONCE
from edge_grpo.planning.shape import Precision, Shape
from edge_grpo.rollout.slots import grown

__all__ = ["Load", "Memory", "Part", "Phase", "Place", "activations", "kv_cache", "memory"]


class Phase(StrEnum):
    """The moments of a run at which most memory is in use; one of them is the peak.

    ``sampling``: all rows at their longest. ``backward``: the last forward pass of an update is done, and the backward
    pass begins. ``update``: all gradients are there, and the optimizer takes its step. ``saving``: ``final/`` is
    written and read back.
    """

    SAMPLING = "sampling"
    BACKWARD = "backward"
    UPDATE = "update"
    SAVING = "saving"


TRAINING: Final = (Phase.SAMPLING, Phase.BACKWARD, Phase.UPDATE)
ALWAYS: Final = tuple(Phase)


@dataclass(frozen=True)
class Part:
    """Bytes of one part of memory, the phases in which it is there, and what was assumed."""

    name: str
    bytes: float
    phases: tuple[Phase, ...]
    note: str = ""


@dataclass(frozen=True)
class Memory:
    """All parts of a rank's memory."""

    parts: tuple[Part, ...]

    def at(self, phase: Phase) -> float:
        """Bytes in a phase."""
        return sum(part.bytes for part in self.parts if phase in part.phases)

    @property
    def peak(self) -> tuple[Phase, float]:
        """The phase that needs most, and its bytes."""
        most = max(Phase, key=self.at)
        return most, self.at(most)


@dataclass(frozen=True)
class Load:
    """What passes over a model at once, on one rank; lengths are in tokens.

    ``rows`` of a micro-batch, with ``prompts`` different prompts of ``prompt`` tokens; completions of ``completion``
    tokens when they are trained. ``repeats``: whether an update has a second micro-batch, which finds the gradients of
    the first. ``decoded`` rows are sampled at once, each of ``sampled`` tokens after its prompt.
    """

    rows: int
    prompts: int
    prompt: int
    completion: int
    repeats: bool
    decoded: int
    sampled: int


@dataclass(frozen=True)
class Place:
    """Where and how the model is trained.

    ``divided``: weights, gradients and moments are divided among ``ranks`` (``distributed.shard=full``, also with one
    rank). ``recomputes``: activations are computed again in the backward pass. ``lays_out``: sampling on this CPU uses
    copies of its own. ``reference``: a frozen copy of the model is kept. ``in_process``: this process samples, rather
    than a server. ``entropy_gradient``: the loss differentiates through entropies.
    """

    on_gpu: bool = False
    ranks: int = 1
    divided: bool = False
    recomputes: bool = False
    lays_out: bool = False
    reference: bool = False
    in_process: bool = True
    entropy_gradient: bool = False


def memory(shape: Shape, precision: Precision, load: Load, place: Place) -> Memory:
    """The parts of a rank's memory, once the first step is done (before it there are no moments)."""
    parts = (
        *_state(shape, precision, load, place),
        *_copies(shape, precision, place),
        *_passes(shape, precision, load, place),
        *_sampling(shape, precision, load, place),
        *_saving(shape, precision, place),
    )
    return Memory(tuple(part for part in parts if part.bytes))


def _state(shape: Shape, precision: Precision, load: Load, place: Place) -> Iterator[Part]:
    share = place.ranks if place.divided else 1
    divided = f"divided by {share}" if place.divided else ""
    yield Part("trained weights (masters)", precision.trained * shape.trained / share, ALWAYS, divided or "float32")
    kind = {2: "bfloat16", 4: "float32"}[precision.frozen]
    yield Part("frozen weights", precision.frozen * shape.frozen / share, ALWAYS, divided or kind)
    if place.reference and not shape.rank:
        size = 2 if precision.passes == 2 and shape.packed else 4
        yield Part("reference", size * shape.weights / share, ALWAYS, "a frozen copy of the model, to compare with")
    moments = (8 * shape.trained) / share + 4 * shape.num_trained
    yield Part("optimizer (two moments)", moments, ALWAYS, "from the first update on")
    when = (Phase.BACKWARD, Phase.UPDATE) if load.repeats else (Phase.UPDATE,)
    yield Part("gradients", 4 * shape.trained / share, when, divided or "float32")


def _copies(shape: Shape, precision: Precision, place: Place) -> Iterator[Part]:
    """Weights in the dtype of passes, gathered or copied."""
    size, largest = precision.passes, max(shape.layer, shape.outside)
    if place.divided:
        gathered = size * (2 * shape.layer + shape.outside) + 4 * largest
        note = "two layers and all outside them, and one's gradient"
        yield Part("gathered weights", gathered, (Phase.BACKWARD,), note)
        if place.in_process:
            yield Part("whole copy", size * shape.weights, (Phase.SAMPLING,), "to sample from; a server would not")
        return
    if size == 4:
        return
    in_half = shape.trained if precision.frozen == 2 else shape.weights
    if not shape.packed:
        yield Part("weights in bfloat16", 2 * in_half, (Phase.BACKWARD,), "cast for each pass by autocast")
        return
    yield Part("weights in bfloat16", 2 * in_half, ALWAYS, "copies that passes compute with")
    if place.lays_out and place.in_process:
        linear = shape.trained if precision.frozen == 2 else shape.projections + shape.head
        yield Part("laid-out weights", 2 * linear, ALWAYS, "further copies in bfloat16, for sampling on a CPU")


def _passes(shape: Shape, precision: Precision, load: Load, place: Place) -> Iterator[Part]:
    size = precision.passes
    note = f"of {load.rows} rows, {load.prompts} prompts of {load.prompt} tokens, completions of {load.completion}"
    if place.recomputes:
        note += "; layers are computed again"
    yield Part("activations", activations(shape, load, place, size=size), (Phase.BACKWARD,), note)
    scored = load.rows * load.completion
    at_once = min(scored, max(1, LOGITS_AT_ONCE // shape.vocabulary)) * shape.vocabulary
    # float32 logits, with the product in bf16 beside them; a GPU works on all of them at once, a CPU on a few
    each = 4 + (2 if size == 2 else 0)
    each = max(each, 12 if place.entropy_gradient else 8) if place.on_gpu else each
    trained = 4 * shape.head if shape.head_trained else 0
    later = _passing(shape, load, size=size) + (trained * size / 4 if shape.tied else 0)
    note = f"{at_once // shape.vocabulary} of {scored} tokens at once, and the gradient of the head"
    yield Part("logits", max(each * at_once + trained, later), (Phase.BACKWARD,), note)
    if shape.tied and shape.head_trained:
        own = shape.head * size
        yield Part("gradient of the embeddings", own, (Phase.UPDATE,), "before it is added to the head's")


def activations(shape: Shape, load: Load, place: Place, *, size: int) -> float:
    """Bytes that a forward pass keeps for the backward pass, in passes of ``size`` bytes a number.

    Packed layers keep, for every token: four hidden states (the layer's input and its middle, and each normalised),
    four intermediate ones, queries, what they attend to and that once more in one line, keys and values; for every row
    of completions, keys and values of its prompt and itself; and float32 scales and sums of attention. Where a CPU
    multiplies in bf16 by itself, it keeps scores of attention instead. Other families: what Llama's own layers keep.
    """
    if not shape.packed:
        tokens = load.rows * (load.prompt + load.completion)
        wide = {2: 16, 4: 24}[size] * shape.hidden
        each = wide + size * (2 * shape.queries + 4 * shape.intermediate + 2 * shape.kv)
        return tokens * _stacked(shape, each, place, size=size)
    answer = max(0, load.completion - 1)  # the last token is predicted, never read
    tokens = load.prompts * load.prompt + load.rows * answer
    hidden, q, kv = shape.hidden, shape.queries, shape.kv
    token = size * (4 * hidden + 4 * shape.intermediate + 3 * q + 2 * kv) + 8
    token += size * (q + kv) + 4 * (shape.heads + shape.kv_heads) if shape.norms_heads else 0
    token += size * 7 * shape.rank
    seen, pairs = load.rows * (load.prompt + answer), load.rows * shape.heads * answer * (load.prompt + answer)
    layer = tokens * token + seen * 2 * size * (q if place.on_gpu else kv)
    by_products = not place.on_gpu and size == 2 and pairs <= SCORES
    layer += 6 * pairs if by_products else 4 * shape.heads * tokens
    mask = 0 if place.on_gpu else answer * (load.prompt + answer)
    ends = size * (load.rows * load.completion * hidden + tokens * (hidden + shape.head_dim) + mask)
    kept = size * hidden * tokens * shape.layers + layer if place.recomputes else shape.layers * layer
    return kept + ends


def _stacked(shape: Shape, layer: float, place: Place, *, size: int) -> float:
    """Bytes per token of all layers: of each, or of each one's input and of one."""
    return size * shape.hidden * shape.layers + layer if place.recomputes else shape.layers * layer


def _passing(shape: Shape, load: Load, *, size: int) -> float:
    """Gradients in passing while the last layer goes backward."""
    tokens = load.prompts * load.prompt + load.rows * load.completion
    return float(size * tokens * (2 * shape.intermediate + 2 * shape.hidden))


def kv_cache(shape: Shape, load: Load, *, size: int) -> float:
    """Bytes of keys and values of all rows that are decoded at once, in slots that grow."""
    room = grown(0, load.prompt)
    for tokens in range(load.prompt, load.prompt + load.sampled):
        room = grown(room, tokens)
    if not shape.packed:
        room = load.prompt + load.sampled
    return float(2 * size * shape.layers * shape.kv * load.decoded * room)


def _sampling(shape: Shape, precision: Precision, load: Load, place: Place) -> Iterator[Part]:
    if not place.in_process:
        return
    size, during = precision.passes, (Phase.SAMPLING,)
    cache = kv_cache(shape, load, size=size)
    note = f"keys and values of {load.decoded} rows of {load.prompt} + {load.sampled} tokens"
    yield Part(
        "KV cache", cache * (1 + 1 / max(1, 2 * shape.layers)), during, f"{note}, and one layer's while it grows"
    )
    # the old and the new ones; a GPU draws from all of them at once
    each = 2 * size + (20 if place.on_gpu else 0)
    yield Part("logits of next tokens", each * load.decoded * shape.vocabulary, during)


def _saving(shape: Shape, precision: Precision, place: Place) -> Iterator[Part]:
    if place.on_gpu:
        return  # in CPU memory
    copies = 2 * precision.frozen * shape.weights if shape.rank else precision.trained * shape.weights
    note = "two copies with merged adapters, read back in turn" if shape.rank else "what is written, read back"
    if place.divided:
        copies += precision.frozen * shape.weights
        note += "; with the whole copy that it is written from, on rank 0 alone"
    yield Part("copies of final/", copies, (Phase.SAVING,), note)
