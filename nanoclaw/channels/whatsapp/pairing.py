"""Where the linked device stands, in words, for people and for other front ends (pairing.json)."""

import json
import os
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class State(StrEnum):
    """Where the connection to WhatsApp is."""

    STOPPED = "stopped"
    CONNECTING = "connecting"
    LINKING = "linking"  # a QR code is shown
    UNLINKED = "unlinked"  # the codes ran out, or linking failed; waits until somebody asks for new ones
    CONNECTED = "connected"
    DEGRADED = "degraded"  # keep-alives are missed; nothing is sent until they come back
    DISCONNECTED = "disconnected"  # it will be tried again
    STORE_FAILING = "store_failing"  # we cannot keep messages, so WhatsApp keeps them
    LOGGED_OUT = "logged_out"
    REPLACED = "replaced"  # another process uses this session
    OUTDATED = "outdated"  # WhatsApp refuses this version of the library
    BANNED = "banned_until"


FINAL = frozenset({State.UNLINKED, State.LOGGED_OUT, State.REPLACED, State.OUTDATED})  # wait for a person


@dataclass(frozen=True)
class Pairing:
    """What a front end needs to show. `expires_at` is of the QR or phone code, in ms."""

    state: State = State.STOPPED
    detail: str = ""
    qr: str = ""
    code: str = ""
    expires_at: int = 0

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it without a person."""
        return self.state in FINAL or self.state in (State.CONNECTED, State.BANNED, State.STOPPED)


def write(path: Path, pairing: Pairing) -> None:
    """Replace the file at once: nobody reads half of it, or another's QR."""
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
        os.write(fd, json.dumps(asdict(pairing)).encode())
    finally:
        os.close(fd)
    new.replace(path)
