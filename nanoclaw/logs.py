"""Where log lines go: stderr and home/logs/nanoclaw.log, one line per record, without secrets."""

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from nanoclaw.config.leak import removed
from nanoclaw.errors import HomeError
from nanoclaw.hints import typed
from nanoclaw.prompts import plain

if TYPE_CHECKING:
    from loguru import Record

BOUND = ("lane", "run", "turn", "chat")  # what a line tells of its place, bound by logger.contextualize
ROTATE = "20 MB"
KEEP_FILES = 10  # with the one that is written: an agent can make the host log a lot
KEEP_SECONDS = 7 * 86_400


def configure(home: Path, level: str, secrets: Callable[[], Iterable[str]], *, stderr: str = "") -> Path:
    """Begin to log and return the log file. `stderr` is the level there (an open chat wants fewer); "" = `level`.

    Raises HomeError when home takes no file.
    """
    path = home / "logs" / "nanoclaw.log"
    logger.remove()
    logger.configure(patcher=lambda record: _patch(record, secrets))
    logger.add(sys.stderr, level=stderr or level, format=_line, backtrace=False, diagnose=False)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        logger.add(
            path, level=level, format=_line, backtrace=False, diagnose=False,
            rotation=ROTATE, retention=_expire, encoding="utf-8", errors="replace", opener=_open_private,
        )  # fmt: skip
    except OSError as e:
        raise HomeError(f"{path} cannot be written ({e.strerror}); set NANOCLAW_HOME to a folder of yours") from None
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    return path


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _expire(paths: list[str]) -> None:
    """Of the files that were set aside, keep the newest ones of this week. Called when one more is."""
    newest = sorted(map(Path, paths), key=lambda path: path.stat().st_mtime, reverse=True)
    for n, path in enumerate(newest, start=2):  # the file that is opened next is the first
        if n > KEEP_FILES or path.stat().st_mtime < time.time() - KEEP_SECONDS:
            path.unlink(missing_ok=True)


def _patch(record: "Record", secrets: Callable[[], Iterable[str]]) -> None:
    """Make the record's whole text here, traceback too, so that no secret and no forged line gets past."""
    text = typed(plain(record["message"])).replace("\n", " ⏎ ")
    if fault := record["exception"]:
        told = "".join(traceback.format_exception(fault.type, fault.value, fault.traceback))
        text += "".join(f"\n    {plain(line)}" for line in told.splitlines())
        record["exception"] = None
    for secret in secrets():
        text = removed(text.replace(secret, "[secret]"), secret) if secret else text
    record["message"] = text
    bound = [f"{key}={record['extra'][key]}" for key in BOUND if record["extra"].get(key)]
    record["extra"]["bound"] = f"[{' '.join(bound)}] " if bound else ""


def _line(record: "Record") -> str:
    # The exception is in the message already; a format function keeps loguru from adding it again.
    return "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {name}: {extra[bound]}{message}\n"


class _Forward(logging.Handler):
    """Hands the libraries' own log records (docker, urllib3, aiohttp) to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        fault = record.exc_info if record.exc_info and record.exc_info[0] else None
        if fault and record.name == "aiohttp.server" and fault[0] and fault[0].__module__.startswith("aiohttp"):
            # Half a line, another protocol: what an agent sent is no fault of ours, and needs no traceback.
            logger.warning("{}: what came was no request ({})", record.name, fault[0].__name__)
            return
        level = record.levelname if record.levelname in logging.getLevelNamesMapping() else record.levelno
        logger.opt(exception=fault).log(level, "{}: {}", record.name, record.getMessage())
