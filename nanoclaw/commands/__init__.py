"""Chat's /words -> control, answered by the host without a token."""

from collections.abc import Callable
from dataclasses import dataclass

from nanoclaw import control
from nanoclaw.models import Chat, Group, Role
from nanoclaw.store import Tx


@dataclass(frozen=True)
class Asked:
    """A command, and where it was asked."""

    group: Group
    role: Role
    now: int
    chat: Chat
    age_ms: int = 0  # since it was typed


@dataclass(frozen=True)
class Answered:
    """The command's reply, and what the living process has to do when it is on the disk."""

    text: str
    stop: str = ""  # the turn to interrupt
    retire: bool = False  # the lane's run ends when it is idle
    forget: bool = False  # files are to go


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
    word = " ".join(text.lower().split()).removeprefix("/")
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


def _forget(tx: Tx, asked: Asked) -> Answered:
    return _unless_shared(asked) or Answered(control.forgettable(tx, asked.chat.id))


def _forget_since(since: Callable[[int], int]) -> Callable[[Tx, Asked], Answered]:
    def forget(tx: Tx, asked: Asked) -> Answered:
        if refused := _unless_shared(asked):
            return refused
        alive = control.forget(tx, asked.chat.id, asked.group.lane, since(asked.now), asked.now)
        return Answered("Forgotten. The next message starts a new conversation.", retire=alive, forget=True)

    return forget


def _unless_shared(asked: Asked) -> Answered | None:
    """What is said in a group belongs to all of it; a direct chat to the person there."""
    if asked.role is Role.OWNER or not asked.chat.is_group:
        return None
    return Answered("Only my owner can make me forget what was said in a group.")


_PEOPLE = frozenset({Role.OWNER, Role.ALLOWED})
COMMANDS: dict[str, Command] = {
    "help": Command("what I understand", _PEOPLE, _help),
    "status": Command("what I am doing", _PEOPLE, _status),
    "stop": Command("stop what I am doing", _PEOPLE, _stop, touches=True),
    "new": Command("start a new conversation", _PEOPLE, _new, touches=True),
    "forget": Command("what I keep of this chat, and how to have it removed", _PEOPLE, _forget),
    "forget today": Command(
        "remove what was said here in 24 hours", _PEOPLE, _forget_since(lambda now: now - 86_400_000), touches=True
    ),
    "forget all": Command("remove all that was said here", _PEOPLE, _forget_since(lambda now: 0), touches=True),
}
