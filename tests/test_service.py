"""The host without a terminal: a unit that systemd understands, `up` in the background, and its logs."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nanoclaw.cli.service import remove
from nanoclaw.errors import NanoClawError
from nanoclaw.ops import service
from nanoclaw.ops.service import State, Unit
from tests import systemctl
from tests.commands import nanoclaw, start
from tests.fakes import eventually

LIMIT = 60.0  # seconds: a host begins here as a user's would, on a machine that may be busy

NASTY = ["plain", "with space", 'q"uote', "back\\slash", "100%h", "$HOME and ${X}", "ümläut", "'single'", "a=b; c #d"]
CONTROL = ["new\nline", "tab\t", "\x7f", "\0"]


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose name needs every escape, and a PATH without systemctl: no test may touch the machine's own."""
    nothing = folder / "bin"
    nothing.mkdir()
    monkeypatch.setenv("PATH", str(nothing))
    home = folder / 'a %h "$X"'
    yield home
    systemctl.kill_all_of(home)


def unit(folder: Path) -> Unit:
    """One that a stand-in for systemctl runs."""
    (folder / "state").mkdir(exist_ok=True)
    command = (sys.executable, systemctl.__file__, str(folder / "units"), str(folder / "state"))
    return Unit("nanoclaw.service", folder / "units", command, False)


def text(home: Path, *, system: bool = False) -> str:
    return service.text_of(home, service.program(), service.environment(home, os.environ), system=system)


async def pid(home: Path) -> int:
    code, out, _ = await nanoclaw(home, "up")
    assert code == 0
    return int(out.partition("process ")[2].partition(")")[0])


async def until_gone(number: int) -> None:
    async with asyncio.timeout(LIMIT):
        while systemctl.alive(number):
            await asyncio.sleep(0.02)


# --- the unit's words --------------------------------------------------------------------------


@pytest.mark.parametrize("word", NASTY)
def test_a_word_comes_out_as_it_went_in(word: str) -> None:
    """By systemd's rules, which are not a shell's."""
    line = f"{service.quoted('/p')} {service.quoted(word, dollars=True)}"
    assert [w.replace("$$", "$") for w in systemctl.words(line)] == ["/p", word]
    assert systemctl.words(service.quoted(f"KEY={word}")) == [f"KEY={word}"]


@pytest.mark.parametrize("word", CONTROL)
def test_no_word_adds_a_line(word: str) -> None:
    """What cannot be written is refused."""
    with pytest.raises(NanoClawError, match="control characters"):
        service.quoted(word)
    with pytest.raises(NanoClawError, match="control characters"):
        service.text_of(Path(f"/{word}"), ["/bin/true"], {}, system=False)


def test_a_program_that_systemd_would_misread_is_refused() -> None:
    """It puts variables into the name that the program gets, and Python finds its packages by that."""
    with pytest.raises(NanoClawError, match="without"):
        service.text_of(Path("/h"), ["/opt/$x/python"], {}, system=False)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("system", [False, True])
def test_systemd_finds_no_fault(tmp_path: Path, system: bool) -> None:
    """Every key is known to it, and every path is one."""
    file = tmp_path / "nanoclaw.service"
    file.write_text(text(tmp_path / 'a %h "$X"', system=system))
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "nanoclaw" in line]) == (0, [])


def test_what_the_unit_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its home, the engine's address, what the library needs; never a key. What stays behind is named."""
    environ = {"DOCKER_HOST": "unix:///x", "ANTHROPIC_API_KEY": "not-a-key", "NANOCLAW_MODEL": "m", "PATH": "/bin"}
    carried = service.environment(Path("/h"), environ)
    assert carried == {"NANOCLAW_HOME": "/h", "NEONIZE_BOT_TAG": "off", "DOCKER_HOST": "unix:///x"}
    assert service.left_behind(environ) == ["ANTHROPIC_API_KEY", "NANOCLAW_MODEL"]
    unit = text(Path("/h"), system=True)
    assert "WantedBy=multi-user.target" in unit
    assert "After=network-online.target docker.service" in unit
    assert "WantedBy=default.target" in text(Path("/h"))


# --- as a unit ---------------------------------------------------------------------------------


async def test_a_unit_runs_a_host(home: Path, folder: Path) -> None:
    """Installed, started, ready; a second time nothing is new; removed, it has ended in order."""
    one = unit(folder)
    assert service.state(one) is State.ABSENT
    assert service.install(one, text(home))
    assert not service.install(one, text(home))
    assert service.state(one) is State.STOPPED
    await asyncio.to_thread(service.start_unit, one, lambda: (home / "control.sock").exists(), LIMIT)
    assert service.state(one) is State.RUNNING
    number = await pid(home)
    assert service.uninstall(one)
    assert not service.uninstall(one)
    assert not one.path.exists()
    await until_gone(number)
    calls = (folder / "state/calls").read_text().splitlines()
    assert calls.count("daemon-reload") == 2
    assert "disable --now nanoclaw.service" in calls
    assert "Ready" in (home / "logs/nanoclaw.log").read_text()


