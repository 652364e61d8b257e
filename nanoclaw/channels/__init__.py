"""Where people are. The core knows a channel by this Protocol alone."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from nanoclaw.models import Chat, Incoming, Outgoing, Progress, Sent

# Stores the message with the router's verdict. When it raises, the message was not stored: the
# channel must not acknowledge it, so that the other side keeps it.
Hear = Callable[[Incoming], Awaitable[None]]


class Channel(Protocol):
    """One way to reach people."""

    name: str

    @property
    def state(self) -> str:
        """One word for `status`: connected, disconnected, ..."""

    async def run(self, hear: Hear) -> None:
        """Live until cancelled, and hand over every message in order."""

    async def send(self, out: Outgoing) -> Sent:
        """Return when the other side has acknowledged it.

        Raises NotConnected, SendRefused or OutcomeUnknown.
        """

    def show(self, chat: Chat, progress: Progress) -> None:
        """Best effort, at once, never raises."""
