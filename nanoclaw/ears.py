"""What the channels tell the host: messages, who we are there, names, troubles -> rows, and who is woken."""

from collections.abc import Callable
from dataclasses import dataclass

from loguru import logger

from nanoclaw import failpoints, notices, router
from nanoclaw.commands import Answered, House
from nanoclaw.config import Config
from nanoclaw.models import Account, Incoming, Members, OutKind
from nanoclaw.store import Store, Tx, chats, outgoing, owners, people


@dataclass(frozen=True)
class Ears:
    """One channel's way to the rows."""

    channel: str
    store: Store
    config: Callable[[], Config]
    clock: Callable[[], int]
    wake: Callable[[str], None]  # a lane
    wake_outbox: Callable[[], None]
    act: Callable[[str, Answered], None]  # what a command left to do in the living process
    house: Callable[[], House] = House  # what commands need to know of it
    clean: Callable[[str], str] = str  # a text without what nobody may say, so that it is not even stored

    async def hear(self, *messages: Incoming) -> None:
        """Store the messages with the router's verdicts, in one transaction. Raises StoreError: then none is stored."""
        if not messages:
            return
        late_ms = int(self.config().late_after * 1000)
        for heard in await self.store.write(router.hear_all, messages, self.clock(), late_ms, self.house(), self.clean):
            failpoints.hit("heard")
            try:
                self._follow(heard)
            except Exception as e:  # it is stored, and what was stored with it goes on
                logger.error("What follows from a message could not be done: {}", type(e).__name__)

    def _follow(self, heard: router.Heard) -> None:
        """What the rows make the living process do."""
        logger.info("Heard a message on {}: {}", self.channel, heard.verdict)
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

    async def members(self, chat: tuple[str, ...], news: Members) -> None:
        """Who is in a group, or came and went."""
        await self.store.write(people.meet_members, self.channel, chat, news, self.clock())

    async def tell(self, text: str) -> None:
        """Told in main, in the host's own words."""
        await self.store.write(tell_main, notices.unquoted(text), self.clock())
        self.wake_outbox()


def tell_main(tx: Tx, text: str, now: int) -> None:
    """A notice in the owner's chat that was used last."""
    if (main := chats.main_chat(tx)) is not None:
        outgoing.queue(tx, main.id, text, OutKind.NOTICE, now)
