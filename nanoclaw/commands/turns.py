"""What runs, and the conversation that it belongs to."""

from collections.abc import Callable

from nanoclaw.commands.base import Answered, Asked, Run
from nanoclaw.control import lanes
from nanoclaw.models import Role
from nanoclaw.store import Tx

DAY_MS = 86_400_000


def status(tx: Tx, asked: Asked) -> Answered:
    """Connection, turn and what it does now, queue, use of today."""
    house = asked.house
    return Answered(lanes.status(tx, asked.group, house.connections(), house.doing, asked.zone, asked.now))


def stop(tx: Tx, asked: Asked) -> Answered:
    """A guest stops what is theirs alone, and hears nothing where it is not."""
    only = asked.person_id if asked.role is Role.GUEST else None
    stopped = lanes.stop(tx, asked.group, asked.by, asked.now, only=only)
    if stopped.turn_id:
        return Answered("Stopped.", stop=stopped.turn_id, lane=stopped.lane)
    if stopped.waiting:
        return Answered("Stopped.")
    return Answered("Nothing is running." if only is None else "")


def new(tx: Tx, asked: Asked) -> Answered:
    """A fresh session; memory stays."""
    alive = lanes.fresh_session(tx, asked.group.lane, asked.by, asked.now)
    return Answered("The next message starts a new conversation; what I noted down stays.", retire=alive)


def forget(tx: Tx, asked: Asked) -> Answered:
    """What could be forgotten, and how."""
    return Answered(lanes.forgettable(tx, asked.chat.id))


def forget_since(since: Callable[[int], int]) -> Run:
    """Forget what was said in this chat since then."""

    def run(tx: Tx, asked: Asked) -> Answered:
        alive = lanes.forget(tx, asked.chat.id, asked.group.lane, since(asked.now), asked.by, asked.now)
        return Answered("Forgotten. The next message starts a new conversation.", retire=alive, forget=True)

    return run
