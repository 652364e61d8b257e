"""The control socket: verbs, streams, and clients that behave badly."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.channels.control_sock import MAX_LINE, Client, ControlServer, Frame, Stream, connect
from nanoclaw.errors import HomeError, NanoClawError, NotRunning


async def _echo(args: Frame, stream: Stream) -> Frame:
    return args


async def _refuse(args: Frame, stream: Stream) -> None:
    raise NanoClawError("not now; try later")


async def _break(args: Frame, stream: Stream) -> None:
    raise RuntimeError("a bug")


async def _attach(args: Frame, stream: Stream) -> None:
    await stream.send({"hello": args})
    async for frame in stream:
        if frame.get("leave"):
            return
        await stream.send({"again": frame})


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Path]:
    path = tmp_path / "control.sock"
    verbs = {"echo": _echo, "refuse": _refuse, "break": _break, "attach": _attach}
    server = ControlServer(path, verbs)
    await server.start()
    yield path
    await server.close()
    assert not path.exists()


async def test_calls_are_answered_one_after_another(door: Path) -> None:
    """One connection carries many calls; refusals and bugs are told, and bugs keep their details."""
    async with await connect(door) as client:
        assert await client.call("echo", a=1, b="ü\n") == {"a": 1, "b": "ü\n"}
        assert await client.call("echo") == {}
        with pytest.raises(NanoClawError, match="not now; try later"):
            await client.call("refuse")
    async with await connect(door) as client:
        with pytest.raises(NanoClawError, match="failed inside"):
            await client.call("break")
    async with await connect(door) as client:
        with pytest.raises(NanoClawError, match=r"unknown verb.*attach, break, echo"):
            await client.call("destroy")


async def test_only_its_user_gets_in(door: Path) -> None:
    """The socket is private; the kernel tells who is at the other end."""
    assert stat.S_IMODE(door.stat().st_mode) == 0o600
    async with await connect(door) as client:
        assert client.host > 0


async def test_a_stream_goes_both_ways(door: Path) -> None:
    """attach turns the connection into frames, until the handler returns."""
    async with await connect(door) as client:
        await client.attach(as_="x")
        got: list[Frame] = []
        async for frame in client:
            got.append(frame)
            await client.send({"leave": True} if len(got) == 2 else {"n": 1})
        assert got == [{"hello": {"as_": "x"}}, {"again": {"n": 1}}]


@pytest.mark.parametrize("line", [b"not json\n", b"[1]\n", b'{"verb": 5}\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n"])
async def test_a_line_that_is_no_frame_ends_only_its_client(door: Path, line: bytes) -> None:
    """The bad client is told and dropped; the next is served."""
    reader, writer = await asyncio.open_unix_connection(str(door), limit=MAX_LINE)
    writer.write(line)
    told: dict[str, Any] = json.loads(await reader.readline())
    assert told["ok"] is False
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    async with await connect(door) as client:
        assert await client.call("echo", still="here") == {"still": "here"}


async def test_a_line_without_end_is_dropped(door: Path) -> None:
    """What never ends is not collected for ever."""
    reader, writer = await asyncio.open_unix_connection(str(door))
    writer.write(b"x" * (MAX_LINE * 3))
    assert b"bytes" in await reader.readline()
    writer.transport.abort()


async def test_one_megabyte_passes_and_more_is_refused(door: Path) -> None:
    """1 MB passes even where JSON doubles each character; too much is a clear error at the sender."""
    async with await connect(door) as client:
        text = "\n" * 1_000_000
        assert (await client.call("echo", text=text))["text"] == text
        with pytest.raises(NanoClawError, match="too long"):
            await client.call("echo", text="x" * MAX_LINE)


async def test_a_client_that_leaves_in_the_middle_hurts_nobody(door: Path) -> None:
    """Half a line, then gone."""
    _, writer = await asyncio.open_unix_connection(str(door))
    writer.write(b'{"verb": "ec')
    writer.transport.abort()
    async with await connect(door) as client:
        assert await client.call("echo", a=1) == {"a": 1}


async def test_nobody_listens(tmp_path: Path) -> None:
    """No socket and a dead host's socket say the same: not running, and what to do."""
    with pytest.raises(NotRunning, match="nanoclaw run"):
        await connect(tmp_path / "control.sock")
    await _leave_a_dead_socket(tmp_path / "control.sock")
    with pytest.raises(NotRunning, match="nanoclaw run"):
        await connect(tmp_path / "control.sock")


async def _leave_a_dead_socket(path: Path) -> None:
    script = f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({str(path)!r})"
    process = await asyncio.create_subprocess_exec("python3", "-c", script)
    assert await process.wait() == 0
    assert path.is_socket()


async def test_a_dead_hosts_socket_is_replaced(tmp_path: Path) -> None:
    """The next host listens on the same path."""
    path = tmp_path / "control.sock"
    await _leave_a_dead_socket(path)
    server = ControlServer(path, {"echo": _echo})
    await server.start()
    async with await connect(path) as client:
        assert await client.call("echo", a=1) == {"a": 1}
    await server.close()


async def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    """Too long, missing or taken by a folder: one clear error each, at both ends."""
    long = tmp_path / ("x" * 120)
    with pytest.raises(HomeError, match="at most 107"):
        await ControlServer(long, {}).start()
    with pytest.raises(HomeError, match="at most 107"):
        await connect(long)
    with pytest.raises(HomeError, match="cannot be opened"):
        await ControlServer(tmp_path / "none" / "control.sock", {}).start()
    (tmp_path / "folder").mkdir()
    with pytest.raises(HomeError, match="cannot be opened"):
        await ControlServer(tmp_path / "folder", {}).start()


async def test_close_ends_all_clients(tmp_path: Path) -> None:
    """A waiting call is told that the host ended, and close does not wait for it."""
    path = tmp_path / "control.sock"
    entered = asyncio.Event()

    async def wait(args: Frame, stream: Stream) -> None:
        entered.set()
        await asyncio.Event().wait()

    server = ControlServer(path, {"wait": wait})
    await server.start()
    client: Client = await connect(path)
    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(_ended(client))
        await entered.wait()
        await server.close()
        assert "ended" in await call
    await client.close()


async def _ended(client: Client) -> str:
    with pytest.raises(NanoClawError) as e:
        await client.call("wait")
    return str(e.value)
