"""The command line against a scripted host on a real control socket, the interactive chat on a real pty."""

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nanoclaw.channels.control_sock import ControlServer, Frame, Stream
from nanoclaw.channels.terminal import CHAT, TerminalChannel
from nanoclaw.models import Account, Chat, Incoming, Members, Outgoing, OutKind, Progress, Show
from tests.commands import Terminal, nanoclaw, start

TERMINAL = Chat(1, CHAT, CHAT, "Terminal", False, 1)
Script = Callable[["Host", Incoming], Awaitable[Frame]]


class Host:
    """Says what a test's script says; `script` returns a message's outcome."""

    def __init__(self, home: Path, script: Script) -> None:
        self.home = home
        self.heard: list[str] = []
        self.stopped = asyncio.Event()
        self.asked = asyncio.Event()
        self._script = script
        self._outcomes: dict[str, asyncio.Future[Frame]] = {}
        self._sent = 0
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []
        self._attached = asyncio.Event()
        self.channel = TerminalChannel(lambda: 0)
        verbs = {**self.channel.verbs, "outcome": self._outcome, "status": self._status}
        self._server = ControlServer(home / "control.sock", verbs)

    async def connected(self, account: Account | None = None) -> None:
        self._attached.set()

    async def named(self, chat: tuple[str, ...], name: str, expires: int | None = None) -> None:
        raise AssertionError("a terminal learns no names")

    async def members(self, chat: tuple[str, ...], news: Members) -> None:
        raise AssertionError("a terminal is no group")

    async def tell(self, text: str) -> None:
        raise AssertionError("a terminal has no troubles")

    async def hear(self, *messages: Incoming) -> None:
        (message,) = messages
        self.heard.append(message.text)
        if message.text == "/stop":
            self.stopped.set()
        outcome = asyncio.get_running_loop().create_future()
        self._outcomes[message.wa_id] = outcome

        async def answer() -> None:
            outcome.set_result(await self._script(self, message))

        self._start(answer())

    async def _outcome(self, args: Frame, stream: Stream) -> Frame:
        self.asked.set()
        return await self._outcomes[args["wa_id"]]

    async def _status(self, args: Frame, stream: Stream) -> Frame:
        lanes = [{"lane": "a\x1b[2J", "state": "b\nc"}, {"lane": "family", "cause": "disk"}]
        return {"state": "running", "lanes": lanes, "slots": 5, "outgoing": {"queued": 1, "dead": 2}}

    def send(self, text: str, kind: OutKind = OutKind.REPLY) -> int:
        """Queue a row, as the outbox would; returns its id."""
        self._sent += 1
        out = Outgoing(self._sent, TERMINAL, "t1", kind, text)

        async def deliver() -> None:
            await self._attached.wait()
            await self.channel.send(out)

        self._start(deliver())
        return out.id

    def _start(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(self._group.create_task(work))

    def show(self, show: Show, text: str = "") -> None:
        self.channel.show(TERMINAL, Progress("t1", show, text))

    @asynccontextmanager
    async def living(self) -> AsyncIterator["Host"]:
        await self._server.start()
        try:
            async with self._group:
                self._start(self.channel.run(self))
                yield self
                for task in self._tasks:
                    task.cancel()
        finally:
            await self._server.close()


async def echo(host: Host, message: Incoming) -> Frame:
    return {"state": "done", "error": "", "turn": "t1", "outgoing": [host.send(f"You said {message.text[:30]}")]}


# --- without a host ----------------------------------------------------------------------------


async def test_help_and_version(tmp_path: Path) -> None:
    """Help has examples; neither needs a home."""
    code, out, _ = await nanoclaw(tmp_path / "none", "--help")
    assert (code, "nanoclaw chat -m" in out) == (0, True)
    code, out, _ = await nanoclaw(tmp_path / "none", "--version")
    assert (code, bool(re.match(r"nanoclaw \d", out))) == (0, True)
    assert not (tmp_path / "none").exists()


async def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """Docker, aiohttp and the line editor are for the commands that need them."""
    script = (
        "import sys; from nanoclaw import cli; "
        "print(sorted({'docker', 'aiohttp', 'neonize', 'rich.live', 'rich.markdown'} & set(sys.modules)))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"


async def test_status_and_stop_where_nobody_runs(tmp_path: Path) -> None:
    """Status has a code of its own for it; both say what to do in one line."""
    code, out, err = await nanoclaw(tmp_path, "status")
    assert (code, err) == (3, "")
    assert re.match(r"NanoClaw \S+ is not running; start it with: nanoclaw run\n", out)
    code, out, err = await nanoclaw(tmp_path, "status", "--json")
    assert (code, json.loads(out)["state"], err) == (3, "not running", "")
    code, _, err = await nanoclaw(tmp_path, "stop")
    assert (code, err.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("args", "data", "told"),
    [
        (["-m", ""], b"", "empty"),
        (["-m", " \n"], b"", "empty"),
        (["-m", "-"], b"", "empty"),
        ([], b"", "empty"),
        (["-m", b"caf\xe9"], b"", "UTF-8"),
        (["-m", "-"], b"caf\xe9", "UTF-8"),
    ],
)
async def test_input_that_is_no_message(tmp_path: Path, args: list[str | bytes], data: bytes, told: str) -> None:
    """One line and code 2, before anything is started."""
    code, out, err = await nanoclaw(tmp_path, "chat", *args, data=data)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert list(tmp_path.iterdir()) == []


async def test_a_broken_setting_is_one_line(tmp_path: Path) -> None:
    """No traceback, in whatever group of tasks it broke; with DEBUG there is one."""
    code, _, err = await nanoclaw(tmp_path, "run", NANOCLAW_MAX_RUNS="none")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("nanoclaw: NANOCLAW_MAX_RUNS in the environment: it should be")
    code, _, err = await nanoclaw(tmp_path, "run", NANOCLAW_MAX_RUNS="none", NANOCLAW_LOG_LEVEL="DEBUG")
    assert (code, "Traceback" in err) == (1, True)


# --- one message, one reply --------------------------------------------------------------------


async def test_one_message_one_reply(tmp_path: Path) -> None:
    """The reply alone is on standard output, from the argument as from standard input."""
    async with Host(tmp_path, echo).living() as host:
        assert await nanoclaw(tmp_path, "chat", "-m", "Grüße") == (0, "You said Grüße\n", "")
        assert await nanoclaw(tmp_path, "chat", "-m", "-", data=b"from a pipe") == (0, "You said from a pipe\n", "")
        assert await nanoclaw(tmp_path, "chat", data=b"so too") == (0, "You said so too\n", "")
        code, out, _ = await nanoclaw(tmp_path, "chat", "-m", "x", "--json")
        assert (code, json.loads(out)) == (0, {"reply": "You said x", "state": "done", "turn": "t1"})
        assert len(host.heard) == 4


async def test_one_megabyte_is_said(tmp_path: Path) -> None:
    """Even of characters that JSON doubles; more is refused in one line."""
    async with Host(tmp_path, echo).living() as host:
        code, _, err = await nanoclaw(tmp_path, "chat", "-m", "-", data=b"x" + b"\n" * 999_998 + b"x")
        assert (code, err, len(host.heard[0])) == (0, "", 1_000_000)
        code, _, err = await nanoclaw(tmp_path, "chat", "-m", "-", data=b"x" * 3_000_000)
        assert (code, err.count("\n")) == (1, 1)
        assert "too long" in err


async def test_other_messages_are_not_the_reply(tmp_path: Path) -> None:
    """What happens to arrive meanwhile goes to standard error; neither steers the terminal."""

    async def script(host: Host, message: Incoming) -> Frame:
        host.send("Your tea\x1b[2J is ready")
        return {"state": "done", "outgoing": [host.send("one\x1b]0;x\x07"), host.send("two\u202e")]}

    async with Host(tmp_path, script).living():
        assert await nanoclaw(tmp_path, "chat", "-m", "x") == (0, "one\n\ntwo\n", "Your tea is ready\n")


@pytest.mark.parametrize(
    ("state", "error", "told"),
    [
        ("failed", "credential: 401\n\x1b[2J", "[failed: credential] The model's API refused the key."),
        ("failed", "", "the turn failed"),
        ("parked", "engine: no answer", "[parked: engine] The container engine does not answer"),
        ("stopped", "", "the turn was stopped"),
    ],
)
async def test_a_turn_that_went_wrong(tmp_path: Path, state: str, error: str, told: str) -> None:
    """One line on standard error that says what to do, code 1; what was answered before that is the reply."""

    async def script(host: Host, message: Incoming) -> Frame:
        ids = [host.send("I begin."), host.send("Sorry.", OutKind.NOTICE)]
        return {"state": state, "error": error, "outgoing": ids}

    async with Host(tmp_path, script).living():
        code, out, err = await nanoclaw(tmp_path, "chat", "-m", "x")
    assert (code, out, err.count("\n")) == (1, "I begin.\n", 1)
    assert err.startswith(f"nanoclaw: {told}")
    assert "\x1b" not in err


async def test_a_host_that_ends_in_the_middle(tmp_path: Path) -> None:
    """One line, code 1, no waiting for ever; and the same with a time limit."""

    async def never(host: Host, message: Incoming) -> Frame:
        await asyncio.Event().wait()
        return {}

    async with Host(tmp_path, never).living() as host:
        code, _, err = await nanoclaw(tmp_path, "chat", "-m", "x", "--timeout", "0.3")
        assert (code, err.count("\n"), "no reply within 0.3 s" in err) == (1, 1, True)
        host.asked.clear()
        process = await start(tmp_path, "chat", "-m", "x")
        await host.asked.wait()
    _, told = await process.communicate()
    assert process.returncode == 1
    assert told.decode().startswith("nanoclaw: the assistant ended")


async def test_status(tmp_path: Path) -> None:
    """What the host says, for people without anything that steers the terminal, for programs as it is."""
    async with Host(tmp_path, echo).living():
        code, out, _ = await nanoclaw(tmp_path, "status")
        assert code == 0
        assert re.match(r"NanoClaw \S+ runs \(process unknown\)", out)
        assert [line[12:] for line in out.splitlines()[1:] if not line.startswith("disk")] == [
            "0 of 5 agent(s) run; 0 lane(s) at work, 0 turn(s) or message(s) wait",
            "a: b c",
            "[family: disk] The disk is full: free some space.",
            "last one in: never, out: never; 1 wait to be sent",
            "2 could not be delivered and are given up: main was told of each",
        ]
        _, out, _ = await nanoclaw(tmp_path, "status", "--json")
        assert json.loads(out)["slots"] == 5


async def test_stop_ends_the_host_and_waits(tmp_path: Path) -> None:
    """SIGTERM to the process at the other end of the socket; done when it is gone."""
    host = (
        "import asyncio, signal\nfrom pathlib import Path\nfrom nanoclaw.channels.control_sock import ControlServer\n"
        "async def main():\n"
        f"    server = ControlServer(Path({str(tmp_path / 'control.sock')!r}), {{}})\n"
        "    await server.start()\n"
        "    done = asyncio.Event()\n"
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)\n"
        "    print('ready', flush=True)\n"
        "    await done.wait()\n"
        "    await server.close()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", host, stdout=PIPE)
    assert process.stdout
    await process.stdout.readline()
    assert await nanoclaw(tmp_path, "stop") == (0, "", "stopped\n")
    assert await process.wait() == 0


# --- a host in the process ---------------------------------------------------------------------

NO_ENGINE = "unix:///nonexistent.sock"


async def test_where_no_host_lives_chat_is_the_host(tmp_path: Path) -> None:
    """A command is answered without an engine; work says in one line what is missing; nothing stays behind."""
    code, out, err = await nanoclaw(tmp_path, "chat", "-m", "/help", NANOCLAW_ENGINE=NO_ENGINE)
    assert (code, "/stop" in out, err) == (0, True, "")
    code, out, err = await nanoclaw(tmp_path, "chat", "-m", "hi", NANOCLAW_ENGINE=NO_ENGINE)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("nanoclaw: [parked: engine]")
    assert not (tmp_path / "control.sock").exists()


async def test_run_serves_until_it_is_stopped(tmp_path: Path) -> None:
    """`chat` and `status` find it; a second one is refused; `stop` ends it with code 0."""
    process = await start(tmp_path, "run", NANOCLAW_ENGINE=NO_ENGINE)
    assert process.stderr
    while b"ready" not in await process.stderr.readline():
        assert process.returncode is None
    code, out, _ = await nanoclaw(tmp_path, "chat", "-m", "/help")
    assert (code, "/stop" in out) == (0, True)
    code, _, err = await nanoclaw(tmp_path, "run", NANOCLAW_LOG_LEVEL="ERROR")
    assert (code, err.count("\n"), "nanoclaw stop" in err) == (1, 1, True)
    code, out, _ = await nanoclaw(tmp_path, "status", "--json")
    assert json.loads(out)["pid"] == process.pid
    assert (await nanoclaw(tmp_path, "stop"))[0] == 0
    await process.communicate()
    assert process.returncode == 0


# --- interactive -------------------------------------------------------------------------------


async def open_chat(home: Path) -> Terminal:
    terminal = await Terminal.open(home, "chat")
    await terminal.shows("> ")
    return terminal


async def test_talking(tmp_path: Path) -> None:
    """Streamed text and a tool's line come first, the message replaces them; Ctrl-D leaves; history is kept."""
    go_on = asyncio.Event()

    async def script(host: Host, message: Incoming) -> Frame:
        host.show(Show.TOOL, "Bash ls \x1b[2J")
        host.show(Show.TEXT, "Hel")
        host.show(Show.TEXT, "lo **th")
        await go_on.wait()
        return {"state": "done", "outgoing": [host.send("Hello **there**\x1b]0;title\x07")]}

    async with Host(tmp_path, script).living() as host:
        terminal = await open_chat(tmp_path)
        terminal.type("hi\n")
        await terminal.shows("Hello **th")
        go_on.set()
        shown = await terminal.shows("> ")
        assert "\x1b[1mthere\x1b[0m" in shown
        assert "title" not in shown
        host.send("Your tea is ready")
        await terminal.shows("Your tea is ready")
        terminal.type("\x04")
        assert await terminal.ends() == 0
        assert host.heard == ["hi"]
        assert (tmp_path / "chat_history").read_text() == "hi\n"


async def test_ctrl_c_stops_the_turn_and_twice_leaves(tmp_path: Path) -> None:
    """The first says /stop for the running turn, the second leaves."""

    async def script(host: Host, message: Incoming) -> Frame:
        if message.text != "/stop":
            host.show(Show.THINKING)
            await host.stopped.wait()
            return {"state": "stopped", "outgoing": []}
        return {"state": "done", "outgoing": [host.send("Stopped.")]}

    async with Host(tmp_path, script).living() as host:
        terminal = await open_chat(tmp_path)
        terminal.type("work hard\n")
        await terminal.shows("thinking")
        terminal.press_ctrl_c()
        await terminal.shows("Stopped.")
        await terminal.shows("> ")
        assert host.heard == ["work hard", "/stop"]
        terminal.press_ctrl_c()
        terminal.press_ctrl_c()
        assert await terminal.ends() == 0


async def test_the_terminal_is_left_as_it_was(tmp_path: Path) -> None:
    """Also when the host ends while the line editor waits: echo is back, and one line says what happened."""
    async with Host(tmp_path, echo).living():
        terminal = await open_chat(tmp_path)
    await terminal.shows("nanoclaw: the assistant ended")
    echoes = terminal.echoes
    assert await terminal.ends() == 1
    assert echoes
