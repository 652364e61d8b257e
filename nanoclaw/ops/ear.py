"""What stands around the gateway while the probe looks: an ear in the place of the model's API, and no counting."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from nanoclaw.gateway import Ask, Credential, CredentialKind, Reach
from nanoclaw.gateway.egress import Egress
from nanoclaw.gateway.model import ModelGateway
from nanoclaw.gateway.ways import Ways
from nanoclaw.models import Usage
from nanoclaw.ops.findings import Finding, Grade

SMUGGLED = b"probe-smuggled"  # what the probe tries to get past the gateway
HELP = "run no agents here, and report it as a fault of NanoClaw"
_PATHS = {b"/v1/messages/count_tokens", b"/v1/messages/count_tokens?beta=true"}
_HEADERS = {
    b"accept", b"accept-encoding", b"anthropic-beta", b"anthropic-version", b"content-length", b"content-type",
    b"host", b"user-agent", b"x-api-key", b"x-app",
}  # fmt: skip
_MOST = 1 << 20  # bytes of one request
_KEPT = 100  # requests
_PATIENCE = 5.0  # seconds for a request that does not end
_SAYS = b'{"input_tokens": 1}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"


@dataclass
class Ear:
    """Answers every request as a count of tokens, and remembers it."""

    key: str  # what stands for the credential: it must come here, and nothing else of that kind
    heard: list[bytes] = field(default_factory=list)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> "Ear":
        self._server = await asyncio.start_server(self._hear, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None  # noqa: S101 - only within the block
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            contextlib.closing(writer),
            contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, ValueError),
        ):
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(min(_length(head), _MOST))
                if len(self.heard) < _KEPT:
                    self.heard.append(head + body)
                writer.write(_ANSWER % (len(_SAYS), _SAYS))
                await writer.drain()

    def finding(self) -> Finding:
        """Whether only what is meant to came out behind the gateway."""
        check = "behind the gateway"
        if not self.heard:
            return Finding(check, Grade.FAIL, "nothing came out of it, so it does not work", "nanoclaw doctor")
        if wrong := next(filter(None, (_wrong(request, self.key) for request in self.heard)), ""):
            return Finding(check, Grade.FAIL, f"it sent out {wrong}", HELP)
        return Finding(check, Grade.OK, "it sends out what it knows, built anew, and nothing that was smuggled")


def _length(head: bytes) -> int:
    lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(lines[0].partition(b":")[2]) if lines else 0


def _wrong(request: bytes, key: str) -> str:
    """What of a request must not have come out; "" for nothing."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, path, _ = first.split(b" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if method != b"POST" or path not in _PATHS:
        return "another request than it may"
    if more := headers.keys() - _HEADERS:
        return f"a header that it does not know: {more.pop().decode('ascii', 'replace')[:40]}"
    if SMUGGLED in request:
        return "what was smuggled past it"
    if headers.get(b"x-api-key") != key.encode():
        return "another credential than the host's"
    try:
        json.loads(body)
    except ValueError:
        return "what is no JSON"
    return ""


# --- the gateway itself ------------------------------------------------------------------------


class _Free:
    """The gateway's Meter for what costs nothing."""

    def refusal(self, run_id: str) -> str:
        """Never."""
        return ""

    def affords(self, run_id: str, ask: Ask) -> int:
        """All of it: the ear takes no money."""
        return ask.output

    def reserve(self, run_id: str, ask: Ask) -> int:
        """Nothing is held."""
        return 0

    def settle(self, held: int, usage: Usage | None, *, overloaded: bool = False) -> None:
        """And nothing counted."""


class _Still:
    """The egress' Border: the group's own reach, and nobody is told what was refused."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def reach(self, run_id: str) -> Reach:
        """As it was when the probe began."""
        return self._reach

    def refused(self, run_id: str, host: str, port: int) -> None:
        """That was the point."""

    def carried(self, run_id: str, count: int) -> None:
        """Nothing is."""


@contextlib.asynccontextmanager
async def gateway(run_id: str, folder: Path, reach: Reach, ear: Ear, base_url: str) -> AsyncIterator[None]:
    """The real gateway, listening in the run's folder; what it forwards to the model comes to the ear."""
    credential = Credential(CredentialKind.API_KEY, ear.key)
    ways = Ways(ModelGateway(lambda: ear.url, lambda: credential, _Free()), Egress(_Still(reach), lambda: base_url))
    try:
        await ways.open(run_id, folder, search=False)
        yield
    finally:
        await ways.aclose()
