"""What a command is, where it was asked, and what it answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from nanoclaw.control.usage import Most
from nanoclaw.groups import Home
from nanoclaw.meter.standin import StandIn
from nanoclaw.models import By, Chat, Group, Role
from nanoclaw.store import Tx


@dataclass(frozen=True)
class House:
    """What commands need to know that is no row: settings, and what the living process alone knows."""

    home: Home = field(default_factory=lambda: Home(Path(), Path()))
    zone: str = "UTC"
    model: str = ""
    most: Most = field(default_factory=Most)
    lives_on: bool = False  # whether a /restart is followed by another life
    connections: Callable[[], str] = lambda: ""  # the channels' states, in words
    doing: Callable[[str], str] = lambda turn_id: ""  # the tool that this turn uses now
    wrong: Callable[[], list[str]] = list  # what the watch has found
    stand_in: Callable[[int], StandIn | None] = lambda group_id: None  # for the group's own model


@dataclass(frozen=True)
class Asked:
    """A command, and where it was asked."""

    group: Group
    role: Role
    now: int
    chat: Chat
    age_ms: int = 0  # since it was typed
    person_id: int = 0
    args: tuple[str, ...] = ()
    house: House = field(default_factory=House)

    @property
    def by(self) -> By:
        """For the record: never a name."""
        return By("owner") if self.role is Role.OWNER else By(f"person {self.person_id}", typed=False)

    @property
    def zone(self) -> str:
        """Of the group, else of the house."""
        return self.group.zone or self.house.zone


@dataclass(frozen=True)
class Answered:
    """The command's reply, and what the living process has to do when it is on the disk."""

    text: str
    stop: str = ""  # the turn to interrupt
    lane: str = ""  # its lane
    retire: bool = False  # the lane's run ends when it is idle
    forget: bool = False  # files are to go
    changed: bool = False  # rows that it goes by: it looks at them again
    restart: bool = False
    answer: bool = False  # no command: an agent's question has its answer


class Misused(Exception):
    """The arguments make no sense: the usage line answers."""


class May(StrEnum):
    """Where, or of what, a role may use a command; who may not at all gets silence."""

    YES = "yes"
    MAIN = "in main"
    DIRECT = "in their own chat"
    OWN = "of their own turn"


Run = Callable[[Tx, Asked], Answered]


@dataclass(frozen=True)
class Command:
    """One /word, or two that belong together."""

    help: str
    may: Mapping[Role, May]
    run: Run
    takes: str = ""  # its arguments, as the usage line says them
    of_group: bool = False  # in main the owner may name a group; else it is about the chat's own
    touches: bool = False  # what runs at this moment: not when it comes late

    def usage(self, word: str, role: Role, group: Group) -> str:
        """How it is written by this person there."""
        names = self.of_group and names_groups(role, group)
        return " ".join(filter(None, (f"/{word}", "[GROUP]" if names else "", self.takes)))


def names_groups(role: Role, group: Group) -> bool:
    """In main the owner may speak of any group; elsewhere a command is about that group."""
    return role is Role.OWNER and group.is_main
