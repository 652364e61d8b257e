"""Chat's /words -> control, answered by the host without a token."""

from collections.abc import Callable
from dataclasses import dataclass

from nanoclaw import control
from nanoclaw.models import Group, Role
from nanoclaw.store import Tx


@dataclass(frozen=True)
class Asked:
    """A command, and where it was asked."""

    group: Group
    role: Role
    now: int
    age_ms: int = 0  # since it was typed


@dataclass(frozen=True)
class Answered:
    """The command's reply, and what the living process has to do when it is on the disk."""

    text: str
    stop: str = ""  # the turn to interrupt
    retire: bool = False  # the lane's run ends when it is idle


@dataclass(frozen=True)
class Command:
    """One /word. Who may not use it gets silence."""

    help: str
    roles: frozenset[Role]
    run: Callable[[Tx, Asked], Answered]
    touches: bool = False  # what runs at this moment: not when it comes late


LATE_MS = 60_000  # a command that is older is not about what runs now


def find(text: str) -> str:
    """The command's word if the text is one: case and spaces are forgiven, `/stopx` is text; else ""."""
    word = text.strip().lower().removeprefix("/")
    return word if text.strip().startswith("/") and word in COMMANDS else ""


def run(tx: Tx, word: str, asked: Asked) -> Answered | None:
    """Do it in the caller's transaction; None for a person who may not."""
    command = COMMANDS[word]
    if asked.role not in command.roles:
        return None
    if command.touches and asked.age_ms > LATE_MS:
        ago = f"{asked.age_ms // 60_000} minute(s) ago"
        return Answered(f"/{word} was sent {ago} and comes late, so I left it; send it again if you still want it.")
    return command.run(tx, asked)


def _help(tx: Tx, asked: Asked) -> Answered:
    lines = [f"/{word}: {c.help}" for word, c in COMMANDS.items() if asked.role in c.roles]
    return Answered("\n".join(lines))


def _status(tx: Tx, asked: Asked) -> Answered:
    return Answered(control.lane_status(tx, asked.group.lane, detailed=asked.group.is_main))


def _stop(tx: Tx, asked: Asked) -> Answered:
    stopped = control.stop(tx, asked.group.lane, asked.now)
    if stopped.turn_id:
        return Answered("Stopped.", stop=stopped.turn_id)
    return Answered("Stopped." if stopped.waiting else "Nothing is running.")


def _new(tx: Tx, asked: Asked) -> Answered:
    alive = control.fresh_session(tx, asked.group.lane)
    return Answered("The next message starts a new conversation; what I noted down stays.", retire=alive)


_PEOPLE = frozenset({Role.OWNER, Role.ALLOWED})
COMMANDS: dict[str, Command] = {
    "help": Command("what I understand", _PEOPLE, _help),
    "status": Command("what I am doing", _PEOPLE, _status),
    "stop": Command("stop what I am doing", _PEOPLE, _stop, touches=True),
    "new": Command("start a new conversation", _PEOPLE, _new, touches=True),
}
