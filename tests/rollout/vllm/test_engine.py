"""The engine on a rollout server keeps the contract of the in-process engine, and samples with the newest weights."""

from pathlib import Path
from typing import Any

import pytest
from rollout.vllm.rows import STOPS, Make, agree, in_process, perturb, requests, seen
from rollout.vllm.server import State, serving

from edge_grpo.base.records import Segment
from edge_grpo.config.sections import LoraSettings, ModelSettings
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Continuation, Request, Sampling, ServerError
from edge_grpo.rollout.vllm.engine import VllmEngine

# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(20), Sampling(20, 0.7), Sampling(20, 0.0)])
def test_it_samples_what_the_in_process_engine_samples(engine: VllmEngine, policy: Policy, sampling: Sampling) -> None:
    asked = requests()
    found, wanted = engine.sample(asked, sampling), in_process(policy).sample(seen(asked), sampling)
    assert [len(group) for group in found] == [4, 4, 4]
    assert agree(found, wanted)
    spans = [span for group in found for rollout in group for span in rollout.spans]
    assert {span.version for span in spans} == {0}
    assert all(len(span.logprobs) == len(span.token_ids) for span in spans)
    assert all(span.entropies == () for span in spans)
    assert sampling.temperature == 0 or any(rollout.finished for group in found for rollout in group)


def test_draws_depend_on_the_seed_alone(engine: VllmEngine) -> None:
    asked = requests()
    together = engine.sample(asked, Sampling(12))
    ((alone,),) = engine.sample([Request(asked[1].prompt_ids, asked[1].seeds[2:3])], Sampling(12))
    assert alone == together[1][2]
    assert len({rollout.completion_ids for rollout in together[0]}) > 1


def test_budget_ends_a_row_unfinished(engine: VllmEngine) -> None:
    for group in engine.sample(requests(), Sampling(3)):
        for rollout in group:
            assert len(rollout.completion_ids) <= 3
            assert rollout.finished == (rollout.completion_ids[-1] in STOPS)


def test_resume_continues_by_ids(engine: VllmEngine, policy: Policy) -> None:
    rollouts = [rollout for group in engine.sample(requests(), Sampling(12)) for rollout in group]
    assert {rollout.finished for rollout in rollouts} == {True, False}
    wishes = [Continuation(rollout, (30, 31, 32), 9 + i % 4, i) for i, rollout in enumerate(rollouts)]
    perturb(policy)
    engine.sync(policy, 3)
    found, wanted = engine.resume(wishes, Sampling(99)), in_process(policy).resume(wishes, Sampling(99))
    assert agree([found], [wanted])
    for rollout in found:
        versions = {span.segment: span.version for span in rollout.spans}
        assert versions[Segment.CONTINUED] == 3
        assert versions[Segment.INJECTED] is None
        assert versions.get(Segment.WRONG_PREFIX, 0) == 0


@pytest.mark.parametrize("texts", [("=",), ("1", "+2")])
def test_stop_strings_end_where_the_in_process_engine_ends(
    make: Make, policy: Policy, server: tuple[str, State], texts: tuple[str, ...]
) -> None:
    engine = make(stop_texts=texts)
    engine.sync(policy, 0)
    asked = requests(samples=8)
    found = engine.sample(asked, Sampling(40))
    wanted = in_process(policy, texts).sample(seen(asked), Sampling(40))
    assert agree(found, wanted)
    assert any(rollout.ends_in_text for group in found for rollout in group)
    assert server[1].paths("/inference/v1/generate")[-1]["sampling_params"]["stop"] == list(texts)


def test_a_server_that_reads_the_text_differently_changes_nothing(
    make: Make, policy: Policy, server: tuple[str, State]
) -> None:
    """It stops too early, or not at all."""
    engine = make(stop_texts=("=",))
    engine.sync(policy, 0)
    wanted = engine.sample(requests(samples=8), Sampling(30))
    assert any(rollout.ends_in_text for group in wanted for rollout in group)

    def stop_early(path: str, body: dict[str, Any]) -> None:
        if body.get("sampling_params", {}).get("stop"):
            body["sampling_params"]["stop"] = [*"0123456789abcdefghi"]

    def stop_late(path: str, body: dict[str, Any]) -> None:
        body.get("sampling_params", {}).pop("stop", None)

    for trouble in (stop_early, stop_late):
        server[1].trouble = trouble
        assert engine.sample(requests(samples=8), Sampling(30)) == wanted


