"""The theorems hold on the draws behind the evidence."""

import pytest
from gp.synthetic import CASES, COUNTS, fitted, parts_of, regression, regret


@pytest.mark.parametrize("case", CASES)
def test_variance_never_rises_and_proportional_parts_gain_nothing(case: str) -> None:
    found = regression(case, 1000)
    assert min(found[f"least_{count}"] for count in COUNTS) >= -1e-12
    largest = max(found[f"most_{count}"] for count in COUNTS)
    if case in ("identical", "proportional"):
        assert largest < 1e-12
        assert max(found[f"mean_{count}"] for count in COUNTS) < 1e-10
    else:
        assert largest > 1e-3


def test_draws_repeat_and_random_kernels_differ_between_draws() -> None:
    assert regression("near", 7) == regression("near", 7) != regression("near", 8)
    one, two = (parts_of("random5", draw)[0].kernel.kernels[0].base_kernel.lengthscale for draw in (0, 1))
    assert float(one) != float(two)
    assert len(parts_of("random5", 0)) == 5


def test_identical_parts_are_searched_alike() -> None:
    found = regret("identical", 0, 1.0)
    assert found["parts"] == pytest.approx(found["sum"], abs=1e-9)


def test_fitted_priors_see_only_the_observations() -> None:
    found = fitted("near", 3, (5, 10))
    assert set(found) == {f"{arm}_{count}" for arm in ("parts", "sum") for count in (5, 10)}
    assert found | fitted("near", 3, (5,)) == found
    assert all(found[f"{arm}_10"] < found[f"{arm}_5"] for arm in ("parts", "sum"))
