"""The in-process engine: cached = uncached, its numbers = the policy's, draws independent of the batch."""

from collections.abc import Sequence

import pytest
import torch
from support import tiny_policy
from torch import Tensor, nn

from edge_grpo.base.errors import EngineError, TrainingError
from edge_grpo.base.records import Rollout, Segment
from edge_grpo.base.rng import derive_seed
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.draw import draw
from edge_grpo.rollout.engine import Continuation, Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine

STOPS = (3, 7, 20)


def make_engine(kind: str = "qwen2", max_rows: int = 256) -> DecodeEngine:
    return DecodeEngine(tiny_policy(kind), stop_ids=STOPS, pad_id=0, max_rows=max_rows)


def make_requests(lengths: Sequence[int] = (6, 11, 8), samples: int = 5) -> list[Request]:
    return [
        Request(tuple(range(10, 10 + length)), tuple(derive_seed(1, i, j) for j in range(samples)))
        for i, length in enumerate(lengths)
    ]


def uncached(policy: Policy, request: Request, seed: int, sampling: Sampling) -> list[tuple[int, float, float]]:
    """The same draws from one full forward pass per token."""
    from edge_grpo.base.rng import uniforms

    ids, drawn = list(request.prompt_ids), []
    for step in range(sampling.max_new_tokens):
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([ids])).logits[:, -1]
        token, logprob, entropy = draw(logits, torch.from_numpy(uniforms(seed, step, 1)), sampling)
        drawn.append((int(token), float(logprob), float(entropy)))
        ids.append(int(token))
        if int(token) in STOPS:
            break
    return drawn


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("sampling", [Sampling(20), Sampling(20, 0.7, 0.9, 8), Sampling(20, 0.0)])
def test_cached_decode_equals_uncached(kind: str, sampling: Sampling) -> None:
    engine = make_engine(kind)
    requests = make_requests()
    for request, rollouts in zip(requests, engine.sample(requests, sampling), strict=True):
        for seed, rollout in zip(request.seeds, rollouts, strict=True):
            want = uncached(engine.policy, request, seed, sampling)
            (span,) = rollout.spans
            assert list(span.token_ids) == [token for token, _, _ in want]
            assert span.logprobs == pytest.approx([logprob for _, logprob, _ in want], abs=2e-5)
            assert span.entropies == pytest.approx([entropy for _, _, entropy in want], abs=2e-5)
            assert rollout.finished == (span.token_ids[-1] in STOPS)
            assert span.segment is Segment.SAMPLED


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_recorded_numbers_are_the_policys(temperature: float) -> None:
    engine = make_engine()
    for rollouts in engine.sample(make_requests(), Sampling(24, temperature)):
        for rollout in rollouts:
            ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
            mask = torch.zeros_like(ids, dtype=torch.bool)
            mask[0, len(rollout.prompt_ids) :] = True
            scores = engine.policy.score(ids, torch.ones_like(mask), mask, temperature=temperature)
            (span,) = rollout.spans
            assert scores.logprobs[mask].tolist() == pytest.approx(span.logprobs, abs=2e-5)
            assert scores.entropy[mask].tolist() == pytest.approx(span.entropies, abs=2e-5)


def test_draws_depend_on_the_seed_alone() -> None:
    requests = make_requests()
    together = make_engine().sample(requests, Sampling(16))
    for max_rows in (1, 4):
        assert [
            [r.completion_ids for r in g] for g in make_engine(max_rows=max_rows).sample(requests, Sampling(16))
        ] == [[r.completion_ids for r in g] for g in together]
    alone = make_engine().sample([Request(requests[1].prompt_ids, requests[1].seeds[2:3])], Sampling(16))
    assert alone[0][0].completion_ids == together[1][2].completion_ids
    assert len({rollout.completion_ids for rollout in together[0]}) > 1


def test_budget_ends_a_row_unfinished() -> None:
    for rollouts in make_engine().sample(make_requests(), Sampling(3)):
        for rollout in rollouts:
            ids = rollout.completion_ids
            assert len(ids) <= 3
            assert rollout.finished == (ids[-1] in STOPS)
            assert not any(token in STOPS for token in ids[:-1])


