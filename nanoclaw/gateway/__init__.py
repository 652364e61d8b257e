"""The sandbox's only way out. The core knows it by these Protocols alone."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from nanoclaw.gateway.hosts import MAX_PATTERNS, check_pattern
from nanoclaw.models import Usage


class CredentialKind(StrEnum):
    """The kind decides the header, the CLI's defaults and the sandbox's placeholder."""

    API_KEY = "api_key"  # ANTHROPIC_API_KEY
    OAUTH = "oauth"  # CLAUDE_CODE_OAUTH_TOKEN


@dataclass(frozen=True)
class Credential:
    """The secret itself. Never printed: its repr hides it."""

    kind: CredentialKind
    secret: str

    def __repr__(self) -> str:
        return f"Credential({self.kind}, ...)"


class Level(StrEnum):
    """How far a group reaches out of its sandbox."""

    NONE = "none"  # nowhere, whatever its list says
    ALLOWLIST = "allowlist"  # the hosts of its list
    PUBLIC = "public"  # those, and every other host by https


@dataclass(frozen=True)
class Reach:
    """Where one run may connect to at this moment."""

    group: str  # its folder, for the log
    level: Level
    hosts: tuple[str, ...] = ()  # patterns in their kept form
    bytes_left: int = 0  # of its group's day, both ways


class Border(Protocol):
    """What the way out asks of the house, and tells it."""

    async def reach(self, run_id: str) -> Reach:
        """As it is now: asked for each connection, and again while one is open."""

    def refused(self, run_id: str, host: str, port: int) -> None:
        """A host was wanted that the owner could allow. Never raises, never blocks, as the next one."""

    def carried(self, run_id: str, count: int) -> None:
        """So many bytes went in and out."""


BYTES_PER_TOKEN = 4  # of a request's text
FEWEST_BYTES = 3  # of a token, as far as a limit depends on the guess
PIECE = 16 << 10  # bytes of a request's text between two marks


@dataclass(frozen=True)
class Ask:
    """What a request may use, before anybody knows."""

    model: str
    input: int  # tokens, guessed by its length
    output: int  # tokens that it allows itself
    least: int = 1  # tokens of output below which it is not worth asking
    marks: tuple[bytes, ...] = ()  # of its text's pieces, each with all before it: equal ones begin equally
    unmarked: int = 0  # bytes behind the last mark
    hour: bool = False  # it asks the provider to keep the prompt for an hour, which is dearer

    def besides(self, marks: tuple[bytes, ...], tokens: int) -> tuple[int, int]:
        """The tokens that it has in common with a request of these marks, which took so many; and those besides, rather
        too many than too few."""
        same = sum(1 for one, other in zip(self.marks, marks, strict=False) if one == other)
        if not same:
            return 0, self.input * BYTES_PER_TOKEN // FEWEST_BYTES
        common = tokens if same == len(marks) else min(tokens, same * PIECE // BYTES_PER_TOKEN)
        new = ((len(self.marks) - same) * PIECE + self.unmarked) // FEWEST_BYTES
        return common, max(new, self.input - common)


class Meter(Protocol):
    """What a run may still use, and what it used. Nothing here blocks."""

    def refusal(self, run_id: str) -> str:
        """Why this run may not ask now, in one sentence for people; "" when it may."""

    def affords(self, run_id: str, ask: Ask) -> int:
        """The tokens of output that the limits leave it, at most what it asks for. Raises Refused."""

    def reserve(self, run_id: str, ask: Ask) -> int:
        """Hold what the request may cost, so that those beside it do not spend it too; a number for `settle`.

        Raises Refused with a sentence for people.
        """

    def settle(self, held: int, usage: Usage | None, *, overloaded: bool = False) -> None:
        """Give back what was held and count what was used (also of an answer that broke off); None for nothing.

        `overloaded`: the API said that this model is, so the CLI asks the next one.
        """


class Gateway(Protocol):
    """One folder of sockets per run: the folder is the run's identity."""

    async def open(self, run_id: str, folder: Path, *, search: bool) -> None:
        """Listen in `folder` for this run: for the model and for the hosts that its group may reach.

        `search` allows server-side web search. Raises GatewayError.
        """

    async def close(self, run_id: str) -> None:
        """Stop listening and break off what is in flight."""


__all__ = [
    "MAX_PATTERNS",
    "Ask",
    "Border",
    "Credential",
    "CredentialKind",
    "Gateway",
    "Level",
    "Meter",
    "Reach",
    "check_pattern",
]
