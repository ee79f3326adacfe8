import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_grpo.functional.debiasing import debiasing_factor, useful_share


@pytest.mark.parametrize(
    ("useful", "wanted", "share", "factor"),
    [(2, 4, 0.5, 2.0), (4, 4, 1.0, 1.0), (6, 4, 1.0, 1.0), (0, 4, 0.0, 1.0), (0, 0, 1.0, 1.0)],
)
def test_share_and_factor_match_hand_calculations(useful: int, wanted: int, share: float, factor: float) -> None:
    assert useful_share(useful, wanted) == share
    assert debiasing_factor(share) == factor


def test_epsilon_is_added_to_the_share() -> None:
    assert debiasing_factor(0.5, eps=1e-5) == 1 / (0.5 + 1e-5)


@given(useful=st.integers(1, 9), collapsed=st.integers(0, 9), length=st.integers(1, 5))
def test_the_factor_corrects_a_mean_for_groups_of_zeros(useful: int, collapsed: int, length: int) -> None:
    wanted = useful + collapsed
    rows = torch.cat([torch.linspace(1, 2, useful * length), torch.zeros(collapsed * length)])
    factor = debiasing_factor(useful_share(useful, wanted))
    assert (factor * rows.mean()).item() == pytest.approx(rows[: useful * length].mean().item(), rel=1e-5)
