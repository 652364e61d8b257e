"""What an agent remembers (CLAUDE.md): show it, compare it, bring an earlier version back, begin anew.

The row is first, the file follows: `settle` writes what is `unwritten`, in the living host or on the command line.
A version is kept whenever the file is found to be another one than the last.
"""

from collections.abc import Sequence
from datetime import datetime
from difflib import unified_diff
from typing import Any
from zoneinfo import ZoneInfo

from nanoclaw import notices
from nanoclaw.errors import Refused, UnsafePath
from nanoclaw.groups import FIRST_MEMORY, GLOBAL, MAX_MEMORY, MEMORY_FILE, Home, memory_text, write_memory
from nanoclaw.models import By, OutKind
from nanoclaw.prompts import plain
from nanoclaw.store import Tx, audit, chats, memory, outgoing
from nanoclaw.store.memory import KEPT, Unwritten, Version

MAX_SHOWN = 3500  # characters that a chat is shown
MAX_GLOBAL = 280  # characters that may be added for all agents at once: the owner is shown all of them
_COMPARED = 1000  # lines of either side
_CUT = "\n[The rest is left out here: nanoclaw memory {} shows it.]"


# --- looking -------------------------------------------------------------------------------------


def show(tx: Tx, home: Home, folder: str) -> str:
    """The memory as it is."""
    now = _now(home, folder)
    if now is None:
        return f"groups/{folder}/{MEMORY_FILE} is no file of at most {MAX_MEMORY >> 10} KiB; the agent does not see it."
    return _text(now).strip() or "The memory is empty."


def versions(tx: Tx, home: Home, folder: str) -> list[Version]:
    """What is kept, newest first; what stands in the file now may be newer still (`n` 0)."""
    kept, now = memory.versions(tx, folder), _now(home, folder)
    if not now or (kept and kept[0].text == now):
        return kept
    return [Version(0, 0, "", 0, now), *kept]


def diff(tx: Tx, home: Home, folder: str, where: str = "") -> str:
    """What changed since an earlier version: the one before, `2` for two back, `#7` for the one of that number."""
    now = _now(home, folder) or b""
    then = _meant(memory.versions(tx, folder), now, where)
    lines = _compared(_text(then.text).splitlines(), _text(now).splitlines())
    if not lines:
        return f"Nothing has changed since #{then.n}."
    return "\n".join([f"Since #{then.n}:", *lines])


def for_chat(text: str, verb: str) -> str:
    """As much of it as a chat is shown; `verb` is the one that shows the rest."""
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + _CUT.format(verb)


def listed(found: Sequence[Version], zone: str) -> list[str]:
    """One line for each version, newest first."""
    return [
        f"#{v.n or '-'}  {_time(v.at, zone) if v.n else 'now':16}  {len(v.text):>7} bytes"
        + (f"  brings back #{v.of}" if v.of else "")
        + (f"  ({v.who})" if v.who else "")
        for v in found
    ]


# --- changing ------------------------------------------------------------------------------------


def undo(tx: Tx, home: Home, folder: str, where: str, by: By, now: int) -> str:
    """Bring an earlier version back: the one before, `2` for two back, `#7` for the one of that number.

    Asked again it goes further back. What stands there now is kept as a version before. Raises Refused.
    """
    kept, stood = _settled(tx, home, folder, now)
    then = _meant(kept, stood, where)
    memory.to_write(tx, folder, then.text, who=by.who, of=then.origin)
    audit.note(tx, by, "memory undo", f"{folder} to #{then.n}", now)
    return f"The memory is as it was in #{then.n}. {_way_back(kept, stood, folder, by)}"


def reset(tx: Tx, home: Home, folder: str, by: By, now: int) -> str:
    """Begin with an empty memory; notes and files stay, and so do the versions."""
    kept, stood = _settled(tx, home, folder, now)
    memory.to_write(tx, folder, b"" if folder == GLOBAL else FIRST_MEMORY.encode(), who=by.who)
    audit.note(tx, by, "memory reset", folder, now)
    return f"The memory is empty; dated notes and other files stay. {_way_back(kept, stood, folder, by)}"


def forget(tx: Tx, home: Home, folder: str, by: By, now: int) -> str:
    """Keep no earlier version: there was something in them that nobody shall find again."""
    settle(tx, home, now)
    count = memory.purge(tx, folder)
    take(tx, home, folder, now)
    audit.note(tx, by, "memory forget", folder, now)
    return f"{count} version(s) are gone; the memory as it is now stays."


def _settled(tx: Tx, home: Home, folder: str, now: int) -> tuple[list[Version], bytes]:
    """The versions, when all that was asked for before is done; and what stands there."""
    settle(tx, home, now)
    take(tx, home, folder, now)
    return memory.versions(tx, folder), _now(home, folder) or b""


def _way_back(kept: Sequence[Version], stood: bytes, folder: str, by: By) -> str:
    at_terminal = by.who == "terminal"
    verb = f"nanoclaw memory undo {folder} --version {{}}" if at_terminal else "/memory undo #{}"
    way = f"What stood there is kept: {verb.format(kept[0].n)} brings it back." if stood else ""
    on = "" if at_terminal or folder == GLOBAL else "My conversation goes on as it was: /new begins another one."
    return f"{way} {on}".strip()


