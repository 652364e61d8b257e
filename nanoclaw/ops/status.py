"""How the house stands: what its rows, its disk and its lock say, in one shape for people and for programs."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from zoneinfo import ZoneInfo

from nanoclaw import safefs
from nanoclaw.config import Config
from nanoclaw.control.usage import Most
from nanoclaw.errors import StoreError, UnsafePath
from nanoclaw.groups import Home
from nanoclaw.meter import first_of_month
from nanoclaw.meter.prices import DOLLAR
from nanoclaw.models import RunRow
from nanoclaw.ops import crashes
from nanoclaw.sandbox.memory import memory_of
from nanoclaw.schedule import midnight
from nanoclaw.store import Store, Tx, chats, condition, ledger, outgoing, runs, spending, turns
from nanoclaw.store.condition import LaneState

_PATIENCE = 2.0  # seconds for all that is read of the rows
_COUNTING = 0.5  # seconds that the size of home may take to be counted
_PROC_LOCKS = Path("/proc/locks")
_WORDS = 8  # of a lock that is held; one that is waited for has more


def of_rows(tx: Tx, now: int, zone: str, most: Most) -> dict[str, Any]:
    """What the store says: times in ms since 1970 (0 or null: none), ages in seconds, bytes, dollars."""
    claim = ledger.claim(tx)
    today = midnight(now, ZoneInfo(zone))
    return {
        "owners": chats.owners(tx),
        "claim": claim.until if claim else 0,
        "groups": [
            {"group": g.id, "folder": g.folder, "state": g.state, "tokens_today": ledger.tokens_since(tx, g.id, today)}
            for g in chats.groups(tx)
        ],
        "lanes": [_lane(lane) for lane in condition.lanes(tx)],
        "parked": [{"lane": lane, "cause": cause} for lane, cause in turns.parked_lanes(tx).items()],
        "runs": [_run(run, now) for run in runs.living(tx)],
        "outgoing": outgoing.counts(tx),
        "last": {"heard": condition.last_heard(tx), "said": condition.last_said(tx)},
        "tasks": condition.tasks(tx, now),
        "cost": _cost(tx, now, zone, most),
    }


def most(config: Config) -> Most:
    """The limits in dollars."""
    return Most(config.budget_group_day, config.budget_main_day, config.budget_month)


async def of_store(store: Store, now: int, config: Config) -> dict[str, Any]:
    """`of_rows`, and under `store` why there is nothing of it: it fails, or does not answer in time."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return {"store": "answers", **await store.read(of_rows, now, config.zone, most(config))}
    except (StoreError, TimeoutError) as e:
        return {"store": str(e) or "the database does not answer", "owners": {}, "claim": 0}


def peek(home: Home, now: int, config: Config) -> dict[str, Any]:
    """The same from outside, whether a host lives or not; nothing is made or changed."""
    try:
        if not home.db.exists():
            return {"store": "there is none yet"}
        return {"store": "answers", **condition.peek(home.db, of_rows, now, config.zone, most(config))}
    except (StoreError, OSError) as e:
        return {"store": str(e)}


def _run(run: RunRow, now: int) -> dict[str, Any]:
    age, memory = max(0, now - run.started_at) // 1000, memory_of(run.container)
    return {"run": run.id, "lane": run.lane, "state": run.state, "age": age, "memory": memory}


def _lane(lane: LaneState) -> dict[str, Any]:
    state = "parked" if lane.cause else "busy" if lane.given else "waiting" if lane.active else "paused"
    since = lane.parked_at if lane.cause else lane.given_at if lane.given else lane.oldest
    return {
        "lane": lane.lane,
        "group": lane.group_id,
        "state": state,
        "cause": lane.cause,
        "since": since,
        "turns": lane.given + lane.open,
        "messages": lane.messages,
    }


