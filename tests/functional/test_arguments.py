import importlib
import inspect
import pkgutil
import re

import pytest
import torch

from edge_grpo import functional
from edge_grpo.base.errors import ShapeError
from edge_grpo.functional import (
    clipped_loss,
    collapse_ratio,
    entropy_driven_advantage,
    group_normalized,
    group_rank,
    high_entropy,
    mean_over_rows,
    relative_entropy,
    standardized,
    standardized_reward,
)

REWARDS, GROUP, MASK = torch.tensor([1.0, 0.0]), torch.tensor([7, 7]), torch.ones(2, 3, dtype=torch.bool)
NAN = torch.tensor([1.0, float("nan")])


def refused(line: str) -> "pytest.RaisesExc[ShapeError]":
    return pytest.raises(ShapeError, match=f"^{re.escape(line)}")


def test_every_public_function_is_importable_from_the_package() -> None:
    modules = [importlib.import_module(f"edge_grpo.functional.{each.name}") for each in _modules()]
    names = [name for module in modules for name in module.__all__]
    assert len(names) == len(set(names)) > 80
    assert all(getattr(functional, name) is getattr(module, name) for module in modules for name in module.__all__)


def test_every_function_of_tensors_checks_its_arguments() -> None:
    for each in _modules():
        module = importlib.import_module(f"edge_grpo.functional.{each.name}")
        for name in module.__all__:
            function = getattr(module, name)
            takes_tensors = "Tensor" in str(inspect.signature(function))
            assert (inspect.unwrap(function) is not function) or not takes_tensors, name
            if takes_tensors:
                first, *others = inspect.signature(function).parameters.values()
                missing = {p.name: None for p in others if p.default is p.empty}
                with refused(f"{first.name}: got str, wanted a tensor; pass torch.as_tensor({first.name})"):
                    function("1", **missing)


def test_arguments_of_the_wrong_kind_are_named() -> None:
    with refused("rewards: got a tensor of torch.int64, wanted floats: rewards.float()"):
        group_normalized(torch.tensor([1, 0]), GROUP)
    with refused("group: got a tensor of torch.float32, wanted integers: group.long()"):
        group_normalized(REWARDS, REWARDS)
    with refused("scorable: got a tensor of torch.int64, wanted booleans: scorable.bool()"):
        group_normalized(REWARDS, GROUP, torch.tensor([1, 1]))
    with refused("mask: got a tensor of torch.uint8, wanted booleans: mask.bool()"):
        mean_over_rows(torch.zeros(2, 3), MASK.to(torch.uint8), rows=2)
    with refused("mask: got a tensor of torch.float32, wanted booleans: mask.bool()"):
        clipped_loss(torch.zeros(2, 3), torch.zeros(2, 3), mask=MASK.float(), clip_low=0.2, clip_high=0.2)
    with refused("rewards: got list, wanted a tensor; pass torch.as_tensor(rewards)"):
        group_normalized([1.0, 0.0], GROUP)  # type: ignore[arg-type]


def test_arguments_of_the_wrong_shape_are_named() -> None:
    with refused("rewards: got a tensor of shape [2, 1], wanted [rows]"):
        group_normalized(REWARDS[:, None], GROUP)
    with refused("group: got 3 rows, but 'rewards' has 2"):
        group_normalized(REWARDS, torch.tensor([7, 7, 7]))
    with refused("mask: got 2 tokens, but 'entropy' has 3"):
        relative_entropy(torch.ones(2, 3), MASK[:, :2], GROUP)


def test_numbers_that_are_not_finite_are_named_where_they_count() -> None:
    line = "rewards: 1 of 2 values are NaN or infinite (the first at [1]), wanted finite numbers"
    everything = torch.ones(2, dtype=torch.bool)
    for call in (
        lambda: group_normalized(NAN, GROUP),
        lambda: collapse_ratio(NAN, GROUP),
        lambda: standardized_reward(NAN, GROUP, everything),
        lambda: standardized(NAN, GROUP, everything, center=False, scale=False),
    ):
        with refused(line):
            call()
    with refused("scores: 1 of 2 values"):
        group_rank(NAN, GROUP, everything)
    with refused("entropy: 3 of 6 values are NaN or infinite (the first at [1, 0])"):
        relative_entropy(NAN[:, None].expand(2, 3), MASK, GROUP)
    with refused("entropy: 3 of 6 values"):
        high_entropy(NAN[:, None].expand(2, 3), MASK, top=0.5)
    with refused("advantages: 1 of 2 values"):
        entropy_driven_advantage(NAN, REWARDS.new_ones(2))
    assert group_normalized(NAN, GROUP, torch.tensor([True, False])).tolist() == [0, 0]


def _modules() -> list[pkgutil.ModuleInfo]:
    return [each for each in pkgutil.iter_modules(functional.__path__) if not each.name.startswith("_")]
