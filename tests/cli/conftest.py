"""A small model for the commands."""

import pytest
from support import save_tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("commands") / "tiny"))
