"""The engine on a rollout server keeps the contract of the in-process engine, and notices whatever goes wrong."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from rollout.vllm.server import State, listening, serving
from support import save_tiny

from edge_grpo.base.records import Rollout, Segment
from edge_grpo.base.rng import derive_seed
from edge_grpo.config.sections import LoraSettings, ModelSettings, VllmEngineSettings
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Continuation, Request, Sampling, ServerError
from edge_grpo.rollout.hf import DecodeEngine
from edge_grpo.rollout.vllm.engine import VllmEngine

STOPS = (3, 7, 20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def running(model: Path) -> Iterator[tuple[str, State]]:
    with serving(model) as server:
        yield server


@pytest.fixture
def server(running: tuple[str, State]) -> Iterator[tuple[str, State]]:
    """The running server as started."""
    state = running[1]
    state.restart()
    state.settings, state.key = {}, ""
    state.asked.clear()
    yield running
    state.trouble, state.change = (lambda _path, _body: None), (lambda _choice: None)


@pytest.fixture
def policy(model: Path) -> Policy:
    return load_policy(ModelSettings(path=str(model)))


Make = Callable[..., VllmEngine]


@pytest.fixture
def make(server: tuple[str, State], policy: Policy, tmp_path: Path) -> Iterator[Make]:
    """An engine on the server; pauses between attempts take no time."""

    async def pause(seconds: float) -> None:
        await asyncio.sleep(0)

    with ExitStack() as stack:

        def build(own: Policy | None = None, **given: Any) -> VllmEngine:
            names = ("urls", "folder", "timeout_s", "retries", "lora", "transport")
            settings = {"urls": (server[0],), "folder": str(tmp_path), "retries": 2}
            settings |= {name: given.pop(name) for name in names if name in given}
            arguments = {"policy": own or policy, "stop_ids": STOPS, "session": "0123456789ab", "pause": pause} | given
            engine = VllmEngine(VllmEngineSettings(**settings), **arguments)
            stack.callback(engine.close)
            return engine

        yield build


@pytest.fixture
def engine(make: Make, policy: Policy) -> VllmEngine:
    engine = make()
    engine.sync(policy, 0)
    return engine


def requests(lengths: Sequence[int] = (6, 11, 8), samples: int = 4) -> list[Request]:
    return [
        Request(tuple(range(10, 10 + length)), tuple(derive_seed(1, i, j) for j in range(samples)))
        for i, length in enumerate(lengths)
    ]


def in_process(policy: Policy, stops: Sequence[str] = ()) -> DecodeEngine:
    return DecodeEngine(policy, stop_ids=STOPS, stop_texts=stops, pad_id=0)


def seen(asked: Sequence[Request]) -> list[Request]:
    """The requests with the seeds that the server sees: 63 bits."""
    return [Request(each.prompt_ids, tuple(seed % 2**63 for seed in each.seeds)) for each in asked]


def agree(found: Sequence[Sequence[Rollout]], wanted: Sequence[Sequence[Rollout]]) -> bool:
    """Whether all rollouts have the same tokens, log-probs to rounding, and ends."""
    assert [len(group) for group in found] == [len(group) for group in wanted]
    pairs = [pair for groups in zip(found, wanted, strict=True) for pair in zip(*groups, strict=True)]
    return all(_same(ours, theirs) for ours, theirs in pairs)


def _same(ours: Rollout, theirs: Rollout) -> bool:
    pairs = list(zip(ours.spans, theirs.spans, strict=True))
    return (
        (ours.prompt_ids, ours.finished, ours.ends_in_text) == (theirs.prompt_ids, theirs.finished, theirs.ends_in_text)
        and all((one.token_ids, one.segment) == (two.token_ids, two.segment) for one, two in pairs)
        and all(one.logprobs == pytest.approx(two.logprobs, abs=2e-5) for one, two in pairs if one.logprobs)
    )


def perturb(policy: Policy, by: float = 0.05) -> None:
    with torch.no_grad():
        for _, weight in policy.trained():
            weight.add_(by * torch.sin(torch.arange(weight.numel(), dtype=weight.dtype)).view_as(weight))


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


# --- what does not fit, and what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 100}, "with 100 tokens in its vocabulary, and model.path has"),
        ({"logprobs_mode": "raw_logprobs"}, "was started with --logprobs-mode raw_logprobs; leave that out"),
        (
            {"lora": False},
            r"takes no adapters; start it with `edge-grpo serve MODEL --lora`, or set rollout.engine.lora",
        ),
        ({"max_lora_rank": 2}, "takes adapters of rank 2 at most, and model.lora.rank is 4"),
    ],
)
def test_a_server_that_does_not_fit_is_told_before_anything_is_handed_over(
    make: Make, model: Path, server: tuple[str, State], settings: dict[str, Any], message: str
) -> None:
    server[1].settings = settings
    adapted = load_policy(ModelSettings(path=str(model), lora=LoraSettings(rank=4)))
    with pytest.raises(ServerError, match=message):
        make(adapted, lora="adapter")
    assert [path for path, _ in server[1].asked] == ["/edge_grpo"]


def test_a_server_with_an_api_key(make: Make, policy: Policy, server: tuple[str, State]) -> None:
    server[1].key = "secret"
    with pytest.raises(ServerError, match="wants an API key, and EDGE_GRPO_API_KEY is not set to the one"):
        make()
    make(key="secret").sync(policy, 0)


def test_the_probe_tells_another_model_and_the_wrong_kind_of_log_probs(
    make: Make, policy: Policy, server: tuple[str, State]
) -> None:
    def shifted(choice: dict[str, Any]) -> None:
        for each in choice["logprobs"]["content"]:
            each["logprob"] -= 0.5

    server[1].change = shifted
    with pytest.raises(ServerError, match=r"does not sample from the policy: log-probs differ by 0\.5 nats per token"):
        make().sync(policy, 0)

    def before_the_temperature(choice: dict[str, Any]) -> None:
        row = server[1].paths("/inference/v1/generate")[-1]["token_ids"]
        ids = torch.tensor([row + choice["token_ids"]])
        mask = torch.arange(ids.shape[1])[None] >= len(row)
        told = policy.score(ids, torch.ones_like(mask), mask, temperature=1.0).logprobs[mask].tolist()
        for each, value in zip(choice["logprobs"]["content"], told, strict=True):
            each["logprob"] = value

    server[1].change = before_the_temperature
    with pytest.raises(ServerError, match="gives log-probs before the temperature, wanted after it"):
        make().sync(policy, 0)


def test_a_server_of_lower_precision_is_told_in_a_line(make: Make, policy: Policy, server: tuple[str, State]) -> None:
    def rounded(choice: dict[str, Any]) -> None:
        for each in choice["logprobs"]["content"]:
            each["logprob"] *= 1.005

    server[1].change, server[1].settings = rounded, {"dtype": "bfloat16"}
    said: list[str] = []
    make(say=said.append).sync(policy, 0)
    (line,) = said
    assert "computes in bfloat16, the policy in float32: log-probs differ by" in line
    assert "method.sampler_correction" in line


def test_weights_that_do_not_fit_the_served_model(
    make: Make, policy: Policy, server: tuple[str, State], tmp_path: Path
) -> None:
    server[1].names = {**server[1].names, "model.layers.9.weight": (3,)}
    with pytest.raises(ServerError, match=r"rejected the weights: .* and not model\.layers\.9\.weight"):
        make().sync(policy, 0)
    assert server[1].go.is_set()


def test_a_half_written_handover_is_rejected_and_told(
    engine: VllmEngine, policy: Policy, server: tuple[str, State], tmp_path: Path
) -> None:
    engine.sync(policy, 1)
    (file,) = tmp_path.glob("edge-grpo-*/step-1/*.safetensors")
    file.unlink()
    with pytest.raises(ServerError, match="rejected the weights"):
        engine.sample(requests(), Sampling(4))
    engine.sync(policy, 2)
    assert engine.sample(requests(), Sampling(4))


def test_lengths_and_temperatures_that_vllm_would_change_in_silence(
    make: Make, server: tuple[str, State], policy: Policy
) -> None:
    server[1].settings = {"max_model_len": 40}
    engine = make()
    engine.sync(policy, 0)
    assert engine.context == 40
    with pytest.raises(ServerError, match="completion of 41 tokens exceed the length limit of the rollout server, 40"):
        engine.sample(requests((11,)), Sampling(30))
    assert engine.sample(requests((10,)), Sampling(30))
    for temperature in (0.001, 2.5):
        with pytest.raises(ServerError, match=f"temperature {temperature:g}: vLLM samples at 0, or at 0.01 to 2"):
            engine.sample(requests(), Sampling(5, temperature))


def test_rows_of_an_aborted_request_are_sampled_again(engine: VllmEngine, server: tuple[str, State]) -> None:
    wanted = engine.sample(requests(), Sampling(9))
    aborted = iter([True, True])

    def abort(choice: dict[str, Any]) -> None:
        if next(aborted, False):
            choice.update(finish_reason="abort", token_ids=[], logprobs={"content": []}, weight_versions=[])

    server[1].change = abort
    assert engine.sample(requests(), Sampling(9)) == wanted


def test_a_server_that_is_gone_for_a_moment(make: Make, model: Path, policy: Policy) -> None:
    """It stops, and is back with the model's own weights under the same address."""
    old, new = State(model), State(model)
    waits: list[float] = []
    with ExitStack() as first, ExitStack() as second:
        url = first.enter_context(listening(old))

        async def pause(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 30:
                second.enter_context(listening(new, int(url.rpartition(":")[2])))

        engine = make(urls=(url,), pause=pause, retries=5)
        engine.sync(policy, 0)
        perturb(policy)
        engine.sync(policy, 1)
        wanted = engine.sample(requests(), Sampling(9))
        old.trouble = lambda _path, _body: (0, None)
        first.close()
        assert engine.sample(requests(), Sampling(9)) == wanted
        engine.close()
    assert max(waits) > 1
    assert new.version == "0123456789ab:1"
