"""One storm: people talk, things break, hosts die and come again; then calm, and the evidence."""

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tests.chaos import evidence, plan
from tests.chaos.evidence import Evidence, Said
from tests.chaos.house import CLUB, FAMILY, House
from tests.chaos.plan import Life, Saying
from tests.whatsapp.server import Message

PAUSE = 0.2  # seconds between two messages, on the average
AWAY = 0.6  # chance that who finds nobody there waits
MENDED = 0.6  # chance that engine and disk are well again when the next host starts
LOGIN = 20.0  # seconds until a host that lives is logged in
CALM = 90.0  # seconds after the storm until everything is answered
_STUCK = 3.0  # seconds of calm after which the clock is set forward over what waits for a later try
_JUMP_MS = 25_000
_HOUR_MS = 3_600_000
_LIVES_ON = 10.0  # seconds with an acknowledged message after which its host had all the time to store it


@dataclass
class Counts:
    """What the screen shows."""

    kills: int = 0
    said: int = 0
    by_point: int = 0
    troubles: int = 0


class Storm:
    """A seeded run in one house."""

    def __init__(
        self, house: House, seed: int, kills: int, *, slower: float = 1.0,
        kinds: tuple[str, ...] = (), troubles: tuple[str, ...] = plan.TROUBLES,
    ) -> None:  # fmt: skip
        self._house = house
        self._phones = house.phones
        self._kills = kills
        self._slower = slower  # by which everything takes longer here
        # One stream each, so that what is said does not depend on when somebody dies.
        self._talk = random.Random(f"{seed} talk")
        self._sayings = plan.sayings(random.Random(f"{seed} say"), kinds)
        self._lives = plan.lives(random.Random(f"{seed} die"), troubles)
        self._chance = random.Random(f"{seed} chance")
        self.progress: Callable[[Counts], None] = lambda counts: None
        self._lasting = {
            "engine gone": (house.take_engine, house.give_engine),
            "no commit": (house.refuse_commits, house.take_commits),
            "disk full": (house.fill_disk, house.free_disk),
        }
        self._slow = house.folder / "go"
        self._said: list[tuple[Saying, Said]] = []
        self._ahead = 0
        self.counts = Counts()

    async def run(self, *, echoes: bool = True) -> Evidence:
        """The whole of it."""
        await self._house.link()
        await self._house.kill()
        async with asyncio.TaskGroup() as tg:
            talking = tg.create_task(self._talk_on())
            while self.counts.kills < self._kills:
                await self._live(next(self._lives))
                self.progress(self.counts)
            talking.cancel()
        await self._calm()
        return await self._collected(echoes)

    # --- people -----------------------------------------------------------------------------------

    async def _talk_on(self) -> None:
        for saying in self._sayings:
            await asyncio.sleep(self._slower * self._talk.expovariate(1 / PAUSE))
            # A start takes longer than these lives: without this nearly everything would be said to nobody.
            if not self._phones.connected and self._talk.random() < AWAY:
                await self._phones.until(lambda: self._phones.connected, 3 * LOGIN)
            self._say(saying)

    def _say(self, saying: Saying) -> None:
        person = self._house.people[saying.person]
        group = {"family": FAMILY, "club": CLUB}.get(saying.chat, "")
        text, options = saying.text, dict[str, str]()
        message: Message | str = text
        target = ""
        if saying.kind == "slow":
            message = f"{text}\n!wait {self._slow}"
        elif saying.kind == "retry":
            tried = self._house.folder / f"tried-{saying.number}"
            message = f"{text}\n!unless {tried} !status 529 overloaded\n!mark {tried}"
        elif saying.kind in ("edit", "delete"):
            target = next(said.id for other, said in self._said if other.number == saying.target)
            message, options = _change(saying, target)
        id = self._phones.tell(person, message, group, **options)
        said = Said(saying.number, id, self._house.jid(saying.chat), text, kind=saying.kind, target=target)
        self._said.append((saying, said))
        self.counts.said += 1

    async def _hurry(self) -> None:
        """What is slow goes on now and then."""
        while True:
            await asyncio.sleep(self._talk.uniform(0.2, 1.0))
            self._slow.touch()
            await asyncio.sleep(0.1)
            self._slow.unlink(missing_ok=True)

    # --- hosts ------------------------------------------------------------------------------------

    async def _live(self, life: Life) -> None:
        logins = self._phones.logins
        host = await self._house.start(life.fail_point)
        died = asyncio.ensure_future(host.wait())
        try:
            if life.early:
                await asyncio.wait({died}, timeout=self._slower * life.seconds)
            else:
                await self._connected(logins, died)
                async with asyncio.TaskGroup() as tg:
                    tasks = [tg.create_task(self._trouble(*trouble)) for trouble in life.troubles]
                    tasks.append(tg.create_task(self._hurry()))
                    await asyncio.wait({died}, timeout=self._slower * life.seconds)
                    if not died.done():
                        self._house.measure()
                    for task in tasks:
                        task.cancel()
            self.counts.by_point += died.done()
        finally:
            full, code = self._house.full, await self._house.kill()
            await died
            self._mend()
        # With a full disk it may say so and end: whoever looks after it starts it again.
        assert code == -9 or full, f"{life} ended by itself with {code}:\n{self._house.last_words()}"
        self.counts.kills += code == -9

    async def _connected(self, logins: int, died: "asyncio.Future[int]") -> None:
        login = asyncio.ensure_future(self._phones.logged_in(logins, LOGIN))
        try:
            await asyncio.wait([login, died], return_when=asyncio.FIRST_COMPLETED)
        finally:
            login.cancel()
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                await login

    # --- what breaks ------------------------------------------------------------------------------

    async def _trouble(self, after: float, name: str) -> None:
        await asyncio.sleep(self._slower * after)
        self.counts.troubles += 1
        last = self._chance.uniform(0.2, 1.2)
        if name == "drop":
            self._phones.drop()
        elif name == "deaf":
            self._phones.acks = False
            await asyncio.sleep(last)
            if self._chance.random() < 0.5:  # else they never come
                self._phones.acks = True
                self._phones.acknowledge()
        elif name == "refusing":
            self._phones.error = 479
            await asyncio.sleep(last / 2)
            self._phones.error = 0
        elif name == "agent dies":
            await self._house.kill_agents(slice(0, 1))
        elif name == "agents die":
            await self._house.kill_agents(slice(None))
        elif name == "clock":
            self._ahead = min(max(self._ahead + self._chance.randint(-_HOUR_MS, _HOUR_MS), -3 * _HOUR_MS), 3 * _HOUR_MS)
            self._house.set_clock(self._ahead)
        else:
            begin, end = self._lasting[name]
            begin()
            await asyncio.sleep(last)
            end()

    def _mend(self) -> None:
        """With the host goes what was wrong around it; an engine that is gone, or a full disk, often stays."""
        self._phones.acks, self._phones.error = True, 0
        self._phones.forget_acknowledgements()
        self._house.take_commits()
        if self._chance.random() < MENDED:
            self._house.give_engine()
            self._house.free_disk()

    # --- calm -------------------------------------------------------------------------------------

    async def _calm(self) -> None:
        """One more host, which nobody kills, until nothing is open any more."""
        self._house.give_engine()
        self._house.free_disk()
        self._slow.touch()
        self._ahead = 3 * _HOUR_MS  # every task is due by then, however the clock was set
        self._house.set_clock(self._ahead)
        self._house.still()
        logins = self._phones.logins
        await self._house.start()  # the calm
        assert await self._house.ready(), self._house.last_words()
        await self._phones.logged_in(logins, LOGIN)
        begun = moved = time.monotonic()
        before, jump = None, _JUMP_MS
        while (left := self._left()) and time.monotonic() - begun < CALM:
            if left != before:
                before, moved, jump = left, time.monotonic(), _JUMP_MS
            elif time.monotonic() - moved > _STUCK:
                moved = time.monotonic()
                self._ahead, jump = self._ahead + jump, 2 * jump  # a group's tasks may wait for a quarter of an hour
                self._house.set_clock(self._ahead)
                await self._house.poke()
            await asyncio.sleep(0.1)

    def _left(self) -> tuple[object, ...]:
        """What is still open: the judge says what of it is a fault."""
        return (*sorted(self._phones.unacknowledged), *_open_rows(self._house))

    async def _collected(self, echoes: bool) -> Evidence:
        code = await self._house.end()
        assert code == 0, f"the last host ended with {code}:\n{self._house.last_words()}"
        waiting, retried = self._phones.unacknowledged, self._phones.retried
        said = tuple(
            replace(said, acknowledged=said.id not in waiting, retried=said.id in retried, died=self._died(said.id))
            for _, said in self._said
        )
        return evidence.rows(
            self._house.database, said, tuple(self._phones.delivered), echoes=echoes,
            orphans=tuple(await self._house.containers()), leftovers=tuple(self._house.leftovers()),
            sizes=tuple(self._house.sizes), unreadable=frozenset(self._phones.unreadable),
        )  # fmt: skip

    def _died(self, id: str) -> bool:
        """Whether the host that got the message had no time to store it."""
        handed = self._phones.handed.get(id, 0.0)
        taken = self._phones.taken.get(id, handed)
        return any(handed <= death <= taken + self._slower * _LIVES_ON for death in self._house.deaths)


def _change(saying: Saying, target: str) -> tuple[Message, dict[str, str]]:
    """An edit or a delete of the message with that id."""
    message = Message()
    change = message.protocolMessage
    change.key.ID = target
    if saying.kind == "delete":
        change.type = change.REVOKE
        return message, {"edit": "7"}
    change.type = change.MESSAGE_EDIT
    change.editedMessage.conversation = saying.text
    return message, {"edit": "1"}


def _open_rows(house: House) -> Iterator[object]:
    with contextlib.closing(sqlite3.connect(f"file:{house.database}?mode=ro", uri=True)) as tx:
        yield from tx.execute("SELECT id, state FROM turns WHERE state IN ('open', 'given', 'parked')")
        yield from tx.execute("SELECT id FROM tasks WHERE state = 'active' AND next_due IS NOT NULL")
        yield from tx.execute("SELECT id FROM messages WHERE state = 'open' AND verdict = 'work'")
        yield from tx.execute(
            "SELECT o.id, o.state, o.attempts FROM outgoing o JOIN chats c ON c.id = o.chat_id"
            " WHERE c.channel = 'whatsapp' AND o.state IN ('queued', 'sending', 'unknown')"
        )