def test_truncated_sampling_records_no_log_probs_and_says_so_once(make: Make, policy: Policy) -> None:
    said: list[str] = []
    engine = make(say=said.append)
    engine.sync(policy, 0)
    sampling = Sampling(12, 1.0, 0.9, 8)
    for _ in range(2):
        found = engine.sample(requests(), sampling)
    wanted = in_process(policy).sample(seen(requests()), sampling)
    assert [[r.completion_ids for r in g] for g in found] == [[r.completion_ids for r in g] for g in wanted]
    assert all(rollout.spans[0].logprobs == () for group in found for rollout in group)
    assert len(said) == 1
    assert "none are recorded" in said[0]


# --- weights ----------------------------------------------------------------------------------------------------------


def test_every_sync_reaches_the_server_before_the_next_sample(
    engine: VllmEngine, policy: Policy, server: tuple[str, State], tmp_path: Path
) -> None:
    for version in (1, 2, 3):
        perturb(policy)
        engine.sync(policy, version)
        found, wanted = engine.sample(requests(), Sampling(9)), in_process(policy).sample(seen(requests()), Sampling(9))
        assert agree(found, wanted)
        assert {span.version for group in found for rollout in group for span in rollout.spans} == {version}
        assert server[1].version == f"0123456789ab:{version}"
        (own,) = tmp_path.glob("edge-grpo-*")
        assert [each.name for each in own.iterdir() if each.is_dir()] == [f"step-{version}"], "older ones are gone"
    perturb(policy)
    engine.sync(policy, 3)  # the same number of steps, other weights
    assert engine.sample(requests(), Sampling(9)) != found
    engine.close()
    assert list(tmp_path.glob("edge-grpo-*")) == []


@pytest.mark.parametrize("lora", ["merged", "adapter"])
def test_adapters_reach_the_server(make: Make, model: Path, server: tuple[str, State], lora: str) -> None:
    adapted = load_policy(ModelSettings(path=str(model), lora=LoraSettings(rank=4)))
    engine = make(adapted, lora=lora)
    engine.sync(adapted, 0)
    for version in (1, 2):
        perturb(adapted)
        engine.sync(adapted, version)
        found, wanted = (
            engine.sample(requests(), Sampling(9)),
            in_process(adapted).sample(seen(requests()), Sampling(9)),
        )
        assert agree(found, wanted)
    assert list(server[1].adapters) == (["0123456789ab:2"] if lora == "adapter" else [])
    server[1].restart()
    again = engine.sample(requests(), Sampling(9))
    assert again == found


def test_a_restarted_server_is_noticed_and_the_rows_are_sampled_again(
    make: Make, policy: Policy, server: tuple[str, State]
) -> None:
    said: list[str] = []
    engine = make(say=said.append)
    engine.sync(policy, 0)
    perturb(policy)
    engine.sync(policy, 1)
    wanted = engine.sample(requests(), Sampling(9))
    said.clear()
    server[1].restart()
    assert engine.sample(requests(), Sampling(9)) == wanted
    assert said == [
        f"rollout server {server[0]} lost the policy's weights; they are handed over again, and 12 completions are "
        "sampled again"
    ]


def test_a_server_that_another_run_keeps_changing_is_an_error(engine: VllmEngine, server: tuple[str, State]) -> None:
    server[1].change = lambda choice: choice["weight_versions"][0].update(version="fedcba987654:7")
    with pytest.raises(ServerError, match="other weights than it was given, 3 times in a row; another run"):
        engine.sample(requests(), Sampling(9))


def test_several_servers_share_the_prompts(make: Make, model: Path, policy: Policy, server: tuple[str, State]) -> None:
    with serving(model) as (url, other):
        engine = make(urls=(server[0], url))
        engine.sync(policy, 0)
        perturb(policy)
        engine.sync(policy, 1)
        found, wanted = engine.sample(requests(), Sampling(9)), in_process(policy).sample(seen(requests()), Sampling(9))
        assert agree(found, wanted)
        assert (len(server[1].paths("/inference/v1/generate")), len(other.paths("/inference/v1/generate"))) == (9, 5)
        other.restart()
        assert engine.sample(requests(), Sampling(9)) == found
        engine.close()
