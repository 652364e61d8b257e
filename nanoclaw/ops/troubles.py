"""What can rot while the host lives: the word for each trouble, its sentence, what mends it, and when it is told."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from nanoclaw.groups import FREE_FLOOR
from nanoclaw.hints import typed

HOLD = 3  # looks that saw it, until main is told: no blip speaks
CLEAR = 2  # looks in a row that did not, until it is over
QUIET_MS = 3_600_000  # in which one trouble is told at most once, however often it comes and goes

STALL = 1.0  # seconds that the loop may stand still
STANDSTILL = 15.0  # seconds, from which on little is served: a new start of the process may mend it
SLOW_WRITE = 5.0  # seconds that a row may wait to be written
WAL_MOST = 64 << 20  # bytes; the database folds its log in at 4 MB, unless somebody holds an old view open
SPARE = 2 * FREE_FLOOR  # bytes of free disk; below half of it no agent starts
INODES = 1000  # names that the disk must still have room for
FILES_SHARE = 0.8  # of the open files that the process may have
LEAP = 120.0  # seconds by which the wall clock may be set
AWAY = 600.0  # seconds without a connection


class Trouble(StrEnum):
    """The word is stored and stands in `status --json`."""

    STALLS = "stalls"  # the loop stands still
    STORE = "store"  # rows cannot be written, or not in time
    WAL = "wal"  # the database's log grows
    ENGINE = "engine"  # the container engine does not answer
    DISK = "disk"  # nearly full
    SOCKETS = "sockets"  # a living run's way out is closed
    STUCK = "stuck"  # a lane has work and room, and does not begin
    LATE = "late"  # a turn runs on beyond its limit
    CHANNEL = "channel"  # a channel tries to connect for long
    LOG = "log"  # log lines are lost
    FILES = "files"  # nearly all file descriptors are in use
    CLOCK = "clock"  # the wall clock was set
    PROGRAM = "program"  # the program on the disk is another one than the one that runs


# What a person does about it.
MEND = {
    Trouble.STALLS: "Look at what else the machine does (`top`); if that is little, begin anew: /restart.",
    Trouble.STORE: "Look whether another program holds nanoclaw.db open, and at the disk's room and health.",
    Trouble.WAL: "Another program holds an old view of nanoclaw.db open: end it, or begin anew: /restart.",
    Trouble.ENGINE: "It is asked again every minute; what waits for it goes on by itself.",
    Trouble.DISK: "Free some space.",
    Trouble.SOCKETS: "Begin anew: /restart.",
    Trouble.STUCK: "Begin anew: /restart. If it comes again, the log says more: `nanoclaw logs`.",
    Trouble.LATE: "Stop it (/stop in its chat), or begin anew: /restart.",
    Trouble.CHANNEL: "Check the machine's connection to the network; it is tried again by itself.",
    Trouble.LOG: "See that the folder of the logs is there and can be written, then begin anew: /restart.",
    Trouble.FILES: "Begin anew: /restart. A higher limit (`ulimit -n`) gives more time.",
    Trouble.CLOCK: "If it was not you: see that the machine keeps its time (`timedatectl`).",
    Trouble.PROGRAM: "It counts from the next start on: /restart.",
}
# A lane that these park has told main already, and tells when it goes on.
PARKS = {Trouble.ENGINE: "engine", Trouble.DISK: "disk"}
# Main is not told: the channel says so itself when it is back, and before nobody would hear it.
UNTOLD = frozenset({Trouble.CHANNEL})


@dataclass(frozen=True)
class Sample:
    """What one look saw. The defaults are those of a host that is well."""

    stall: float = 0.0  # seconds: the longest that the loop stood still since the look before
    waited: float = 0.0  # seconds: of the oldest row that waits to be written
    waiting: int = 0  # such rows
    fault: str = ""  # why the last commit failed
    wal: int = 0  # bytes
    engine: str = ""  # why it does not answer
    free: int | None = None  # bytes on the disk of home; None where nobody could look
    names: int | None = None  # files that the disk has room for
    mute: tuple[str, ...] = ()  # lanes whose run has a socket that takes no connection
    stuck: tuple[str, ...] = ()  # lanes that should have begun
    late: tuple[str, ...] = ()  # lanes whose turn is beyond its limit
    away: Mapping[str, float] = field(default_factory=dict)  # channel -> seconds that it has tried to connect
    log: str = ""  # why log lines are lost
    files: int = 0  # open file descriptors
    files_most: int = 0
    leap: float = 0.0  # seconds by which the wall clock was set within the last hour
    program: bool = False  # whether the program on the disk is another one


@dataclass(frozen=True)
class Fault:
    """One trouble of one look."""

    said: str  # a sentence, without names
    lanes: tuple[str, ...] = ()  # that it is about


def faults(seen: Sample) -> dict[Trouble, Fault]:
    """What is wrong by this sample."""
    return {**_of_process(seen), **_of_rows(seen), **_of_machine(seen)}


def _of_process(seen: Sample) -> dict[Trouble, Fault]:
    found = {}
    if seen.stall > STALL:
        found[Trouble.STALLS] = Fault(f"The assistant stood still for {seen.stall:.0f} s.")
    if seen.mute:
        found[Trouble.SOCKETS] = Fault("An agent's way to the model is closed.", seen.mute)
    if seen.log:
        found[Trouble.LOG] = Fault(f"Log lines are lost: {seen.log}.")
    if seen.files_most and seen.files > FILES_SHARE * seen.files_most:
        found[Trouble.FILES] = Fault(f"{seen.files} of {seen.files_most} files that may be open are.")
    if seen.program:
        found[Trouble.PROGRAM] = Fault("The program on the disk is another one than the one that runs.")
    if long := {name: away for name, away in seen.away.items() if away > AWAY}:
        told = ", ".join(f"{name} for {away / 60:.0f} min" for name, away in sorted(long.items()))
        found[Trouble.CHANNEL] = Fault(f"Without a connection: {told}.")
    return found


def _of_rows(seen: Sample) -> dict[Trouble, Fault]:
    found = {}
    if seen.fault:
        found[Trouble.STORE] = Fault(f"Rows cannot be written: {seen.fault}.")
    elif seen.waited > SLOW_WRITE:
        found[Trouble.STORE] = Fault(f"{seen.waiting} row(s) wait to be written, for up to {seen.waited:.0f} s.")
    if seen.wal > WAL_MOST:
        found[Trouble.WAL] = Fault(f"The database's log has grown to {seen.wal >> 20} MiB.")
    if seen.stuck:
        found[Trouble.STUCK] = Fault("Work waits though there is room for it.", seen.stuck)
    if seen.late:
        found[Trouble.LATE] = Fault("A turn has run on beyond its limit.", seen.late)
    return found


def _of_machine(seen: Sample) -> dict[Trouble, Fault]:
    found = {}
    if seen.engine:
        found[Trouble.ENGINE] = Fault(f"No agent can be started: {seen.engine}.")
    if seen.free is not None and seen.free < SPARE:
        found[Trouble.DISK] = Fault(
            f"{seen.free >> 20} MiB are free on the disk; below {FREE_FLOOR >> 20} no agent starts."
        )
    elif seen.names is not None and seen.names < INODES:
        found[Trouble.DISK] = Fault(f"The disk has room for {seen.names} more files.")
    if abs(seen.leap) > LEAP:
        way = "forward" if seen.leap > 0 else "back"
        found[Trouble.CLOCK] = Fault(f"The machine's clock was set {way} by {abs(seen.leap) / 60:.0f} min.")
    return found


@dataclass(frozen=True)
class Known:
    """One trouble's past. Times in milliseconds since 1970."""

    since: int
    seen: int = 0  # looks of this bout that saw it
    clear: int = 0  # looks in a row that did not
    told_at: int = 0  # 0 = main was never told
    open: bool = False  # main was told, and not yet that it is over
    silent: int = 0  # bouts since then of which nobody was told


