"""The folders beside its own that a run sees: looked at anew at every start, and left out where a rule says so."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from loguru import logger

from nanoclaw.errors import Refused
from nanoclaw.groups import Home
from nanoclaw.models import Group, Mount
from nanoclaw.mounts import EXTRA, Place
from nanoclaw.mounts.allowlist import digest, place
from nanoclaw.mounts.inside import Hidden, look
from nanoclaw.mounts.judge import judge
from nanoclaw.mounts.patience import ask
from nanoclaw.mounts.way import identity, meet
from nanoclaw.notices import unquoted
from nanoclaw.run import Run
from nanoclaw.sandbox import Bind
from nanoclaw.store import Store, Tx, chats, mounts, runs

LOOK_LIMIT = 60.0  # seconds that all folders of a start may take; a walk gives up earlier, a dead disk never does
CHECK_LIMIT = 5.0  # seconds that a look at what is covered may take, before a turn
_NAMED = 5  # hidden names that are told one by one


T = TypeVar("T")


class Wake(Protocol):
    """What is needed of the outbox."""

    def wake(self) -> None:
        """There is something to send."""


@dataclass(frozen=True)
class Given:
    """One mount as it is at this start."""

    binds: tuple[Bind, ...] = ()
    refused: str = ""
    hidden: tuple[Hidden, ...] = ()
    kept: tuple[str, ...] = ()
    note: str = ""  # that it is less than was granted
    covered: tuple[tuple[Path, tuple[int, int]], ...] = ()  # what lies below the hidden and kept names


class Extras:
    """Judges, hides, says. A tree that one run may write is seen by no other that starts meanwhile.

    For an agent that can rename what we have just looked at could have the engine open another folder in its place.
    """

    def __init__(
        self, store: Store, home: Home, engine: Callable[[], str], outbox: Wake, clock: Callable[[], int]
    ) -> None:
        self._store = store
        self._home = home
        self._engine = engine
        self._outbox = outbox
        self._clock = clock

    def fingerprint(self, group: Group) -> str:
        """Another one asks for a new run."""
        return digest(self._home.root) if group.mounts else ""

    async def give(
        self, run: Run, others: Callable[[], Collection[Run]], close: Callable[[str], Awaitable[None]]
    ) -> tuple[Bind, ...]:
        """What the run's container is given; `others` are all living runs, `close` ends the one of a lane."""
        group = await self._store.read(chats.group, run.row.group_id)
        if not group.mounts:
            return ()
        for other in [o for o in others() if _idle(o) and any(_meets(o.row.writes, m) for m in group.mounts)]:
            await close(other.row.lane)
        while busy := next((o for o in others() if o is not run and _looks(o, group.mounts)), None):
            await busy.started.wait()
        # From here to the claim without a pause: of two that start at once, one sees the other's.
        taken = {
            m.target: o.group.folder for m in group.mounts for o in others() if o is not run and _meets(o.row.writes, m)
        }
        given = [m for m in group.mounts if m.target not in taken]
        run.looks = tuple(m.source for m in given)
        run.row = replace(run.row, writes=tuple(m.source for m in given if m.read_write))
        await self._store.write(runs.set_writes, run.row.id, run.row.writes)
        here = await asyncio.to_thread(place, self._home.root, self._home.run_dir, self._engine())
        looked = await asyncio.gather(*(self._given(here, m, group, taken.get(m.target, "")) for m in group.mounts))
        found = dict(zip(group.mounts, looked, strict=True))
        run.covered = tuple(pair for got in looked for pair in got.covered)
        if await self._store.write(say, group, found, self._clock()):
            self._outbox.wake()
        for mount, got in found.items():
            logger.info("Mount {}: {}, {} hidden", mount.target, got.refused or "given", len(got.hidden))
        return tuple(bind for got in looked for bind in got.binds)

    async def hold(self, run: Run) -> bool:
        """Whether what is hidden from the run still is: a file that is replaced by another is not covered any more."""
        if not run.group.mounts:
            return True
        if run.covered is None:  # begun in an earlier life: nobody knows
            return False
        return not run.covered or await _soon(f"covered {run.row.id}", partial(_same, run.covered), CHECK_LIMIT, False)

    async def _given(self, here: Place, mount: Mount, group: Group, taken_by: str) -> Given:
        if taken_by:
            return Given(refused=f"a run of the group {taken_by} may write there just now")
        job = partial(given, self._home, here, mount, group.is_main)
        return await _soon(f"look {mount.source}", job, LOOK_LIMIT, Given(refused="its disk does not answer"))


