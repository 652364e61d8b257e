"""The database: is it sound, is it of this version, and what waits in it for somebody."""

from nanoclaw.errors import Cause, StoreError
from nanoclaw.notices import detail
from nanoclaw.ops import migrating, troubles
from nanoclaw.ops.doctor.scene import FIX, Scene, fail, ok, warn
from nanoclaw.ops.findings import Finding
from nanoclaw.store import condition, health, turns

RESTORE = "nanoclaw restore FILE"
_PATIENCE = 7.0  # seconds of the look through the file
_WEEK = 7 * 86_400_000  # ms
# What is as the owner set it, or for the owner to see to elsewhere.
_BY_RULE = frozenset({Cause.BUDGET, Cause.QUOTA, Cause.LOOP})


def look_database(scene: Scene) -> list[Finding]:
    """The file and its rows."""
    db = scene.home.db
    if not db.exists():
        return [ok("database", "there is none yet: the first start makes it")]
    try:
        found = health.look(db, patience=_PATIENCE)
    except StoreError as e:
        return [fail("database", str(e), RESTORE)]
    if found.damage:
        return [fail("database", f"it is damaged: {found.damage[0][:200]}", RESTORE)]
    if found.schema > found.known:
        said = f"it is of a newer NanoClaw (schema {found.schema}, this program knows {found.known})"
        return [fail("database", said, "nanoclaw upgrade")]
    if found.lost:
        return [fail("database", f"{found.lost} row(s) name others that are not there", RESTORE)]
    older = f"; schema {found.schema}, the next start makes it {found.known}" if found.schema < found.known else ""
    how = "sound" if found.whole else f"nothing wrong found in {_PATIENCE:.0f} s, not looked through whole"
    return [ok("database", how + older), *_journal(scene)]


def _journal(scene: Scene) -> list[Finding]:
    size = health.journal_size(scene.home.db)
    if size < troubles.WAL_MOST:
        return []
    mend = "nanoclaw stop && nanoclaw run" if scene.host.lives else FIX
    return [warn("database", f"its journal has grown to {size >> 20} MiB", mend)]


def look_copy(scene: Scene) -> list[Finding]:
    """The newest of the copies that are made before an upgrade: the way back."""
    if not (copies := migrating.copies(scene.home.root)):
        return []
    try:
        damage = health.look(copies[-1], patience=_PATIENCE).damage
    except StoreError as e:
        damage = (str(e),)
    if damage:
        said = f"the copy from before the last upgrade is damaged ({copies[-1].name}): {damage[0][:200]}"
        return [warn("copy", said, "nanoclaw backup FILE")]
    return [ok("copy", f"{copies[-1].name} is sound")]


def look_waiting(scene: Scene) -> list[Finding]:
    """Lanes that wait for a person, and texts that were given up."""
    if not health.fits(scene.home.db):
        return []
    parked = condition.peek(scene.home.db, turns.parked_lanes)
    dead = condition.peek(scene.home.db, health.given_up, scene.now - _WEEK)
    found = []
    for lane, cause in parked.items():
        # Without a host it may be mended long since: the next start tries.
        grade = warn if cause in _BY_RULE or not scene.host.lives else fail
        said, mend = _advice(cause, lane)
        found.append(grade("waiting", said, mend))
    if dead:
        said = f"{dead} text(s) of the last 7 days could not be delivered; main was told of each"
        found.append(warn("waiting", said, "nanoclaw groups chats"))
    return found or [ok("waiting", "nothing waits for you")]


def _advice(cause: str, lane: str) -> tuple[str, str]:
    try:
        told = detail(Cause(cause), lane, "")
    except ValueError:  # a word of another version
        return f"the lane {lane} is parked ({cause})", "nanoclaw status"
    return told, told.split("`")[1] if told.count("`") >= 2 else "nanoclaw status"


def look_rows_of_the_future(scene: Scene) -> list[Finding]:
    """Rows are written with this machine's clock: one of the future says that it was set back."""
    if not health.fits(scene.home.db):
        return []
    ahead = condition.peek(scene.home.db, health.newest) - scene.now
    if ahead < 120_000:
        return []
    said = f"the newest row is {ahead // 60_000} minutes in the future: the clock was set back, or was wrong"
    return [warn("clock", said, "timedatectl set-ntp true")]
