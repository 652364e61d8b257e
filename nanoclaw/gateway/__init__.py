"""The sandbox's only way out. The core knows it by these Protocols alone."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

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


class Meter(Protocol):
    """What a run may still use, and what it used."""

    def refusal(self, run_id: str) -> str:
        """Why this run may not ask now, in one sentence for people; "" when it may."""

    def record(self, run_id: str, usage: Usage) -> None:
        """Count one finished (or broken off) request. Never raises, never blocks."""


class Gateway(Protocol):
    """One folder of sockets per run: the folder is the run's identity."""

    async def open(self, run_id: str, folder: Path, *, search: bool) -> None:
        """Listen on `folder`/model.sock for this run; `search` allows server-side web search.

        Raises GatewayError.
        """

    async def close(self, run_id: str) -> None:
        """Stop listening and break off what is in flight."""
