"""Signs of life: the reaction on what was taken up, typing, being available, read receipts. All best effort."""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable

from loguru import logger
from neonize.exc import NeonizeError
from neonize.utils.enum import ChatPresence, ChatPresenceMedia, Presence, ReceiptType

from nanoclaw.channels.whatsapp import outbound
from nanoclaw.channels.whatsapp.library import scrub
from nanoclaw.channels.whatsapp.session import Session
from nanoclaw.config import Config
from nanoclaw.errors import NotConnected, SendRefused
from nanoclaw.models import Chat, Key, Progress, Show

_REFRESH = 8.0  # seconds; phones stop showing it after about ten
_LIMIT = 10.0  # seconds for one sign
_PATIENCE = 2.0  # seconds that a reaction waits for a text that is being sent
_WAITING = 100  # signs; older ones are forgotten
_ID = re.compile(r"\S{1,200}")  # receipts are joined by spaces

_TEXT = ChatPresenceMedia.CHAT_PRESENCE_MEDIA_TEXT
_TYPING, _PAUSED = ChatPresence.CHAT_PRESENCE_COMPOSING, ChatPresence.CHAT_PRESENCE_PAUSED


class Alive:
    """One sign at a time, beside the sends; what cannot be shown now is not shown later."""

    def __init__(
        self, session: Session, sending: asyncio.Lock, config: Callable[[], Config], *, receipts: bool,
        clock: Callable[[], int],
    ) -> None:  # fmt: skip
        self._session = session
        self._sending = sending  # held by whoever waits for an acknowledgement: the library sends one at a time
        self._config = config
        self._receipts = receipts
        self._clock = clock
        self._turns: dict[str, str] = {}  # turn -> jid of its chat
        self._signs: deque[tuple[Chat, tuple[Key, ...]]] = deque(maxlen=_WAITING)
        self._wake = asyncio.Event()
        self._shown: set[str] = set()  # chats in which we type
        self._available = False

    def show(self, chat: Chat, progress: Progress) -> None:
        """Note it; `run` does it."""
        if progress.show is Show.TAKEN:
            self._turns[progress.turn] = chat.jid
            if progress.messages:
                self._signs.append((chat, progress.messages))
        elif progress.show in (Show.ENDED, Show.LATER):
            self._turns.pop(progress.turn, None)
        else:
            return
        self._wake.set()

    def renewed(self) -> None:
        """A new connection knows nothing of what the last one showed."""
        self._shown.clear()
        self._available = False
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        again = False
        while True:
            self._wake.clear()
            while self._signs:
                await self._answer(*self._signs.popleft())
            await self._type(again)
            again = False
            try:
                async with asyncio.timeout(_REFRESH if self._shown else None):
                    await self._wake.wait()
            except TimeoutError:
                again = True

    async def _answer(self, where: Chat, messages: tuple[Key, ...]) -> None:
        chat, sign = where.jid, where.reaction or self._config().reaction
        if sign and sign != "none":
            await self._contained(self._react(chat, messages[-1], sign))
        theirs = [key for key in messages if not key.from_me and key.sender and _ID.fullmatch(key.wa_id)]
        for sender in dict.fromkeys(key.sender for key in theirs) if self._receipts else ():
            await self._contained(self._read(chat, sender, [key.wa_id for key in theirs if key.sender == sender]))

    async def _react(self, chat: str, key: Key, sign: str) -> None:
        message = outbound.reaction(key, chat, sign, self._clock())
        async with asyncio.timeout(_PATIENCE):
            await self._sending.acquire()
        try:
            async with asyncio.timeout(_LIMIT):
                await self._session.call(lambda api: api.send_message(outbound.to_jid(chat), message))
        except TimeoutError:  # the library would keep every text behind it waiting, for more than a minute
            self._session.renew("a reaction was not acknowledged")
        finally:
            self._sending.release()

    async def _read(self, chat: str, sender: str, ids: list[str]) -> None:
        of = {"chat": outbound.to_jid(chat), "sender": outbound.to_jid(sender), "receipt": ReceiptType.READ}
        await self._session.call(lambda api: api.mark_read(*ids, timestamp=self._clock() // 1000, **of))

    async def _type(self, again: bool) -> None:
        chats = set(self._turns.values()) if self._config().shows_typing else set[str]()
        if chats and not self._available:
            self._available = await self._be(Presence.AVAILABLE)
        for chat in self._shown - chats:
            await self._contained(self._say(chat, _PAUSED))
        for chat in chats if again else chats - self._shown:
            await self._contained(self._say(chat, _TYPING))
        self._shown = chats
        if not chats and self._available:
            self._available = not await self._be(Presence.UNAVAILABLE)

    async def _be(self, presence: Presence) -> bool:
        return await self._contained(self._session.call(lambda api: api.send_presence(presence)))

    async def _say(self, chat: str, state: ChatPresence) -> None:
        await self._session.call(lambda api: api.send_chat_presence(outbound.to_jid(chat), state, _TEXT))

    async def _contained(self, sign: Awaitable[None]) -> bool:
        """The boundary of one sign."""
        try:
            async with asyncio.timeout(_LIMIT * 2):
                await sign
        except (NeonizeError, NotConnected, SendRefused, TimeoutError) as e:
            logger.debug("A sign of life was not shown: {}", scrub(str(e)) or type(e).__name__)
            return False
        except Exception as e:
            logger.warning("A sign of life failed: {}", type(e).__name__)
            return False
        return True
