"""WhatsApp as a linked device, by way of neonize: the only place that knows of it."""

from nanoclaw.channels.whatsapp import library  # noqa: F401, I001 - first: how the library is loaded matters

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from loguru import logger
from neonize.exc import SendMessageError
from neonize.proto import Neonize_pb2 as pb
from neonize.proto.waE2E.WAWebProtobufsE2E_pb2 import Message

from nanoclaw.channels import Ears, Pace, markup
from nanoclaw.channels.control_sock import Frame, Handler, Stream
from nanoclaw.channels.whatsapp import inbound, outbound
from nanoclaw.channels.whatsapp.alive import Alive
from nanoclaw.channels.whatsapp.files import Files
from nanoclaw.channels.whatsapp.groupbook import GroupBook, News
from nanoclaw.channels.whatsapp.library import scrub
from nanoclaw.channels.whatsapp.pairing import Pairing, State
from nanoclaw.channels.whatsapp.session import Session, Up
from nanoclaw.channels.whatsapp.uploads import upload
from nanoclaw.config import Config
from nanoclaw.errors import NanoClawError, NotConnected, OutcomeUnknown, SendRefused, StoreError
from nanoclaw.models import UNREADABLE, Account, Chat, Incoming, Members, OutFile, Outgoing, OutKind, Progress, Sent

NAME = "whatsapp"
_LONGEST = 4000  # characters of one text
_PREFIX = 46  # of what stands before it on a shared number, at most
_ACK = 80.0  # seconds; the library gives up after 75
_SLOWEST = 5.0  # seconds between two tries to store messages: nobody but us has them
_AT_ONCE = 100  # events that are taken together: as many wait in the library
_LAST_WORDS = 5.0  # seconds in which what has arrived is still stored when the host stops
_MISSING = {
    State.LOGGED_OUT: "What was written in between never comes to a device that was not linked.",
    State.REPLACED: "What was written in between may have gone to the other program.",
}
_COMES = "What was written in between should come now; what WhatsApp did not keep is missing."


