"""A server samples what the in-process engine samples, with the weights it was last given and no others."""

import shutil
from pathlib import Path

import pytest
import torch
from real_vllm.comparison import in_process, largest_gap, perturb, prompts
from real_vllm.servers import KEY, Make, Server
from safetensors.torch import load_file, save_file

from edge_grpo.base.records import Segment
from edge_grpo.models.policy import Policy
from edge_grpo.models.scoring import causal
from edge_grpo.rollout.engine import Continuation, Request, Sampling
from edge_grpo.rollout.vllm.background import Background
from edge_grpo.rollout.vllm.client import Client, RefusedError

TOLERANCE = 1e-4


def test_greedy_tokens_and_log_probs_are_those_of_the_in_process_engine(
    server: Server, make: Make, policy: Policy
) -> None:
    engine = make(server, policy)
    engine.sync(policy, 0)
    assert largest_gap(engine, policy) < TOLERANCE


def test_they_still_are_after_three_syncs_tied_embeddings_included(server: Server, make: Make, policy: Policy) -> None:
    assert causal(policy.model).config.tie_word_embeddings
    engine = make(server, policy)
    engine.sync(policy, 0)
    before = engine.sample(prompts()[:4], Sampling(8, temperature=0.0))
    for step in (1, 2, 3):
        perturb(policy, seed=step)
        engine.sync(policy, step)
        assert largest_gap(engine, policy) < TOLERANCE
    assert engine.sample(prompts()[:4], Sampling(8, temperature=0.0)) != before


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_log_probs_are_those_of_the_policy(
    server: Server, make: Make, policy: Policy, temperature: float
) -> None:
    engine = make(server, policy)
    engine.sync(policy, 0)
    asked = [Request(own.prompt_ids, (1, 2, 3, 4)) for own in prompts()[:8]]
    groups = engine.sample(asked, Sampling(24, temperature))
    assert groups == engine.sample(asked, Sampling(24, temperature))
    assert len({own.completion_ids for own in groups[0]}) > 1
    for rollout in (own for group in groups for own in group):
        row = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
        mask = torch.arange(row.shape[1])[None] >= len(rollout.prompt_ids)
        ours = policy.score(row, torch.ones_like(mask), mask, temperature=temperature).logprobs[mask]
        assert (ours - torch.tensor(rollout.spans[0].logprobs)).abs().max() < TOLERANCE


def test_a_continuation_goes_on_from_the_very_tokens(server: Server, make: Make, policy: Policy) -> None:
    engine = make(server, policy)
    engine.sync(policy, 0)
    sampling = Sampling(12, temperature=0.0)
    items = [Continuation(own, (20, 30, 40), 15, 0) for (own,) in engine.sample(prompts()[:6], sampling)]
    theirs, ours = engine.resume(items, sampling), in_process(policy).resume(items, sampling)
    assert [own.completion_ids for own in theirs] == [own.completion_ids for own in ours]
    assert [own.segments for own in theirs] == [own.segments for own in ours]
    assert any(Segment.CONTINUED in own.segments for own in theirs)


def test_stop_strings_end_a_completion_as_in_process(server: Server, make: Make, policy: Policy) -> None:
    texts = ("=", "\\boxed")
    engine = make(server, policy, stop_texts=texts)
    engine.sync(policy, 0)
    ours = in_process(policy)
    ours.stop_strings = engine.stop_strings
    ids = policy.tokenizer.encode("Compute 12+7-3.\n", add_special_tokens=False)
    asked = [Request(tuple(ids), (0,)), *prompts()[:7]]
    sampling = Sampling(24, temperature=0.0)
    pairs = list(zip(engine.sample(asked, sampling), ours.sample(asked, sampling), strict=True))
    assert all(one.completion_ids == two.completion_ids for (one,), (two,) in pairs)
    assert all(one.ends_in_text == two.ends_in_text for (one,), (two,) in pairs)
    assert any(one.ends_in_text for (one,), _ in pairs)


# --- weights that must not get in -------------------------------------------------------------------------------------


def half(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_norm(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: own for name, own in weights.items() if name != "model.norm.weight"}, folder / "model.safetensors")


def changed(name: str, value: torch.Tensor, folder: Path) -> None:
    save_file({**load_file(folder / "model.safetensors"), name: value}, folder / "model.safetensors")


BAD = {
    "damaged": half,
    "no safetensors files": lambda folder: (folder / "model.safetensors").unlink(),
    "lack norm.weight": without_norm,
    "hold other.weight, which the served model lacks": lambda folder: changed("other.weight", torch.ones(2), folder),
    r"norm.weight \[64\] instead of \[128\]": lambda folder: changed("model.norm.weight", torch.ones(64), folder),
    "NaN or inf in model.norm": lambda folder: changed("model.norm.weight", torch.full([128], torch.nan), folder),
    "differs from the embedding": lambda folder: changed("lm_head.weight", torch.ones(262, 128), folder),
    "no safetensors": shutil.rmtree,
}


@pytest.mark.parametrize("told", BAD)
def test_bad_weights_are_an_error_and_the_old_ones_stay(
    told: str, server: Server, make: Make, policy: Policy, tmp_path: Path
) -> None:
    engine = make(server, policy)
    engine.sync(policy, 0)
    before = engine.sample(prompts()[:4], Sampling(8, temperature=0.0))
    perturb(policy, seed=9)
    folder = tmp_path / "new"
    policy.model.save_pretrained(folder)
    BAD[told](folder)
    background, client = Background(), Client(server.url, key=KEY, retries=0)
    try:
        with pytest.raises(RefusedError, match=told):
            background.run(client.update_weights({"path": str(folder)}, "bad"))
        assert background.run(client.weight_version()) == f"{engine.session}:0"
    finally:
        background.run(client.close())
        background.close()
    assert engine.sample(prompts()[:4], Sampling(8, temperature=0.0)) == before


def test_a_tied_head_may_be_among_the_weights(server: Server, make: Make, policy: Policy, tmp_path: Path) -> None:
    engine = make(server, policy)
    engine.sync(policy, 0)
    perturb(policy, seed=9)
    folder = tmp_path / "new"
    policy.model.save_pretrained(folder)
    changed("lm_head.weight", load_file(folder / "model.safetensors")["model.embed_tokens.weight"].clone(), folder)
    background, client = Background(), Client(server.url, key=KEY, retries=0)
    background.run(client.update_weights({"path": str(folder)}, f"{engine.session}:0"))
    background.run(client.close())
    background.close()
    assert largest_gap(engine, policy) < TOLERANCE
