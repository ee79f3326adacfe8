"""The benchmarks of speed on tiny models: formulas against counts by hand, and tables with zero or missing figures."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import decode
import gpu
import growth
import logits_memory
import overheads
import pytest
import startup
import torch
import update

TINY = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}


# --- update -----------------------------------------------------------------------------------------------------------


def test_useful_work_against_a_count_by_hand() -> None:
    queries, keys, values, output, feed_forward = 8 * 8, 8 * 4, 8 * 4, 8 * 8, 3 * 8 * 12
    layers = 3 * (queries + keys + values + output + feed_forward)
    assert update.weights_of_layers(TINY) == layers == 1440
    assert update.flop(TINY, tokens=10, scored=4) == 6 * (layers * 10 + 8 * 50 * 4)


def test_weights_in_products_are_those_of_the_model(tmp_path: Path) -> None:
    from shapes import smollm2_135m
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(smollm2_135m(tmp_path, **TINY))
    matrices = [weight for name, weight in network.model.layers.named_parameters() if weight.dim() == 2]
    assert update.weights_of_layers(TINY) == sum(weight.numel() for weight in matrices)


def test_the_135m_pass_has_the_work_of_the_published_shape() -> None:
    assert update.Work().flop == pytest.approx(1.4785e12, rel=1e-4)


def test_no_prefix_is_shared_and_the_second_half_is_scored() -> None:
    ids, attention, mask = update.Work(8, 16).inputs()
    assert len(set(ids[:, 0].tolist())) == 8
    assert bool(attention.all())
    assert mask.sum(-1).tolist() == [8] * 8
    assert not mask[:, :8].any()


def test_the_update_benchmark_measures_all_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    found = update.measure(quick=True, peers=True, work=update.Work(2, 8, shape=TINY), products=64)
    assert tuple(found) == update.KEYS
    assert all(value is not None and value > 0 for value in found.values())
    assert "| transformers, bf16 autocast" in capsys.readouterr().out


def test_the_table_of_the_update_takes_missing_figures() -> None:
    work, rates = update.Work(2, 8, shape=TINY), {"float32": [0.0], "bfloat16": [1e9]}
    rows = list(update.report(work, {"float32": [1.0], "bfloat16": []}, rates))
    assert rows[0][-1] == "-"
    assert rows[1] == ["bfloat16", *["-"] * 5]


# --- decode -----------------------------------------------------------------------------------------------------------


def test_the_decode_benchmark_gives_null_for_a_peer_that_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    found = decode.measure(quick=True, work=decode.Work(2, 2, 4, 3, shape=TINY), families=("generate",))
    assert tuple(found) == decode.KEYS
    assert found["decode_135m_vs_generate"] is not None
    assert found["decode_135m"] is found["decode_135m_vs_vllm"] is None
    assert "generate, bf16, static cache" in capsys.readouterr().out


def test_all_sides_get_the_same_prompts_and_every_round_others() -> None:
    work = decode.Work()
    assert work.drawn(1) == work.drawn(1) != work.drawn(2)
    assert (len(work.drawn(0)), len(work.drawn(0)[0]), work.rows) == (8, 50, 64)


# --- logits_memory ----------------------------------------------------------------------------------------------------


def test_the_sides_compute_the_same_scores_and_gradients() -> None:
    chance = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 40, (6,), generator=chance)
    drawn = [torch.randn(rows, 5, generator=chance) for rows in (6, 40)]
    in_pieces = partial(logits_memory.head_scores, logits_at_once=80)
    losses, gradients = [], []
    for side in (in_pieces, logits_memory.head_scores, logits_memory.all_logits):
        hidden, weight = (each.clone().requires_grad_() for each in drawn)
        losses.append(logits_memory._pass(side, hidden, weight, targets))
        gradients.append((hidden.grad, weight.grad))
    assert losses == pytest.approx([losses[0]] * 3)
    for one in gradients[1:]:
        torch.testing.assert_close(one, gradients[0])


def test_a_worker_counts_bytes_and_seconds() -> None:
    found = logits_memory.worker("all logits", logits_memory.Work(50, 4, 30))
    assert set(found) == {"bytes", "seconds", "loss"}
    assert found["seconds"] > 0
    assert math.isnan(found["bytes"]) or found["bytes"] >= 0


# --- growth -----------------------------------------------------------------------------------------------------------


def test_every_size_doubles_three_times_and_nothing_else_changes() -> None:
    base = growth.Point()
    for axis in growth.AXES:
        points = list(growth.along(axis, base))
        sizes = [getattr(point, axis) for point in points]
        assert [b / a for a, b in pairwise(sizes)] == [2, 2, 2]
        assert {replace(point, **{axis: 0}) for point in points} == {replace(base, **{axis: 0})}


def test_time_per_token_is_flat_where_time_grows_linearly() -> None:
    base = growth.Point()
    found = {}
    for axis in growth.AXES:
        own = []
        for point in growth.along(axis, base):
            seconds = point.rows * point.answer * (point.weights / 1e6 if axis == "width" else 1.0)
            seconds *= point.prompt if axis == "prompt" else 1
            tokens = float(point.rows * point.answer)
            own.append((point, growth.Timed(seconds, 0.0, tokens, float(point.rows * point.prompt))))
        found[axis] = own
        assert growth.ratios([each.per("sampling", axis, point) for point, each in own]) == pytest.approx([1, 1, 1])
    assert all("-" in row[-2] for row in growth.report(found)), "an update of no seconds has no ratio"


def test_ratios_take_missing_figures() -> None:
    assert growth.ratios([1.0, 2.0, None, 3.0, 0.0, 5.0]) == [2.0, None, None, 0.0, None]


def test_a_step_of_a_point_is_timed() -> None:
    point = growth.Point(group=2, answer=3, prompt=4, prompts=2, width=32, layers=1, vocabulary=64)
    found = growth.timed(point, steps=1, seconds=0.0)
    assert found.sampling > 0
    assert found.update > 0
    assert found.prompts == 16
    assert 4 <= found.answers <= 12


# --- overheads --------------------------------------------------------------------------------------------------------


def test_the_overheads_have_all_figures(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("rollout.prompts_per_step=2", "rollout.group_size=4", "rollout.max_new_tokens=4", "reward.workers=1")
    found = overheads.advantage(1, small) | overheads.correction(1, small)
    assert tuple(found) == overheads.KEYS
    assert all(value is not None for value in found.values())
    assert found["gec_extra_trained_tokens"] is not None
    assert found["gec_extra_trained_tokens"] > 0, "wrong answers were corrected"
    assert "of it: correct" in capsys.readouterr().out


# --- startup ----------------------------------------------------------------------------------------------------------


def test_the_startup_table_takes_processes_of_no_time() -> None:
    nothing = [startup.Spent(0.0, 0.0)]
    rows = startup.report({startup.TORCH: nothing, startup.TRAIN: [startup.Spent(2.0, 3.0)]})
    assert [row[2] for row in rows] == ["-", "-"]
    assert rows[1][1] == "2.00 (2.00 - 2.00)"


@pytest.mark.slow
def test_a_run_ends_with_its_first_token(tmp_path: Path) -> None:
    found = startup.spent(startup.first_token(tmp_path))
    assert 0 < found.seconds < 120
    assert found.cpu > 0


# --- gpu --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_it_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    assert end.value.code == 2
    assert capsys.readouterr().out == "bench-gpu: PyTorch sees no CUDA device; nothing was measured\n"


@pytest.mark.parametrize("prompts", [8, 64])
def test_a_step_scores_all_tokens_but_the_prompts(prompts: int) -> None:
    one = gpu.size("tiny", TINY)
    assert one.flop(prompts) == update.flop(TINY, tokens=(prompts + 64) * 256, scored=64 * 256)
