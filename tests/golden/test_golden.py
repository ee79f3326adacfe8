"""Every golden vector of the folder given by ``--golden``, everything under ``expected``."""

import pytest
from golden.cases import Case, load_folder
from golden.handlers import check


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = load_folder(metafunc.config.getoption("--golden"))
        assert cases, "no golden vectors in that folder"
        metafunc.parametrize("case", cases, ids=lambda case: case.name)


def test_golden(case: Case) -> None:
    assert check(case) == []
