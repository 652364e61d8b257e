"""Turns the gateway's unix sockets into ports on 127.0.0.1, which is all that programs can be told of."""

import asyncio
import contextlib
import socket
from pathlib import Path

_PATIENCE = 120.0  # seconds that a request waits for a restarting host to listen again
_CHUNK = 1 << 16


def listen(port: int) -> socket.socket:
    """Bind before the CLI starts: an early connection waits in the backlog. Port 0 takes any."""
    listener = socket.create_server(("127.0.0.1", port))
    listener.setblocking(False)
    return listener


async def forward(listener: socket.socket, target: Path) -> None:
    """Carry every connection to the socket at `target`, until cancelled."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        while True:
            client, _ = await loop.sock_accept(listener)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tasks.create_task(_carry(client, target), name="connection")


async def _carry(client: socket.socket, target: Path) -> None:
    # A connection that breaks ends itself alone; the CLI sees it closed and asks again.
    with client, contextlib.suppress(OSError), await _reach(target) as upstream:
        async with asyncio.TaskGroup() as both:
            both.create_task(_pump(client, upstream), name="request")
            both.create_task(_pump(upstream, client), name="response")


async def _reach(target: Path) -> socket.socket:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_PATIENCE):
        while True:
            upstream = socket.socket(socket.AF_UNIX)
            upstream.setblocking(False)
            try:
                await loop.sock_connect(upstream, str(target))
                return upstream
            except (FileNotFoundError, ConnectionRefusedError):
                upstream.close()
                await asyncio.sleep(0.1)
            except BaseException:
                upstream.close()
                raise


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await loop.sock_recv(source, _CHUNK):
            await loop.sock_sendall(sink, data)
    for end in (source, sink):  # so that the other direction ends too
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
