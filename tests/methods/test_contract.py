"""The contract of every method, checked for each member of the union and with its optional settings enabled."""

import dataclasses
from typing import Any

import pytest
import torch
import yaml
from methods.steps import current, make_step, pieces, run_update, totals_of, with_rubbish
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from edge_grpo.base.tensors import Scored, Signal
from edge_grpo.config.sections import TrainSettings
from edge_grpo.methods import METHODS, Method, MethodConfig
from edge_grpo.training.batching import group_micro_batches

ADAPTER: TypeAdapter[Any] = TypeAdapter(MethodConfig)
EVERYTHING = {
    "scale": "batch",
    "beta": 0.05,
    "off_policy_threshold": 0.05,
    "entropy_quantile": 0.6,
    "entropy_coef": 0.01,
    "sampler_correction": "token_truncate",
    "sampler_clip_max": 1.05,
    "mask_unfinished": True,
}


def switched_on(kind: str, **more: Any) -> dict[str, Any]:
    """The method with all of the settings above that it supports."""
    return {"kind": kind, **{key: value for key, value in {**EVERYTHING, **more}.items() if accepts(kind, key, value)}}


def accepts(kind: str, key: str, value: Any) -> bool:
    try:
        ADAPTER.validate_python({"kind": kind, key: value})
    except ValidationError:
        return False
    return True


VARIANTS: list[dict[str, Any]] = [
    *({"kind": kind} for kind in METHODS),
    *(switched_on(kind) for kind in METHODS),
    *(switched_on(kind, ratio_level="sequence") for kind in METHODS if kind != "vespo"),
    {"kind": "grpo", "objectives": "normalize_then_sum", "sampler_correction": "sequence_mask", "delta": 1.1},
    {"kind": "grpo", "scale": "none", "sampler_correction": "token_mask", "kl_bias_correction": False, "beta": 0.1},
    {"kind": "edge_grpo", "correction": {"injected": "likelihood"}, "eda": {"over": "sampled"}},
    {"kind": "grpo_matched", "eda": {"enabled": True}, **EVERYTHING},
    {"kind": "edge_grpo", "correction": {"wrong_prefix": "credited"}, "eda": {"enabled": False}},
]


def name(variant: dict[str, Any]) -> str:
    return "-".join([str(variant["kind"]), *(key for key in variant if key != "kind")][:4])


each = pytest.mark.parametrize("method", [ADAPTER.validate_python(v) for v in VARIANTS], ids=map(name, VARIANTS))


def columns(signal: Signal) -> dict[str, Tensor]:
    every = {field.name: getattr(signal, field.name) for field in dataclasses.fields(signal)}
    return {key: value for key, value in every.items() if isinstance(value, Tensor)}


@each
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("size", [1, 5])
def test_micro_batches_change_neither_value_nor_gradient(
    method: Method, dtype: torch.dtype, tolerance: float, size: int
) -> None:
    batch = make_step(dtype=dtype)
    signal = method.signal(batch)
    logprobs, entropy = current(batch)
    rows = torch.randperm(len(batch.group), generator=torch.Generator().manual_seed(3))
    lengths = batch.attention.sum(-1)
    whole_groups = method.needs.whole_groups
    splits = group_micro_batches(rows, lengths, batch.group, size=size) if whole_groups else rows.split(size)
    whole = run_update(method, batch, signal, logprobs, entropy, [torch.arange(len(rows))])
    split = run_update(method, batch, signal, logprobs, entropy, list(splits))
    for mine, theirs in zip(split, whole, strict=True):
        assert (mine - theirs).norm() <= tolerance * theirs.norm().clamp(min=0.1)  # terms of order 1 cancel in the loss


