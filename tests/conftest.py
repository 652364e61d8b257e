"""What tests of more than one file stand on."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from loguru import logger

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


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """The log may be set up as a host does it: afterwards it is as the tests have it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logger.remove()
    logger.configure(patcher=lambda record: None)
    logger.add(sys.stderr)
