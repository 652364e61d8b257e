"""What a run says: its letters read, shown to people while they are provisional, and applied as rows."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

from loguru import logger

from nanoclaw import failpoints
from nanoclaw.errors import Cause
from nanoclaw.mailbox import (
    MAX_OUTBOX,
    Alive,
    Event,
    Hello,
    LetterError,
    OutboxAbuse,
    OutboxReader,
    ProtocolMismatch,
    Reply,
    Request,
    ToHost,
    TurnDone,
    Watch,
    Woken,
    decode_to_host,
)
from nanoclaw.meter import DayMeter, Spawn
from nanoclaw.models import Chat, Progress, Show, Turn
from nanoclaw.outbox import Outbox
from nanoclaw.run import Run, decoded, letters
from nanoclaw.run.letters import MAX_BAD, Ready
from nanoclaw.store import Store, chats, messages, runs
from nanoclaw.tools import Tools
from nanoclaw.tools.words import SHORT

_PARTS = 4  # reads by which a batch may grow, so that a long reply is one text
_SLICE = 200  # lines after which the loop may do something else: a flood of one agent is nobody else's
_LULL = 0.005  # seconds after a look that found nothing: an agent can change its file without a byte, endlessly
_PIECE = 8000  # characters of a piece that is shown; an honest agent sends 2,000
_SHOWN = {x.value: x for x in Show}


def _length(letter: ToHost) -> int:
    """How much there is to look through in a letter, about; what cannot be said quickly is much."""
    if isinstance(letter, Reply):
        return len(letter.text)
    if isinstance(letter, Request):
        plain = all(isinstance(value, str | int | float | None) for value in letter.args.values())
        return sum(len(x) for x in letter.args.values() if isinstance(x, str)) if plain else SHORT + 1
    return len(letter.error) if isinstance(letter, TurnDone) else len(letter.data) if isinstance(letter, Woken) else 0


class Hands(Protocol):
    """What the listener asks of the runner."""

    on_free: Callable[[str], None]
    on_success: Callable[[], None]

    async def kill(self, run: Run, cause: Cause, detail: str) -> None:
        """End the run."""

    async def misfit(self, run: Run, detail: str) -> None:
        """End the run: its image speaks another protocol."""

    async def deliver(self, run: Run) -> None:
        """Write the letters that are rows."""

    def retire(self, lane: str) -> None:
        """End the lane's run when it is idle."""