def test_resume_drops_the_stop_token_and_labels_the_spans() -> None:
    engine = make_engine()
    rollouts = [rollout for group in engine.sample(make_requests(), Sampling(12)) for rollout in group]
    injected = (30, 31, 32)
    wishes = [Continuation(rollout, injected, 9 + i % 4, derive_seed("again", i)) for i, rollout in enumerate(rollouts)]
    assert any(rollout.finished for rollout in rollouts)
    assert not all(rollout.finished for rollout in rollouts)
    for old, wish, new in zip(rollouts, wishes, engine.resume(wishes, Sampling(99)), strict=True):
        kept = old.completion_ids[:-1] if old.finished else old.completion_ids
        assert new.completion_ids[: len(kept) + 3] == kept + injected
        added = len(new.completion_ids) - len(kept)
        assert 3 < added <= wish.budget
        assert new.finished == (new.completion_ids[-1] in STOPS)
        names = [span.segment for span in new.spans]
        assert names[-2:] == [Segment.INJECTED, Segment.CONTINUED]
        assert set(names[:-2]) <= {Segment.WRONG_PREFIX}
        assert new.spans[-2].logprobs == ()
        assert len(new.spans[-1].logprobs) == len(new.spans[-1].token_ids)


def test_resume_equals_sampling_from_the_longer_prompt() -> None:
    engine = make_engine()
    rollout = engine.sample(make_requests(), Sampling(2))[0][0]
    if rollout.finished:
        pytest.skip("needs an unfinished rollout")
    seed = derive_seed("x")
    resumed = engine.resume([Continuation(rollout, (30, 31), 12, seed)], Sampling(99))[0]
    prompt = rollout.prompt_ids + rollout.completion_ids + (30, 31)
    fresh = engine.sample([Request(prompt, (seed,))], Sampling(10))[0][0]
    assert resumed.spans[-1].token_ids == fresh.completion_ids


def test_no_room_and_no_stop_token_are_errors() -> None:
    engine = make_engine()
    rollout = engine.sample(make_requests(), Sampling(2))[0][0]
    with pytest.raises(EngineError, match="budget of 2"):
        engine.resume([Continuation(rollout, (30, 31), 2, 0)], Sampling(99))
    with pytest.raises(EngineError, match="stop token"):
        DecodeEngine(tiny_policy(), stop_ids=[], pad_id=0)
    with pytest.raises(EngineError, match="empty prompt"):
        engine.sample([Request((), (1,))], Sampling(2))


def test_draw_inverts_the_cumulative_distribution() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]])).expand(5, 4)
    noise = torch.tensor([0.0, 0.09, 0.11, 0.5, 0.999999])
    token, logprob, entropy = draw(logits, noise, Sampling(1))
    assert token.tolist() == [0, 0, 1, 2, 3]
    assert logprob.exp().tolist() == pytest.approx([0.1, 0.1, 0.2, 0.3, 0.4])
    want = -sum(p * torch.log(torch.tensor(p)).item() for p in (0.1, 0.2, 0.3, 0.4))
    assert entropy.tolist() == pytest.approx([want] * 5, rel=1e-5)


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(1, 1.0, 1.0, 2), {3, 2}),
        (Sampling(1, 1.0, 0.5), {3, 2}),
        (Sampling(1, 1.0, 0.35), {3}),
        (Sampling(1, 1.0, 0.95, 3), {3, 2, 1}),
        (Sampling(1, 1.0, 1.0, 99), {0, 1, 2, 3}),
    ],
)
def test_truncation_keeps_the_likeliest(sampling: Sampling, allowed: set[int]) -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]])).expand(200, 4)
    noise = torch.linspace(0, 1 - 1e-9, 200, dtype=torch.float64)
    token, logprob, _ = draw(logits, noise, sampling)
    assert set(token.tolist()) == allowed
    assert set(logprob.exp().mul(10).round().int().tolist()) == {i + 1 for i in allowed}  # before truncation


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(101, 5)
    token, _, entropy = draw(logits, torch.linspace(0, 1, 101, dtype=torch.float64), Sampling(1))
    assert set(token.tolist()) == {1, 3}
    assert torch.isfinite(entropy).all()