def _cost(tx: Tx, now: int, zone: str, most: Most) -> dict[str, Any]:
    groups = spending.by_group(tx, midnight(now, ZoneInfo(zone)), first_of_month(now, ZoneInfo(zone)))
    return {
        "today": round(sum(g.day.cost for g in groups) / DOLLAR, 6),
        "month": round(sum(g.month.cost for g in groups) / DOLLAR, 6),
        "tokens_today": sum(g.day.tokens for g in groups),
        "tokens_without_price": sum(g.month.unpriced for g in groups),
        "limits": {"group_day": most.group_day, "main_day": most.main_day, "month": most.month},
    }


def of_disk(home: Home) -> dict[str, int | None]:
    """Bytes: what is free, and what home and its database take; null for what cannot be counted quickly."""
    try:
        disk = os.statvfs(home.root)
        free: int | None = disk.f_bavail * disk.f_frsize
    except OSError:
        free = None
    # To a clock that runs faster the time that a walk may take is over sooner.
    haste = safefs.MAX_SECONDS / _COUNTING
    try:
        taken: int | None = safefs.tree_size(home.root, lambda: monotonic() * haste)
    except (UnsafePath, OSError):
        taken = None
    return {"free": free, "home": taken, "database": _size(home.db), "wal": _size(wal_of(home))}


def wal_of(home: Home) -> Path:
    """The database's log."""
    return home.db.with_name(home.db.name + "-wal")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# --- whether a host lives ----------------------------------------------------------------------


@dataclass(frozen=True)
class Sign:
    """What the lock says of the host that lives here, or lived last."""

    pid: int  # of the one that holds it; 0 = nobody does
    seen: int  # the last sign of life, in milliseconds, to a minute; 0 = there never was one
    crashed: bool  # its end was none in order


def sign_of_life(home: Home) -> Sign:
    """Read from outside: nothing is locked, so that no host that starts just now is kept from it."""
    try:
        found = home.lock.stat()
    except OSError:
        return Sign(0, 0, crashed=False)
    pid = _holder(found)
    return Sign(pid, found.st_mtime_ns // 1_000_000, crashed=not pid and crashes.read(home.root).open)


def _holder(lock: os.stat_result) -> int:
    """The process that holds this file's lock, as the kernel tells everybody; 0 for none.

    Files of other disks have the same inode. Some filesystems (btrfs, overlay) tell those who ask for a file another
    device than the kernel's list: there the process must have the file open.
    """
    try:
        locks = _PROC_LOCKS.read_text()
    except OSError:
        return 0
    device = (os.major(lock.st_dev), os.minor(lock.st_dev))
    for line in locks.splitlines():
        words = line.split()
        if len(words) != _WORDS or words[1] != "FLOCK":
            continue
        major, minor, inode = words[5].split(":")
        pid = int(words[4])
        if int(inode) == lock.st_ino and ((int(major, 16), int(minor, 16)) == device or _has_open(pid, lock)):
            return pid
    return 0


def _has_open(pid: int, file: os.stat_result) -> bool:
    """Whether this process does, as far as we may look."""
    try:
        return any(os.path.samestat(file, fd.stat()) for fd in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def live(home: Home) -> None:
    """The living host leaves a sign: the time of its lock."""
    os.utime(home.lock)


# --- for programs ------------------------------------------------------------------------------


def without_names(told: Mapping[str, Any]) -> dict[str, Any]:
    """The same with numbers of groups in the place of their folders: `3` and `3#task-7` are lanes of group 3."""
    ids = {str(g["folder"]): g["group"] for g in told.get("groups", ()) if "folder" in g}

    def lane(name: str) -> str:
        folder, mark, rest = name.partition("#")
        return f"{ids.get(folder, '?')}{mark}{rest}"

    def stripped(value: Any, key: str = "") -> Any:
        if isinstance(value, Mapping):
            return {k: stripped(v, k) for k, v in value.items() if k != "folder"}
        if isinstance(value, list):
            return [stripped(entry, "lane" if key == "lanes" else key) for entry in value]
        if isinstance(value, str) and key == "lane":
            return lane(value)
        return ids.get(value, "?") if isinstance(value, str) and key == "group" else value

    return {key: stripped(value, key) for key, value in told.items()}
