"""Fixtures for the whole suite."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Modules of tests that are no test files: their assertions are to say what they compared, too.
pytest.register_assert_rewrite(
    "tests.udc_bench",
    "tests.udc_row",
    "tests.udc_running",
    "tests.udc_lifecycle",
    "tests.hostile_scene",
)

# How long an example takes says nothing on a loaded machine.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every async test runs on both event loops."""
    return str(request.param)