class Listener:
    """The ears for every run."""

    def __init__(
        self,
        *,
        store: Store,
        meter: DayMeter,
        tools: Tools,
        outbox: Outbox,
        show: Callable[[Chat, Progress], None],
        clock: Callable[[], int],
        spawn: Spawn,
        hands: Hands,
        clean: Callable[[str], str],
    ) -> None:
        self._store = store
        self._meter = meter
        self._tools = tools
        self._outbox = outbox
        self._show = show
        self._clock = clock
        self._spawn = spawn
        self._hands = hands
        self._clean = clean

    async def follow(self, run: Run, watch: Watch) -> None:
        """Take letters until the container is gone, and then what it said last."""
        try:
            while True:
                gone = run.gone
                if await self._take(run):
                    await asyncio.sleep(0)
                    continue
                if gone:
                    return
                await asyncio.sleep(_LULL)
                await watch.wait()
        except OutboxAbuse as e:
            await self._hands.kill(run, Cause.POLICY, str(e))

    async def last_words(self, run_id: str, reader: OutboxReader) -> None:
        """Apply what a run had written before it ended; what it writes from now on counts no more."""
        with closing(reader):
            end = reader.size()
            while reader.offset < end and (lines := reader.read()):
                batch = await self._ready([x for line in lines if (x := decoded(line)) is not None])
                await self._store.write(letters.apply, run_id, batch, reader.offset, self._clock(), over_budget=False)

    async def answer(self, run: Run, n: int) -> None:
        """Drive one request to its answer, and the answer into the inbox."""
        call = await self._store.read(runs.request, run.row.id, n)
        if call is not None:
            await self._tools.handle(call)
            if not run.died.is_set():
                await self._hands.deliver(run)

    async def tell(self, run: Run, turn: Turn, show: Show, text: str = "") -> None:
        """Show it in the turn's chat, best effort; where nobody waits for it the end alone, for the host."""
        if (turn.silent or turn.firing is not None) and show is not Show.ENDED:
            return
        if (chat := run.chats.get(turn.chat_id)) is None:
            chat = run.chats[turn.chat_id] = await self._store.read(chats.chat, turn.chat_id)
        about = await self._store.read(messages.keys_of_turn, turn.id) if show is Show.TAKEN else ()
        self._show(chat, Progress(turn.id, show, text, about))

    async def _take(self, run: Run) -> bool:
        """Take the letters that are there: events are shown, all others are one transaction with the offset."""
        durable: list[ToHost] = []
        more = await self._read(run, durable)
        for _ in range(_PARTS):  # what a reply is cut off from is taken with it
            if not durable or not isinstance(durable[-1], Reply) or run.reader.size() <= run.reader.offset:
                break
            await self._read(run, durable)
        if durable:
            await self._apply(run, durable)
        self._judge(run)
        return more

    async def _read(self, run: Run, durable: list[ToHost]) -> bool:
        lines = run.reader.read()
        run.heard = run.heard or bool(lines)
        for count, line in enumerate(lines, 1):
            if count % _SLICE == 0:
                await asyncio.sleep(0)
            if (letter := await self._decoded(run, line)) is not None:
                await self._sort(run, letter, durable)
            if run.bad > MAX_BAD or (run.end is not None and not run.greeted):  # it speaks another protocol
                break
        return bool(lines)

    def _judge(self, run: Run) -> None:
        if run.bad > MAX_BAD:
            raise OutboxAbuse(f"more than {MAX_BAD} letters that an honest agent does not write")
        if run.reader.offset > 2 * MAX_OUTBOX:
            raise OutboxAbuse(f"more than {2 * MAX_OUTBOX >> 20} MiB of letters")
        if run.reader.offset > MAX_OUTBOX and not run.closing:
            self._hands.retire(run.row.lane)

    async def _decoded(self, run: Run, line: bytes) -> ToHost | None:
        try:
            return decode_to_host(line)
        except LetterError as e:
            if isinstance(e, ProtocolMismatch) and not run.greeted:
                await self._hands.misfit(run, f"the agent image does not fit this program: {e}")
            else:
                run.bad += 1
                logger.warning("Set aside a letter: {}", e)
        return None

    async def _sort(self, run: Run, letter: ToHost, durable: list[ToHost]) -> None:
        run.greeted = run.greeted or isinstance(letter, Hello)
        if isinstance(letter, Alive):
            run.last_alive = asyncio.get_running_loop().time()
            run.patience = letter.seconds  # a lie gains nothing: turn_timeout holds
        elif isinstance(letter, Event):
            run.last_sign = asyncio.get_running_loop().time()
            turn = next((t for t in run.turns if t.id == letter.turn), None)
            if turn is not None and letter.what in _SHOWN:
                await self.tell(run, turn, _SHOWN[letter.what], self._clean(letter.text[:_PIECE]))
        else:
            durable.append(letter)

    async def _apply(self, run: Run, batch: list[ToHost]) -> None:
        ready = await self._ready(batch)
        over = bool(self._meter.refusal(run.row.id))
        failpoints.hit("apply")
        effects = await self._store.insist(
            letters.apply, run.row.id, ready, run.reader.offset, self._clock(), over_budget=over
        )
        failpoints.hit("applied")
        run.last_alive = run.last_sign = asyncio.get_running_loop().time()
        run.bad += effects.bad
        if effects.said:
            self._outbox.wake()
        for n in effects.calls:
            self._spawn(self.answer(run, n), f"tool {n} of {run.row.id}")
        if effects.refused and run.bad <= MAX_BAD:
            self._spawn(self._hands.deliver(run), f"refusals of {run.row.id}")
        if effects.spoiled:
            run.spoiled, run.closing = effects.spoiled, True
        if effects.ended:
            await self._ended(run, effects.ended, effects.again)
        if effects.succeeded:
            self._hands.on_success()

    async def _ready(self, batch: list[ToHost]) -> list[ToHost | Ready]:
        if sum(map(_length, batch)) <= SHORT:
            return letters.ready(batch, self._outbox.parts, self._clean)
        return await asyncio.to_thread(letters.ready, batch, self._outbox.parts, self._clean)

    async def _ended(self, run: Run, ids: list[str], again: dict[str, str]) -> None:
        """None of the named turns is given any more. No pause before the list is right: others read it."""
        over = [t for t in run.turns if t.id in ids]
        run.turns = [t for t in run.turns if t.id not in ids]
        run.busy_since = run.idle_since = asyncio.get_running_loop().time()
        for turn_id in ids:
            if (done := run.stopping.pop(turn_id, None)) is not None:
                done.set()
        for turn in over:
            why = again.get(turn.id, "")
            await self.tell(run, turn, Show.LATER if why else Show.ENDED, why)
        if run.closing and not run.turns:
            self._hands.retire(run.row.lane)
        self._hands.on_free(run.row.lane)
