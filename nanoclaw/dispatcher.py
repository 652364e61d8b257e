"""One lane per group, a bounded number of slots: who is served next, and what happens when it fails."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from loguru import logger

from nanoclaw import failpoints, media, prompts
from nanoclaw.config import Config
from nanoclaw.errors import Cause, HomeError, NanoClawError, SandboxError
from nanoclaw.meter import Spawn
from nanoclaw.models import Authority, Group, GroupState, Message, Turn, TurnState, is_of_task
from nanoclaw.run import Run, RunGone, letters
from nanoclaw.run.runner import Runner
from nanoclaw.store import Store, Tx, chats, messages, turns

PROBE_MS = 60_000  # a message in a parked lane tries again, at most this often
# One lane's answer proves that these are over for all; a budget is each group's own, an image may be older.
_SHARED = frozenset({Cause.CREDENTIAL, Cause.BILLING, Cause.QUOTA, Cause.ENGINE})
_GONE = 0.02  # seconds after which a lane whose run went away looks again
_TROUBLE = 5.0  # seconds that a lane waits after a failure of ours


class Slots:
    """At most `count()` runs; a run without a turn holds its slot until another lane waits.

    Chats and tasks that wait are served in turn, each in the order of asking, so that neither starves the other.
    Of two and more slots tasks never hold all: no message waits until a task has ended.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._taken = {False: 0, True: 0}  # by whether it is a task that has it
        self._waiting: dict[bool, deque[asyncio.Future[None]]] = {False: deque(), True: deque()}
        self._next = False  # whose turn it is when both wait

    @property
    def wanted(self) -> bool:
        """Whether a lane waits that another one's end would help."""
        return bool(self._waiting[False]) or (bool(self._waiting[True]) and not self._all_tasks)

    @property
    def _all_tasks(self) -> bool:
        return self._taken[True] >= max(self._count() - 1, 1)

    def short(self, leaving: int) -> bool:
        """Whether a lane waits, or there are fewer slots now than are taken by runs that stay."""
        return self.wanted or sum(self._taken.values()) - leaving > self._count()

    def _room(self, task: bool) -> bool:
        return sum(self._taken.values()) < self._count() and not (task and self._all_tasks)

    async def take(self, task: bool = False) -> None:
        """A slot, in the order of asking."""
        if self._room(task) and not self._waiting[task]:
            self._taken[task] += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[task].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.put(task)
            else:
                self._waiting[task].remove(turn)
            raise

    def force(self, task: bool = False) -> None:
        """A slot for a run that lives already, also where there are fewer slots than before."""
        self._taken[task] += 1

    def put(self, task: bool = False) -> None:
        """Give a slot back, or on to the next that waits."""
        self._taken[task] -= 1
        self.grant()

    def grant(self) -> None:
        """What is free goes to those that wait."""
        while kinds := [k for k in (self._next, not self._next) if self._waiting[k] and self._room(k)]:
            turn = self._waiting[kinds[0]].popleft()
            if not turn.done():
                self._taken[kinds[0]] += 1
                self._next = not kinds[0]
                turn.set_result(None)


