"""Loads the WhatsApp library without what it does to a process by being imported."""

import ctypes
import logging
import os
import re
import resource
import sys
from io import StringIO
from types import ModuleType

from loguru import logger

_LONGEST = 160  # characters of one of its log lines
_TELLING = re.compile(r"\S*[\d@<>\"'=]\S*")  # words that may be somebody's number, jid or text


def scrub(line: str) -> str:
    """The library's words, without those that may be somebody's number, jid or text."""
    return _TELLING.sub("…", line)[:_LONGEST]


def _unknown(*_: object, mime: bool = False) -> str:
    return "application/octet-stream"


def _load() -> None:
    if "magic" not in sys.modules:  # it wants libmagic, to guess the type of files that we never send
        stub = ModuleType("magic")
        stub.__dict__.update(from_buffer=_unknown, from_file=_unknown)
        sys.modules["magic"] = stub
    root, shield = logging.getLogger(), logging.NullHandler()
    root.addHandler(shield)  # where a handler is, its basicConfig does nothing
    popen = os.popen
    # It asks `uname` twice whether this is Android, and leaves the pipes open and the children unwaited.
    setattr(os, "popen", lambda _: StringIO())  # noqa: B010
    try:
        from neonize.aioze import client
    finally:
        setattr(os, "popen", popen)  # noqa: B010
        root.removeHandler(shield)
    theirs = logging.getLogger("neonize")
    theirs.propagate = False
    theirs.addHandler(logging.NullHandler())
    # Read at each connect: what is below it never leaves Go. Its DEBUG lines hold QR secrets.
    logging.getLogger("neonize.utils.log").setLevel(logging.WARNING)
    client.log_whatsmeow = _log
    # Each connection leaves a descriptor of its database behind: the usual 1,024 would not last for ever.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log(address: int, size: int) -> None:
    """A line of Go's, in a thread of Go's: whole at DEBUG; an error also without what people are or say."""
    from neonize.proto.Neonize_pb2 import LogEntry

    try:
        entry = LogEntry.FromString(ctypes.string_at(address, size))
        logger.debug("{}: {}", entry.Name, entry.Message)
        if entry.Level == "ERROR":
            logger.warning("WhatsApp's library ({}): {}", entry.Name, scrub(entry.Message))
    except Exception as e:  # nothing may be raised into Go
        logger.debug("A line of WhatsApp's library could not be read: {}", type(e).__name__)


_load()
