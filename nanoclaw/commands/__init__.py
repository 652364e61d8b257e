"""Chat's /words -> control, answered by the host without a token."""

import unicodedata
from dataclasses import dataclass, replace

from nanoclaw.commands.base import Answered, Asked, Command, House, May, Misused
from nanoclaw.commands.words import COMMANDS as _ABOUT
from nanoclaw.errors import Refused
from nanoclaw.models import Group, GroupState, Role
from nanoclaw.prompts import plain
from nanoclaw.store import Tx, attempt, messages, people

LATE_MS = 60_000  # a command that is older is not about what runs now
MAX_HELP = 5  # times an hour that the guests of a chat are told what they may use
_HOUR_MS = 3_600_000
_LONGEST = 2000  # characters of a message in which a command is looked for


@dataclass(frozen=True)
class Found:
    """The command that a text is, and what follows it."""

    word: str
    args: tuple[str, ...] = ()


def find(text: str) -> Found | None:
    """Case and spaces are forgiven, and so are the full-width letters of some keyboards; `/stopx` is text."""
    said = plain(text[:_LONGEST]).split()
    words = [unicodedata.normalize("NFKC", word).lower() for word in said]
    if not words or not words[0].startswith("/"):
        return None
    words[0] = words[0][1:]
    for count in (2, 1):
        if len(words) >= count and (word := " ".join(words[:count])) in COMMANDS:
            return Found(word, tuple(said[count:]))
    return None


def run(tx: Tx, found: Found, asked: Asked) -> Answered | None:
    """Do it in the caller's transaction; None for a person who may not."""
    command = COMMANDS[found.word]
    may = command.may.get(asked.role)
    if may is None or not _is_heard(tx, asked):
        return None
    asked = replace(asked, args=found.args)
    if refusal := _elsewhere(found.word, may, asked) or _late(found.word, command, asked):
        return Answered(refusal)
    usage = command.usage(found.word, asked.role, asked.group)
    try:
        if asked.args and " " not in usage.removeprefix(f"/{found.word}"):
            raise Misused
        with attempt(tx):
            return command.run(tx, asked)
    except Misused:
        return Answered(f"Write it as: {usage}")
    except Refused as e:
        return Answered(_sentence(str(e)))


def _is_heard(tx: Tx, asked: Asked) -> bool:
    """Who may not call the agent there does not command it either."""
    if asked.role is Role.OWNER:
        return True
    may = people.may_call(tx, asked.group, asked.chat.id, asked.person_id, asked.role)
    return may and asked.group.state is not GroupState.PAUSED


def is_owners(found: Found) -> bool:
    """Whether it takes the owner's own word."""
    return COMMANDS[found.word].may.keys() == {Role.OWNER}


def _elsewhere(word: str, may: May, asked: Asked) -> str:
    if may is May.MAIN and not asked.group.is_main:
        return f"/{word} works in your own chat with me alone."
    if may is May.DIRECT and asked.chat.is_group:  # what is said in a group belongs to all of it
        return "Only my owner can do that in a group."
    return ""


def _late(word: str, command: Command, asked: Asked) -> str:
    if not command.touches or asked.age_ms <= LATE_MS:
        return ""
    ago = f"{asked.age_ms // 60_000} minute(s) ago"
    return f"/{word} was sent {ago} and comes late, so I left it; send it again if you still want it."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def _help(tx: Tx, asked: Asked) -> Answered:
    """Each person is shown what they may use there."""
    if asked.role is Role.GUEST:
        since = asked.now - _HOUR_MS
        if messages.guests_commands_since(tx, asked.chat.id, since) > MAX_HELP:
            return Answered("")
    return Answered("\n".join(lines(asked.role, asked.group, is_group=asked.chat.is_group)))


def lines(role: Role, group: Group, *, is_group: bool) -> list[str]:
    """A line for each command that this person may use in such a chat."""
    shown = []
    for word, command in COMMANDS.items():
        may = command.may.get(role)
        if may is None or (may is May.MAIN and not group.is_main) or (may is May.DIRECT and is_group):
            continue
        of = f" ({may})" if may is May.OWN else ""
        shown.append(f"{command.usage(word, role, group)}: {command.help}{of}")
    return shown


def table() -> str:
    """Every command and role, as Markdown."""
    rows = ["| | what it does | owner | allowed | guest |", "|---|---|---|---|---|"]
    main = Group(0, "main", "", is_main=True)
    for word, command in COMMANDS.items():
        cells = [str(command.may.get(role, "silence")) for role in (Role.OWNER, Role.ALLOWED, Role.GUEST)]
        rows.append(f"| `{command.usage(word, Role.OWNER, main)}` | {command.help} | {' | '.join(cells)} |")
    return "\n".join(rows)


_EVERYBODY = dict.fromkeys(Role, May.YES)
COMMANDS: dict[str, Command] = {"help": Command("what I understand", _EVERYBODY, _help), **_ABOUT}

__all__ = ["COMMANDS", "LATE_MS", "Answered", "Asked", "Found", "House", "find", "is_owners", "run", "table"]
