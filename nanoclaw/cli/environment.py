"""What must be in the environment before this process begins: the WhatsApp library reads it as it was at that moment.

Its Go runtime copies the environment from where the kernel put it, so that os.environ comes too late for it.
"""

import os
import socket
import sys
from pathlib import Path

from nanoclaw.config import home_of, load

NEEDED = {"NEONIZE_BOT_TAG": "off"}  # else the library marks texts to people as those of a business's bot


def complete() -> None:
    """Begin this process anew with what is missing, where it is to load the library. To be called first of all: before
    standard input is read, and before anything is open."""
    missing = {name: value for name, value in NEEDED.items() if name not in os.environ}
    if missing and sys.executable and not _lives(home_of(os.environ)) and load(os.environ).whatsapp != "off":
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing})  # noqa: S606 - this very program


def _lives(home: Path) -> bool:
    """Whether a host lives there: then the library is its business."""
    with socket.socket(socket.AF_UNIX) as door:
        try:
            door.connect(str(home / "control.sock"))
        except OSError:  # also where the path is too long for a socket: that is told later
            return False
    return True
