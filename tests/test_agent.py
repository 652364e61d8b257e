"""The parts of the agent that need neither the SDK nor a container; the rest is tested in tests/docker/."""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "container"))

from agent import cli, forward, memory, tree, ways
from agent.lifeline import BUSY, IDLE, HostGone, Lifeline
from agent.places import Places

from nanoclaw.config import Config

# --- the dead-man's switch ---------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The file that the host touches."""
    path = tmp_path / "host"
    path.touch()
    return path


@pytest.mark.parametrize(("busy", "limit"), [(True, BUSY), (False, IDLE)])
def test_an_agent_without_a_host_ends(host: Path, busy: bool, limit: float) -> None:
    """It waits longer while a turn runs; a touch starts the wait anew, whatever the host's clock says."""
    line = Lifeline(host, 1000.0)
    line.check(1000.0, busy=busy)
    line.check(1000.0 + limit, busy=busy)
    os.utime(host, (5, 5))
    line.check(2000.0 + limit, busy=busy)
    line.check(2000.0 + 2 * limit, busy=busy)
    with pytest.raises(HostGone, match="the host has been gone for"):
        line.check(2001.0 + 2 * limit, busy=busy)


def test_a_missing_host_file_counts_as_untouched(tmp_path: Path) -> None:
    """An inbox that went away is a host that went away."""
    line = Lifeline(tmp_path / "none", 0.0)
    line.check(IDLE, busy=False)
    with pytest.raises(HostGone):
        line.check(IDLE + 1, busy=False)


# --- memory ------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """The agent's folders, empty."""
    (tmp_path / "group").mkdir()
    (tmp_path / "persona.md").write_text("You are kind.\n")
    return replace(
        Places(),
        group=tmp_path / "group",
        global_memory=tmp_path / "global.md",
        persona=tmp_path / "persona.md",
        model_socket=tmp_path / "none",
    )


def test_without_memory_the_persona_stands_alone(places: Places) -> None:
    """Missing and empty files make no frame."""
    (places.group / "CLAUDE.md").write_text(" \n")
    text = memory.system_prompt(places)
    assert text.startswith("You are kind.\n\n# Memory")
    assert "<memory" not in text


def test_the_agent_knows_what_it_is_called(places: Places) -> None:
    """The name is the owner's setting; without one the persona says nothing of it."""
    assert memory.system_prompt(places, "Bea").startswith("You are kind.\n\nYour name is Bea.\n\n# Memory")
    assert "name" not in memory.system_prompt(places)


def test_memory_cannot_leave_its_frame(places: Places) -> None:
    """An end tag, bytes that are no text and a NUL are made harmless."""
    (places.group / "CLAUDE.md").write_bytes(b"a\0b \xff </memory> c </memory >")
    text = memory.system_prompt(places)
    assert text.count("</memory") == 1
    assert text.endswith("</memory>")
    assert "\0" not in text


@pytest.mark.parametrize("unit", [b"\xff", b"</memory", "€".encode(), b"a"])
def test_long_memory_is_cut_and_says_so(places: Places, unit: bytes) -> None:
    """Both files at their limit stay below what Linux allows for one argument, whatever they hold."""
    for path in (places.global_memory, places.group / "CLAUDE.md"):
        path.write_bytes(unit * (memory.MAX_MEMORY + 1))
    text = memory.system_prompt(places)
    assert text.count("[cut here: read the rest of ") == 2
    assert len(text.encode()) < 110 << 10  # of 128 KiB; the real persona needs 6


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("/etc/passwd"), lambda p: os.mkfifo(p), lambda p: p.mkdir()])
def test_memory_that_is_no_file_is_left_out(places: Places, make: object, capsys: pytest.CaptureFixture[str]) -> None:
    """A link, a pipe or a folder stops nothing; standard error says it."""
    make(places.group / "CLAUDE.md")  # type: ignore[operator]
    assert "<memory" not in memory.system_prompt(places)
    assert "is left out" in capsys.readouterr().err


# --- the environment of the CLI ----------------------------------------------------------------


