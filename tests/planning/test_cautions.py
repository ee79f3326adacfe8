"""What a plan warns of, and that it is silent about a run as it should be."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edge_grpo.base.errors import ConfigError, EngineError
from edge_grpo.config.tree import load_config
from edge_grpo.evaluation.pass_rates import Rate, expected_collapse
from edge_grpo.planning.cautions import Seen, cautions
from edge_grpo.planning.lengths import Lengths
from edge_grpo.planning.plan import Plan, plan_of
from edge_grpo.planning.probe import foreseen

SMALL = ["data.arithmetic.size=40", "eval.size=6", "reward.workers=1"]


def planned(*words: str, processes: int = 0) -> Plan:
    return plan_of(load_config(None, [*SMALL, *words]), processes=processes, device="cpu")


def settings(plan: Plan, seen: Seen | None = None, free: float | None = None) -> dict[str, str]:
    return {each.setting: each.text for each in cautions(plan, seen, free=free)}


def test_a_run_as_it_should_be_has_none() -> None:
    plan = planned("rollout.max_new_tokens=96", "method=grpo")
    assert settings(plan, Seen("a run", 0.5, 0.2, 0.0), free=1e12) == {}


def test_a_cap_below_the_references_is_named_with_the_share() -> None:
    plan = planned("rollout.max_new_tokens=4", "method=grpo")
    assert plan.lengths.beyond(4) == 1.0
    text = settings(plan)["rollout.max_new_tokens"]
    assert text.startswith("100% of the reference solutions are longer than 4 tokens")


def test_prompts_that_do_not_fit_are_counted() -> None:
    long = planned("data.max_prompt_tokens=5", "data.over_long=skip")
    assert "40 of 40 prompts have more than 5 tokens and are skipped" in settings(long)["data.max_prompt_tokens"]
    ended = planned("data.max_prompt_tokens=5")
    assert "which ends the run" in settings(ended)["data.max_prompt_tokens"]
    assert (
        "exceed the model's context of 4,096"
        in settings(planned("rollout.max_new_tokens=4090"))["rollout.max_new_tokens"]
    )


def test_a_kl_term_costs_a_copy_and_a_bound_without_one_has_no_effect() -> None:
    assert "frozen copy" in settings(planned("method=grpo", "method.beta=0.1"))["method.beta"]
    assert "method.beta" not in settings(planned("method=grpo", "method.beta=0.1", "model.lora.rank=2"))
    assert "no reference is kept" in settings(planned("method=grpo", "method.kl_max=10"))["method.kl_max"]


def test_a_small_group_is_named_with_the_size_that_would_do() -> None:
    plan = planned("method=grpo", "rollout.group_size=4")
    text = settings(plan, Seen("a run", 0.05))["rollout.group_size"]
    wanted = next(size for size in range(4, 99) if 0.05**size + 0.95**size <= 0.5)
    assert f"{wanted} would leave half of them mixed" in text
    assert "rollout.group_size" not in settings(planned("method=grpo", "rollout.group_size=16"), Seen("a run", 0.05))


def test_a_measured_collapse_is_named_whatever_the_pass_rate_alone_says() -> None:
    plan = planned("method=grpo", "rollout.group_size=8")
    at = Seen("--probe", 0.125, 0.75, 0.0, ((4, 0.9), (8, 0.75), (16, 0.6), (32, 0.45), (64, 0.4)))
    text = settings(plan, at)["rollout.group_size"]
    assert text.startswith("75% of the groups are dead as sampled, all rewards equal (--probe, 12.5% right): 32 would")
    assert "4.0 of an update's groups have a gradient: raise it" in settings(plan, at)["rollout.prompts_per_step"]
    hopeless = settings(plan, replace(at, sizes=((8, 0.75), (64, 0.75))))["rollout.group_size"]
    assert "no size up to 64 is sure to help; choose other problems (edge-grpo screen)" in hopeless
    assert "problems differ in difficulty" in settings(plan, Seen("a run", 0.125, 0.75))["rollout.group_size"]
    assert "rollout.group_size" not in settings(plan, Seen("a run", 0.01, 0.5)), "measured: rewards are not 0 or 1"
    repaired = settings(planned("method=edge_grpo"), at)
    assert "corrections may revive" in repaired["rollout.group_size"]
    assert "have a gradient before corrections" in repaired["rollout.prompts_per_step"]


def test_what_collapse_leaves_of_an_update_is_counted() -> None:
    plan = planned("method=grpo", "rollout.prompts_per_step=16", "train.mini_batches=4")
    assert (
        "1.0 of an update's groups have a gradient"
        in settings(plan, Seen("a run", 0.5, 0.75))["rollout.prompts_per_step"]
    )
    assert "nothing to compare" in settings(plan, Seen("a run", 0.0, 1.0))["data.path"]


def test_a_reference_that_the_loss_needs_is_not_said_to_be_a_kl_term(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "1+1=", "chosen": "2", "rejected": "3"}\n')
    found = settings(planned("method=rpo", f"data.pairs={pairs}", "train.micro_batch_rows=20"))
    assert found.keys() == {"model.lora.rank"}, "and no advice on micro-batches of sampled groups"
    assert "frozen copy of the model (2.5 MB a rank) and scores both answers of every pair" in found["model.lora.rank"]
    assert "every completion" in settings(planned("method=rpo"))["model.lora.rank"]


def test_too_little_memory_names_the_setting_of_the_peak() -> None:
    plan = planned("method=grpo")
    assert "are free: lower it" in settings(plan, free=1e6)["train.micro_batch_rows"]


def test_ranks_and_micro_batches_that_do_not_divide() -> None:
    found = settings(planned("method=grpo", "rollout.prompts_per_step=15", "train.micro_batch_rows=20", processes=2))
    assert "make it a multiple of 2" in found["rollout.prompts_per_step"]
    assert "16 is faster" in found["train.micro_batch_rows"]


def test_references_beyond_a_cap() -> None:
    lengths = Lengths(4, 4, 4, 1.0, 1, references=(3, 5, 7, 9))
    assert lengths.beyond(5) == 0.5
    assert replace(lengths, references=()).beyond(5) == 0.0


# --- planning itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["bundled", "bundled-vision"])
def test_the_bundled_models_are_planned(model: str) -> None:
    plan = planned(f"model.path={model}")
    assert plan.shape.packed == (model == "bundled")
    assert plan.memory.peak[1] > 4 * plan.shape.weights


def test_a_gpu_need_not_be_here() -> None:
    plan = plan_of(load_config(None, [*SMALL, "model.dtype=bfloat16"]), processes=2, device="cuda")
    assert (plan.device, plan.precision.passes, plan.place.divided, plan.place.recomputes) == ("cuda", 2, True, True)
    assert "gathered weights" in {part.name for part in plan.memory.parts}


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["model.path=nobody/has-this-model"], EngineError, "is not on this machine, and a plan downloads nothing"),
        (["model.path=./gone"], EngineError, "no such folder"),
        (["distributed.cpu_offload=true"], ConfigError, "has no effect on a CPU or in a single process"),
        (["model.lora.rank=2", "model.lora.targets=[nothing]"], ConfigError, "matches nothing in this model"),
    ],
)
def test_mistakes_are_one_line(words: Sequence[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        planned(*words)
    assert "\n" not in str(caught.value)


# --- other group sizes ------------------------------------------------------------------------------------------------


def test_collapse_is_unbiased_up_to_the_sampled_size_and_said_to_be_a_bound_beyond() -> None:
    rates = [Rate("a", {(0.0, False): 6, (1.0, True): 2}), Rate("b", {(0.0, False): 8})]
    within, beyond = foreseen(rates, 4), foreseen(rates, 64)
    assert (within.collapse, within.extrapolated) == (expected_collapse(rates, 4), False)
    assert beyond.extrapolated
    assert beyond.collapse.total == 0.5
    assert beyond.collapse.all_right == 0.0
    mixed = [Rate("a", {(0.0, False): 1, (0.5, False): 1}), Rate("b", {(0.0, False): 3})]
    assert foreseen(mixed, 4).collapse.total == pytest.approx(
        min((2 * 0.5**4 + 1) / 2, expected_collapse(mixed, 2).total)
    )
    assert foreseen([Rate("a", {(0.0, False): 1, (1.0, True): 2})], 4).collapse.total == 0.0, "none of three"


def test_collapse_never_grows_with_the_group() -> None:
    rates = [Rate("a", {(0.0, False): 7, (1.0, True): 1}), Rate("b", {(0.0, False): 4, (1.0, True): 4})]
    found = [foreseen(rates, size).collapse.total for size in (2, 4, 8, 16, 32, 64)]
    assert found == sorted(found, reverse=True)