class Dispatcher:
    """Wakes lanes. The rows are the truth, a wake is a hint."""

    def __init__(
        self,
        *,
        store: Store,
        runner: Runner,
        files: media.Fetcher,
        wake_outbox: Callable[[], None],
        config: Callable[[], Config],
        clock: Callable[[], int],
        new_turn: Callable[[], str],
        new_nonce: Callable[[], str],
        spawn: Spawn,
    ) -> None:
        self._store = store
        self._runner = runner
        self._files = files
        self._wake_outbox = wake_outbox
        self._config = config
        self._slots = Slots(lambda: config().max_runs)
        self._clock = clock
        self._new_turn = new_turn
        self._new_nonce = new_nonce
        self._spawn = spawn
        self._flags: dict[str, asyncio.Event] = {}
        self._resting: set[str] = set()  # lanes whose run has given its slot away
        self._rising: dict[str, asyncio.Lock] = {}  # each of them takes one slot back, however often it is asked to
        self._parked = False  # whether any lane may be parked: spares a read per answered turn
        self._started = False
        self._stopping = False
        runner.on_free = self._on_free
        runner.on_end = self._on_end
        runner.on_success = self._on_success

    # --- waking -----------------------------------------------------------------------------------

    def wake(self, lane: str) -> None:
        """The lane may have something to do."""
        if self._stopping or not self._started:
            return
        if (flag := self._flags.get(lane)) is None:
            flag = self._flags[lane] = asyncio.Event()
            self._spawn(self._serve(lane, flag), f"lane {lane}")
        flag.set()

    def count(self) -> None:
        """Right after adoption, without a pause: every run that lives takes its slot."""
        for lane in self._runner.runs:
            self._slots.force(is_of_task(lane))

    async def start(self) -> None:
        """Every lane with work is woken; what was parked is tried once more, in silence."""
        self._started = True
        await self.retry(frozenset(Cause) - {Cause.LOOP})
        for lane in await self._store.read(messages.lanes_with_work):
            self.wake(lane)

    def stop(self) -> None:
        """No lane begins anything from here on."""
        self._stopping = True

    async def release(self, causes: frozenset[Cause]) -> None:
        """What these causes parked goes on."""
        for lane, cause in (await self._store.read(turns.parked_lanes)).items():
            if cause in causes:
                await self._store.write(letters.release, lane)
                logger.info("Released lane {}: {} is over", lane, cause)
                self.wake(lane)

    async def retry(self, causes: frozenset[Cause], may: Callable[[Group], Awaitable[bool]] | None = None) -> None:
        """What these causes parked is tried once more, in silence: the chats were told already. `may`: only of groups
        of which it is true."""
        for lane, cause in (await self._store.read(turns.parked_lanes)).items():
            group = await self._group(lane) if may is not None and cause in causes else None
            if cause in causes and (may is None or group is None or await may(group)):
                await self._store.write(turns.release, lane)
                self.wake(lane)

    def rest(self, run_id: str) -> None:
        """The run only waits for somebody's word: another lane may have its slot meanwhile."""
        lane = next((run.row.lane for run in self._runner.runs.values() if run.row.id == run_id), "")
        if lane and lane not in self._resting:
            self._resting.add(lane)
            self._slots.put(is_of_task(lane))

    async def rise(self, run_id: str) -> None:
        """It goes on, as soon as there is a slot for it again."""
        lane = next((run.row.lane for run in self._runner.runs.values() if run.row.id == run_id), "")
        if lane not in self._resting:
            return
        async with self._rising.setdefault(lane, asyncio.Lock()):
            if lane in self._resting:  # else it has risen for another answer
                await self._rise(lane)

    async def _rise(self, lane: str) -> None:
        await self._wait_for_slot(lane)
        if lane in self._resting:
            self._resting.discard(lane)
            self.wake(lane)  # what was said meanwhile may join its turn
        else:  # its turn has ended meanwhile
            self._slots.put(is_of_task(lane))

    def _on_free(self, lane: str) -> None:
        if lane in self._resting:  # what it waited for is over: its run is idle, as any other
            self._resting.discard(lane)
            self._slots.force(is_of_task(lane))
        self._rising.pop(lane, None)
        self.wake(lane)
        self._make_room()

    def _on_end(self, lane: str) -> None:
        if lane not in self._resting:
            self._slots.put(is_of_task(lane))
        self._resting.discard(lane)
        self._rising.pop(lane, None)
        self._make_room()
        self._parked = True
        self.wake(lane)

    def _on_success(self) -> None:
        if self._parked:
            self._parked = False
            self._spawn(self.retry(_SHARED), "retry")

    # --- one lane ---------------------------------------------------------------------------------

    async def _serve(self, lane: str, flag: asyncio.Event) -> None:
        """Work while there is a hint, then forget the lane."""
        while flag.is_set():
            flag.clear()
            with logger.contextualize(lane=lane):
                await self._contained(lane)
        if self._flags.get(lane) is flag:
            del self._flags[lane]

    async def _contained(self, lane: str) -> None:
        """The one place that contains a failure: this lane waits, no other notices."""
        try:
            while not self._stopping and await self._tried(lane):
                pass
        except Exception as e:
            logger.opt(exception=not isinstance(e, NanoClawError)).error("Lane {} failed: {}", lane, e)
            self._later(lane, _TROUBLE)

    async def _tried(self, lane: str) -> bool:
        try:
            return await self.tick(lane)
        except (SandboxError, HomeError) as e:
            logger.warning("Lane {} cannot run: {}", lane, e)
            await self._park(lane, e.cause if isinstance(e, SandboxError) else Cause.DISK, str(e))
            return False

    async def tick(self, lane: str) -> bool:
        """One step of the lane; False when it has to wait for something."""
        group = await self._group(lane)
        if group is None or not await self._may_run(lane):
            return False
        run = self._runner.runs.get(lane)
        try:
            if run is not None and not run.free:
                return await self._follow_up(run, group)
            if not await self._due(lane):
                return False
            await self._go_on(lane, run, group)
        except RunGone:  # it ended between the look and the row: the turn is still open
            logger.debug("The run was gone before the turn was given")
            await asyncio.sleep(_GONE)
        except media.Wanting as e:  # nothing is made yet, and no slot is held meanwhile; then look again
            await self._files.settle(group, e.messages)
        return True

    async def _go_on(self, lane: str, run: Run | None, group: Group) -> None:
        """The next turn: to the warm run if it is still what the group needs, else to a new one."""
        if run is not None and await self._runner.fits(run, group):
            if (turn := await self._next(lane, group)) is not None:
                await self._runner.give(run, turn)
            return
        if run is not None:
            await self._runner.close(lane)
        await self._take_slot(lane)
        self._runner.opening.add(lane)
        try:  # the turn is made with the slot in hand: what was said meanwhile is in it
            if (turn := await self._next(lane, group)) is not None:
                await self._runner.open(group, turn)
        finally:
            self._runner.opening.discard(lane)
            if lane not in self._runner.runs:
                self._slots.put(is_of_task(lane))

    async def _group(self, lane: str) -> Group | None:
        group = await self._store.read(chats.group_of_lane, lane)
        return group if group is not None and group.state is GroupState.ACTIVE else None

    async def _may_run(self, lane: str) -> bool:
        cause, since, _ = await self._store.read(turns.parked, lane)
        if not cause:
            return True
        self._parked = True
        if cause == Cause.LOOP:  # a person of authority ends it, in the router
            return False
        if self._clock() - since < PROBE_MS or not await self._store.read(messages.work_since, lane, since):
            return False
        await self._store.write(turns.release, lane)  # the notice stays: what is told once stays told
        return True

    async def _follow_up(self, run: Run, group: Group) -> bool:
        """What was said while a turn runs joins it, if its sender may do at least as much."""
        if not run.turns or run.row.lane in self._resting:  # it has no slot to work with
            return False
        chat_id = run.turns[0].chat_id
        turn = await self._store.read(turns.next_of_people, run.row.lane)  # a task's joins none, and stands in no way
        if turn is None:
            turn = await self._claim(run.row.lane, group, lambda a: run.takes(a, chat_id), chat_id)
        elif turn.not_before > self._clock() or not run.takes(turn.authority, turn.chat_id):
            return False  # nothing overtakes a turn that waits
        if turn is None:
            return False
        try:
            await self._runner.give(run, turn)
        except RunGone:
            return True
        return True

    async def _due(self, lane: str) -> bool:
        turn = await self._store.read(turns.next_open, lane)
        if turn is None:
            work = await self._store.read(messages.open_work, lane)
            if wanted := media.wanted(work):  # before a slot is taken for it
                raise media.Wanting(wanted)
            return bool(work)
        wait = turn.not_before - self._clock()
        if wait <= 0 or wait > letters.MAX_WAIT_MS:  # due, or the clock was set back
            return True
        self._later(lane, wait / 1000)
        return False

    async def _next(self, lane: str, group: Group) -> Turn | None:
        return await self._store.read(turns.next_open, lane) or await self._claim(lane, group, lambda a: True, None)

    async def _claim(
        self, lane: str, group: Group, may: Callable[[Authority], bool], chat_id: int | None
    ) -> Turn | None:
        turn = await self._store.write(
            claim,
            lane,
            group,
            may,
            chat_id,
            turn_id=self._new_turn(),
            nonce=self._new_nonce(),
            zone=group.zone or self._config().zone,
            now=self._clock(),
        )
        failpoints.hit("claimed")
        return turn

    async def _wait_for_slot(self, lane: str) -> None:
        taking = asyncio.ensure_future(self._slots.take(is_of_task(lane)))
        await asyncio.sleep(0)
        self._make_room()
        await taking

    async def _take_slot(self, lane: str) -> None:
        await self._wait_for_slot(lane)
        if self._stopping:
            self._slots.put(is_of_task(lane))
            raise RunGone("the host is stopping")

    def _make_room(self) -> None:
        """A lane waits, or there are fewer slots now: the run that has been idle longest goes."""
        idle = [r for r in self._runner.runs.values() if r.free]
        if idle and self._slots.short(sum(r.closing and not r.turns for r in self._runner.runs.values())):
            oldest = min(idle, key=lambda r: r.idle_since)
            oldest.closing = True
            self._spawn(self._runner.close(oldest.row.lane), f"close {oldest.row.lane}")

    def sweep(self, now: float) -> None:
        """Close the runs that have been idle for too long; `now` is the loop's time."""
        self._slots.grant()
        self._make_room()
        for run in list(self._runner.runs.values()):
            if run.free and now - run.idle_since > self._config().idle_timeout:
                self._runner.retire(run.row.lane)

    async def _park(self, lane: str, cause: Cause, detail: str) -> None:
        turn = await self._store.read(turns.next_open, lane)
        if turn is None:
            self._later(lane, _TROUBLE)
            return
        self._parked = True
        await self._store.write(letters.failed, turn, cause, detail, self._clock(), quoted=False)
        self._wake_outbox()

    def _later(self, lane: str, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.wake, lane)


