"""control.sock: the door through which the command line reaches the living host. JSON, one object per line."""

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from loguru import logger

from nanoclaw.errors import HomeError, NanoClawError, NotRunning

MAX_LINE = 2 << 20  # bytes: a message of 1 MB passes, even if JSON doubles each of its characters
MAX_PATH = 107  # bytes: what a unix address holds on Linux

Frame = dict[str, Any]


class Stream:
    """One connection, seen from either end: frames out, frames in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, frame: Frame) -> None:
        """Wait until the other side has room. Raises NanoClawError for a frame over MAX_LINE."""
        self._writer.write(_pack(frame))
        await self._writer.drain()

    def offer(self, frame: Frame, room: int) -> bool:
        """Send without waiting; False, and nothing sent, when more than `room` bytes wait already."""
        if self._writer.is_closing() or self._writer.transport.get_write_buffer_size() > room:
            return False
        self._writer.write(_pack(frame))
        return True

    async def receive(self) -> Frame | None:
        """The other side's next frame; None when it has left. Raises NanoClawError for a line that is no frame."""
        try:
            line = await self._reader.readline()
        except ValueError:
            raise NanoClawError(f"a line of more than {MAX_LINE} bytes") from None
        except ConnectionError:
            return None
        return _unpack(line) if line.endswith(b"\n") else None

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """The frames of the other side until it leaves."""
        while (frame := await self.receive()) is not None:
            yield frame

    def abort(self) -> None:
        """Drop the connection, and what it has not taken yet."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close it; what was sent is still delivered, if the other side reads it within a second."""
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except (ConnectionError, TimeoutError):
            self.abort()

    @property
    def peer(self) -> tuple[int, int]:
        """Process id and user id of the other side, as the kernel says."""
        held = self._writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _ = struct.unpack("3i", held)
        return pid, uid


def _pack(frame: Frame) -> bytes:
    data = json.dumps(frame, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    if len(data) > MAX_LINE:
        raise NanoClawError(f"the message is too long: {len(data)} of at most {MAX_LINE} bytes; send it in parts")
    return data


def _unpack(line: bytes) -> Frame:
    try:
        frame = json.loads(line)
    except (ValueError, RecursionError):
        raise NanoClawError("a line that is not JSON") from None
    if not isinstance(frame, dict):
        raise NanoClawError("a line that is no JSON object")
    return frame


Handler = Callable[[Frame, Stream], Awaitable[Frame | None]]


class ControlServer:
    """Answers verbs. The caller holds the home's lock, so a socket that is there already is a dead host's."""

    def __init__(self, path: Path, verbs: Mapping[str, Handler]) -> None:
        self._path = path
        self._verbs = verbs
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises HomeError when no socket can stand at this path."""
        _check_length(self._path)
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)
            door.bind(str(self._path))
            self._path.chmod(0o600)  # before it listens: nobody gets in earlier
            self._server = await asyncio.start_unix_server(self._accept, sock=door, limit=MAX_LINE)
        except OSError as e:
            door.close()
            raise HomeError(f"{self._path} cannot be opened: {e.strerror}") from None

    async def close(self) -> None:
        """Stop listening and end every client."""
        if self._server is None:
            return
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.create_task(self._serve(Stream(reader, writer)), name="control client")
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _serve(self, stream: Stream) -> None:
        """The boundary of one client: whatever it does wrong ends here."""
        try:
            if stream.peer[1] not in (os.getuid(), 0):
                raise NanoClawError("this host belongs to another user")
            async for frame in stream:
                await stream.send({"ok": True, "result": await self._answer(frame, stream) or {}})
        except NanoClawError as e:
            stream.offer({"ok": False, "error": str(e)}, MAX_LINE)
        except ConnectionError:
            logger.debug("A control client left in the middle of a frame")
        except Exception:
            logger.exception("A control client's verb failed")
            stream.offer({"ok": False, "error": "the host failed inside; its log says where"}, MAX_LINE)
        finally:
            await stream.close()

    async def _answer(self, frame: Frame, stream: Stream) -> Frame | None:
        verb, args = frame.get("verb"), frame.get("args", {})
        if not isinstance(verb, str) or not isinstance(args, dict) or verb not in self._verbs:
            raise NanoClawError(f"unknown verb; this host knows {', '.join(sorted(self._verbs))}")
        return await self._verbs[verb](args, stream)


class Client:
    """The command line's end of control.sock."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def call(self, verb: str, **args: Any) -> Frame:
        """Ask, and return the answer. Raises NanoClawError: the host's refusal, or that it ended."""
        await self.send({"verb": verb, "args": args})
        if (frame := await self._stream.receive()) is None:
            raise NanoClawError("the assistant ended before it answered; start it again with: nanoclaw run")
        if frame.get("ok") is not True:
            raise NanoClawError(str(frame.get("error")))
        return dict(frame["result"])

    async def attach(self, **args: Any) -> None:
        """Become a stream: from now on `send` and iterate."""
        await self.send({"verb": "attach", "args": args})

    async def send(self, frame: Frame) -> None:
        """Send one frame. Raises NanoClawError when it is too long or the host is gone."""
        try:
            await self._stream.send(frame)
        except ConnectionError:
            raise NanoClawError("the assistant ended; start it again with: nanoclaw run") from None

    async def receive(self) -> Frame | None:
        """The host's next frame; None when it ended the stream. Raises NanoClawError when it says why."""
        frame = await self._stream.receive()
        if frame is not None and "ok" in frame:
            if frame["ok"] is not True:
                raise NanoClawError(str(frame.get("error")))
            return None
        return frame

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """The host's frames until it ends the stream."""
        while (frame := await self.receive()) is not None:
            yield frame

    @property
    def host(self) -> int:
        """The host's process id."""
        return self._stream.peer[0]

    async def ended(self) -> None:
        """Wait until the host has closed the connection."""
        while await self._stream.receive() is not None:
            continue

    async def close(self) -> None:
        """Leave."""
        await self._stream.close()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()


async def connect(path: Path) -> Client:
    """Reach the living host. Raises NotRunning when there is none."""
    _check_length(path)
    try:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=MAX_LINE)
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotRunning(f"not running (nobody listens on {path}); start it with: nanoclaw run") from None
    except OSError as e:
        raise NanoClawError(f"{path} cannot be reached: {e.strerror}") from None
    return Client(Stream(reader, writer))


def _check_length(path: Path) -> None:
    if (size := len(os.fsencode(path))) > MAX_PATH:
        raise HomeError(
            f"{path} has {size} bytes, a socket's path at most {MAX_PATH}; set NANOCLAW_HOME to a shorter one"
        )
