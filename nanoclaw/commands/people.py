"""People: who may call the assistant."""

from nanoclaw.commands.base import Answered, Asked, Misused
from nanoclaw.control import people
from nanoclaw.models import Role
from nanoclaw.store import Tx

MAX_LISTED = 30  # people on one screen of a phone


def allow(tx: Tx, asked: Asked) -> Answered:
    """They may call; alone: who may."""
    if not asked.args:
        return Answered(_listed(tx))
    person = people.allow(tx, " ".join(asked.args), asked.by, asked.now)
    return Answered(f"{people.called(person)} is allowed.{people.resting(tx, person)}", changed=True)


def deny(tx: Tx, asked: Asked) -> Answered:
    """What they say is context at most."""
    if not asked.args:
        raise Misused
    person = people.deny(tx, " ".join(asked.args), asked.by, asked.now)
    told = f"{people.called(person)} is denied: I only read along what they say.{people.resting(tx, person)}"
    return Answered(told, changed=True)


def _listed(tx: Tx) -> str:
    known = [p for p in people.listed(tx) if p.role is not Role.GUEST or p.denied]
    lines = [people.summary(p) for p in known[:MAX_LISTED]]
    lines += [f"… and {len(known) - MAX_LISTED} more: nanoclaw people list"] * (len(known) > MAX_LISTED)
    return "\n".join([*lines, "/allow +49… allows somebody; more: nanoclaw people --help"])
