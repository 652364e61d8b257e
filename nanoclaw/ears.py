"""What the channels tell the host: messages, who we are there, names, troubles -> rows, and who is woken."""

from collections.abc import Callable
from dataclasses import dataclass

from loguru import logger

from nanoclaw import failpoints, notices, router
from nanoclaw.commands import Answered
from nanoclaw.models import Account, Incoming, OutKind
from nanoclaw.store import Store, Tx, chats, outgoing, owners


@dataclass(frozen=True)
class Ears:
    """One channel's way to the rows."""

    channel: str
    store: Store
    late_ms: int  # after which what comes late is only context
    clock: Callable[[], int]
    wake: Callable[[str], None]  # a lane
    wake_outbox: Callable[[], None]
    act: Callable[[str, Answered], None]  # what a command left to do in the living process

    async def hear(self, msg: Incoming) -> None:
        """Store the message with the router's verdict. Raises StoreError: then it is not stored."""
        heard = await self.store.write(router.hear, msg, self.clock(), self.late_ms)
        failpoints.hit("heard")
        if heard is None:
            return
        logger.info("Heard a message on {}: {}", msg.channel, heard.verdict)
        if heard.told:
            self.wake_outbox()
        if heard.answered is not None:
            self.act(heard.lane, heard.answered)
        if heard.lane:
            self.wake(heard.lane)

    async def connected(self, account: Account | None = None) -> None:
        """Rows can be sent again."""
        if account is not None:
            await self.store.write(owners.meet_account, account, self.clock())
        self.wake_outbox()

    async def named(self, chat: tuple[str, ...], name: str, expires: int | None = None) -> None:
        """A group's name or timer, learned without a message."""
        await self.store.write(chats.name_chat, self.channel, chat, name, expires)

    async def tell(self, text: str) -> None:
        """Told in main, in the host's own words."""
        await self.store.write(tell_main, notices.unquoted(text), self.clock())
        self.wake_outbox()


def tell_main(tx: Tx, text: str, now: int) -> None:
    """A notice in the owner's chat that was used last."""
    if (main := chats.main_chat(tx)) is not None:
        outgoing.queue(tx, main.id, text, OutKind.NOTICE, now)
