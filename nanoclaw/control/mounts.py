"""Folders of this machine for a group: granted by the owner alone, listed, taken back."""

from collections.abc import Callable
from functools import partial
from pathlib import PurePath
from typing import Any, Protocol

from nanoclaw.control import groups
from nanoclaw.errors import Refused
from nanoclaw.models import By, Group, GroupState, Mount
from nanoclaw.mounts import EXTRA, MAX_MOUNTS, Place, Verdict, check_target
from nanoclaw.mounts.allowlist import place
from nanoclaw.mounts.judge import judge
from nanoclaw.mounts.patience import ask
from nanoclaw.notices import unquoted
from nanoclaw.store import Tx, audit, chats
from nanoclaw.store import mounts as rows

_PATIENCE = 3.0  # seconds
_NOWHERE = "that is no absolute path in a folder that the owner's mounts.toml allows, or it leads elsewhere"
CODE = "A folder for writing means code that you may run: look at what changed there before you use it."
_ARGS = {"group": str, "source": str, "target": str, "read_write": bool}


class Judge(Protocol):
    """`mounts.judge.judge`, for a place."""

    def __call__(self, source: str, *, read_write: bool, main: bool) -> Verdict:
        """The verdict."""


def grant(
    tx: Tx, folder: str, source: str, target: str, read_write: bool, judge: Judge, by: By, now: int
) -> tuple[Mount, Verdict]:
    """Let a group's agent see a folder, from its next start on. `target`: its name inside, "" = the folder's own.

    Read-only unless it is asked for and the allowlist says so: the Mount tells what it came to. Raises Refused.
    """
    groups.typed(by, "grant a folder of this machine")
    group = groups.find(tx, folder)
    mount, verdict = _judged(group, source, target, read_write, judge)
    rows.put(tx, group.id, (*group.mounts, mount))
    _forget(tx, group, mount)
    audit.note(tx, by, "mount", f"{group.folder}: {mount.source} as {mount.target}, {access(mount)}", now)
    return mount, verdict


def revoke(tx: Tx, folder: str, target: str, by: By, now: int) -> Mount:
    """Take a folder back, from the next start on. Raises Refused."""
    group = groups.find(tx, folder)
    gone = next((m for m in group.mounts if m.target == target), None)
    if gone is None:
        raise Refused(
            f"the group {group.folder} has no mount {target[:80]!r}; it has"
            f" {', '.join(m.target for m in group.mounts) or 'none'}"
        )
    rows.put(tx, group.id, [m for m in group.mounts if m != gone])
    _forget(tx, group, gone)
    audit.note(tx, by, "unmount", f"{group.folder}: {gone.source}", now)
    return gone


def _judged(group: Group, source: str, target: str, read_write: bool, judge: Judge) -> tuple[Mount, Verdict]:
    if len(group.mounts) >= MAX_MOUNTS:
        raise Refused(f"the group {group.folder} has {MAX_MOUNTS} mounts already: remove one first")
    verdict = judge(source, read_write=read_write, main=group.is_main)
    if verdict.refusal:
        raise Refused(verdict.refusal)
    if same := next((m for m in group.mounts if m.source == str(verdict.source)), None):
        raise Refused(f"{same.source} is there already as {same.target}: remove that one first")
    name = check_target(target or PurePath(source).name or verdict.source.name, (m.target for m in group.mounts))
    return Mount(str(verdict.source), name, verdict.read_write), verdict


def _forget(tx: Tx, group: Group, mount: Mount) -> None:
    for what in ("refused", "hidden", "kept"):
        rows.forget(tx, f"{what}:{group.id}:{mount.target}")


# --- for people --------------------------------------------------------------------------------


def access(mount: Mount) -> str:
    """In a word."""
    return "read-write" if mount.read_write else "read-only"


def who(tx: Tx, group: Group) -> str:
    """Who gets what the group's agent gets; "" for main, where the owner sits."""
    if group.is_main:
        return ""
    count, known = rows.people(tx, group.id)
    some = "1 person" if count == 1 else f"{count} people"
    return some if known else f"{some} who wrote there, and everybody else in that chat"


def listed(tx: Tx) -> list[Group]:
    """Every group that has some."""
    return [g for g in chats.groups(tx) if g.mounts and g.state is not GroupState.REMOVED]


def listed_text(tx: Tx, group: Group) -> str:
    """For /mounts."""
    lines = [f"{EXTRA}/{m.target}: {m.source}, {access(m)}" for m in chats.group(tx, group.id).mounts]
    how = f"nanoclaw mounts add {group.folder} PATH"
    return "\n".join(lines) if lines else f"No folder of your machine is open here. At the terminal: {how}"


# --- an agent's wish ---------------------------------------------------------------------------


def sentence(tx: Tx, args: dict[str, Any]) -> str:
    """What a yes would open, to whom, and where that leads. Raises Refused."""
    folder, source, target, read_write = _args(args)
    group = groups.find(tx, folder)
    mount, verdict = _judged(group, source, target, read_write, _judge(tx))
    people = who(tx, group)
    how = "for writing" if mount.read_write else "read-only"
    return (
        f"open the folder «{unquoted(mount.source)}» of your machine {how} to the group {group.folder},"
        f" as {EXTRA}/«{unquoted(mount.target)}»."
        + (f" It will be {verdict.rules[-1].words}." if read_write and not mount.read_write else "")
        + (f" {CODE}" if mount.read_write else "")
        + (f" In that group are {people}: all of them can then get these files." if people else "")
    )


def apply(tx: Tx, args: dict[str, Any], by: By, now: int) -> str:
    """Grant what the owner has said yes to. Raises Refused."""
    mount, _ = grant(tx, *_args(args), _judge(tx), by, now)
    return f"Done: {mount.source} is {EXTRA}/{mount.target} from the next start on, {access(mount)}."


def _args(args: dict[str, Any]) -> tuple[str, str, str, bool]:
    known = {"target": "", "read_write": False, **args}
    if {*known} != {*_ARGS} or any(type(known[key]) is not kind for key, kind in _ARGS.items()):
        raise Refused("a mount needs group and source, and may have target and read_write (true or false)")
    return known["group"], known["source"], known["target"], known["read_write"]


def _judge(tx: Tx) -> Judge:
    """As a start would, and in one word for all that an agent must not learn of the machine by asking."""
    here = place(rows.home(tx), *rows.around(tx))

    def verdict(source: str, *, read_write: bool, main: bool) -> Verdict:
        job = partial(judge, here, source, read_write=read_write, main=main)
        if isinstance(here.allowlist, str):
            raise Refused(here.allowlist)
        found = _soon(_root_of(source, here), job)
        if found.refusal or str(found.source) != source:  # a link may lead elsewhere when the owner says yes
            raise Refused(_NOWHERE)
        return found

    return verdict


def _root_of(source: str, here: Place) -> str:
    """Outside of the allowed folders nothing is looked at."""
    path = PurePath(source)
    around = [root.path for root in here.roots if path.is_relative_to(root.path)]
    if ".." in path.parts or not around:
        raise Refused(_NOWHERE)
    return around[0]


def _soon(root: str, job: Callable[[], Verdict]) -> Verdict:
    """The store's one writer waits for this, and a disk may never answer: then it is not asked once more."""
    try:
        return ask(f"wish {root}", job, 0.0).result(_PATIENCE)
    except TimeoutError:
        raise Refused("the disk of that folder does not answer: ask again later") from None
