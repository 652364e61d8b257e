"""Where people are. The core knows a channel by this Protocol alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from nanoclaw.channels.control_sock import Handler
from nanoclaw.models import Account, Chat, Incoming, Members, Outgoing, Progress, Sent


class Ears(Protocol):
    """What a channel tells the host."""

    async def hear(self, *messages: Incoming) -> None:
        """Store the messages with the router's verdicts, in order and all at once.

        When it raises, none was stored: the channel must not acknowledge them, so that the other side keeps them.
        """

    async def connected(self, account: Account | None = None) -> None:
        """Rows can be sent again; `account` is who we are there, where there are accounts."""

    async def named(self, chat: tuple[str, ...], name: str, expires: int | None = None) -> None:
        """A group's name, or its timer for vanishing messages, was learned without a message."""

    async def members(self, chat: tuple[str, ...], news: Members) -> None:
        """Who is in a group, or came and went."""

    async def tell(self, text: str) -> None:
        """Something that the owner should know of the channel: it is told in main."""


@dataclass(frozen=True)
class Pace:
    """How much may be said: `burst` at once, then `per_minute`, over all chats."""

    burst: int
    per_minute: int


class Channel(Protocol):
    """One way to reach people."""

    @property
    def name(self) -> str:
        """What rows call it."""

    @property
    def pace(self) -> Pace | None:
        """How much may be said; None: as much as there is."""

    @property
    def verbs(self) -> Mapping[str, Handler]:
        """What it adds to control.sock."""

    @property
    def state(self) -> str:
        """One word for `status`: connected, disconnected, ..."""

    @property
    def detail(self) -> str:
        """What a person should know or do about the state; "" when there is nothing."""

    async def run(self, ears: Ears) -> None:
        """Live until cancelled, and hand over every message in order."""

    def parts(self, text: str) -> list[str]:
        """An agent's Markdown as the texts to be sent for it: in the channel's own marks, none too long."""

    async def send(self, out: Outgoing) -> Sent:
        """Return when the other side has acknowledged it. A file may be on its way beside one other row.

        Raises NotConnected, SendRefused or OutcomeUnknown.
        """

    def show(self, chat: Chat, progress: Progress) -> None:
        """Best effort, at once, never raises."""

    async def members(self, chat: str) -> Members | None:
        """Everybody who is in the group with this jid, asked of the other side; None when it does not say."""

    async def fetch(self, ref: str, limit: int) -> bytes:
        """The file of a Media.ref, at most `limit` bytes. Raises MediaRefused for good, NotConnected for now."""