@dataclass(frozen=True)
class Judged:
    """What follows from a look."""

    memory: dict[Trouble, Known]
    told: tuple[Trouble, ...] = ()  # main hears of it now
    over: tuple[Trouble, ...] = ()  # main hears that it has passed
    begun: tuple[Trouble, ...] = ()  # for the log, as the next
    ended: tuple[Trouble, ...] = ()


def judge(found: Iterable[Trouble], memory: Mapping[Trouble, Known], now: int) -> Judged:
    """What this look makes of what was known; `now` in milliseconds.

    A look that misses a trouble does not end it, so that one that comes and goes is heard of all the same.
    """
    there, kept = frozenset(found), dict[Trouble, Known]()
    news: dict[str, list[Trouble]] = {"told": [], "over": [], "begun": [], "ended": []}
    for trouble in Trouble:
        before = memory.get(trouble)
        if trouble in there:
            if before is None or not before.seen:
                news["begun"].append(trouble)
            kept[trouble] = _seen(before, now)
            if _is_due(kept[trouble], now):
                news["told"].append(trouble)
                kept[trouble] = replace(kept[trouble], told_at=now, open=True)
        elif before is not None:
            after = _missed(before)
            if before.seen and not after.seen:
                news["ended"].append(trouble)
            if before.open and not after.open:
                news["over"].append(trouble)
            if after.seen or _is_quiet(after, now):
                kept[trouble] = after
    return Judged(kept, **{key: tuple(of) for key, of in news.items()})


def _seen(before: Known | None, now: int) -> Known:
    if before is None:
        return Known(now, seen=1)
    return replace(before, since=before.since if before.seen else now, seen=before.seen + 1, clear=0)


def _missed(before: Known) -> Known:
    if before.clear + 1 < CLEAR:
        return replace(before, clear=before.clear + 1)
    silent = 0 if before.open else before.silent + (before.seen >= HOLD)
    return replace(before, seen=0, clear=CLEAR, open=False, silent=silent)


def _is_due(known: Known, now: int) -> bool:
    return known.seen >= HOLD and not known.open and not _is_quiet(known, now)


def _is_quiet(known: Known, now: int) -> bool:
    return bool(known.told_at) and known.told_at <= now < known.told_at + QUIET_MS


def text(trouble: Trouble, fault: Fault, known: Known) -> str:
    """For main, when it has held."""
    of = f" ({', '.join(fault.lanes)})" if fault.lanes else ""
    again = f" It came {known.silent} more time(s) since I last told it." if known.silent else ""
    return typed(f"[watch: {trouble}] {fault.said.rstrip('.')}{of}. {MEND[trouble]}{again}")


def over_text(trouble: Trouble, known: Known, now: int) -> str:
    """For main, when it has passed."""
    return f"[watch: {trouble}] That is over, after {max(1, (now - known.since) // 60_000)} min."