async def _soon(about: str, job: Callable[[], T], limit: float, otherwise: T) -> T:
    try:
        async with asyncio.timeout(limit):
            return await asyncio.wrap_future(ask(about, job, limit))
    except TimeoutError:
        return otherwise


def _same(covered: tuple[tuple[Path, tuple[int, int]], ...]) -> bool:
    try:
        return all(identity(path) == known for path, known in covered)
    except OSError:
        return False


def _idle(run: Run) -> bool:
    return not run.turns and not run.stopping


def _meets(sources: Collection[str], mount: Mount) -> bool:
    return any(meet(source, mount.source) for source in sources)


def _looks(other: Run, mounts: Collection[Mount]) -> bool:
    """Whether it looks just now through what is to be written: names that move meanwhile would not be hidden."""
    return not other.started.is_set() and any(m.read_write and _meets(other.looks, m) for m in mounts)


def given(home: Home, here: Place, mount: Mount, main: bool) -> Given:
    """Judge it once more, and look through it; blocks."""
    try:
        return _look(home, here, mount, main)
    except Refused as e:
        return Given(refused=str(e))
    except OSError as e:
        return Given(refused=f"it changes while it is looked at ({e.strerror})")
    except Exception as e:  # the boundary of one folder: whatever an agent laid there, the run starts
        logger.opt(exception=e).error("The mount {} could not be looked at", mount.target)
        return Given(refused=f"it cannot be looked at ({type(e).__name__})")


def _look(home: Home, here: Place, mount: Mount, main: bool) -> Given:
    verdict = judge(here, mount.source, read_write=mount.read_write, main=main)
    if verdict.refusal:
        return Given(refused=verdict.refusal)
    if str(verdict.source) != mount.source:
        return Given(refused=f"it leads to {verdict.source} now: grant that, if it is meant")
    writes, source = verdict.read_write, verdict.source
    inside = look(source, here.blocked, read_write=writes)
    top = Bind(source, f"{EXTRA}/{mount.target}", writes and not inside.read_only, identity(source))
    kept = [Bind(source / rel, f"{top.target}/{rel}", False, identity(source / rel)) for rel in inside.kept]
    less = inside.read_only if writes else verdict.rules[-1].words.removeprefix("read-only: ")
    return Given(
        (top, *kept, *_shadows(home, top, inside.hidden)),
        hidden=inside.hidden,
        kept=inside.kept,
        note=f"it is read-only: {less}" if mount.read_write and not top.read_write else "",
        covered=tuple(
            (p, identity(p)) for rel in (*[h.rel for h in inside.hidden], *inside.kept) for p in [source / rel]
        ),
    )


def _shadows(home: Home, top: Bind, hidden: tuple[Hidden, ...]) -> list[Bind]:
    return [Bind(home.empty_dir if h.folder else home.empty_file, f"{top.target}/{h.rel}") for h in hidden]


# --- what main is told -------------------------------------------------------------------------


def say(tx: Tx, group: Group, found: dict[Mount, Given], now: int) -> bool:
    """Tell main what was left out or hidden, once; whether there is something to send."""
    told = False
    for mount, got in found.items():
        where = f"The group {group.folder} and its folder «{unquoted(mount.source)}»"
        wrong = f"{where}: this start goes without it, because {got.refused}." if got.refused else ""
        wrong = wrong or (f"{where}: {got.note}." if got.note else "")
        shadows = f"{where}: hidden in it {_listed(got.hidden)}." if got.hidden else ""
        git = (
            f"{where}: its {got.kept[0]} can only be read. If you did not make it, run no git there."
            if got.kept
            else ""
        )
        for about, text in (("refused", wrong), ("hidden", shadows), ("kept", git)):
            key = f"{about}:{group.id}:{mount.target}"
            if text:
                told = mounts.tell(tx, key, text, now) or told
            elif about == "refused":
                mounts.over(tx, key)
    return told


def _listed(hidden: tuple[Hidden, ...]) -> str:
    """An agent may have chosen the names."""
    named = ", ".join(f"«{unquoted(h.rel)}» ({h.why})" for h in hidden[:_NAMED])
    more = len(hidden) - _NAMED
    return f"{'are' if len(hidden) > 1 else 'is'} {named}" + (f" and {more} more" if more > 0 else "")
