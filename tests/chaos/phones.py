"""The loopback WhatsApp as a witness: what was said, acknowledged, asked for again and read; in order."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.chaos.evidence import Delivered
from tests.whatsapp.connection import Connection
from tests.whatsapp.server import FakeWhatsApp, Message, Person
from tests.whatsapp.wire import Node

_FRESH = 2  # a retry of this number or more asks for a new session


@dataclass(frozen=True)
class _Sealed:
    """What a phone must be able to send again."""

    person: Person
    message: Message | str
    group: str
    options: dict[str, Any]


class Phones(FakeWhatsApp):
    """FakeWhatsApp whose phones answer what the program could not decrypt, and that keeps a log."""

    def __init__(self) -> None:
        super().__init__("15550001111", "99900011122", "Andy")
        self.delivered: list[Delivered] = []
        self.unreadable: set[str] = set()  # what it said in a way that a phone cannot decrypt
        self.retried: set[str] = set()  # messages that were sent again because they could not be decrypted
        self.handed: dict[str, float] = {}  # by message: when a living program first got it, by time.monotonic()
        self.taken: dict[str, float] = {}  # and when it acknowledged it
        self._seen: set[str] = set()
        self._sealed: dict[str, _Sealed] = {}

    def tell(self, person: Person, message: Message | str, group: str = "", **options: Any) -> str:
        """Like `say`, but it can be asked for again."""
        id = self.new_id()
        self._sealed[id] = _Sealed(person, message, group, options)
        return self.say(person, message, group, id=id, **options)

    @property
    def unacknowledged(self) -> set[str]:
        """What the program has not taken yet."""
        return set(self._waiting) & set(self._sealed)

    @property
    def connected(self) -> bool:
        """Whether the program is there."""
        return self._login.is_set()

    async def logged_in(self, before: int, timeout: float) -> None:
        """Until there was one more login than `before`."""
        await self._until(lambda: self.logins > before and self._login.is_set(), timeout)

    async def until(self, true: Callable[[], Any], timeout: float) -> None:
        """Until it holds; looked at whenever the program says something."""
        await self._until(true, timeout)

    def forget_acknowledgements(self) -> None:
        """What was withheld is never given."""
        self._unheard.clear()

    def deliver(self, node: Node) -> None:
        """Also note when it came."""
        super().deliver(node)
        if self._login.is_set():
            self.handed.setdefault(str(node.attrs["id"]), time.monotonic())

    def _welcome(self, connection: Connection) -> None:
        super()._welcome(connection)
        for id in self._waiting:
            self.handed.setdefault(str(id), time.monotonic())

    def _answer(self, connection: Connection, node: Node) -> None:
        if node.tag in ("receipt", "ack") and node.attrs.get("type") != "retry":
            self.taken.setdefault(str(node.attrs["id"]), time.monotonic())
        if node.tag == "receipt" and node.attrs.get("type") == "retry":
            # Behind what the program says with it, as a phone's answer would be.
            asyncio.get_running_loop().call_later(0.05, self._again, node)
        super()._answer(connection, node)

    def _again(self, node: Node) -> None:
        """A phone was told that its message could not be decrypted: it encrypts it once more."""
        id = str(node.attrs["id"])
        if (sealed := self._sealed.get(id)) is None:
            return
        retry = node.child("retry")
        self.retried.add(id)
        if retry is not None and int(retry.attrs.get("count", 1)) >= _FRESH:
            sealed.person.phone.begin(self._take_bundle())
        self.deliver(self.stanza(sealed.person, sealed.message, sealed.group, id=id, **sealed.options))

    def _deliver_out(self, connection: Connection, node: Node) -> None:
        id = str(node.attrs["id"])
        try:
            # The library repeats a stanza after a reconnect; phones know it by its id.
            if id not in self._seen:
                super()._deliver_out(connection, node)
                self._note()
                return
        except AssertionError:  # the server does not know what phones can read
            self.unreadable.add(id)
        ack = Node("ack", {"class": "message", "id": id, "from": node.attrs["to"]})
        if self.acks:
            connection.send(ack)
        else:
            self._unheard.append(ack)

    def _note(self) -> None:
        """Write down what the phones have read."""
        while not self.sent.empty():
            sent = self.sent.get_nowait()
            self._seen.add(sent.id)
            self.delivered.append(Delivered(sent.chat, sent.id, sent.text or sent.message.documentMessage.caption))
        while not self.reactions.empty():
            self._seen.add(self.reactions.get_nowait().id)
        self.heard.clear()
