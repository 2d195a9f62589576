"""A run whose exported model compares, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.amazon_reviews.shop import write_run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))
