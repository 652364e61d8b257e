"""What goes out and in by the egress: how far each group may reach, how much it carried, what it was refused."""

from collections.abc import Callable

from nanoclaw.gateway import Level, Reach
from nanoclaw.meter import Spawn
from nanoclaw.models import OutKind
from nanoclaw.store import Store, Tx, chats, network, outgoing

DAY_BYTES = 20 << 30  # that one group may carry in a day, both ways
MAX_TOLD = 10  # refused hosts of one group that main is told of in a day


class Traffic:
    """The rows behind the way out; implements gateway.Border. Nothing is kept here: what the owner sets counts at
    the next connection."""

    def __init__(
        self,
        store: Store,
        midnight: Callable[[], int],
        clock: Callable[[], int],
        spawn: Spawn,
        wake_outbox: Callable[[], None],
        day_bytes: int = DAY_BYTES,
    ) -> None:
        self._store = store
        self._midnight = midnight
        self._clock = clock
        self._spawn = spawn
        self._wake_outbox = wake_outbox
        self._day_bytes = day_bytes

    async def reach(self, run_id: str) -> Reach:
        """Where the run's group may connect to now; nowhere for a run that nobody knows."""
        return await self._store.read(_reach, run_id, self._midnight(), self._clock(), self._day_bytes)

    def refused(self, run_id: str, host: str, port: int) -> None:
        """Remember it, and tell main once per host and day."""
        self._spawn(self._refused(run_id, host, port), "refused host")

    def carried(self, run_id: str, count: int) -> None:
        """Count it in the store."""
        self._spawn(self._store.write(_carried, run_id, self._midnight(), count), "traffic")

    async def _refused(self, run_id: str, host: str, port: int) -> None:
        if await self._store.write(tell_refused, run_id, host, port, self._midnight(), self._clock()):
            self._wake_outbox()


def _reach(tx: Tx, run_id: str, day: int, now: int, day_bytes: int) -> Reach:
    group_id = network.group_of_run(tx, run_id)
    if group_id is None:
        return Reach(f"the unknown run {run_id}", Level.NONE)
    group = chats.group(tx, group_id)
    left = day_bytes - network.carried(tx, group_id, day)
    return Reach(group.folder, network.level(tx, group_id, now), group.hosts, left)


def _carried(tx: Tx, run_id: str, day: int, count: int) -> None:
    if (group_id := network.group_of_run(tx, run_id)) is not None:
        network.carry(tx, group_id, day, count)


def tell_refused(tx: Tx, run_id: str, host: str, port: int, day: int, now: int) -> bool:
    """Whether main is told: of the first few hosts of a group in a day, once of each."""
    group_id = network.group_of_run(tx, run_id)
    main = chats.main_chat(tx)
    if group_id is None or not network.want(tx, group_id, host, port, day, now) or main is None:
        return False
    count = network.told(tx, group_id, day)
    if count > MAX_TOLD:
        return False
    folder = chats.group(tx, group_id).folder
    where = host if port == 443 else f"{host}:{port}"
    allow = f"nanoclaw network allow {folder} {where}"
    text = f"[{folder}: network] The agent wanted to reach {where} and was refused. To allow it: `{allow}`"
    if count == MAX_TOLD:
        text += f"\nThat is enough of them for today; `nanoclaw network show {folder}` lists the others."
    outgoing.queue(tx, main.id, text, OutKind.NOTICE, now)
    return True
