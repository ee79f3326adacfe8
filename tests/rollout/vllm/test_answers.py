"""From rows to vLLM's parameters and back: nothing that is no completion of the row becomes one."""

from typing import Any

import pytest
from support import tiny_tokenizer

from edge_grpo.base.records import Segment, Span
from edge_grpo.rollout.engine import Sampling, ServerError
from edge_grpo.rollout.stop_strings import StopStrings
from edge_grpo.rollout.vllm.answers import Ended, Row, ended, parameters, truncates
from edge_grpo.rollout.vllm.client import Answer

ROW = Row((5, 6), seed=2**64 - 1, budget=4, prompt=0)


def answer(*ids: int, reason: str = "length", logprobs: Any = None) -> Answer:
    told = tuple(-0.5 - i for i in range(len(ids))) if logprobs is None else logprobs
    return Answer(ids, told, reason, frozenset({"a:1"}))


def read(given: Answer, *texts: str, scored: bool = True, strings_sent: bool = True) -> Ended | None:
    return ended(
        given,
        ROW,
        scored=scored,
        strings_sent=strings_sent,
        stop_ids=(3, 7),
        strings=StopStrings(tiny_tokenizer(), texts),
        vocabulary=60,
        segment=Segment.SAMPLED,
        version=4,
    )


def ids(text: str) -> list[int]:
    return tiny_tokenizer().encode(text, add_special_tokens=False)


def test_parameters_ask_for_our_stops_and_seeds_alone() -> None:
    wanted = parameters(ROW, Sampling(99, 0.7, 0.9, 5), stop_ids=(3, 7))
    assert (wanted["max_tokens"], wanted["temperature"], wanted["top_p"], wanted["top_k"]) == (4, 0.7, 0.9, 5)
    assert wanted["stop_token_ids"] == [3, 7]
    assert wanted["ignore_eos"] is True
    assert wanted["detokenize"] is False
    assert "logprobs" not in wanted, "they are of the truncated distribution"
    plain, greedy = (parameters(ROW, Sampling(9, t), stop_ids=()) for t in (1.0, 0.0))
    assert plain["logprobs"] == greedy["logprobs"] == 0
    assert "seed" not in greedy
    seeds = [parameters(Row((1,), seed, 1, 0), Sampling(1), stop_ids=())["seed"] for seed in (0, 2**63, 2**64 - 1)]
    assert seeds == [0, 0, 2**63 - 1], "never -1, which vLLM takes for none"
    text = parameters(ROW, Sampling(9), stop_ids=(), strings=["="])
    assert text["stop"] == ["="]
    assert text["detokenize"] is text["include_stop_str_in_output"] is True
    assert text["skip_special_tokens"] is False


def test_truncation_does_not_concern_greedy_decoding() -> None:
    assert truncates(Sampling(1, 1.0, 0.9))
    assert truncates(Sampling(1, 1.0, 1.0, 5))
    assert not truncates(Sampling(1, 0.0, 0.9, 5))
    assert not truncates(Sampling(1))


def test_ends_are_those_of_the_protocol() -> None:
    assert read(answer(11, 12, 13, 14)) == (
        Span((11, 12, 13, 14), Segment.SAMPLED, (-0.5, -1.5, -2.5, -3.5), version=4),
        False,
        False,
    )
    assert read(answer(11, 7, reason="stop")) == (Span((11, 7), Segment.SAMPLED, (-0.5, -1.5), version=4), True, False)
    assert read(answer(11, 12, 13, 7, reason="length"))[1:] == (True, False), "the stop token was the last allowed one"


def test_a_completion_is_cut_after_the_token_that_completes_a_stop_string() -> None:
    one, equals, two = ids("1=2")
    found = read(answer(one, equals, two, two), "=")
    assert found == (Span((one, equals), Segment.SAMPLED, (-0.5, -1.5), version=4), True, True)
    assert read(answer(one, equals, two, 7, reason="stop"), "=") == found, "what follows is not part of it"
    assert read(answer(one, equals, reason="stop"), "=") == found
    assert read(answer(one, 7, reason="stop"), "=")[1:] == (True, False)
    assert read(answer(one, reason="stop"), "=") is None, "the server found one that is not there"
    with pytest.raises(ServerError, match="of 1 tokens ended by 'stop'"):
        read(answer(one, reason="stop"), "=", strings_sent=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (answer(), "without a token"),
        (answer(1, 2, 4, 5, 6), "of 5 tokens .at most 4 were wanted"),
        (answer(11, 60, 12, 13), "with token 60 .the model has 60; it serves another model"),
        (answer(11, -1, 12, 13), "with token -1"),
        (answer(11, 12, 13, 14, logprobs=(-1.0,) * 3), "of 4 tokens with 3 log-probs"),
        (answer(11, 12, 13, 14, logprobs=()), "of 4 tokens with 0 log-probs"),
        (answer(11, 12, 13, 14, logprobs=(-1.0, -9999.0, -1.0, -1.0)), "with a log-prob of -9999 .its weights or"),
        (answer(11, 12, 13, 14, logprobs=(-1.0, float("nan"), -1.0, -1.0)), "with a log-prob of nan"),
        (answer(11, 12, 13, 14, logprobs=(-1.0, 0.5, -1.0, -1.0)), "with a log-prob of 0.5"),
        (answer(11, 7, 12, 13), "with stop token 7 inside"),
        (answer(11, 12), "of 2 tokens ended by 'length' .4 were allowed"),
        (answer(11, 12, reason="stop"), "of 2 tokens ended by 'stop'"),
        (answer(11, 12, 13, 14, reason="abort"), "of 4 tokens ended by 'abort'"),
    ],
)
def test_what_is_no_completion_of_the_row_is_an_error(given: Answer, message: str) -> None:
    with pytest.raises(ServerError, match=f"answered a prompt of 2 tokens with a completion {message}"):
        read(given, strings_sent=False)


def test_without_log_probs_none_are_recorded() -> None:
    found = read(answer(11, 12, 13, 14, logprobs=()), scored=False)
    assert found is not None
    assert found[0].logprobs == ()
