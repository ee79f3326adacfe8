"""Made-up steps for the tests of methods: random scores, garbage in padding, and an update in micro-batches."""

import random
from dataclasses import replace

import torch
from torch import Tensor

from edge_grpo.base.records import Grade, Group, Problem, Rollout, Row, Segment, Span, Strategy, Verdict
from edge_grpo.base.tensors import LossInputs, Scored, Signal, Totals
from edge_grpo.methods.base import Method, Repair
from edge_grpo.training.batching import loss_inputs

PROMPT, WIDTH = 2, 9
KINDS = [Segment.SAMPLED, Segment.WRONG_PREFIX, Segment.INJECTED, Segment.CONTINUED]


def make_step(*, seed: int = 0, groups: int = 3, size: int = 4, dtype: torch.dtype = torch.float64) -> Scored:
    """Groups of rollouts in mixed row order; some rows corrected, one unscorable, one group collapsed."""
    generator = torch.Generator().manual_seed(seed)
    rows = groups * size

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=dtype)

    order = torch.randperm(rows, generator=generator)
    group = (torch.arange(rows) // size)[order]
    length = torch.randint(3, WIDTH - PROMPT + 1, (rows,), generator=generator)
    place = torch.arange(WIDTH).expand(rows, WIDTH)
    attention = place < PROMPT + length[:, None]
    mask = attention & (place >= PROMPT)
    corrected = (uniform(rows) < 0.4) & (group > 0)
    segment = torch.where(corrected[:, None], _segments(place), int(Segment.SAMPLED)) * mask
    parts = (uniform(rows, 2) < 0.5).to(dtype)
    parts = torch.where(group[:, None] == 0, torch.ones_like(parts), parts)
    parts[:, 1] = torch.where(corrected & (uniform(rows) < 0.7), 1.0, parts[:, 1])
    sampled = mask & (segment != int(Segment.INJECTED))
    logprobs = -0.05 - 2 * uniform(rows, WIDTH)
    scorable = torch.ones(rows, dtype=torch.bool)
    scorable[int((group == groups - 1).nonzero()[0])] = False
    return Scored(
        input_ids=torch.zeros(rows, WIDTH, dtype=torch.long),
        attention=attention,
        mask=mask,
        segment=segment,
        group=group,
        family=group,
        variant=torch.zeros(rows, dtype=torch.long),
        source=torch.zeros(rows, dtype=torch.long),
        layer=torch.ones(rows, dtype=torch.long),
        parent=torch.full((rows,), -1),
        reward=parts.sum(-1),
        reward_parts=parts,
        reward_weights=torch.ones(2, dtype=dtype),
        correct=parts[:, 1] > 0,
        scorable=scorable,
        finished=uniform(rows) < 0.8,
        corrected=corrected,
        sampling_logprobs=torch.where(sampled, logprobs + 0.1 * uniform(rows, WIDTH), torch.nan),
        sampling_entropy=torch.where(sampled, uniform(rows, WIDTH), torch.nan),
        old_logprobs=logprobs,
        entropy=2 * uniform(rows, WIDTH),
        ref_logprobs=logprobs - 0.3 * uniform(rows, WIDTH),
        token_scores=torch.where(mask, uniform(rows, WIDTH) - 0.5, 0.0),
    )


def _segments(place: Tensor) -> Tensor:
    kinds = torch.tensor(
        [0] * PROMPT + [int(k) for k in (KINDS[1], KINDS[1], KINDS[2], KINDS[2])] + [int(KINDS[3])] * 9
    )
    return kinds[: place.shape[1]].expand_as(place)


def current(batch: Scored, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropy at weights other than those that scored the batch."""
    generator = torch.Generator().manual_seed(seed)
    shape, dtype = batch.mask.shape, batch.entropy.dtype
    moved = batch.old_logprobs.nan_to_num(0.0) + 0.6 * (torch.rand(shape, generator=generator, dtype=dtype) - 0.5)
    return moved, 2 * torch.rand(shape, generator=generator, dtype=dtype)


def with_rubbish(batch: Scored, filler: float) -> Scored:
    """The same step with ``filler`` wherever there is no completion token."""
    names = ("sampling_logprobs", "old_logprobs", "entropy", "ref_logprobs")
    columns: dict[str, Tensor] = {name: getattr(batch, name) for name in (*names, "token_scores", "sampling_entropy")}
    return replace(batch, **{name: torch.where(batch.mask, column, filler) for name, column in columns.items()})


def run_update(
    method: Method, batch: Scored, signal: Signal, logprobs: Tensor, entropy: Tensor, splits: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients of one update whose rows are split as given."""
    logprobs = logprobs.detach().clone().requires_grad_()
    entropy = entropy.detach().clone().requires_grad_()
    loss = torch.zeros((), dtype=logprobs.dtype)
    totals = totals_of(method, batch, signal, splits, logprobs.detach())
    for rows in splits:
        x = pieces(batch, signal, rows, logprobs, entropy)
        loss = loss + method.loss(x, totals)
    loss.backward()
    gradients = [torch.zeros_like(logprobs) if g is None else g for g in (logprobs.grad, entropy.grad)]
    return loss.detach(), gradients[0], gradients[1]


def totals_of(
    method: Method, batch: Scored, signal: Signal, splits: list[Tensor], logprobs: Tensor | None = None
) -> Totals:
    """What the training loop would sum over an update's micro-batches; with ``logprobs``, at other weights."""
    now = logprobs if method.needs.forward_totals and logprobs is not None else batch.old_logprobs
    sums = {"rows": 0.0, "tokens": 0.0}
    for rows in splits:
        x = pieces(batch, signal, rows, now, batch.entropy)
        own = {"rows": float(x.keep.sum()), "tokens": float(x.mask.sum()), **method.totals(x)}
        sums = {name: sums.get(name, 0.0) + value for name, value in own.items()}
    extra = {name: value for name, value in sums.items() if name not in ("rows", "tokens")}
    return Totals(sums["rows"], sums["tokens"], WIDTH - PROMPT, extra)


def pieces(batch: Scored, signal: Signal, rows: Tensor, logprobs: Tensor, entropy: Tensor) -> LossInputs:
    """A micro-batch, cut to its longest row."""
    width = int(batch.attention[rows].sum(-1).max())
    return loss_inputs(batch, signal, rows, width, logprobs=logprobs[rows, :width], entropy=entropy[rows, :width])


def by_hand(ratios: list[list[float]], advantages: list[float], logprobs: float = -1.0) -> tuple[LossInputs, Totals]:
    """An update of one micro-batch with these ratios (rows may differ in length), log-probs all ``logprobs`` now."""
    width = max(map(len, ratios))
    ratio = torch.tensor([row + [1.0] * (width - len(row)) for row in ratios], dtype=torch.float64)
    mask = torch.arange(width) < torch.tensor([[len(row)] for row in ratios])
    now = torch.full_like(ratio, logprobs).requires_grad_()
    given = torch.tensor(advantages, dtype=torch.float64)
    x = LossInputs(
        logprobs=now,
        entropy=torch.ones_like(ratio),
        old_logprobs=now.detach() - ratio.log(),
        sampling_logprobs=now.detach() - ratio.log(),
        ref_logprobs=None,
        advantages=given[:, None].expand_as(ratio),
        likelihood=None,
        mask=mask,
        acting=mask,
        segment=mask * int(Segment.SAMPLED),
        keep=torch.ones(len(ratio), dtype=torch.bool),
        group=torch.zeros(len(ratio), dtype=torch.long),
        family=torch.zeros(len(ratio), dtype=torch.long),
        layer=torch.ones(len(ratio), dtype=torch.long),
        reward=given,
        correct=given > 0,
    )
    return x, Totals(rows=float(len(ratio)), tokens=float(mask.sum()), max_new_tokens=10)


def make_group(
    right: list[bool], *, strategies: list[Strategy] | None = None, prompt: int = 4, solution: str = "so \\boxed{2}"
) -> Group:
    """A group of one-token rollouts; ``right`` as graded now."""
    strategies = strategies or [Strategy.NONE] * len(right)
    rollout = Rollout((0,) * prompt, (Span((1,), Segment.SAMPLED, (-0.1,), (0.1,)),), finished=True)
    grades = [Grade(Verdict.CORRECT if good else Verdict.WRONG, 1.0 + good) for good in right]
    first = (rollout, Grade(Verdict.WRONG, 1.0))
    rows = [
        Row(rollout, grade, strategy, None if strategy is Strategy.NONE else first)
        for grade, strategy in zip(grades, strategies, strict=True)
    ]
    return Group(Problem("p", "1+1?", ("2",), solution), tuple(rows))


def apply(group: Group, repairs: list[Repair], rng: random.Random, *, reflection: float) -> Group:
    """The group after repairs: injections end up right (references at 97 %), reflections with a given chance."""
    rows = list(group.rows)
    chance = {Strategy.REFLECT: reflection, Strategy.ANSWER: 1.0, Strategy.REFERENCE: 0.97}
    for repair in repairs:
        right = rng.random() < chance[repair.strategy]
        grade = Grade(Verdict.CORRECT if right else Verdict.WRONG, 1.0 + right)
        old = rows[repair.row]
        rows[repair.row] = Row(old.rollout, grade, repair.strategy, (old.rollout, old.grade))
    return replace(group, rows=tuple(rows))


def collect(method: Method, group: Group, seed: int, *, reflection: float = 0.05) -> Group:
    """Repairs until the method requests no more."""
    plan, chance = random.Random(seed), random.Random(seed + 1)
    for _ in range(20):
        repairs = [each for each in method.plan([group], plan) if isinstance(each, Repair)]
        if not repairs:
            return group
        group = apply(group, repairs, chance, reflection=reflection)
    raise AssertionError("plan does not terminate")
