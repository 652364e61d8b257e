"""What runs, and the conversation that it belongs to."""

from collections.abc import Callable

from nanoclaw.commands.base import Answered, Asked, Run
from nanoclaw.control import lanes, tasks
from nanoclaw.models import Role
from nanoclaw.store import Tx

DAY_MS = 86_400_000


def status(tx: Tx, asked: Asked) -> Answered:
    """Connection, turn and what it does now, queue, the model that answers for another one, use of today."""
    house = asked.house
    first = house.connections(), *map(lanes.standing_in, filter(None, [house.stand_in(asked.group.id)]))
    first += tuple(house.wrong()) if asked.group.is_main else ()
    lines = "\n".join(filter(None, first))
    return Answered(lanes.status(tx, asked.group, lines, house.doing, asked.zone, asked.now))


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
    return Answered(lanes.forgettable(tx, asked.chat.id) + _tasks(tx, asked))


def forget_since(since: Callable[[int], int]) -> Run:
    """Forget what was said in this chat since then."""

    def run(tx: Tx, asked: Asked) -> Answered:
        alive = lanes.forget(tx, asked.chat.id, asked.group.lane, since(asked.now), asked.by, asked.now)
        told = "Forgotten. The next message starts a new conversation." + _tasks(tx, asked)
        return Answered(told, retire=alive, forget=True)

    return run


def _tasks(tx: Tx, asked: Asked) -> str:
    return tasks.stay(tx, asked.group, asked.chat.id, owner=asked.role is Role.OWNER)
