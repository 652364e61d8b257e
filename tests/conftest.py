"""What tests of more than one file stand on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import short_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a whole home: short enough for its sockets."""
    with short_folder() as path:
        yield path
