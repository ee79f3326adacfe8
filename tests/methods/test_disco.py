import math
from pathlib import Path

import pytest
import torch
from methods.steps import make_step, run_update
from pydantic import ValidationError

from edge_grpo.config.tree import load_config
from edge_grpo.methods.disco import Disco
from edge_grpo.methods.disco_b import DiscoB

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def test_the_value_is_the_objective() -> None:
    batch = make_step()
    method = Disco(tau=0.7)
    signal = method.signal(batch)
    logprobs = batch.old_logprobs
    loss, gradient, _ = run_update(method, batch, signal, logprobs, batch.entropy, [torch.arange(len(batch.group))])
    scores = torch.where(batch.mask, logprobs, 0.0).sum(-1) / batch.mask.sum(-1)
    wanted = 0.0
    for name in batch.group.unique():
        own = (batch.group == name) & batch.scorable
        right, wrong = scores[own & batch.correct], scores[own & ~batch.correct]
        if len(right) and len(wrong):
            wanted -= float(right.mean()) - 0.7 * math.log(float((wrong / 0.7).exp().mean()))
            weights = (wrong / 0.7).softmax(0) / batch.mask.sum(-1)[own & ~batch.correct]
            assert torch.allclose(gradient[own & ~batch.correct].amax(-1), weights / 3)
    assert loss.item() == pytest.approx(wanted / 3)


def test_a_large_tau_is_the_basic_form() -> None:
    batch = make_step()
    rows = [torch.arange(len(batch.group))]
    results = [
        run_update(method, batch, method.signal(batch), batch.old_logprobs, batch.entropy, rows)
        for method in (Disco(tau=1e7), DiscoB())
    ]
    for mine, theirs in zip(*results, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_tau_is_above_zero() -> None:
    assert Disco().tau == 10
    assert Disco(score="likelihood_ratio").tau == 1
    assert Disco(score="likelihood_ratio", tau=3.0).tau == 3
    words = ["method=disco", "method.score=likelihood_ratio"]
    assert load_config(None, words).method == Disco(score="likelihood_ratio", tau=1.0)
    assert load_config(None, [*words, "method.tau=10"]).method == Disco(score="likelihood_ratio", tau=10.0)
    assert load_config(str(CONFIGS / "disco.yaml"), words[1:]).method == Disco(score="likelihood_ratio", tau=1.0)
    released = load_config(str(CONFIGS / "disco_deepseek_r1_distill_1.5b.yaml"), words[1:]).method
    assert released == Disco(score="likelihood_ratio", tau=1.0)
    with pytest.raises(ValidationError, match="tau"):
        Disco(tau=0.0)
