"""The way to the model: one unix socket per run, the real credential put in, every token counted."""

import asyncio
import io
import math
import re
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import aiohttp
from aiohttp import web
from loguru import logger

from nanoclaw.errors import GatewayError, Refused
from nanoclaw.gateway import Credential, CredentialKind, Meter
from nanoclaw.gateway.answer import Watcher, error_of, passing
from nanoclaw.gateway.asked import MAX_REPEATS, Asked, look
from nanoclaw.gateway.request import betas, limited, parsed, word
from nanoclaw.gateway.usage import UsageTap

SOCKET = "model.sock"
MAX_BODY = 32 << 20  # the API's own limit
MAX_BUSY = 32  # requests of one run at once: a turn, its subagents, and the CLI's bursts of count_tokens (13 seen)
MAX_TALKS = 4  # answers of the model to one run at once; what is over waits
MAX_A_MINUTE = 60  # of one run
MAX_CONNECTIONS = 64  # of one run at once: an agent has more file descriptors than the host
_IDLE = 60.0  # seconds after which a connection that asks nothing is closed
_LEAKED = 60.0  # seconds in which a run asks in vain after that: its CLI would ask the same six times
_LARGE = 1 << 20  # bytes from which only _MAX_LARGE bodies of one run are held at once
_MAX_LARGE = 4
_THREAD_FROM = 256 << 10  # bytes of a body that may take 5 ms to parse and write
_MAX_PATH = 107  # bytes of a unix socket's path
_MESSAGES = "/v1/messages"
_PATHS = frozenset({_MESSAGES, "/v1/messages/count_tokens"})
MAX_FREE = 60  # MiB begun of requests in a minute that cost no tokens, counted or refused: reading them holds the host
_UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)  # nobody was asked
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class _Denied(Exception):
    """Answered here. At 403 the CLI stops; at 401, 429 and 529 it tries again."""

    def __init__(self, status: int, message: str, retry_after: float = 1) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    def response(self) -> web.Response:
        error = {"type": _TYPES[self.status], "message": str(self)}
        headers = {"retry-after": str(math.ceil(self.retry_after))} if self.status == 429 else {}
        return web.json_response({"type": "error", "error": error}, status=self.status, headers=headers)


class _Leaked(aiohttp.ClientPayloadError):
    """An answer holds the credential."""


@dataclass
class _Run:
    """One run's listener."""

    id: str
    search: bool
    socket: Path
    busy: int = 0
    large: asyncio.Semaphore = field(default_factory=partial(asyncio.Semaphore, _MAX_LARGE))
    talks: asyncio.Semaphore = field(default_factory=partial(asyncio.Semaphore, MAX_TALKS))
    times: deque[float] = field(default_factory=partial(deque, maxlen=MAX_A_MINUTE))  # of the last answers' begin
    free: deque[float] = field(default_factory=partial(deque, maxlen=MAX_FREE))  # of what cost nothing
    leaked: float = -math.inf  # when an answer was last broken off for what it held
    runner: web.AppRunner = field(init=False)
    server: asyncio.Server | None = None


@dataclass
class _Bill:
    """What is known of one request's cost."""

    tap: UsageTap
    begin: float
    counts: bool = True
    overloaded: bool = False


