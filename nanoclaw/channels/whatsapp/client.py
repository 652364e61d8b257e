"""One client of the WhatsApp library, from connect to stop: its calls in our threads, its events in our loop.

The library aborts the whole process when a call overlaps a connect or a stop, or comes before or after them; it
blocks a thread of asyncio's own pool for its life, and it never ends when it is stopped while a QR code is shown.
"""

import asyncio
import contextlib
import ctypes
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neonize.aioze.client import NewAClient
from neonize.aioze.client import gocode as _go
from neonize.events import EVENT_TO_INT, INT_TO_EVENT
from neonize.proto.waCompanionReg.WAWebProtobufsCompanionReg_pb2 import DeviceProps

from nanoclaw.channels.whatsapp.library import scrub
from nanoclaw.errors import Busy, NotConnected

_SETTLED = 1.0  # seconds in which a call that has begun is past the library's shared maps
_STARTED = 1.0  # seconds in which a connect has made its entry in them
_HANG_UP = 6.0  # seconds; the other side of the websocket has 5 to answer
_QUIET = 0.2  # seconds without an event, after which the library has told all that it has
_DRAIN = 2.0  # seconds at most until then
_STOP = 2.0
_CALLS = 5  # at a time: a send, a sign of life, a look at groups, and two to spare
_FILES = 2  # downloads at a time, and uploads: the library never gives one up, though whoever wanted it has
_CARRIED = 128 << 20  # bytes of files that go up; the library takes three times as much memory
_LEAST = 4 << 20  # bytes as which a small one counts: each has a thread


@dataclass(frozen=True)
class Qr:
    """A code to be scanned."""

    code: str


@dataclass(frozen=True)
class LinkingOver:
    """The library ended the linking: timeout, error, ..."""

    why: str


@dataclass(frozen=True)
class Ended:
    """The session is dead: nothing more comes of this client."""

    error: str


class Room:
    """For files on their way; those that were given up take some of it until the library is done with them."""

    def __init__(self, carried: dict[asyncio.Future[Any], int] | None = None) -> None:
        """`carried`: what goes up, in bytes, also by clients before this one."""
        self.free = asyncio.Semaphore(_FILES)
        self.ghosts: set[asyncio.Future[Any]] = set()
        self._carried = {} if carried is None else carried

    @property
    def haunted(self) -> bool:
        """Whether nothing else is in it: only another client has room then."""
        return len(self.ghosts) == _FILES

    def check(self, size: int) -> None:
        """Raises Busy when there is none for so many bytes."""
        if self.free.locked():
            raise Busy("other files are still on their way")
        if sum(self._carried.values()) + size > _CARRIED:
            raise Busy("files that hang on their way hold the memory for others; a restart frees it")

    def take(self, call: asyncio.Future[Any], size: int) -> None:
        """It is on its way."""
        self._carried[call] = max(size, _LEAST)
        call.add_done_callback(self._carried.pop)
        call.add_done_callback(self.ghosts.discard)


