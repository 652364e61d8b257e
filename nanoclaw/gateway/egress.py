"""The one narrow way out: CONNECT by the run's own socket, to hosts that its group may reach and by TLS to no other."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from loguru import logger

from nanoclaw.errors import GatewayError
from nanoclaw.gateway import Border
from nanoclaw.gateway.connect import MAX_HEAD, Denied, decide, target
from nanoclaw.gateway.hello import HANDSHAKE, NotAllowed, asks_again, behind_hello, check_first, check_second
from nanoclaw.gateway.hosts import PROVIDERS, TLS
from nanoclaw.gateway.outward import LOOKUPS, Dial, Judge, Lookups, Resolve, dial, judge, reach_out

SOCKET = "egress.sock"
_CHUNK = 64 << 10
_PIECES = 64  # in which a client's first words may come
_PAUSE = 0.05  # seconds until the next connection is taken when there are too many
# What a TLS client understands: fatal, unrecognized_name.
_ALERT = bytes([21, 3, 1, 0, 2, 2, 112])


@dataclass(frozen=True)
class Limits:
    """What one run may take of the way out."""

    at_once: int = 64  # connections
    per_run: int = 20_000  # connections
    run_bytes: int = 16 << 30  # both ways; a group's day has its own limit
    head: float = 10.0  # seconds for a request, and again for the first words of TLS
    idle: float = 300.0  # seconds without a byte
    look: float = 5.0  # seconds after which an open connection is looked at again


@dataclass
class _Run:
    """One run's listener, and what it used."""

    id: str
    listener: socket.socket
    path: Path
    resolve: Resolve
    serving: asyncio.Task[None] = field(init=False)
    open: int = 0
    opened: int = 0
    carried: int = 0  # bytes
    left: int = 0  # bytes of its group's day


def _future() -> asyncio.Future[bool]:
    return asyncio.get_running_loop().create_future()


@dataclass
class _Tunnel:
    """One connection through us."""

    run: _Run
    client: socket.socket
    upstream: socket.socket
    host: str
    port: int
    last: float  # loop time of the last byte
    reported: int = 0
    carried: int = 0
    answer: bytes = b""  # the server's first words
    again: asyncio.Future[bool] = field(default_factory=_future)  # whether they ask for another hello

    def hear(self, data: bytes) -> None:
        """What the server says."""
        if not self.again.done():
            self.answer += data
            if (again := asks_again(self.answer)) is not None:
                self.again.set_result(again)

    def end(self) -> None:
        """Both directions."""
        if not self.again.done():
            self.again.set_result(False)
        for side in (self.client, self.upstream):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


