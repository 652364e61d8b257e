"""From a name to a connection: looked up here, every address looked at, connected by the address that was."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from nanoclaw.gateway.addresses import Network, own_networks, refusal
from nanoclaw.gateway.connect import Denied

Resolve = Callable[[str], Awaitable[list[str]]]  # the addresses of a name, none when it has none
Judge = Callable[[Iterable[str]], str]  # why one of these addresses is refused, "" when none is
Dial = Callable[[str, int], Awaitable[socket.socket]]  # raises OSError

LOOKUPS = 16  # at once; a resolver that does not answer holds a thread for half a minute
_OF_ONE = 4  # of these, of one run
_MAX_ANSWERS = 64  # addresses of a name; more are no honest answer
_LOOKUP = 10.0  # seconds that an answer may take
_CONNECT = 15.0  # seconds for all addresses of a name together
_MAX_ADDRESSES = 4  # that are tried
_ROUTES = ("route", "fib_trie", "ipv6_route")


class Lookups:
    """The system's resolver in threads of its own: daemons, so that none of them holds up the end of the host."""

    def __init__(self, room: asyncio.Semaphore | None = None) -> None:
        """For one run; `room` is what all of them share."""
        self._own = asyncio.Semaphore(_OF_ONE)
        self._room = room or asyncio.Semaphore(LOOKUPS)

    async def __call__(self, host: str) -> list[str]:
        """Every address of the name, none when it has none. Its thread counts until it has ended."""
        await self._own.acquire()
        try:
            await self._room.acquire()
        except BaseException:
            self._own.release()
            raise
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[list[str]] = loop.create_future()

        def ask() -> None:
            found = _ask(host)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(end, found)

        def end(found: list[str]) -> None:
            self._own.release()
            self._room.release()
            if not answered.done():
                answered.set_result(found)

        threading.Thread(target=ask, name="lookup", daemon=True).start()
        return await answered


def _ask(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host + ".", None, type=socket.SOCK_STREAM)  # the dot: no search list of the host's
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(where[0]) for *_, where in found))


def judge(addresses: Iterable[str]) -> str:
    """Why nobody may be connected to one of these; the host's own networks are read anew, since they change."""
    own = _own()
    return next(filter(None, (refusal(address, own) for address in addresses)), "")


def _own() -> list[Network]:
    texts = []
    for name in _ROUTES:
        try:
            texts.append((Path("/proc/net") / name).read_text("ascii"))
        except OSError:  # a kernel without IPv6
            texts.append("")
    return own_networks(*texts)


async def dial(address: str, port: int) -> socket.socket:
    """A connection to this very address."""
    upstream = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        upstream.setblocking(False)
        await asyncio.get_running_loop().sock_connect(upstream, (address, port))
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except BaseException:
        upstream.close()
        raise
    return upstream


async def reach_out(host: str, port: int, *, resolve: Resolve, judge: Judge, dial: Dial) -> socket.socket:
    """A connection to the name. One address that must not be reached refuses them all. Raises Denied."""
    try:
        async with asyncio.timeout(_LOOKUP):
            addresses = await resolve(host)
    except TimeoutError:
        raise Denied(504, "the name's address could not be found in time") from None
    if not addresses:
        raise Denied(502, "this name has no address")
    if len(addresses) > _MAX_ANSWERS:
        raise Denied(502, "the name has too many addresses")
    if why := judge(addresses):
        raise Denied(403, f"the name has an address that {why}")
    return await _first(addresses[:_MAX_ADDRESSES], port, dial)


async def _first(addresses: Iterable[str], port: int, dial: Dial) -> socket.socket:
    try:
        async with asyncio.timeout(_CONNECT):
            for address in addresses:
                with contextlib.suppress(OSError):
                    return await dial(address, port)
    except TimeoutError:
        raise Denied(504, "the host does not answer") from None
    raise Denied(502, "the host cannot be reached")