def test_the_environment_is_fixed(places: Places) -> None:
    """What is fixed wins over what the container was given; Python's own variables stay behind."""
    given = {"ANTHROPIC_API_KEY": "placeholder", "TZ": "UTC", "BASH_ENV": "/x", "PYTHONPATH": "/y", "CLAUDECODE": "1"}
    env = cli.environment(given, places, 8080, 3128)
    assert env["ANTHROPIC_API_KEY"] == "placeholder"
    assert env["TZ"] == "UTC"
    assert env["BASH_ENV"] == ""
    assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8080"
    assert not {"PYTHONPATH", "CLAUDECODE"} & env.keys()


def test_a_long_command_ends_before_the_host_takes_it_for_a_hang(places: Places) -> None:
    """What announces no time ends before the host loses patience; what announces one, with the turn at the latest."""
    config = Config(home=Path("/"))
    env = cli.environment({"BASH_MAX_TIMEOUT_MS": "9999999", "BASH_DEFAULT_TIMEOUT_MS": "9999999"}, places, 8080, 3128)
    assert int(env["BASH_DEFAULT_TIMEOUT_MS"]) / 1000 < config.turn_silence
    assert int(env["BASH_MAX_TIMEOUT_MS"]) / 1000 <= config.turn_timeout


# --- the way to the gateway --------------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: those of unix sockets are limited."""
    with tempfile.TemporaryDirectory(prefix="nc-") as name:
        yield Path(name)


@contextlib.asynccontextmanager
async def forwarding(target: Path) -> AsyncIterator[int]:
    """The forwarder's port."""
    with forward.listen(0) as listener:
        task = asyncio.create_task(forward.forward(listener, target))
        yield listener.getsockname()[1]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back."""
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_bytes_pass_both_ways(folder: Path) -> None:
    """Large and at once, over several connections; the end of one side ends the other."""
    data = os.urandom(3 << 20)
    async with await asyncio.start_unix_server(echo, folder / "s"), forwarding(folder / "s") as port:
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            writer.close()
            assert await reader.read() == b""


async def test_a_request_waits_for_a_restarting_host(folder: Path) -> None:
    """While nobody listens it is kept, and served by the one who comes."""
    async with forwarding(folder / "s") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        await writer.drain()
        async with await asyncio.start_unix_server(echo, folder / "s"):
            assert await reader.readexactly(5) == b"hello"
            writer.close()
            assert await reader.read() == b""


def test_agents_beside_the_main_one_use_its_model() -> None:
    """Whichever family the agent names for them: the gateway lets through no other."""
    assert set(cli.models("claude-opus-5-5[1m]").values()) == {"claude-opus-5-5[1m]"}
    assert cli.models("opus") == cli.models("opus[1m]") == {}
    assert cli.models("claude-opus-5-5", "claude-haiku-5-5") == cli.models("claude-opus-5-5")
    assert set(cli.models("claude-opus-5-5", "sonnet")) == {"ANTHROPIC_DEFAULT_OPUS_MODEL"}


# --- what the probe does ------------------------------------------------------------------------


def test_the_search_for_keys_ends_in_time(tmp_path: Path) -> None:
    """Though a file is full of a key's first bytes: it counts as not looked through."""
    flood = tmp_path / "flood"
    flood.write_bytes(b"sk-a" * (1 << 20))
    wanted = [{"first": b"sk-a".hex(), "length": 54, "digest": "00" * 32, "everywhere": True}]
    began = time.monotonic()
    with pytest.raises(tree._Late):
        tree._held(str(flood), wanted, b"x" * 16, until=began + 0.1)
    assert time.monotonic() - began < 25  # the whole takes far longer than a tenth of a second
    there = object.__new__(tree.Tree)
    there.mounts, there.files, there.whole = {str(tmp_path): ""}, [(4 << 20, str(flood))], True
    assert tree.secrets(there, wanted, b"x" * 16, until=began)[1] > 0


async def test_no_word_is_said_to_a_socket_of_others(tmp_path: Path) -> None:
    """A connection alone says whether somebody listens."""
    heard = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set_result(await reader.read())
        writer.close()

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = f"{folder}/s"
        async with await asyncio.start_unix_server(listen, path), asyncio.timeout(25):
            assert await asyncio.to_thread(ways.listens, path)
            assert await heard == b""
        assert not ways.listens(f"{folder}/none")
