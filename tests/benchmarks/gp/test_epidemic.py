"""The epidemic behaves like one, and its searches run."""

import pytest
import torch
from gp import epidemic
from gp.draws import generator


def test_policies_spend_the_budget_within_the_bounds() -> None:
    control = epidemic.policies(100, generator("test"))
    assert control.shape == (100, 5)
    torch.testing.assert_close(control.sum(1), torch.full((100,), 1.25, dtype=torch.float64))
    assert 0.05 <= float(control.min()) < float(control.max()) <= 0.6


def test_preventing_contacts_prevents_infections() -> None:
    control = torch.tensor([[0.0] * 5, [0.2] * 5, [1.0] * 5], dtype=torch.float64)
    days = epidemic.infected_days(control)
    assert (days[:, 0] > days[:, 1]).all()
    assert (days[:, 1] > days[:, 2]).all()
    shares, duration = torch.tensor([0.06, 0.16, 0.42, 0.19, 0.17]), torch.tensor([6.0, 5.0, 4.5, 6.0, 8.0])
    assert (days[:, 0] <= 1000 * shares * duration * 1.001).all(), "nobody is infected twice"
    alone = 1000 * 1e-4 * shares.double() * duration.double()  # only those infected on day 0
    torch.testing.assert_close(days[:, 2], alone, rtol=0.06, atol=0)


@pytest.mark.slow
def test_all_three_searches_come_nearer_than_chance() -> None:
    found = epidemic.regret(1000, 1.0)
    truth = epidemic.infected_days(epidemic.policies(300, generator("epidemic", "candidates", 1000))).sum(0)
    assert set(found) == {"parts", "sum", "own"}
    assert max(found.values()) < float(truth.mean() - truth.min())
