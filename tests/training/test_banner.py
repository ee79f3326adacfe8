"""The first lines of a run say what it is about."""

import re
from pathlib import Path

import pytest
from support import save_tiny

from edge_grpo.config.tree import load_config
from edge_grpo.training.banner import banner
from edge_grpo.training.session import open_session


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def lines(*words: str) -> list[str]:
    config = load_config(None, ["train.steps=7", "data.arithmetic.size=20", "eval.size=6", *words])
    with open_session(config) as session:
        return list(banner(session, Path("runs/x")))


def test_the_banner_names_what_matters(model: Path) -> None:
    folder, network, trained, method, data = lines(f"model.path={model}", "method=grpo", "train.max_tokens=5000")
    assert folder == "run folder: runs/x"
    assert network == f"model: {model}, 24,032 parameters, float32, on cpu with 1 thread"
    assert trained == "trained: all 24,032 parameters"
    wanted = "7 steps or 5,000 sampled tokens, each of 16 prompts x 8 completions of at most 96 tokens"
    assert method == f"method: grpo, {wanted}"
    assert data == "data: built-in arithmetic, 20 problems to train on, 6 held-out problems"


def test_adapters_and_their_share_are_named(model: Path) -> None:
    _, network, trained, _, data = lines(
        f"model.path={model}", "model.lora.rank=2", "eval.every=0", "eval.at_start=false", "eval.at_end=false"
    )
    assert network.endswith("parameters, float32, on cpu with 1 thread")
    assert re.match(r"trained: LoRA of rank 2 on 2 down_proj, .* 1,856 of 25,888 parameters \(7\.17%\)$", trained)
    assert data.endswith("nothing held out")


def test_stored_pairs_are_counted_as_pairs(model: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "1?", "chosen": "a", "rejected": "b"}\n')
    *_, method, data = lines(f"model.path={model}", "method=rpo", f"data.pairs={tmp_path}/pairs.jsonl")
    assert method == "method: rpo, 7 steps of 16 pairs"
    assert data == f"data: {tmp_path}/pairs.jsonl, 1 pair to train on, nothing held out"
