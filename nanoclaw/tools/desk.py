"""What the tools share: who asks (the turn, whose authority counts), and the hands that they may use."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from nanoclaw.config.leak import Leaks
from nanoclaw.errors import Refused
from nanoclaw.groups import Home
from nanoclaw.models import Authority, By, Group, Turn, TurnState
from nanoclaw.outbox import Outbox
from nanoclaw.store import Store, Tx, chats, turns
from nanoclaw.store.runs import Call


class Answers:
    """Rung when somebody has answered a question; a hint, the rows say which."""

    def __init__(self) -> None:
        self._bell = asyncio.Event()

    def ring(self) -> None:
        """Whoever waits looks."""
        self._bell.set()
        self._bell = asyncio.Event()

    async def wait(self, limit: float) -> None:
        """Until it is rung, or `limit` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._bell.wait()


@dataclass(frozen=True)
class Kit:
    """What only the living process has."""

    store: Store
    outbox: Outbox
    home: Home
    clock: Callable[[], int]
    zone: Callable[[], str]  # of groups that name none
    new_nonce: Callable[[], str]
    bring_up: Callable[[Group], Awaitable[str]]  # the index of its files; what of them is not searched
    rest: Callable[[str], None]  # a run only waits for somebody's word: another lane may have its slot meanwhile
    rise: Callable[[str], Awaitable[None]]  # it goes on, as soon as there is a slot for it again
    answers: Answers
    reschedule: Callable[[], None]  # tasks may be due at another time
    leaks: Leaks = field(default_factory=Leaks)  # in files for people
    copying: Mapping[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))  # by group


@dataclass(frozen=True)
class Asked:
    """One call, and the turn whose authority it has."""

    call: Call
    turn: Turn
    group: Group
    zone: str
    nonce: str
    now: int

    @property
    def commands_all(self) -> bool:
        """Whether it may ask for what reaches beyond its own chat: in main, where the owner alone speaks."""
        return self.group.is_main and self.turn.authority is Authority.OWNER

    @property
    def by(self) -> By:
        """For the record; what an agent asks nobody has typed."""
        return By(f"agent of {self.group.folder}", typed=False)


def asked(tx: Tx, call: Call, zone: str, nonce: str, now: int) -> Asked:
    """The call with its turn; `zone` is that of groups that name none. Raises Refused when the turn has ended."""
    turn = running(tx, call)
    group = chats.group(tx, turn.group_id)
    return Asked(call, turn, group, group.zone or zone, nonce, now)


def running(tx: Tx, call: Call) -> Turn:
    """The call's turn. Raises Refused when it has ended."""
    turn = turns.get(tx, call.turn_id)
    if turn is None or turn.run_id != call.run_id or turn.state is not TurnState.GIVEN:
        raise Refused("this turn has ended")
    return turn
