"""nanoclaw logs: what happened, as the host wrote it down; -f goes on as it happens."""

import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from nanoclaw.config import home_of
from nanoclaw.errors import NanoClawError
from nanoclaw.prompts import plain

_LOOK = 0.25  # seconds between two looks at a file that may grow
_CHUNK = 1 << 16


def logs(
    count: Annotated[int, typer.Option("-n", "--lines", min=0, max=1_000_000, help="How many, the newest.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as more is written; Ctrl-C ends it.")] = False,
) -> None:
    """What happened, as the host wrote it down (the newest file; home/logs has the older ones)."""
    path = home_of(os.environ) / "logs" / "nanoclaw.log"
    try:
        file = path.open("rb")
    except OSError as e:
        raise NanoClawError(f"{path}: {e.strerror}; nothing has been logged here yet, or not by you") from None
    with file:
        lines = list(deque(file, maxlen=count + 1))
        # One that is being written is shown when it is whole.
        held = lines.pop() if follow and lines and not lines[-1].endswith(b"\n") else b""
        for line in lines[max(0, len(lines) - count) :]:
            _show(line)
        if follow:
            try:
                _follow(path, file, held)
            except KeyboardInterrupt:
                return


def _follow(path: Path, file: BinaryIO, held: bytes) -> None:
    """Until Ctrl-C; a file that was set aside for a new one is read to its end first. `held` begins a line."""
    while True:
        replaced = _replaced(path, file)  # looked at first: what it holds after that is all
        while data := file.read(_CHUNK):
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                _show(line)
        if replaced:
            if held:
                _show(held)
                held = b""
            file.close()
            file = path.open("rb")
            continue
        sys.stdout.flush()
        time.sleep(_LOOK)


def _replaced(path: Path, file: BinaryIO) -> bool:
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:  # the new one is about to be made
        return False


def _show(line: bytes) -> None:
    typer.echo(plain(line.rstrip(b"\r\n").decode("utf-8", "replace")))
