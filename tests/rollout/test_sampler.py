"""The sampler: prompts that fit, graded completions in order, and weights handed to the engine."""

from pathlib import Path
from typing import Any

import pytest
from support import PROBLEM, Judge, tiny_model, tiny_policy, tiny_sampler, tiny_tokenizer
from torch import nn

from edge_grpo.base.errors import ConfigError, DataError
from edge_grpo.base.records import Prompt, Rollout, Segment, Span
from edge_grpo.config.tree import load_config
from edge_grpo.data.prompts import encode_prompt, encode_text
from edge_grpo.data.settings import DataSettings
from edge_grpo.models.policy import Policy
from edge_grpo.models.stops import find_stops, marker_ids
from edge_grpo.rollout.engine import Request, Sampling
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.open import open_sampler
from edge_grpo.rollout.sampler import Sampler


@pytest.fixture
def sampler() -> Sampler:
    engine = DecodeEngine(tiny_policy(), stop_ids=[2], pad_id=0)
    return tiny_sampler(engine, lambda problem, text: problem.id == "p", context=60)


def test_prompts_that_do_not_fit_are_refused(sampler: Sampler) -> None:
    sampler.vocabulary = 300
    sampler.check_fit([(1, 2, 3)], 57)
    with pytest.raises(ConfigError, match=r"token 99999, but the model has 300; use the tokenizer that belongs"):
        sampler.check_fit([(1, 99999)], 1)
    with pytest.raises(ConfigError, match="exceed the model's context of 60"):
        sampler.check_fit([(1, 2, 3)], 58)


def test_variants_are_encoded_where_they_are_needed(sampler: Sampler) -> None:
    assert sampler.encode([PROBLEM], max_new_tokens=1).prompts[0].variant_ids == ()
    with pytest.raises(DataError, match="1 phrasings of the question, 2 wanted"):
        sampler.encode([PROBLEM], max_new_tokens=1, variants=2)


def test_completions_come_graded_and_in_order(sampler: Sampler) -> None:
    other = PROBLEM.__class__("q", "?", ("1",))
    prompts = [Prompt(PROBLEM, (5, 6)), Prompt(other, (7, 8, 9))]
    one, two = sampler.sample(prompts, [(1, 2), (3,)], Sampling(4))
    assert [row.rollout.prompt_ids for row in (*one, *two)] == [(5, 6)] * 2 + [(7, 8, 9)]
    assert [row.grade.correct for row in (*one, *two)] == [True, True, False]
    assert sampler.texts([row.rollout for row in one])[0] == sampler.tokenizer.decode(
        one[0].rollout.completion_ids, skip_special_tokens=True
    )


THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


def test_texts_begin_with_what_the_prompt_opened_and_keep_tags() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": [*tokenizer.extra_special_tokens, "<think>", "</think>"]})
    tokenizer.chat_template = THINKING
    data = DataSettings()
    policy = Policy(tiny_model(), tokenizer)
    sampler = Sampler(
        engine=DecodeEngine(policy, stop_ids=[2], pad_id=0),
        grader=Judge(lambda *_: True),
        tokenizer=tokenizer,
        data=data,
        stop_ids=find_stops(policy, data).token_ids,
        marker_ids=marker_ids(tokenizer, data),
    )

    def shown(prompt: tuple[int, ...], text: str) -> str:
        ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        return sampler.texts([Rollout(prompt, (Span(ids, Segment.SAMPLED),), finished=True)])[0]

    asked = encode_prompt(tokenizer, "1+1?", data)
    assert shown(asked, "one</think> x != y , 2<|user|><|end|>") == "<think>\none</think> x != y , 2"
    again = (*asked, *encode_text(tokenizer, "one</think>2"), *sampler.encode_follow_up("Sure?"))
    assert shown(again, "yes</think>2<|end|>") == "<think>\nyes</think>2"
    assert shown((10, 11), "2") == "<think>\n2"  # a prompt cut to its end, or of another template
    assert sampler.texts([]) == []


def test_a_sampler_closes_its_own_engine_and_not_yours(tmp_path: Path) -> None:
    class Closing(DecodeEngine):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    config, policy = load_config(None, ["reward.workers=1"]), tiny_policy()
    engine = Closing(policy, stop_ids=[2], pad_id=0)
    with open_sampler(config, policy=policy, engine=engine) as yours:
        assert yours.engine is engine
    assert engine.closed == 0
    with open_sampler(config, policy=policy) as own:
        assert isinstance(own.engine, DecodeEngine)
        assert own.context == 512


def test_a_model_without_a_cache_samples_the_same_from_full_passes() -> None:
    policy = tiny_policy()
    requests, sampling = [Request((10, 11, 12), (1, 2)), Request((13, 14), (3, 4))], Sampling(6)
    wanted = DecodeEngine(policy, stop_ids=[2], pad_id=0).sample(requests, sampling)

    def without_cache(
        model: nn.Module, args: tuple[Any, ...], more: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**more, "past_key_values": None}

    policy.model.register_forward_pre_hook(without_cache, with_kwargs=True)
    engine = DecodeEngine(Policy(policy.model, policy.tokenizer), stop_ids=[2], pad_id=0)
    assert not engine.decoding.cached
    found = engine.sample(requests, sampling)
    assert [[row.completion_ids for row in rows] for rows in found] == [
        [row.completion_ids for row in rows] for rows in wanted
    ]