class Egress:
    """The sandboxes' proxy. `upstream` is the model's API, which nobody reaches this way; the last three are the
    outside world, of which tests have their own."""

    def __init__(
        self,
        border: Border,
        upstream: Callable[[], str] = lambda: "",
        *,
        limits: Limits | None = None,
        resolve: Resolve | None = None,
        judge: Judge = judge,
        dial: Dial = dial,
    ) -> None:
        self._border = border
        self._upstream = upstream
        self._limits = limits or Limits()
        self._resolve = resolve
        self._room: asyncio.Semaphore | None = None
        self._judge = judge
        self._dial = dial
        self._runs: dict[str, _Run] = {}

    async def open(self, run_id: str, folder: Path) -> None:
        """Listen on `folder`/egress.sock for this run. Raises GatewayError."""
        path = folder / SOCKET
        if run_id in self._runs:
            raise GatewayError(f"run {run_id} has its socket already")
        self._room = self._room or asyncio.Semaphore(LOOKUPS)  # here, where there is a loop
        listener = socket.socket(socket.AF_UNIX)
        try:
            path.unlink(missing_ok=True)  # of a host that was killed
            listener.bind(str(path))
            listener.listen(self._limits.at_once)
            listener.setblocking(False)
            path.chmod(0o666)  # the agent has another uid; the folder above keeps others out
        except OSError as e:
            listener.close()
            raise GatewayError(f"{path} cannot be opened: {e}") from None
        run = self._runs[run_id] = _Run(run_id, listener, path, self._resolve or Lookups(self._room))
        run.serving = asyncio.create_task(self._serve(run), name=f"egress {run_id}")

    async def close(self, run_id: str) -> None:
        """Stop listening and break off what is open; a run without a socket is no error."""
        if run := self._runs.pop(run_id, None):
            run.serving.cancel()
            await asyncio.wait({run.serving})
            run.listener.close()
            run.path.unlink(missing_ok=True)

    async def aclose(self) -> None:
        """Close every run."""
        for run_id in list(self._runs):
            await self.close(run_id)

    async def _serve(self, run: _Run) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as guests:
            while True:
                try:
                    client, _ = await loop.sock_accept(run.listener)
                except OSError as e:  # no descriptor is free, say
                    logger.warning("No connection of run {} can be taken: {}", run.id, e.strerror)
                    await asyncio.sleep(1)
                    continue
                if run.open >= self._limits.at_once or run.opened >= self._limits.per_run:
                    client.close()
                    await asyncio.sleep(_PAUSE)
                    continue
                run.open += 1
                run.opened += 1
                guests.create_task(self._guest(run, client), name="connection")

    async def _guest(self, run: _Run, client: socket.socket) -> None:
        """The boundary of one connection."""
        try:
            with client:
                await self._answer(run, client)
        except (OSError, TimeoutError):
            logger.debug("A connection of run {} went away", run.id)
        except Exception as e:
            logger.opt(exception=e).error("A connection of run {} broke", run.id)
        finally:
            run.open -= 1
            if run.opened == self._limits.per_run:
                logger.warning("Run {} has made {} connections: no more", run.id, run.opened)
                run.opened += 1  # said once

    async def _answer(self, run: _Run, client: socket.socket) -> None:
        reach, asked = await self._border.reach(run.id), ""
        try:
            async with asyncio.timeout(self._limits.head):
                host, port = target(await _head(client))
            asked = f" {host}:{port}"
            upstream = await self._admitted(run, host, port)
        except Denied as no:
            logger.warning("Egress: {} was refused{}: {}", reach.group, asked, no)
            await _send(client, _refusal(no))
            return
        logger.info("Egress: {} was connected to{}", reach.group, asked)
        with upstream:
            await _send(client, b"HTTP/1.1 200 Connection established\r\n\r\n")
            await self._carry(_Tunnel(run, client, upstream, host, port, _now()), reach.group)

    async def _admitted(self, run: _Run, host: str, port: int) -> socket.socket:
        """The name first: what is not allowed is not even looked up. And once more at the end, since looking up and
        connecting may take long enough for the owner to change it."""
        await self._decide(run, host, port)
        resolve = self._resolve or run.resolve
        upstream = await reach_out(host, port, resolve=resolve, judge=self._judge, dial=self._dial)
        try:
            await self._decide(run, host, port)
        except BaseException:
            upstream.close()
            raise
        return upstream

    async def _decide(self, run: _Run, host: str, port: int) -> None:
        reach = await self._border.reach(run.id)
        run.left = reach.bytes_left
        try:
            decide(reach, host, port, self._providers())
        except Denied as no:
            if no.wanted:
                self._border.refused(run.id, host, port)
            raise
        self._check_room(run)

    def _check_room(self, run: _Run) -> None:
        if run.carried >= self._limits.run_bytes or run.left <= 0:
            raise Denied(429, "as much as may go in and out is used up; it starts again at midnight")

    def _providers(self) -> tuple[str, ...]:
        name = urlsplit(self._upstream()).hostname  # lower case, without a user and a port
        return (*PROVIDERS, name) if name else PROVIDERS

    # --- an open connection -----------------------------------------------------------------------

    async def _carry(self, tunnel: _Tunnel, group: str) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._watch(tunnel, group), name="watch")
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._out(tunnel, group), name="out")
                    both.create_task(self._pump(tunnel, tunnel.upstream, tunnel.client), name="in")
                watch.cancel()
        finally:
            self._report(tunnel)

    async def _out(self, tunnel: _Tunnel, group: str) -> None:
        """The client's first words are looked at before a byte of them goes out."""
        try:
            async with asyncio.timeout(self._limits.head if tunnel.port == TLS else self._limits.idle):
                check = partial(check_first, host=tunnel.host, tls=tunnel.port == TLS)
                first = await _words(tunnel.client, b"", check)
            await self._handshake(tunnel, first)
            await self._pump(tunnel, tunnel.client, tunnel.upstream)
        except NotAllowed as no:
            logger.warning("Egress: {} was cut off from {}:{}: {}", group, tunnel.host, tunnel.port, no)
            with contextlib.suppress(OSError):
                await _send(tunnel.client, _ALERT if tunnel.port == TLS else b"")
        except (OSError, TimeoutError):
            logger.debug("Nothing was said to {}", tunnel.host)
        finally:
            tunnel.end()

    async def _handshake(self, tunnel: _Tunnel, first: bytes) -> None:
        """What stands behind a hello waits for the server's answer: it may ask for another hello, which must not name
        another host than the first."""
        rest = behind_hello(first)
        await self._say(tunnel, first.removesuffix(rest))
        if first[0] == HANDSHAKE and await tunnel.again:
            rest = await _words(tunnel.client, rest, partial(check_second, host=tunnel.host))
        await self._say(tunnel, rest)

    async def _say(self, tunnel: _Tunnel, data: bytes) -> None:
        if data:
            await _send(tunnel.upstream, data)
            self._count(tunnel, len(data))

    async def _pump(self, tunnel: _Tunnel, source: socket.socket, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(source, _CHUNK):
                self._count(tunnel, len(data))
                if source is tunnel.upstream:
                    tunnel.hear(data)
                if tunnel.run.carried > self._limits.run_bytes or tunnel.run.left < 0:
                    logger.warning("Egress: run {} has carried as much as it may", tunnel.run.id)
                    break
                await loop.sock_sendall(sink, data)
        tunnel.end()

    def _count(self, tunnel: _Tunnel, count: int) -> None:
        tunnel.last = _now()
        tunnel.carried += count
        tunnel.run.carried += count
        tunnel.run.left -= count

    async def _watch(self, tunnel: _Tunnel, group: str) -> None:
        """Idle ones are closed, and those to a host that is not allowed any more."""
        while True:
            await asyncio.sleep(self._limits.look)
            self._report(tunnel)
            reach = await self._border.reach(tunnel.run.id)
            tunnel.run.left = reach.bytes_left
            try:
                decide(reach, tunnel.host, tunnel.port, self._providers())
            except Denied as no:
                logger.warning("Egress: {} was cut off from {}:{}: {}", group, tunnel.host, tunnel.port, no)
                tunnel.end()
            if _now() - tunnel.last > self._limits.idle:
                tunnel.end()

    def _report(self, tunnel: _Tunnel) -> None:
        count, tunnel.reported = tunnel.carried - tunnel.reported, tunnel.carried
        if count:
            self._border.carried(tunnel.run.id, count)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _head(client: socket.socket) -> bytes:
    """A request up to its empty line; whoever says more before the answer is not a client that we know."""
    loop, head = asyncio.get_running_loop(), b""
    while b"\r\n\r\n" not in head:
        if len(head) > MAX_HEAD:
            raise Denied(431, "a request of too many bytes")
        data = await loop.sock_recv(client, MAX_HEAD)
        if not data:
            raise ConnectionResetError
        head += data
    if not head.endswith(b"\r\n\r\n") or head.count(b"\r\n\r\n") > 1:
        raise Denied(400, "something came before the answer")
    return head


async def _words(client: socket.socket, words: bytes, whole: Callable[[bytes], bool]) -> bytes:
    for _ in range(_PIECES):
        if words and whole(words):
            return words
        data = await asyncio.get_running_loop().sock_recv(client, _CHUNK)
        if not data:
            raise ConnectionResetError
        words += data
    raise NotAllowed("first words in too many pieces")


async def _send(sink: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sink, data)


def _refusal(no: Denied) -> bytes:
    """The reason stands in the first line too: that is what most programs show of a refusal."""
    body = f"{no}\n"
    head = f"HTTP/1.1 {no.status} {no}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"{head}\r\n\r\n{body}".encode("ascii", "replace")
