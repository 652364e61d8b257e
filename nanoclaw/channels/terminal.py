"""The terminal: one chat whose people are the clients of control.sock; the owner sits here."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nanoclaw.channels import Ears
from nanoclaw.channels.control_sock import Frame, Stream
from nanoclaw.errors import MediaRefused, NanoClawError, NotConnected, SendRefused
from nanoclaw.models import Chat, Incoming, Members, Outgoing, Progress, Sender, Sent

CHAT = "terminal"
OWNER = Sender(("terminal:owner",), "Owner")
# Bytes that may wait for a client that does not read (suspended, say).
ROOM_FOR_PROGRESS = 256 << 10  # then progress is dropped: it is provisional
ROOM_FOR_MESSAGES = 8 << 20  # then the client is dropped: the row goes to another, or stays queued


@dataclass(eq=False)
class _Pending:
    """A message that no client has acknowledged yet."""

    frame: Frame
    taken: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class TerminalChannel:
    """Hands what clients say to the host, and shows every client what the host says."""

    name = CHAT
    pace = None
    detail = ""

    def __init__(self, now: Callable[[], int], home: Path = Path()) -> None:
        self.verbs = {"attach": self.attach}
        self._now = now
        self._home = home
        self._ears: Ears | None = None
        self._hearing = asyncio.Event()
        self._clients: set[Stream] = set()
        self._pending: dict[int, _Pending] = {}

    @property
    def state(self) -> str:
        """attached or idle."""
        return "attached" if self._clients else "idle"

    async def run(self, ears: Ears) -> None:
        """Live until cancelled; what clients say before that waits."""
        self._ears = ears
        self._hearing.set()
        try:
            await asyncio.Event().wait()
        finally:
            for client in self._clients:
                client.abort()

    async def attach(self, args: Frame, stream: Stream) -> None:
        """The `attach` verb: serve one client until it leaves."""
        await self._hearing.wait()
        assert self._ears is not None  # noqa: S101 - it was waited for
        self._clients.add(stream)
        try:
            for pending in self._pending.values():  # the client they were shown to may be about to leave
                self._write(stream, pending.frame)
            await self._ears.connected()
            async for frame in stream:
                await self._take(frame, stream, self._ears)
        finally:
            self._clients.discard(stream)
            self._after_leaving()

    async def _take(self, frame: Frame, stream: Stream, ears: Ears) -> None:
        match frame:
            case {"type": "say", "id": str(wa_id), "text": str(text)} if wa_id:
                await ears.hear(Incoming(CHAT, (CHAT,), wa_id, text, OWNER, self._now(), chat_name="Terminal"))
                await stream.send({"type": "heard", "id": wa_id})
            case {"type": "ack", "id": int(out_id)}:
                if (pending := self._pending.get(out_id)) and not pending.taken.done():
                    pending.taken.set_result(None)
            case _:
                raise NanoClawError("a frame that the terminal channel does not know")

    def parts(self, text: str) -> list[str]:
        """The screen renders Markdown itself, of any length."""
        return [text]

    async def send(self, out: Outgoing) -> Sent:
        """Show it to all clients; sent when the first has acknowledged it."""
        if not self._clients:
            raise NotConnected("no terminal is attached")
        pending = _Pending(
            {
                "type": "message",
                "id": out.id,
                "text": self._text(out),
                "kind": out.kind,
                "quote": out.quote.wa_id if out.quote else "",
            }
        )
        self._pending[out.id] = pending
        try:
            for client in list(self._clients):
                self._write(client, pending.frame)
            await pending.taken
        finally:
            del self._pending[out.id]
        return Sent(str(out.id), self._now())

    def _text(self, out: Outgoing) -> str:
        """Whoever sits here has the agent's files before them: of one that is sent they see where it is."""
        if out.file is None:
            return out.text
        return "\n\n".join(filter(None, (out.text, f"[{out.file.kind}: {self._home / out.file.source}]")))

    def show(self, chat: Chat, progress: Progress) -> None:
        """Best effort: a client that does not read misses pieces, and the message that follows replaces them."""
        for client in self._clients:
            client.offer(
                {"type": "progress", "turn": progress.turn, "show": progress.show, "text": progress.text},
                ROOM_FOR_PROGRESS,
            )

    async def members(self, chat: str) -> Members | None:
        """There is one person."""
        return None

    async def fetch(self, ref: str, limit: int) -> bytes:
        """No file ever comes from here."""
        raise MediaRefused("a terminal has no files")

    def _write(self, client: Stream, frame: Frame) -> None:
        try:
            if not client.offer(frame, ROOM_FOR_MESSAGES):
                client.abort()
        except NanoClawError as e:
            raise SendRefused(str(e)) from None

    def _after_leaving(self) -> None:
        if self._clients:
            return
        for pending in self._pending.values():
            if not pending.taken.done():
                pending.taken.set_exception(NotConnected("the terminal left before it took the message"))
