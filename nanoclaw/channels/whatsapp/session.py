"""The one session with WhatsApp: what state it is in, what follows from each event, and when it is tried again."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from loguru import logger
from neonize.events import UndecryptableMessageEv
from neonize.exc import NeonizeError
from neonize.proto import Neonize_pb2 as pb

from nanoclaw.channels.whatsapp import pairing
from nanoclaw.channels.whatsapp.client import Client, Ended, LinkingOver, Qr, Room
from nanoclaw.channels.whatsapp.library import scrub
from nanoclaw.channels.whatsapp.pairing import FINAL, Pairing, State
from nanoclaw.channels.whatsapp.probe import probe
from nanoclaw.errors import NanoClawError, NotConnected

_SLOWEST = 60.0  # seconds between two tries; each connect that fails all the same doubles it, up to:
_SLOWEST_CONNECT = 900.0  # for each costs a file descriptor and some memory for ever
_ANSWER = 60.0  # seconds from a connect to the login or a QR code
_STEADY = 60.0  # seconds of connection after which the next trouble is a new one
_OUTAGE = 60.0  # seconds after which the library's own, ever slower tries are replaced by ours
_LOGIN = 20.0  # seconds from a link to the login; the library misses its cue when WhatsApp hangs up too soon
_FIRST_QR, _NEXT_QR = 60_000, 20_000  # ms that WhatsApp honours a code
_UNKNOWN_BAN = 3_600_000  # ms, when WhatsApp does not say how long, or the library cannot read it
_LEAST_BAN = 60_000  # ms
_SLICE = 10.0  # seconds: a ban's end is looked for on the wall clock, which may step

ASK = "link with: nanoclaw pair"
RAN_OUT = (
    "the codes ran out; ask for new ones with: nanoclaw pair. If a phone took the code and said that linking failed: "
    "some accounts must now confirm with a passkey, which this library cannot do; link another number, or remove the "
    "passkey in WhatsApp (Settings > Account > Passkeys) and try again"
)
WORDS = {
    State.LOGGED_OUT: f"the phone unlinked this device; {ASK}",
    State.REPLACED: "another program uses this session; stop it, then: nanoclaw pair",
    State.OUTDATED: "WhatsApp refuses this version of its library; upgrade NanoClaw, then restart it",
}
# What the owner is told of, however short it was. (Codes that ran out are no outage: nobody was linked.)
TOLD = frozenset({State.LOGGED_OUT, State.REPLACED, State.OUTDATED, State.BANNED})
EVENTS = (
    pb.PairStatus,
    pb.Connected,
    pb.KeepAliveTimeout,
    pb.KeepAliveRestored,
    pb.LoggedOut,
    pb.StreamReplaced,
    pb.TemporaryBan,
    pb.ConnectFailure,
    pb.ClientOutdated,
    pb.StreamError,
    pb.Disconnected,
    pb.Message,
    pb.JoinedGroup,
    pb.GroupInfoEvent,
    UndecryptableMessageEv,
)
T = TypeVar("T")


@dataclass(frozen=True)
class Up:
    """Connected: who we are (LID first), and what the trouble before was, if it is worth telling."""

    jids: tuple[pb.JID, ...]
    after: State | None = None
    down: int = 0  # ms since the trouble began


class Session:
    """Lives in `run`; every client of the library is born and ends there."""

    def __init__(
        self, folder: Path, clock: Callable[[], int], random: Callable[[], float], heard: Callable[[Any], None]
    ) -> None:
        self.pairing = Pairing()
        self._folder = folder
        self._clock = clock
        self._random = random
        self._heard = heard  # of messages, groups and each Up; called in order
        self._client: Client | None = None
        self._carried: dict[asyncio.Future[Any], int] = {}  # uploads that the library works at, of any client
        self._lives = 0
        self._over: asyncio.Future[Pairing] | None = None  # how the present client's life ended
        self._timer: asyncio.TimerHandle | None = None
        self._tries = 0
        self._slowest = _SLOWEST
        self._up_since = 0
        self._down: tuple[State, int] | None = None  # what began it, and when
        self._asked = asyncio.Event()  # by a person
        self._free = asyncio.Event()  # nothing makes us hold
        self._free.set()
        self._idle = asyncio.Event()  # no client lives
        self._idle.set()
        self._phone = ""
        self._banned_until = 0
        self._errands: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @property
    def database(self) -> Path:
        """The library's file: it holds the account's keys."""
        return self._folder / "session.db"

    # --- what others ask of it --------------------------------------------------------------------

    async def call(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Let `work` use the library while it is connected. Raises NotConnected, or the library's error."""
        if self._client is None or self.pairing.state is not State.CONNECTED:
            raise NotConnected(f"WhatsApp is {self.pairing.state}")
        return await work(self._client.api)

    @property
    def uploads(self) -> Room | None:
        """The present client's room for them."""
        return None if self._client is None else self._client.uploads

    def renew(self, why: str) -> None:
        """Give this connection up for a new one."""
        self._end(State.DISCONNECTED, why)

    def hold(self, why: str) -> None:
        """Leave WhatsApp until `release`, so that it keeps what we cannot."""
        self._free.clear()
        self._end(State.STORE_FAILING, why)

    def release(self) -> None:
        """What made us hold is over."""
        self._free.set()

    def ask(self, phone: str = "") -> None:
        """Somebody wants to link: by QR, or by a code for this number. Raises NanoClawError for what is no number."""
        digits = re.sub(r"[\s()+./-]", "", phone)
        if phone and not re.fullmatch(r"[1-9]\d{6,14}", digits):
            raise NanoClawError("that is no phone number; write it with its country code, for example +49 151 23456789")
        self._phone = digits
        if self.pairing.state is State.LINKING:
            self._ask_code()
        elif self.pairing.state in (*FINAL, State.DISCONNECTED) and self._over is None:
            self._note(Pairing(State.CONNECTING))
            self._asked.set()

    @property
    def changed(self) -> asyncio.Event:
        """Set when `pairing` is another one; to be taken before that is read."""
        return self._changed

    async def logout(self) -> str:
        """Unlink; what a person still has to do, or ""."""
        rest, words = "", f"unlinked as asked; {ASK}"
        try:
            await self.call(lambda api: api.logout())
        except (NeonizeError, NotConnected) as e:
            logger.warning("WhatsApp was not told of the logout: {}", scrub(str(e)))
            rest = "WhatsApp could not be told: remove this device on the phone too (Settings > Linked devices)"
        if self._over is None or self._over.done():
            self._note(Pairing(State.LOGGED_OUT, words))
        self._end(State.LOGGED_OUT, words)
        await self._idle.wait()
        self._forget()
        return rest

    def _forget(self) -> None:
        for suffix in ("", "-journal", "-wal", "-shm"):
            self.database.with_name(self.database.name + suffix).unlink(missing_ok=True)

    # --- its life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live until cancelled."""
        try:
            while True:
                await self._live()
                await self._rest()
        finally:
            for errand in self._errands:
                errand.cancel()
            await asyncio.gather(*self._errands, return_exceptions=True)
            self._note(Pairing(State.STOPPED))

    async def _live(self) -> None:
        """One client, from the first try to the end."""
        self._asked.clear()
        self._idle.clear()
        self._note(Pairing(State.CONNECTING, self.pairing.detail))
        self._over = over = asyncio.get_running_loop().create_future()
        try:
            if (trouble := await probe()) is not None:
                self._slowest = _SLOWEST
                self._end(State.DISCONNECTED, trouble)
            elif not over.done():
                self._lives += 1
                self._slowest = min(self._slowest * 2, _SLOWEST_CONNECT)
                self.database.touch(mode=0o600)  # the library would make it readable for all
                self.database.chmod(0o600)
                name = f"{self.database}#{self._lives}"
                self._client = Client(self.database, name, EVENTS, lambda event: self._on(event, over), self._carried)
                await self._client.connect()
                self._after(_ANSWER, "WhatsApp does not answer; it is tried again")
            await over
        finally:
            self._over = None
            self._cancel_timer()
            if self._client is not None:
                client, self._client = self._client, None
                await client.close()
            self._idle.set()

    async def _rest(self) -> None:
        """Until it is time for the next try."""
        state = self.pairing.state
        if state is State.BANNED:
            while (left := self._banned_until - self._clock()) > 0 and not self._asked.is_set():
                await self._pause(min(left / 1000, _SLICE))
        elif state not in FINAL and self._free.is_set():
            delay = min(self._slowest, 2.0**self._tries) * (0.5 + self._random() / 2)
            self._tries = min(self._tries + 1, 10)
            await self._pause(delay)
        await self._free.wait()
        if self.pairing.state in FINAL:  # also when it was logged out in the meantime
            await self._asked.wait()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()

    def _end(self, state: State, detail: str = "") -> None:
        """The present client's life is over; the first reason counts."""
        if self._over is not None and not self._over.done():
            self._cancel_timer()
            self._note_down(state)
            self._over.set_result(Pairing(state, detail or WORDS.get(state, "")))
            # From now on nothing is sent, though the client is still there.
            self._note(self._over.result())

    def _note_down(self, state: State) -> None:
        grave = state in TOLD
        if self._down is None and (self._up_since or grave):
            self._down = (state, self._clock())
        elif self._down is not None and grave:
            self._down = (state, self._down[1])
        self._up_since = 0

    def _note(self, pairing_: Pairing) -> None:
        if pairing_ == self.pairing:
            return
        if pairing_.state is not self.pairing.state:
            logger.info("WhatsApp is {}", pairing_.state)
        self.pairing = pairing_
        try:
            pairing.write(self._folder / "pairing.json", pairing_)
        except OSError as e:
            logger.error("pairing.json cannot be written: {}", e.strerror)
        self._changed.set()
        self._changed = asyncio.Event()

    # --- what the library tells -------------------------------------------------------------------

    def _on(self, event: Any, life: asyncio.Future[Pairing]) -> None:  # noqa: C901 - one case per event
        """Called in the loop, in order. Messages still count when their client is already closing."""
        if isinstance(event, (pb.Message, pb.JoinedGroup, pb.GroupInfoEvent, UndecryptableMessageEv)):
            return self._heard(event)
        if life is not self._over or life.done():
            return None
        match event:
            case Qr():
                self._on_qr(event.code)
            case LinkingOver():
                self._on_linking_over(event.why)
            case pb.PairStatus():
                self._on_pair_status(event)
            case pb.Connected():
                self._on_connected()
            case pb.Disconnected():
                self._on_disconnected()
            case pb.KeepAliveTimeout() if self.pairing.state is State.CONNECTED:
                self._on_silence()
            case pb.KeepAliveRestored() if self.pairing.state is State.DEGRADED:
                self._on_connected()
            case pb.LoggedOut():
                self._end(State.LOGGED_OUT)
            case pb.StreamReplaced():
                self._end(State.REPLACED)
            case pb.ClientOutdated():
                self._end(State.OUTDATED)
            case pb.TemporaryBan():
                self._on_ban(event.Expire * 1000)
            case pb.StreamError():  # none that the library knows: not the restart after a link
                self._end(State.DISCONNECTED, "WhatsApp ended the connection; it is tried again")
            case pb.ConnectFailure():
                self._end(State.DISCONNECTED, f"WhatsApp refused the login ({event.Reason})")
            case Ended():
                self._on_ended(event.error)
            case _:
                logger.debug("WhatsApp's library: {}", type(event).__name__)
        return None

    def _on_qr(self, code: str) -> None:
        self._cancel_timer()
        lasts = _NEXT_QR if self.pairing.qr else _FIRST_QR
        words = "scan the code in WhatsApp: Settings > Linked devices > Link a device"
        held = self.pairing if self.pairing.code else Pairing(State.LINKING, words)
        self._note(replace(held, state=State.LINKING, qr=code, expires_at=self._clock() + lasts))
        if self._phone:
            self._ask_code()

    def _ask_code(self) -> None:
        """A code to be typed on the phone; only possible once a QR code is there."""
        phone, self._phone = self._phone, ""
        if phone and self._client is not None:
            errand = asyncio.get_running_loop().create_task(self._fetch_code(self._client, phone), name="phone code")
            self._errands.add(errand)
            errand.add_done_callback(self._errands.discard)

    async def _fetch_code(self, client: Client, phone: str) -> None:
        try:
            code = str(await client.api.PairPhone(phone, True))
            words = "type the code in WhatsApp: Settings > Linked devices > Link a device > Link with phone number"
        except (NeonizeError, NotConnected) as e:
            code, words = "", f"WhatsApp gives no code for that number ({scrub(str(e))}); scan the QR code instead"
        if self.pairing.state is State.LINKING:
            self._note(replace(self.pairing, code=code, detail=words))

    def _on_linking_over(self, why: str) -> None:
        if why == "err-client-outdated":
            self._end(State.OUTDATED)
        elif why != "success" and self.pairing.state in (State.LINKING, State.CONNECTING):
            logger.info("Linking ended: {}", scrub(why))
            self._end(State.UNLINKED, RAN_OUT)

    def _on_pair_status(self, event: pb.PairStatus) -> None:
        if event.Status == pb.PairStatus.ERROR:
            logger.warning("Linking failed: {}", scrub(event.Error))
            self._end(State.UNLINKED, f"linking failed; {RAN_OUT}")
        else:
            self._note(Pairing(State.LINKING, "the phone has linked this device; logging in"))
            self._after(_LOGIN, "no login followed the linking")

    def _on_connected(self) -> None:
        assert self._client is not None  # noqa: S101 - its event
        self._cancel_timer()
        me = self._client.api.me
        jids = tuple(jid for jid in (me.LID, me.JID) if jid.User) if me is not None else ()
        now, (after, since) = self._clock(), self._down or (None, 0)
        if after is not None and after not in TOLD and now - since <= _OUTAGE * 1000:
            after = None
        self._down = None
        self._up_since = now
        self._slowest = _SLOWEST
        asyncio.get_running_loop().call_later(_STEADY, self._steady, now)
        self._note(Pairing(State.CONNECTED))
        self._heard(Up(jids, after, now - since))

    def _steady(self, since: int) -> None:
        if self._up_since == since:
            self._tries = 0

    def _on_disconnected(self) -> None:
        if self.pairing.qr:
            self._end(State.UNLINKED, f"WhatsApp closed the connection while linking; {RAN_OUT}")
            return
        words = "the connection was lost; it is tried again"
        if self._up_since and self._clock() - self._up_since < _STEADY * 1000:
            self._end(State.DISCONNECTED, words)  # the library would be back at once, again and again
            return
        self._note_down(State.DISCONNECTED)
        self._note(Pairing(State.DISCONNECTED, words))
        self._after(_OUTAGE, words)

    def _on_silence(self) -> None:
        """The library gives the line up some minutes later, and does not tell when it finds no other."""
        self._note_down(State.DISCONNECTED)
        self._note(Pairing(State.DEGRADED, "WhatsApp does not answer keep-alives; texts wait"))
        if self._timer is None:
            self._after(3 * _OUTAGE, "WhatsApp does not answer; it is tried again")

    def _on_ban(self, lasts: int) -> None:
        """0: nobody knows how long."""
        lasts = max(_LEAST_BAN, lasts or _UNKNOWN_BAN)
        self._banned_until = self._clock() + lasts
        self._end(State.BANNED, f"WhatsApp has banned this account for {lasts // 60_000} min; it says why on the phone")

    def _on_ended(self, error: str) -> None:
        if "TemporaryBan" in error:  # a code that the library cannot encode ends all its events
            self._on_ban(0)
        else:
            self._end(State.DISCONNECTED, error or "the session ended")

    # --- the one timer ----------------------------------------------------------------------------

    def _after(self, seconds: float, why: str) -> None:
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.renew, why)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
