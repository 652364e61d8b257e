"""What tests of more than one file stand on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes import ProcessSandbox, short_folder

# By the wall clock nothing is too slow: a machine may stand still. Where it matters a test measures computing.
settings.register_profile("nanoclaw", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nanoclaw")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a whole home: short enough for its sockets."""
    with short_folder() as path:
        yield path


@pytest.fixture
def sandbox(folder: Path) -> Iterator[ProcessSandbox]:
    """For more than one life of a host."""
    sandbox = ProcessSandbox(folder / "registry")
    try:
        yield sandbox
    finally:
        sandbox.kill_all()
