"""Keeps standard output and error to ourselves: the WhatsApp library prints to descriptors 1 and 2 on its own."""

import ctypes
import io
import os
import sys
from pathlib import Path
from typing import TextIO

from nanoclaw.errors import HomeError

MAX_DUMPS = 1 << 20  # bytes: a dump of all goroutines, which is what is worth keeping, takes some 100 KB


def set_apart(home: Path) -> None:
    """Move our own streams to other descriptors; what is printed to 1 is lost, to 2 goes to home/logs/go.log.

    To be called before the library is loaded, and once. Raises HomeError when home takes no file.
    """
    dumps = _open_dumps(home / "logs" / "go.log")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    sys.stdout = _moved(sys.stdout, nowhere)
    sys.stderr = _moved(sys.stderr, dumps)
    _move_the_line_editor(sys.stdout)
    os.close(nowhere)
    os.close(dumps)


def fill_in() -> None:
    """Streams that were closed before we began lead nowhere, and their descriptors never become files of ours."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _open_dumps(path: Path) -> int:
    """Only a crash writes there, so a look at each start is enough to bound it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as e:
        raise HomeError(f"{path} cannot be written ({e.strerror}); set NANOCLAW_HOME to a folder of yours") from None
    if os.fstat(fd).st_size > MAX_DUMPS:
        os.ftruncate(fd, 0)
    return fd


def _moved(stream: TextIO, instead: int) -> io.TextIOWrapper:
    """The same stream on a descriptor of its own; `instead` takes the place of the one that it had."""
    stream.flush()
    by_line = stream.line_buffering or getattr(stream, "write_through", False)  # the latter: PYTHONUNBUFFERED
    before = stream.fileno()
    own = os.dup(before)
    os.dup2(instead, before)
    buffer = io.BufferedWriter(io.FileIO(own, "w"))
    return io.TextIOWrapper(buffer, stream.encoding, "replace", line_buffering=bool(by_line))


def _move_the_line_editor(stdout: TextIO) -> None:
    """input() edits lines only where sys.stdout and C's own stdout are one terminal. Without glibc it edits none."""
    if not stdout.isatty():
        return
    try:
        libc = ctypes.CDLL(None)
        libc.fdopen.restype = ctypes.c_void_p
        ctypes.c_void_p.in_dll(libc, "stdout").value = libc.fdopen(stdout.fileno(), b"w")
    except (ValueError, OSError, AttributeError):
        return
