import pytest
import torch
from methods.steps import make_step, run_update
from pydantic import TypeAdapter, ValidationError

from edge_grpo.methods.disco_b import DiscoB


def test_mean_of_the_right_over_mean_of_the_wrong() -> None:
    batch = make_step()
    method = DiscoB()
    signal = method.signal(batch)
    rows = [torch.arange(len(batch.group))]
    loss, *_ = run_update(method, batch, signal, batch.old_logprobs, batch.entropy, rows)
    scores = torch.where(batch.mask, batch.old_logprobs, 0.0).sum(-1) / batch.mask.sum(-1)
    assert loss.item() == pytest.approx(-float((signal.row_advantages * scores).sum()) / 3)


def test_there_is_no_temperature() -> None:
    with pytest.raises(ValidationError, match="tau"):
        TypeAdapter(DiscoB).validate_python({"kind": "disco_b", "tau": 1.0})
