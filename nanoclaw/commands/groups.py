"""Groups: which there are, and what their agents may."""

from nanoclaw.commands.base import Answered, Asked, Misused, names_groups
from nanoclaw.control import groups, mounts
from nanoclaw.control.settings import DEFAULT
from nanoclaw.errors import Refused
from nanoclaw.models import Group
from nanoclaw.store import Tx

MAX_LISTED = 20  # chats on one screen of a phone


def listed(tx: Tx, asked: Asked) -> Answered:
    """Every chat that was seen, newest first; of one that is named all that is set."""
    if asked.args:
        group = named(tx, asked, asked.args)
        return Answered("\n".join(groups.describe(tx, group, asked.zone)))
    seen = groups.seen(tx)
    lines = [f"{c.number}. {groups.summary(c, asked.zone)}" for c in seen[:MAX_LISTED]]
    if more := len(seen) - MAX_LISTED:
        lines += [f"… and {more} more: nanoclaw groups chats"] * (more > 0)
    return Answered("\n".join([*lines, "/groups add NUMBER serves one of them; more: nanoclaw groups --help"]))


def add(tx: Tx, asked: Asked) -> Answered:
    """Serve a chat of the list."""
    if len(asked.args) not in (1, 2) or not asked.args[0].isdecimal():
        raise Misused
    folder = asked.args[1] if len(asked.args) == 2 else None
    group = groups.add(tx, int(asked.args[0]), folder, asked.by, asked.now)
    told = f"Served as {group.folder}; who may call me there: {group.who}."
    return Answered(f"{told} Change that: nanoclaw groups set {group.folder} who=…", changed=True)


def pause(tx: Tx, asked: Asked) -> Answered:
    """What is said there is only context."""
    group = groups.pause(tx, named(tx, asked, asked.args), asked.by, asked.now)
    return Answered(f"Paused: in {group.folder} I only read along until /resume.", changed=True)


def resume(tx: Tx, asked: Asked) -> Answered:
    """It is served again."""
    group = groups.resume(tx, named(tx, asked, asked.args), asked.by, asked.now)
    return Answered(f"I answer in {group.folder} again.", changed=True)


def model(tx: Tx, asked: Asked) -> Answered:
    """Which one answers, or another one from the next message on."""
    group, words = _split(tx, asked)
    if not words:
        default = "" if group.model else ", the default"
        return Answered(f"{group.folder} is answered by {group.model or asked.house.model}{default}.")
    if len(words) > 1:
        raise Misused
    if words[0].isalpha() and words[0].lower() != DEFAULT:  # a group's name with a slip in it, rather
        raise Refused(f"there is no group or model named {words[0][:40]!r}")
    group = groups.change(tx, group, {"model": words[0]}, asked.by, asked.now)
    return Answered(
        f"From the next message on {group.model or asked.house.model} answers in {group.folder}.", changed=True
    )


def seen_folders(tx: Tx, asked: Asked) -> Answered:
    """The folders of this machine that its agent sees."""
    return Answered(mounts.listed_text(tx, named(tx, asked, asked.args)))


def named(tx: Tx, asked: Asked, words: tuple[str, ...]) -> Group:
    """The group that these words name, or the chat's own where there are none. Raises Misused, Refused."""
    if not words:
        return asked.group
    if not names_groups(asked.role, asked.group):
        raise Misused
    return groups.find(tx, " ".join(words))


def _split(tx: Tx, asked: Asked) -> tuple[Group, tuple[str, ...]]:
    """The group that the first words name (all but the last, or all), and what is left for the command."""
    if not names_groups(asked.role, asked.group):
        return asked.group, asked.args
    for count in (len(asked.args), len(asked.args) - 1):
        if count > 0:
            try:
                return groups.find(tx, " ".join(asked.args[:count])), asked.args[count:]
            except Refused:
                if count == len(asked.args) - 1:
                    raise
    return asked.group, asked.args
