"""One run: what the store knows of it, what only the process knows, and its first and last rows."""

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

from nanoclaw import notices
from nanoclaw.errors import Cause, NanoClawError
from nanoclaw.mailbox import LetterError, OutboxReader, Prompt, ToHost, decode_to_host
from nanoclaw.models import Authority, Chat, Group, RunRow, RunState, Turn, TurnState, is_of_task
from nanoclaw.sandbox import Death, Exit
from nanoclaw.store import Tx, runs, turns


class RunGone(NanoClawError):
    """The run takes no more turns: the turn is still open and goes to the next run."""


@dataclass
class Run:
    """A living run: what the store knows of it, and what only the process knows."""

    row: RunRow
    group: Group
    reader: OutboxReader
    turns: list[Turn]  # given and not ended, oldest first
    stopping: dict[str, asyncio.Event] = field(default_factory=dict)
    delivered: int = 0  # number of the last letter whose file is there
    bad: int = 0
    closing: bool = field(init=False)
    spoiled: str = ""  # its session, when the model's API refuses it
    end: tuple[Cause, str] | None = None  # why we ended it ourselves
    heard: bool = False  # the agent has said something
    greeted: bool = field(init=False)  # it has said Hello, so it speaks our protocol
    gone: bool = False  # its container has ended; letters may still be unread
    patience: float = 0.0  # seconds by which a turn may be silent longer: a tool was given so long
    last_alive: float = 0.0  # loop time, as the next four
    last_sign: float = 0.0  # of progress within a turn
    busy_since: float = 0.0
    idle_since: float = 0.0
    measured: float = 0.0  # when the disk that it uses was looked at
    chats: dict[int, Chat] = field(default_factory=dict)  # where it is shown; read once
    looks: tuple[str, ...] = ()  # folders beside its group's own that are looked through for it until it is started
    started: asyncio.Event = field(default_factory=asyncio.Event)  # it has its container, or never will
    covered: tuple[tuple[Path, tuple[int, int]], ...] | None = None  # what is hidden in them: path, device and inode
    died: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.greeted = self.row.state is not RunState.STARTING
        # Adopted after /new; or a task's, which has one turn and ends with it.
        self.closing = self.row.state is RunState.CLOSING or is_of_task(self.row.lane)

    @property
    def free(self) -> bool:
        """Whether it could take any turn of its lane."""
        return not self.turns and not self.stopping and not self.closing

    def outlived(self, now: int) -> bool:
        """Whether it is older than its group's runs may get; it ends when it is idle."""
        limit = self.group.limits.run_timeout
        return bool(limit) and not self.closing and now - self.row.started_at > limit * 1000

    def takes(self, authority: Authority, chat_id: int) -> bool:
        """Whether a follow-up of this authority from this chat may join the running turn."""
        running = bool(self.turns) and not self.stopping and not self.closing
        return running and all(authority.rank >= t.authority.rank and t.chat_id == chat_id for t in self.turns)


def decoded(line: bytes) -> ToHost | None:
    """The letter, or None for what is none."""
    try:
        return decode_to_host(line)
    except LetterError:
        return None


def begin(tx: Tx, row: RunRow, model: str, turn: Turn, now: int, fallback: str = "") -> RunRow:
    """A starting run of the lane's session, with its first turn."""
    session = turns.session(tx, row.lane)
    row = replace(row, session=session)
    runs.insert(tx, row, model, fallback)
    _given(tx, row.id, turn, now)
    return row


def give(tx: Tx, run_id: str, turn: Turn, now: int) -> Turn:
    """One more turn for a run. Raises RunGone when either is not what it was."""
    row = runs.get(tx, run_id)
    if row is None or row.state not in (RunState.STARTING, RunState.ALIVE):
        raise RunGone("the run has ended")
    return _given(tx, run_id, turn, now)


def _given(tx: Tx, run_id: str, turn: Turn, now: int) -> Turn:
    fresh = turns.get(tx, turn.id)
    if fresh is None or fresh.state is not TurnState.OPEN:
        raise RunGone("the turn is not open any more")
    turns.give(tx, turn.id, run_id, now)
    runs.add_letter(tx, run_id, Prompt.kind, turn.id)
    return replace(fresh, state=TurnState.GIVEN, run_id=run_id)


def obituary(end: Exit, memory_mb: int) -> str:
    """What is told of a container's end."""
    if end.death is Death.MEMORY:
        return f"the container went over its {memory_mb} MB of memory"
    words = {Death.KILLED: "the container was killed", Death.REMOVED: "somebody removed the container"}
    return words.get(end.death, f"the container ended with code {end.code}{_last(end.log)}")


def _last(log: str) -> str:
    """What the container printed last; an agent may have written it, so it is quoted."""
    return f"; it printed last: «{notices.unquoted(log[-200:])}»" if log.strip() else ""