def sentence(tx: Tx, args: dict[str, Any]) -> str:
    """What an agent's wish for the memory of all agents would change. Raises Refused."""
    where = f"groups/{GLOBAL}/{MEMORY_FILE}"
    return f"Add this to the memory that the agents of all chats read ({where}):\n+ «{_wished(args)}»"


def apply(tx: Tx, args: dict[str, Any], by: By, now: int) -> str:
    """Do it, with exactly the words that were shown."""
    memory.to_write(tx, GLOBAL, f"- {_wished(args)}\n".encode(), who=by.who, whole=False)
    audit.note(tx, by, "memory add", GLOBAL, now)
    return "It stands in the memory of all agents; their next turns see it."


def _wished(args: dict[str, Any]) -> str:
    text = args.get("text")
    text = text if isinstance(text, str) else ""
    shown = notices.unquoted(text)
    if not shown or len(shown) > MAX_GLOBAL:
        raise Refused(f"text must be one line for all agents, of at most {MAX_GLOBAL} characters")
    return shown


# --- files ---------------------------------------------------------------------------------------


def take(tx: Tx, home: Home, folder: str, now: int) -> None:
    """Keep what the file is, if that is another version than the last."""
    if text := _now(home, folder):
        memory.found(tx, folder, text, now)


def look_at(tx: Tx, home: Home, folder: str, now: int) -> None:
    """Before a run reads them, and after: what is due is written, what is new is kept."""
    settle(tx, home, now)
    for name in (GLOBAL, folder):
        take(tx, home, name, now)


def settle(tx: Tx, home: Home, now: int) -> None:
    """Write what is still to be written. What is found there first is kept."""
    for change in memory.unwritten(tx):
        try:
            _write(tx, home, change, now)
        except (UnsafePath, OSError) as e:
            _tell(tx, f"groups/{change.folder}/{MEMORY_FILE} could not be changed: {e}", now)
        memory.written(tx, change.id)


def _write(tx: Tx, home: Home, change: Unwritten, now: int) -> None:
    """The file, then its version. Raises UnsafePath, OSError."""
    found = _now(home, change.folder)
    if found is None and not change.whole:
        raise UnsafePath(f"it is no file of at most {MAX_MEMORY >> 10} KiB that I can read")
    text = change.text if change.whole else _joined(found or b"", change.text)
    if len(text) > MAX_MEMORY:
        raise UnsafePath("there is no room for more")
    if text != found:  # else it is there already: the host died between the file and the row
        take(tx, home, change.folder, now)
        if old := write_memory(home, change.folder, text, f"{MEMORY_FILE}.{now}"):
            memory.found(tx, change.folder, old, now)  # somebody was at it at the same moment
    if text and (text != found or text != memory.newest(tx, change.folder)):
        memory.keep(tx, change.folder, text, now, who=change.who, of=change.of)


def _tell(tx: Tx, text: str, now: int) -> None:
    if (main := chats.main_chat(tx)) is not None:
        outgoing.queue(tx, main.id, text, OutKind.NOTICE, now)


def _joined(text: bytes, more: bytes) -> bytes:
    before = text.rstrip(b"\n") + b"\n" if text.strip() else b""
    return text if (b"\n" + before).endswith(b"\n" + more) else before + more


def _now(home: Home, folder: str) -> bytes | None:
    """None for what is no memory: a link, say, or a file that is too large."""
    try:
        return memory_text(home, folder)
    except (UnsafePath, OSError):
        return None


# --- small things --------------------------------------------------------------------------------


def _meant(kept: Sequence[Version], now: bytes, where: str) -> Version:
    """The version that these words name. Raises Refused."""
    where = where.strip() or "1"
    digits = where.removeprefix("#")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise Refused(f"say how many versions back (1 to {KEPT}), or which one, as in #7")
    if where.startswith("#"):
        found = [v for v in kept if v.n == int(digits)]
    else:
        found = _before(kept, now)[max(int(digits), 1) - 1 :]
    if not found:
        numbers = f": #{kept[-1].n} to #{kept[0].n} are" if kept else ": none is"
        raise Refused(f"there is no such version{numbers} kept")
    return found[0]


def _before(kept: Sequence[Version], now: bytes) -> list[Version]:
    """What stood there before, newest first: an undo goes on from the version that the last one brought back."""
    at = kept[0].origin if kept and kept[0].text == now else 2**62
    return [v for v in kept if v.n < at and v.text != now]


def _compared(then: list[str], now: list[str]) -> list[str]:
    """A unified diff; bounded, because lines can be many and comparing them costs their product."""
    same = next((n for n, (a, b) in enumerate(zip(then, now, strict=False)) if a != b), min(len(then), len(now)))
    begin = max(same - 3, 0)
    then, now = then[begin:], now[begin:]
    lines = list(unified_diff(then[:_COMPARED], now[:_COMPARED], lineterm="", n=2))[2:]
    more = ["[more lines are not compared]"] if max(len(then), len(now)) > _COMPARED else []
    return [line for line in lines if not line.startswith("@@")] + more


def _text(text: bytes) -> str:
    return plain(text.decode("utf-8", "replace"))


def _time(at: int, zone: str) -> str:
    return datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")
