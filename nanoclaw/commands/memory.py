"""What the agent keeps in its CLAUDE.md: look at it, take it back."""

from nanoclaw.commands.base import Answered, Asked
from nanoclaw.commands.groups import named
from nanoclaw.control import memory
from nanoclaw.store import Tx


def show(tx: Tx, asked: Asked) -> Answered:
    """As it is."""
    group = named(tx, asked, asked.args)
    return Answered(memory.for_chat(memory.show(tx, asked.house.home, group.folder), "show"))


def diff(tx: Tx, asked: Asked) -> Answered:
    """What changed since the version before, or one further back."""
    words, where = _where(asked)
    group = named(tx, asked, words)
    return Answered(memory.for_chat(memory.diff(tx, asked.house.home, group.folder, where), "diff"))


def undo(tx: Tx, asked: Asked) -> Answered:
    """Bring that version back."""
    words, where = _where(asked)
    group = named(tx, asked, words)
    return Answered(memory.undo(tx, asked.house.home, group.folder, where, asked.by, asked.now), changed=True)


def reset(tx: Tx, asked: Asked) -> Answered:
    """Begin with an empty one; the versions stay."""
    group = named(tx, asked, asked.args)
    return Answered(memory.reset(tx, asked.house.home, group.folder, asked.by, asked.now), changed=True)


def _where(asked: Asked) -> tuple[tuple[str, ...], str]:
    """The words that name a group, and the version that is meant: the last word, where it is a number."""
    if asked.args and asked.args[-1].removeprefix("#").isdecimal():
        return asked.args[:-1], asked.args[-1]
    return asked.args, ""