def test_a_model_that_overflowed_ends_the_run_in_words() -> None:
    engine = make_engine()
    with torch.no_grad():
        for weight in engine.policy.model.parameters():
            weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        engine.sample(make_requests(), Sampling(4))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize(
    ("row", "sound"),
    [
        ([0.0, 1.0, 2.0, 3.0], True),
        ([0.0, -INF, 2.0, -INF], True),  # a masked vocabulary
        ([-INF, -INF, -INF, 1.0], True),
        ([0.0, NAN, 2.0, 3.0], False),
        ([NAN] * 4, False),
        ([0.0, INF, 2.0, 3.0], False),
        ([INF] * 4, False),
        ([-INF] * 4, False),
    ],
)
def test_the_logprob_of_the_drawn_token_is_finite_exactly_where_the_distribution_is_one(
    row: list[float], sound: bool, temperature: float, top_p: float
) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0], row])
    token, logprob, entropy = draw(logits, torch.tensor([0.3, 0.6]), Sampling(9, temperature, top_p, 0))
    assert logprob.isfinite().tolist() == [True, sound]
    assert ((token >= 0) & (token < 4)).all()
    if sound:
        assert row[token[1]] > -INF
        assert entropy.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [NAN, INF])
def test_one_bad_row_ends_the_sampling_with_a_clear_error(temperature: float, value: float) -> None:
    engine = make_engine()

    def poison(layers: nn.Module, args: tuple[object, ...], logits: Tensor) -> None:
        logits[-1, 5] = value

    assert engine.policy.scorer.dense is not None
    engine.policy.scorer.dense.register_forward_hook(poison)
    with pytest.raises(TrainingError, match="not finite"):
        engine.sample(make_requests(), Sampling(20, temperature))


def with_strings(*strings: str, max_rows: int = 256) -> DecodeEngine:
    return DecodeEngine(tiny_policy(), stop_ids=STOPS, stop_texts=strings, pad_id=0, max_rows=max_rows)


def drawn_strings(samples: Sequence[Sequence[Rollout]]) -> tuple[str, ...]:
    """A string of two tokens from the middle of each completion that has one."""
    tokenizer = tiny_policy().tokenizer
    found = []
    for ids in (rollout.completion_ids for group in samples for rollout in group):
        texts = (tokenizer.decode(ids[k : k + 2]) for k in range(3, len(ids) - 2))
        found += [text for text in texts if len(text) == 2 and text.isascii()][:1]
    return tuple(found)


def cut_at(ids: tuple[int, ...], strings: Sequence[str]) -> tuple[int, ...] | None:
    """The tokens up to the one that completes a string; None if the whole text has none."""
    tokenizer = tiny_policy().tokenizer
    lengths = (k for k in range(1, len(ids) + 1) if any(s in tokenizer.decode(ids[:k]) for s in strings))
    return next((ids[:k] for k in lengths), None)


def test_a_stop_string_ends_the_completion_and_stays_in_it() -> None:
    free = make_engine().sample(make_requests(), Sampling(24))
    strings = drawn_strings(free)
    stopped = with_strings(*strings).sample(make_requests(), Sampling(24))
    by_text = 0
    for old, new in zip([r for group in free for r in group], [r for group in stopped for r in group], strict=True):
        cut = cut_at(old.completion_ids, strings)
        cut = None if cut and cut[-1] in STOPS else cut
        assert new.completion_ids == (cut or old.completion_ids)
        assert len(new.spans[0].logprobs) == len(new.completion_ids)
        assert (new.finished, new.ends_in_text) == ((True, True) if cut else (old.finished, False))
        assert new.answer_ids == (new.completion_ids if cut or not new.finished else new.completion_ids[:-1])
        by_text += bool(cut)
    assert by_text > 1
    for max_rows in (1, 4):
        again = with_strings(*strings, max_rows=max_rows).sample(make_requests(), Sampling(24))
        assert [r.completion_ids for g in again for r in g] == [r.completion_ids for g in stopped for r in g]


def test_a_continuation_keeps_a_stop_string_and_is_stopped_by_new_text_alone() -> None:
    strings = drawn_strings(make_engine().sample(make_requests(), Sampling(24)))
    engine = with_strings(*strings)
    rollouts = [r for group in engine.sample(make_requests(), Sampling(24)) for r in group if r.ends_in_text]
    wishes = [Continuation(each, (30, 31), 12, derive_seed("again", i)) for i, each in enumerate(rollouts)]
    for old, new in zip(rollouts, engine.resume(wishes, Sampling(99)), strict=True):
        kept = (*old.completion_ids, 30, 31)
        assert new.completion_ids[: len(kept)] == kept
        added = new.completion_ids[len(kept) :]
        cut = cut_at(added, strings)
        assert new.ends_in_text == (cut is not None and cut[-1] not in STOPS)
        assert added == (cut or added)
        assert new.finished == (new.ends_in_text or added[-1] in STOPS)