def claim(
    tx: Tx,
    lane: str,
    group: Group,
    may: Callable[[Authority], bool],
    chat_id: int | None,
    *,
    turn_id: str,
    nonce: str,
    zone: str,
    now: int,
) -> Turn | None:
    """Make a turn of the lane's open messages: the oldest one's chat, in order, up to the first that may not.
    What does not fit into its prompt waits for the next one.

    Raises media.Wanting when files of theirs, or of the context, are to be fetched first.
    """
    work = messages.open_work(tx, lane)
    if not work or (chat_id is not None and work[0].chat_id != chat_id):
        return None
    mine: list[Message] = []
    for message in work:
        if message.chat_id == work[0].chat_id:
            if not may(Authority(message.role)):
                break
            mine.append(message)
    if not mine:
        return None
    mine = prompts.fitting(mine, nonce)
    chat, newest = chats.chat(tx, mine[0].chat_id), mine[-1].id
    shown = messages.open_context(tx, chat.id, newest)
    if wanted := media.wanted(taken := [*shown, *mine]):
        raise media.Wanting(wanted)
    left_out = messages.count_context(tx, chat.id, newest) - len(shown)
    prompt = prompts.build(mine, shown, chat=chat, zone=zone, now=now, nonce=nonce, left_out=left_out)
    turn = Turn(
        id=turn_id,
        lane=lane,
        group_id=group.id,
        chat_id=chat.id,
        authority=min((Authority(m.role) for m in mine), key=lambda a: a.rank),
        state=TurnState.OPEN,
        prompt=prompt,
        images=media.pictures(taken, prompt),
    )
    turns.insert(tx, turn, now)
    messages.take(tx, [m.id for m in mine], turn.id)
    messages.take_context(tx, chat.id, newest, turn.id)
    return turn