class _Guest(asyncio.Protocol):
    """A new connection: handed to the HTTP server while there is room, else closed at once."""

    def __init__(self, server: web.Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        if len(self._server.connections) >= MAX_CONNECTIONS:
            transport.abort()
            return
        handler = self._server()
        transport.set_protocol(handler)
        handler.connection_made(transport)


class ModelGateway:
    """The Gateway of the real host. Upstream and credential are asked at each request, so new ones count at once."""

    def __init__(
        self,
        upstream: Callable[[], str],
        credential: Callable[[], Credential | None],
        meter: Meter,
        leaked: Callable[[], None] = lambda: None,
    ) -> None:
        """`leaked` is told when an answer of the API's holds the credential."""
        self._upstream, self._credential, self._meter, self._leaked = upstream, credential, meter, leaked
        self._runs: dict[str, _Run] = {}
        self._session: aiohttp.ClientSession | None = None
        self._building = asyncio.Semaphore(1)  # large bodies: each holds the interpreter for as long as it is parsed

    async def open(self, run_id: str, folder: Path, *, search: bool) -> None:
        """Listen on `folder`/model.sock for this run. Raises GatewayError."""
        run = _Run(run_id, search, folder / SOCKET)
        if run_id in self._runs:
            raise GatewayError(f"run {run_id} has its socket already")
        if len(str(run.socket).encode()) > _MAX_PATH:
            raise GatewayError(f"{run.socket}: a socket's path ends at {_MAX_PATH} bytes; set run_dir to a shorter one")
        self._runs[run_id] = run
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", partial(self._handle, run))
        run.runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.02, auto_decompress=False,
            keepalive_timeout=_IDLE,
        )  # fmt: skip
        try:
            await run.runner.setup()
            run.socket.unlink(missing_ok=True)  # of a host that was killed
            guest = partial(_Guest, cast(web.Server, run.runner.server))
            run.server = await asyncio.get_running_loop().create_unix_server(guest, run.socket)
            run.socket.chmod(0o666)  # the agent has another uid; the folder above keeps others out
        except OSError as e:
            await self.close(run_id)
            raise GatewayError(f"{run.socket} cannot be opened: {e.strerror}") from None

    async def close(self, run_id: str) -> None:
        """Stop listening and break off what is in flight; a run without a socket is no error."""
        if run := self._runs.pop(run_id, None):
            if run.server:
                run.server.close()
            await run.runner.cleanup()
            run.socket.unlink(missing_ok=True)

    async def aclose(self) -> None:
        """Close every run and the connections to the API."""
        for run_id in list(self._runs):
            await self.close(run_id)
        if self._session:
            await self._session.close()
            self._session = None

    async def _handle(self, run: _Run, request: web.Request) -> web.StreamResponse:
        run.busy += 1
        large = (request.content_length or MAX_BODY) > _LARGE
        try:
            async with run.large if large else nullcontext():
                credential, asked = await self._admit(run, request)
                if request.path != _MESSAGES:  # counting costs nothing
                    return await self._forward(run, request, credential, asked)
                async with run.talks:
                    return await self._metered(run, request, credential, asked)
        except _Denied as no:
            logger.warning("gateway answered run {} with {}: {}", run.id, no.status, no)
            return no.response()
        finally:
            run.busy -= 1

    async def _admit(self, run: _Run, request: web.Request) -> tuple[Credential, Asked]:
        """The request built anew and what to sign it with. Raises _Denied."""
        if request.method != "POST" or request.path not in _PATHS:
            raise _Denied(404, "The gateway knows POST /v1/messages and /v1/messages/count_tokens only.")
        if run.busy > MAX_BUSY:
            raise _Denied(429, f"More than {MAX_BUSY} requests of one run at once.")
        _pace(run.free, "that cost nothing")
        if _now() - run.leaked < _LEAKED:
            raise _Denied(403, "Stopped by the gateway: the answer held the key or token of the model's API.")
        if refusal := self._meter.refusal(run.id):
            raise _Denied(403, refusal)
        if (credential := self._credential()) is None:
            raise _Denied(403, "No API key or token is set; run `nanoclaw setup` on the host.")  # no retry mends it
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise _Denied(413, f"A request may have {MAX_BODY >> 20} MiB.") from None
        free = True
        try:
            asked = await self._build(body, search=run.search)
            free = request.path != _MESSAGES
            return credential, asked
        except Refused as e:
            raise _Denied(403, f"Not allowed through the gateway: {e}") from None
        finally:
            run.free.extend([_now()] * (1 + len(body) // _LARGE) if free else ())

    async def _build(self, body: bytes, *, search: bool) -> Asked:
        build = partial(_build, body, search=search)
        if len(body) <= _THREAD_FROM:
            return build()
        async with self._building if len(body) > _LARGE else nullcontext():
            return await asyncio.to_thread(build)

    def _hold(self, run: _Run, asked: Asked) -> tuple[Asked, int]:
        """What the request may cost is reserved before it goes out, with no longer an answer than the limits leave.
        Raises _Denied."""
        if asked.circle:
            raise _Denied(
                403,
                f"Stopped by the gateway: {word(asked.circle)} was called {MAX_REPEATS} times in a row the same way.",
            )
        _pace(run.times)
        try:
            output = self._meter.affords(run.id, asked.ask)
            if output < asked.ask.output:
                asked = replace(asked, body=limited(asked.body, output), ask=replace(asked.ask, output=output))
            held = self._meter.reserve(run.id, asked.ask)
        except Refused as e:
            raise _Denied(403, str(e)) from None
        run.times.append(_now())
        return asked, held

    async def _metered(
        self, run: _Run, request: web.Request, credential: Credential, asked: Asked
    ) -> web.StreamResponse:
        asked, held = self._hold(run, asked)
        bill = _Bill(UsageTap(asked.ask, sse=True), _now())
        try:
            return await self._forward(run, request, credential, asked, bill)
        finally:  # also when the agent hung up
            used = bill.tap.usage(_now() - bill.begin) if bill.counts else None
            self._meter.settle(held, used, overloaded=bill.overloaded)

    async def _forward(
        self, run: _Run, request: web.Request, credential: Credential, asked: Asked, bill: "_Bill | None" = None
    ) -> web.StreamResponse:
        bill = bill or _Bill(UsageTap(asked.ask, sse=True), _now())
        body = asked.body
        url = self._upstream().rstrip("/") + request.path + ("?beta=true" if "beta" in request.query else "")
        headers = _headers(request, credential)
        data = io.BytesIO(body) if len(body) > _LARGE else body  # one write of many MiB would hold the loop
        back = web.StreamResponse()
        try:
            async with self._connections().post(url, data=data, headers=headers, allow_redirects=False) as answer:
                bill.counts, bill.overloaded = answer.status == 200, answer.status == 529
                if answer.status == 401:  # the CLI would ask five times; 403 says that no retry mends it
                    raise _Denied(403, "The model's API refused the credential.")
                if answer.status != 200:
                    return await error_of(answer, credential.secret, self._leaked)
                bill.tap = UsageTap(asked.ask, sse=answer.content_type == "text/event-stream")
                return await _relay(request, answer, back, bill.tap, credential.secret)
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            bill.counts = bill.counts and not isinstance(e, _UNSENT)
            if not back.prepared:
                raise _Denied(529, f"The model's API cannot be reached ({type(e).__name__}).") from None
            if isinstance(e, _Leaked):
                run.leaked = _now()
                self._leaked()
            logger.warning(
                "the model's answer to run {} broke off: {}", run.id, e if isinstance(e, _Leaked) else type(e).__name__
            )
            if request.transport:  # an honest end would make half an answer look whole
                request.transport.abort()
            return back

    def _connections(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),  # MAX_BUSY and the slots limit it
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=600),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _now() -> float:
    return asyncio.get_running_loop().time()


def _pace(times: deque[float], what: str = "") -> None:
    """Raises _Denied while the last ones fill a minute."""
    if len(times) == times.maxlen and (wait := times[0] + 60 - _now()) > 0:
        raise _Denied(429, f"More than {len(times)} requests of one run in a minute {what}".rstrip() + ".", wait)


def _build(body: bytes, *, search: bool) -> Asked:
    return look(*parsed(body, search=search))


def _headers(request: web.Request, credential: Credential) -> dict[str, str]:
    """Built anew: nothing that the sandbox wrote passes unseen, and its placeholder credential not at all."""
    known = betas(",".join(request.headers.getall("anthropic-beta", [])))
    agent = request.headers.get("user-agent", "")
    headers = {
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",  # else the usage could not be read as it passes
        "anthropic-version": "2023-06-01",
        "user-agent": agent if re.fullmatch(r"claude-cli/[\w.(), /-]{1,120}", agent) else "nanoclaw",
        "x-app": "cli",
    }
    if credential.kind is CredentialKind.API_KEY:
        headers["x-api-key"] = credential.secret
    else:
        headers["authorization"] = f"Bearer {credential.secret}"
        if "oauth-2025-04-20" not in known:
            known = f"{known},oauth-2025-04-20".lstrip(",")
    return headers | {"anthropic-beta": known} if known else headers


async def _relay(
    request: web.Request, answer: aiohttp.ClientResponse, back: web.StreamResponse, tap: UsageTap, secret: str
) -> web.StreamResponse:
    back.headers.update(passing(answer, secret))
    await back.prepare(request)
    watcher = Watcher(secret)
    async for chunk in answer.content.iter_any():
        tap.feed(chunk)
        if watcher.holds(chunk):
            raise _Leaked("it holds the key or token of the API")
        await back.write(chunk)
    await back.write_eof()
    return back