def in_thread(func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    """Run it in a thread that keeps nobody from exiting."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(result)

    def run() -> None:
        result, error = None, None
        try:
            result = func(*args)
        except Exception as e:
            error = e
        with contextlib.suppress(RuntimeError):  # the loop is closed; whoever waited is gone
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="whatsapp", daemon=True).start()
    return done


class Client:
    """Connected once, stopped once, then thrown away."""

    def __init__(
        self, database: Path, uuid: str, events: Iterable[type], tell: Callable[[Any], None],
        carried: dict[asyncio.Future[Any], int] | None = None,
    ) -> None:  # fmt: skip
        """`carried` as in Room, of uploads."""
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(_CALLS)
        self.downloads, self.uploads = Room(), Room(carried)
        self._calls: set[asyncio.Future[Any]] = set()
        self._ended: asyncio.Future[Any] = self._loop.create_future()
        self._sign = asyncio.Event()  # the library has called back: its connect is past its maps
        self._heard = 0  # events
        self._open = True
        props = DeviceProps(os="NanoClaw", platformType=DeviceProps.CHROME)
        self.api = api = NewAClient(str(database), props=props, uuid=uuid)
        api._stop_finalizer.detach()  # it would stop when it is collected, beside any other call
        api._NewAClient__client = self
        api._NewAClient__onQr = self._on_qr
        api._NewAClient__onLoginStatus = self._on_login
        api.event.list_func = {EVENT_TO_INT[kind]: None for kind in events}
        api.event.execute = self._on_event
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Begin; how it goes is told as events."""
        self._task = await self.api.connect()
        self._task.add_done_callback(self._on_end)

    async def close(self) -> None:
        """Stop. Calls that have begun end with an error of the library's, others never begin."""
        self._open = False
        self._room.release()  # who waits for room is refused, and lets the next one in
        if self._calls:
            await asyncio.wait(self._calls, timeout=_SETTLED)
        if self._task is not None and not self._task.done():
            if await self._past_connect():
                await self._hang_up()
            await asyncio.wait([in_thread(_go.Stop, self.api.uuid)], timeout=_STOP)
            if not self._ended.done():
                self._ended.set_result(b"")  # while a QR was shown it never ends: its thread is left behind
            await asyncio.wait([self._task])

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """What the library's wrapper calls: a function of Go's by its name."""
        if name == "Neonize":
            return self._live
        ways = {"Download": self.downloads, "Upload": self.uploads}
        files = next((room for way, room in ways.items() if name.startswith(way)), None)
        return lambda *args: self._call(files, getattr(_go, name), *args)

    async def _call(self, files: Room | None, func: Callable[..., Any], *args: Any) -> Any:
        size = max((len(arg) for arg in args if isinstance(arg, bytes)), default=0)
        if files is not None:
            files.check(size)
        room = self._room if files is None else files.free
        await room.acquire()
        if not self._open:
            room.release()
            raise NotConnected("WhatsApp is not connected")
        call = in_thread(func, *args)
        self._calls.add(call)
        if files is not None:
            files.take(call, size)
        call.add_done_callback(self._calls.discard)
        call.add_done_callback(lambda _: room.release())
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:  # Go goes on with it when nobody waits any more, and takes up the room
            if files is not None and not call.done():
                files.ghosts.add(call)
            raise

    async def _live(self, *args: Any) -> Any:
        thread = in_thread(_go.Neonize, *args)
        thread.add_done_callback(lambda done: None if self._ended.done() else self._ended.set_result(done.result()))
        return await self._ended

    async def _past_connect(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STARTED):
                await self._sign.wait()
        return self._sign.is_set()

    async def _hang_up(self) -> None:
        """Hear all that is decrypted: a stop would drop it, and what WhatsApp sends again cannot be decrypted twice."""
        await asyncio.wait([in_thread(_go.Disconnect, self.api.uuid)], timeout=_HANG_UP)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN):
                before = -1
                while before != self._heard:
                    before = self._heard
                    await asyncio.sleep(_QUIET)

    # --- called by Go, in threads of its own ------------------------------------------------------

    def _on_qr(self, _: int, address: int) -> None:
        self._hear(Qr(ctypes.string_at(address).decode()))

    def _on_login(self, _: int, address: int) -> None:
        self._hear(LinkingOver(ctypes.string_at(address).decode(errors="replace") if address else ""))

    def _on_event(self, _: int, address: int, size: int, code: int) -> None:
        try:
            event = INT_TO_EVENT[code].FromString(ctypes.string_at(address, size))
        except Exception as e:  # nothing may be raised into Go
            event = e
        if code == 0:
            self.api.me = event
        else:
            self._hear(event)

    def _hear(self, event: Any) -> None:
        self._heard += 1
        self._post(self._take, event)

    def _post(self, func: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed; whoever waited is gone
            self._loop.call_soon_threadsafe(func, *args)

    def _take(self, event: Any) -> None:
        self._sign.set()
        self._tell(event)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        error = "" if task.cancelled() or task.exception() is None else scrub(str(task.exception()))
        self._sign.set()
        self._tell(Ended(error))
