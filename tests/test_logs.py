"""The log: one line per record, private, without secrets or tricks."""

import logging
import os
import re
import stat
import time
from pathlib import Path

import pytest
from aiohttp.http_exceptions import BadStatusLine
from loguru import logger

from nanoclaw import logs
from nanoclaw.errors import HomeError

SECRET = "sk-ant-api03-not-a-real-one"


pytestmark = pytest.mark.usefixtures("logging_restored")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return logs.configure(tmp_path, "INFO", lambda: [SECRET, ""], stderr="CRITICAL")


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def test_a_line_says_when_what_and_where(log: Path) -> None:
    """The bound context stands before the message; unbound lines have none."""
    with logger.contextualize(lane="family", turn="t1", other="x"):
        logger.info("The turn was given to run {}", "r1")
    logger.info("Bare")
    first, second = lines(log)
    assert re.fullmatch(
        r"[\d-]{10} [\d:.]{12} INFO    \S*test_logs: \[lane=family turn=t1\] The turn was given to run r1", first
    )
    assert second.endswith(": Bare")


def test_a_secret_is_never_written(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in a message, nor in an argument, nor in a traceback, nor on stderr."""
    logger.info("the key is " + SECRET)
    try:
        raise RuntimeError(f"401 for {SECRET}")
    except RuntimeError:
        logger.exception("Asking failed with {}", SECRET)
    logger.critical(SECRET)
    text = log.read_text()
    assert SECRET not in text
    assert "RuntimeError: 401 for [secret]" in text
    assert SECRET not in capsys.readouterr().err


def test_a_secret_that_is_written_otherwise_is_not_either(tmp_path: Path) -> None:
    """In hex or backwards."""
    key = "sk-ant-api03-visibly0Fake-no7key2At4all-Just3Letters-here9So_it8Be-AA"
    path = logs.configure(tmp_path, "INFO", lambda: [key], stderr="CRITICAL")
    logger.info("hex {} backwards {}", key.encode().hex(), key[::-1])
    assert lines(path)[0].endswith("hex [credential removed] backwards [credential removed]")


def test_a_message_cannot_forge_a_line_or_steer_a_terminal(log: Path) -> None:
    """Newlines and escapes of foreign text stay within the record; braces are no format."""
    logger.info("chat {}", "a\n2026-01-01 00:00:00.000 ERROR x: forged\x1b[2J {extra} <red>")
    (line,) = lines(log)
    assert line.endswith("chat a ⏎ 2026-01-01 00:00:00.000 ERROR x: forged {extra} <red>")


def test_a_traceback_hangs_below_its_line(log: Path) -> None:
    """Only the record itself begins at the margin."""
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logger.exception("It broke")
    head, *rest = lines(log)
    assert head.endswith(": It broke")
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_the_libraries_own_logs_come_too(log: Path) -> None:
    """docker, urllib3 and aiohttp use standard logging: from WARNING on it lands here, once."""
    logging.getLogger("urllib3.pool").warning("retry %s", 1)
    logging.getLogger("docker").info("noise")
    (line,) = lines(log)
    assert line.endswith("urllib3.pool: retry 1")
    assert "WARNING" in line


def test_what_is_no_request_is_one_line(log: Path) -> None:
    """An agent may send half a line to the gateway as often as it likes; a fault of our own keeps its traceback."""
    for fault in (BadStatusLine("x"), RuntimeError("ours")):
        logging.getLogger("aiohttp.server").error("Error handling request", exc_info=fault)
    first, second, *rest = log.read_text().splitlines()
    assert first.endswith("aiohttp.server: what came was no request (BadStatusLine)")
    assert "Error handling request" in second
    assert "RuntimeError: ours" in rest[-1]


def test_the_file_is_private_and_the_level_holds(log: Path) -> None:
    """0600 below 0700; DEBUG is not written at INFO."""
    logger.debug("hidden")
    logger.info("shown")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    assert len(lines(log)) == 1


def test_old_files_go_by_number_and_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is logged, ten files are kept, the newest; and none that is older than a week."""
    monkeypatch.setattr(logs, "ROTATE", 100)
    log = logs.configure(tmp_path, "INFO", list, stderr="CRITICAL")
    for n in range(30):
        logger.info("line {} {}", n, "x" * 100)
    files = list(log.parent.iterdir())
    assert len(files) == logs.KEEP_FILES
    assert {line.split()[-2] for file in files for line in lines(file)} == {str(n) for n in range(20, 30)}
    old = time.time() - 8 * 86_400
    for file in set(files) - {log}:
        os.utime(file, (old, old))
    logger.info("line {} {}", 30, "x" * 100)
    assert len(list(log.parent.iterdir())) == 2


def test_a_home_that_takes_no_file(tmp_path: Path) -> None:
    """A clear error that says what to do."""
    (tmp_path / "logs").write_text("in the way")
    with pytest.raises(HomeError, match="NANOCLAW_HOME"):
        logs.configure(tmp_path, "INFO", list)