async def test_a_unit_that_cannot_start_is_told(home: Path, folder: Path) -> None:
    """Nobody waits to the end of the limit."""
    one = unit(folder)
    home.mkdir()
    (home / "nanoclaw.toml").write_text("max_runs = 0\n")
    service.install(one, text(home))
    with pytest.raises(NanoClawError, match="did not come up"):
        await asyncio.to_thread(service.start_unit, one, lambda: False, LIMIT)


async def test_without_systemd_it_says_what_to_do(home: Path) -> None:
    """And shows the unit's file all the same."""
    code, out, err = await nanoclaw(home, "service", "install")
    assert (code, out) == (1, "")
    assert "nanoclaw up" in err
    assert "@reboot env" in err
    code, out, _ = await nanoclaw(home, "service", "install", "--print")
    assert (code, "[Service]" in out) == (0, True)
    assert (await nanoclaw(home, "service", "status"))[0] == 3
    assert (await nanoclaw(home, "service", "uninstall"))[:2] == (0, "No service is installed.\n")
    assert not home.exists()


def test_a_unit_goes_also_where_no_systemd_answers(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After su, and in cron: its files are found and deleted, so that it does not begin again."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    one = service.unit_at(home, os.environ, 1000)
    wants = one.folder / "default.target.wants"
    wants.mkdir(parents=True)
    one.path.touch()
    (wants / one.name).symlink_to(one.path)
    assert str(one.path) in remove(home)
    assert [path.name for path in one.folder.rglob("*")] == [wants.name]
    assert remove(home) == ""


# --- in the background -------------------------------------------------------------------------


async def test_up_and_stop(home: Path) -> None:
    """It serves when `up` returns, also after its terminal is gone; twice is no fault; `stop` ends it in order."""
    code, out, err = await nanoclaw(home, "up")
    assert (code, err) == (0, "")
    assert out.startswith("It runs")
    number = await pid(home)
    assert os.getsid(number) == number
    assert (home / "logs/up.log").stat().st_mode & 0o777 == 0o600
    code, out, _ = await nanoclaw(home, "logs", "-n", "1000")
    assert (code, "Ready" in out) == (0, True)
    assert (await nanoclaw(home, "stop"))[0] == 0
    await until_gone(number)
    assert (await nanoclaw(home, "status"))[0] == 3
    code, _, err = await nanoclaw(home, "stop")
    assert (code, "nanoclaw:" in err) == (1, True)


async def test_up_says_why_it_is_not(home: Path) -> None:
    """In the words of the host that ended."""
    home.mkdir()
    (home / "nanoclaw.toml").write_text("max_runs = 0\n")
    code, _, err = await nanoclaw(home, "up")
    assert (code, "it ended" in err, "max_runs" in err) == (1, True, True)


async def test_who_is_ready_too_late_is_told_too(tmp_path: Path) -> None:
    """It is not killed: it may be at something that takes long."""
    sleeping = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
    with pytest.raises(NanoClawError, match="not ready after"):
        await asyncio.to_thread(service.start_background, tmp_path, sleeping, os.environ, lambda: False, 1)
    await eventually(lambda: (tmp_path / "logs/up.log").read_text().endswith("\n"))
    child = int((tmp_path / "logs/up.log").read_text())
    assert systemctl.alive(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


# --- its logs ----------------------------------------------------------------------------------


@asynccontextmanager
async def following(home: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    # Where the tests run in the background of a shell, Ctrl-C is ignored, and so it would be in here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = await start(home, "logs", "-f", "-n", "2", PYTHONUNBUFFERED="1")
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")


async def test_logs_are_followed_over_a_new_file(tmp_path: Path) -> None:
    """The last lines, then each as it is written, also when the file is set aside; nothing forged on the screen."""
    log = tmp_path / "logs/nanoclaw.log"
    code, _, err = await nanoclaw(tmp_path, "logs")
    assert (code, "nothing has been logged" in err) == (1, True)
    log.parent.mkdir()
    log.write_text("one\ntwo\nthree\x1b[2J\nfo")
    async with asyncio.timeout(LIMIT), following(tmp_path) as process:
        assert process.stdout is not None
        assert [await process.stdout.readline() for _ in range(2)] == [b"two\n", b"three\n"]
        with log.open("a") as f:
            f.write("ur\nfi")
            f.flush()
            assert await process.stdout.readline() == b"four\n"
            f.write("ve\n")
            log.rename(log.with_suffix(".1"))
        log.write_text("six\n")
        assert [await process.stdout.readline() for _ in range(2)] == [b"five\n", b"six\n"]
