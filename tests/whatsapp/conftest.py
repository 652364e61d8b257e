"""A WhatsApp of this test's own, which the library in this process talks to."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.whatsapp.server import FakeWhatsApp

_MEMORY = Path("/dev/shm")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory: the library's first login commits 812 keys one by one, which takes seconds on a disk."""
    path = Path(tempfile.mkdtemp(prefix="nc-", dir=_MEMORY if _MEMORY.is_dir() else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def whatsapp(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeWhatsApp]:
    """The server, wired to the library in this process; Python's own requests reach it as a proxy."""
    import neonize.aioze.events

    monkeypatch.setattr(neonize.aioze.events, "event_global_loop", None)
    async with FakeWhatsApp() as server:
        server.patch()
        monkeypatch.setenv("HTTPS_PROXY", server.proxy)
        monkeypatch.setenv("SSL_CERT_FILE", str(server.authority))
        yield server