@each
@pytest.mark.parametrize("filler", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_rubbish_in_padding_changes_nothing(method: Method, filler: float) -> None:
    clean = with_rubbish(make_step(), 0.0)
    dirty = with_rubbish(clean, filler)
    logprobs, entropy = current(clean)
    everything = [torch.arange(len(clean.group))]
    wanted = run_update(method, clean, method.signal(clean), logprobs, entropy, everything)
    soiled = [torch.where(clean.mask, column, filler) for column in (logprobs, entropy)]
    got = run_update(method, dirty, method.signal(dirty), *soiled, everything)
    assert wanted[0].isfinite()
    for mine, theirs in zip(got, wanted, strict=True):
        assert torch.equal(mine, theirs)


@each
def test_the_signal_is_detached_and_leaves_the_batch_alone(method: Method) -> None:
    batch = make_step()
    every = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    before = {key: value.clone() for key, value in every.items() if isinstance(value, Tensor)}
    for column in (batch.entropy, batch.old_logprobs, batch.reward):
        column.requires_grad_()
    with torch.no_grad():
        signal = method.signal(batch)
    assert not any(column.requires_grad for column in columns(signal).values())
    assert all(torch.equal(getattr(batch, key).nan_to_num(9), value.nan_to_num(9)) for key, value in before.items())
    assert all(isinstance(part, float) for pair in signal.metrics.values() for part in pair)


@each
def test_row_order_does_not_matter(method: Method) -> None:
    batch = make_step()
    order = torch.randperm(len(batch.group), generator=torch.Generator().manual_seed(5))
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(Scored)}
    permuted = Scored(**{k: v if k in ("reward_weights", "scenes") else v[order] for k, v in fields.items()})
    there, here = columns(method.signal(permuted)), columns(method.signal(batch))
    assert all(torch.allclose(there[key], value[order].to(there[key].dtype), atol=1e-12) for key, value in here.items())


@each
def test_rows_that_cannot_be_compared_take_no_part(method: Method) -> None:
    batch = make_step()
    signal = method.signal(batch)
    assert not signal.keep[~batch.scorable].any()
    assert (signal.row_advantages[~batch.scorable] == 0).all()
    if getattr(method, "objectives", "normalize_then_sum") != "normalize_then_sum":  # GDPO whitens over the step
        assert (signal.row_advantages[batch.group == 0] == 0).all()  # every reward of this group is equal


@each
def test_a_step_without_any_usable_row_is_a_loss_of_zero(method: Method) -> None:
    batch = make_step()
    batch = dataclasses.replace(batch, scorable=torch.zeros_like(batch.scorable))
    signal = method.signal(batch)
    logprobs, entropy = current(batch)
    loss, gradient, _ = run_update(method, batch, signal, logprobs, entropy, [torch.arange(len(batch.group))])
    assert loss == 0
    assert (gradient == 0).all()


@each
def test_rows_without_a_gradient_add_nothing_unless_every_row_is_needed(method: Method) -> None:
    batch = make_step()
    signal = method.signal(batch)
    weighted = signal.advantages.abs() + (0.0 if signal.likelihood is None else signal.likelihood.abs())
    idle = ((weighted == 0).all(-1)).nonzero().squeeze(-1)
    assert len(idle), "a group of equal rewards"
    loss, *gradients = run_update(method, batch, signal, *current(batch), [idle])
    if not (method.needs.every_row or method.needs.whole_groups):
        assert loss == 0
        assert all(bool((gradient == 0).all()) for gradient in gradients)


@each
def test_observations_are_sums_and_counts(method: Method) -> None:
    batch = make_step()
    signal = method.signal(batch)
    rows = torch.arange(len(batch.group))
    x = pieces(batch, signal, rows, *current(batch))
    for total, count in method.observe(x, totals_of(method, batch, signal, [rows])).values():
        assert isinstance(total, float)
        assert isinstance(count, float)
        assert count in (float(x.mask.sum()), 1.0) or (count.is_integer() and count <= len(x.keep))


@each
def test_frozen(method: Method) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.kind = "other"


@each
def test_round_trip(method: Method) -> None:
    plain = ADAPTER.dump_python(method, mode="json")
    assert ADAPTER.validate_python(plain) == method
    assert ADAPTER.validate_python(yaml.safe_load(yaml.safe_dump(plain))) == method


@pytest.mark.parametrize("kind", METHODS)
def test_unknown_settings_are_refused(kind: str) -> None:
    with pytest.raises(ValidationError, match="clip_hihg"):
        ADAPTER.validate_python({"kind": kind, "clip_hihg": 0.1})


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValidationError, match="edge_grpo"):
        ADAPTER.validate_python({"kind": "edge"})


@pytest.mark.parametrize("kind", METHODS)
def test_a_method_is_one_final_class_that_declares_all_its_settings(kind: str) -> None:
    cls = METHODS[kind]
    assert cls.__bases__ == (Method,)
    assert cls.__final__  # type: ignore[attr-defined]
    assert cls.kind == kind
    assert cls.__module__ == f"edge_grpo.methods.{kind}"
    assert cls().train_defaults.keys() <= {field.name for field in dataclasses.fields(TrainSettings)}


@pytest.mark.parametrize("kind", METHODS)
def test_docstrings_name_formula_and_source(kind: str) -> None:
    text = METHODS[kind].__doc__ or ""
    assert ".. math::" in text
    assert "Source:" in text
