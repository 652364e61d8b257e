"""How far a group's agent reaches."""

from nanoclaw.commands.base import Answered, Asked, Misused
from nanoclaw.commands.groups import named
from nanoclaw.control import network
from nanoclaw.gateway import Level
from nanoclaw.models import Group
from nanoclaw.store import Tx

HOUR_MS = 3_600_000


def show(tx: Tx, asked: Asked) -> Answered:
    """Its level, its hosts, and what it was refused."""
    return Answered(network.listed_text(tx, named(tx, asked, asked.args), asked.now, asked.zone))


def allow(tx: Tx, asked: Asked) -> Answered:
    """One more host."""
    group, host = _with_host(tx, asked)
    host = network.allow_host(tx, group, host, asked.by, asked.now)
    return _told(tx, asked, group, f"{host} is on the list of {group.folder}")


def deny(tx: Tx, asked: Asked) -> Answered:
    """One host less."""
    group, host = _with_host(tx, asked)
    host = network.deny_host(tx, group, host, asked.by, asked.now)
    return _told(tx, asked, group, f"{host} is off the list of {group.folder}")


def public(tx: Tx, asked: Asked) -> Answered:
    """Everything public, for an hour."""
    group = named(tx, asked, asked.args)
    network.set_level(tx, group, Level.PUBLIC, asked.by, asked.now, asked.now + HOUR_MS)
    return Answered(f"For an hour {group.folder} may connect to every public host.", changed=True)


def none(tx: Tx, asked: Asked) -> Answered:
    """Nothing; its list of hosts stays."""
    group = named(tx, asked, asked.args)
    network.set_level(tx, group, Level.NONE, asked.by, asked.now)
    return Answered(f"{group.folder} may connect to nothing.", changed=True)


def _told(tx: Tx, asked: Asked, group: Group, what: str) -> Answered:
    """What was done, and what that means as long as more is open, or less."""
    return Answered(f"{what}: {network.in_force(tx, group, asked.now, asked.zone)}", changed=True)


def _with_host(tx: Tx, asked: Asked) -> tuple[Group, str]:
    if not asked.args:
        raise Misused
    return named(tx, asked, asked.args[:-1]), asked.args[-1]