class WhatsApp:
    """The channel: one consumer in, one text at a time out, and uploads and signs of life beside them."""

    name = NAME
    pace = Pace(10, 30)

    def __init__(
        self, folder: Path, config: Callable[[], Config], *, clock: Callable[[], int], random: Callable[[], float]
    ) -> None:
        """`folder` is made, 0700. Whose number it is stays as it was. `random` gives 0 <= x < 1."""
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        self.counts: Counter[str] = Counter()  # what was dropped, could not be read or not be decrypted
        self.verbs: dict[str, Handler] = {"pair": self._on_pair, "logout": self._on_logout}
        self._config = config
        self._shared = config().whatsapp == "shared"  # the number is the owner's own
        self._clock = clock
        self._home = folder.parent
        self._us: tuple[str, ...] = ()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._early: list[Any] | None = []  # what came before we knew who we are; None from then on
        self._session = Session(folder, clock, random, self._arrived)
        self._sending = asyncio.Lock()
        self._cut: Counter[str] = Counter()  # of uploads: the connection was lost meanwhile
        self._groups = GroupBook(self._session, clock)
        self._files = Files(self._session)
        self._alive = Alive(self._session, self._sending, config, receipts=not self._shared, clock=clock)

    @property
    def state(self) -> str:
        """One of pairing.State."""
        return self._session.pairing.state

    @property
    def detail(self) -> str:
        """What a person should know or do."""
        return self._session.pairing.detail

    async def run(self, ears: Ears) -> None:
        """Live until cancelled; what has arrived by then is still stored."""
        async with asyncio.TaskGroup() as tg:
            tg.create_task(self._listen(ears, tg), name="whatsapp in")
            tg.create_task(self._alive.run(), name="whatsapp signs")
            try:
                await self._session.run()
            finally:  # WhatsApp thinks that we have it
                self._let_in()
                with_limit = asyncio.wait_for(self._events.join(), _LAST_WORDS)
                (late,) = await asyncio.gather(with_limit, return_exceptions=True)
                if late is not None:
                    logger.error("Not all that WhatsApp told could be stored before the end")

    # --- in ---------------------------------------------------------------------------------------

    def _arrived(self, event: Any) -> None:
        """In order; only that nothing is heard before the first Up: who is meant by "we" would be nobody."""
        if isinstance(event, Up) or self._early is None:
            self._events.put_nowait(event)
            self._let_in()
        else:
            self._early.append(event)

    def _let_in(self) -> None:
        for event in self._early or ():
            self._events.put_nowait(event)
        self._early = None

    async def _listen(self, ears: Ears, tg: asyncio.TaskGroup) -> None:
        while True:
            events = [await self._events.get()]
            # The library has acknowledged all that is there: what is stored with one commit waits for no other.
            while len(events) < _AT_ONCE and not self._events.empty():
                events.append(self._events.get_nowait())
            for some in _runs(events):
                await self._insist(some, ears, tg)
                for _ in some:
                    self._events.task_done()

    async def _insist(self, events: list[Any], ears: Ears, tg: asyncio.TaskGroup) -> None:
        """Until they are stored. What follows waits, and what WhatsApp has not given us yet stays there."""
        delay = 1.0
        while True:
            try:
                await self._take(events, ears, tg)
                break
            except StoreError as e:
                self._session.hold(f"{e}; WhatsApp keeps what comes until it can be stored")
                await asyncio.sleep(delay)
                delay = min(delay * 2, _SLOWEST)
            except Exception as e:
                logger.error("What WhatsApp told could not be taken: {}", type(e).__name__)
                break
        self._session.release()

    async def _take(self, events: list[Any], ears: Ears, tg: asyncio.TaskGroup) -> None:
        match events:
            case [pb.Message(), *_]:
                await self._hear(events, ears)
            case [Up() as up]:
                await self._on_up(up, ears)
                tg.create_task(self._name_groups(ears), name="whatsapp groups")
            case [pb.JoinedGroup() as joined]:
                news = self._groups.learn(joined.GroupInfo)
                await self._name(replace(news, members=replace(news.members or Members(), new=True)), ears)
            case [pb.GroupInfoEvent() as change]:
                await self._name(self._groups.change(change), ears)
            case _:  # the library asks its sender again
                self._count("undecryptable")

    async def _hear(self, events: list[pb.Message], ears: Ears) -> None:
        """Store them together, in order; only a question to WhatsApp parts them, because it may take long."""
        said: list[Incoming] = []
        for event in events:
            if (msg := await self._read(event, ears)) is None:
                continue
            if msg.by_admin:
                await ears.hear(*said)
                said = []
                msg = replace(msg, by_admin=await self._is_by_admin(msg))
            said.append(msg)
        await ears.hear(*said)

    async def _read(self, event: pb.Message, ears: Ears) -> Incoming | None:
        """The boundary of one message: whatever is wrong with it, the next one is heard."""
        try:
            return inbound.read(event, inbound.We(self._us, not self._shared), self._clock())
        except inbound.Dropped as e:
            self._count(e.reason)
            if e.chat and e.expires is not None:
                await ears.named(e.chat, "", e.expires)
            return None
        except Exception as e:
            logger.error("A message could not be read: {}", type(e).__name__)
            self._count("unreadable")
            return self._read_head(event)

    def _read_head(self, event: pb.Message) -> Incoming | None:
        """That there was one is kept, if it says at least where and by whom."""
        bare = pb.Message(Info=event.Info, Message=Message(conversation=UNREADABLE))
        try:
            msg = inbound.read(bare, inbound.We(self._us, not self._shared), self._clock())
        except Exception as e:
            logger.error("It is dropped: {}", type(e).__name__)
            return None
        return replace(msg, kind="unsupported")

    async def _is_by_admin(self, msg: Incoming) -> bool:
        try:
            return await self._groups.is_admin(msg.chat[0], msg.sender.jids)
        except Exception as e:
            logger.error("Who the admins of a group are could not be read: {}", type(e).__name__)
            return False

    async def _on_up(self, up: Up, ears: Ears) -> None:
        self._us = tuple(text for jid in up.jids if (text := inbound.jid_text(jid)))
        self._alive.renewed()
        await ears.connected(Account(NAME, self._us, self._shared))
        if up.after is not None:
            minutes = max(1, up.down // 60_000)
            words = _MISSING.get(up.after, _COMES)
            await ears.tell(f"WhatsApp is connected again, after {minutes} min ({up.after}). {words}")

    async def _name_groups(self, ears: Ears) -> None:
        try:
            for news in await self._groups.everything():
                await self._name(news, ears)
        except Exception as e:  # names come again with the next connect
            logger.warning("The groups' names were not learned: {}", type(e).__name__)

    async def _name(self, news: News, ears: Ears) -> None:
        if news.jid and (news.name or news.timer is not None):
            await ears.named((news.jid,), news.name, news.timer)
        if news.jid and news.members is not None:
            await ears.members((news.jid,), self._others(news.members))

    def _others(self, members: Members) -> Members:
        """Without us, where we are nobody's number but our own."""
        if self._shared or members.everybody is None:
            return members
        return replace(members, everybody=tuple(p for p in members.everybody if set(p).isdisjoint(self._us)))

    async def members(self, chat: str) -> Members | None:
        """Who is in a group; None when WhatsApp does not say."""
        found = await self._groups.members(chat)
        return None if found is None else self._others(found)

    def _count(self, what: str) -> None:
        self.counts[what] += 1
        logger.debug("WhatsApp: {} ({} so far)", what, self.counts[what])

    # --- out --------------------------------------------------------------------------------------

    def _prefix(self, chat: Chat) -> str:
        """On a shared number people must know who speaks; in the owner's own chat they do."""
        if not self._shared or chat.jid in self._us:
            return ""
        return f"*{chat.prefix or self._config().name}:* "

    def parts(self, text: str) -> list[str]:
        """In WhatsApp's marks; with room for the name that stands before it on a shared number."""
        return markup.for_whatsapp(text, _LONGEST - _PREFIX * self._shared)

    async def send(self, out: Outgoing) -> Sent:
        """Return when WhatsApp has acknowledged it. Raises NotConnected, SendRefused, OutcomeUnknown."""
        to = outbound.to_jid(out.chat.jid)
        message = await self._with_file(out, out.file) if out.file is not None else self._message(out)
        async with self._sending:
            try:
                async with asyncio.timeout(_ACK):
                    answer = await self._session.call(lambda api: api.send_message(to, message))
            except (SendMessageError, TimeoutError) as e:
                raise self._failed(str(e)) from None
        return Sent(answer.ID, answer.Timestamp * 1000)

    async def _with_file(self, out: Outgoing, file: OutFile) -> Message:
        try:
            up = await upload(self._session, self._home, file, self._cut)
        except SendRefused:
            await self._make_room()
            raise
        return outbound.file_message(out, file, up, (self._prefix(out.chat) + out.text).strip())

    async def _make_room(self) -> None:
        """A new client has room again where files that were given up take all of it: the library ends none of them."""
        if (room := self._session.uploads) is None or not room.haunted:
            return
        async with self._sending:  # no text is on its way: nobody would know whether it came
            if self._session.uploads is room and room.haunted:
                self._session.renew("files that took too long are given up; it is tried again")

    def _message(self, out: Outgoing) -> Message:
        if out.kind in (OutKind.REACTION, OutKind.EDIT) and out.quote is None:
            raise SendRefused("the row does not say which message it is about")
        prefix = self._prefix(out.chat)
        if out.kind is OutKind.REACTION and out.quote is not None:
            return outbound.reaction(out.quote, out.chat.jid, out.text, self._clock())
        if out.kind is OutKind.EDIT and out.quote is not None:
            return outbound.edit(out.quote, out.chat.jid, prefix + out.text, self._clock())
        return outbound.text_message(out, prefix + out.text, next(iter(self._us), ""))

    def _failed(self, error: str) -> NanoClawError:
        """What the library's words mean for the row."""
        if "websocket not connected" in error or "doesn't contain a device" in error:
            return NotConnected("WhatsApp is not connected")
        if "server returned error" in error:
            return SendRefused(f"WhatsApp refused it: {scrub(error)}")
        if not error or "timed out" in error or "disconnect" in error or "reconnect" in error or "context" in error:
            self._session.renew("a text was not acknowledged")
            return OutcomeUnknown("WhatsApp did not acknowledge it")
        return SendRefused(f"it could not be sent: {scrub(error)}")

    def show(self, chat: Chat, progress: Progress) -> None:
        """Best effort."""
        self._alive.show(chat, progress)

    async def fetch(self, ref: str, limit: int) -> bytes:
        """The file of a Media.ref. Raises MediaRefused for good, NotConnected for now."""
        return await self._files.fetch(ref, limit)

    # --- control.sock -----------------------------------------------------------------------------

    async def _on_pair(self, args: Frame, stream: Stream) -> None:
        """Ask for a link (unless `watch`), and tell every change until nothing more comes, or the client leaves."""
        if not args.get("watch"):
            self._session.ask(str(args.get("phone") or ""))
        left = asyncio.ensure_future(stream.receive())
        try:
            while not left.done():
                news, pairing = self._session.changed, self._session.pairing
                await stream.send({"type": "pairing", **_frame(pairing)})
                if pairing.over and not args.get("watch"):
                    return
                changed = asyncio.ensure_future(news.wait())
                await asyncio.wait({left, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                await asyncio.gather(changed, return_exceptions=True)
        finally:
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)

    async def _on_logout(self, args: Frame, stream: Stream) -> Frame:
        return {"detail": await self._session.logout()}


def _runs(events: Iterable[Any]) -> Iterator[list[Any]]:
    """Messages that follow each other; everything else alone."""
    for are_messages, group in groupby(events, lambda event: isinstance(event, pb.Message)):
        some = list(group)
        yield from [some] if are_messages else ([event] for event in some)


def _frame(pairing: Pairing) -> Frame:
    return {
        "state": str(pairing.state),
        "detail": pairing.detail,
        "qr": pairing.qr,
        "code": pairing.code,
        "expires_at": pairing.expires_at,
    }


__all__ = ["NAME", "WhatsApp"]
