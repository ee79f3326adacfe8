"""A server that does not fit the run, or that fails: one line, or a retry; never a wrong sample."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from rollout.vllm.rows import Make, perturb, requests
from rollout.vllm.server import State, listening

from edge_grpo.config.sections import LoraSettings, ModelSettings
from edge_grpo.models.loading import load_policy
from edge_grpo.models.policy import Policy
from edge_grpo.rollout.engine import Sampling, ServerError
from edge_grpo.rollout.vllm.engine import VllmEngine


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 100}, "with 100 tokens in its vocabulary, and model.path has"),
        ({"logprobs_mode": "raw_logprobs"}, "was started with --logprobs-mode raw_logprobs; leave that out"),
        (
            {"lora": False},
            r"takes no adapters; start it with `edge-grpo serve MODEL --lora RANK`, or set rollout.engine.lora",
        ),
        ({"max_lora_rank": 2}, r"rank 2 at most, .* is 4; start it with `edge-grpo serve MODEL --lora 4`"),
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


def test_adapters_asked_for_without_one_are_told_in_a_line(make: Make, policy: Policy) -> None:
    said: list[str] = []
    make(lora="adapter", say=said.append)
    assert said == ["rollout.engine.lora=adapter has no effect: the model has no adapter, and is handed over whole"]


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
