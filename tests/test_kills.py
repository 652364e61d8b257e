"""Kill -9 at every hop: the host dies at each fail point, and no message is lost or answered twice."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nanoclaw.channels.control_sock import Client, Frame, connect
from nanoclaw.errors import NanoClawError
from tests.fakes import LIMIT, ROOT, Hosted, ProcessSandbox, eventually, living


@dataclass
class House:
    """A home, the containers that outlive its hosts, and the one client that sits at its terminal."""

    folder: Path
    sandbox: ProcessSandbox
    texts: dict[int, str] = field(default_factory=dict)  # by row: what was shown twice is one
    hosts: list[asyncio.subprocess.Process] = field(default_factory=list)
    heard: set[str] = field(default_factory=set)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    async def start(self, fail_point: str = "") -> asyncio.subprocess.Process:
        """A host to be killed, up or dead by its fail point."""
        env = {**os.environ, "NANOCLAW_FAIL_POINT": fail_point, "PYTHONPATH": str(ROOT)}
        host = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.host", str(self.home), str(self.sandbox.registry)),
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.hosts.append(host)
        assert host.stdout is not None
        assert (await host.stdout.readline()).strip() in (b"ready", b"")  # it may die in the middle of the word
        return host

    def restarted(self) -> AbstractAsyncContextManager[Hosted]:
        """The next host, which nobody kills: in this process, because that is quicker."""
        return living(self.folder, self.sandbox)

    async def talk(self, wa_id: str, text: str, *, until: int = 0, word: str = "") -> None:
        """Say it, again if need be, and take what comes: so many texts and this word, or until the host dies."""
        with contextlib.suppress(NanoClawError, ConnectionError):
            async with await connect(self.home / "control.sock") as client, asyncio.timeout(LIMIT):
                await client.attach()
                if wa_id not in self.heard:
                    await client.send({"type": "say", "id": wa_id, "text": text})
                while len(self.texts) < until or word not in " ".join(self.said):
                    if (frame := await client.receive()) is None:
                        return
                    await self._take(client, frame)

    async def _take(self, client: Client, frame: Frame) -> None:
        if frame["type"] == "heard":
            self.heard.add(frame["id"])
        elif frame["type"] == "message":
            self.texts[frame["id"]] = frame["text"]
            await client.send({"type": "ack", "id": frame["id"]})

    async def outcome(self, wa_id: str) -> Frame:
        async with await connect(self.home / "control.sock") as client, asyncio.timeout(LIMIT):
            return await client.call("outcome", wa_id=wa_id)

    @property
    def said(self) -> list[str]:
        return [self.texts[n] for n in sorted(self.texts)]

    async def end(self) -> None:
        self.sandbox.kill_all()
        for host in self.hosts:
            with contextlib.suppress(ProcessLookupError):
                host.kill()
            await host.communicate()


@pytest.fixture
async def house(folder: Path) -> AsyncIterator[House]:
    house = House(folder, ProcessSandbox(folder / "registry"))
    try:
        yield house
    finally:
        await house.end()


async def died(host: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(LIMIT):
        assert await host.wait() == -signal.SIGKILL


PLAIN = [
    *("hearing", "heard", "claimed", "given", "letter", "letter:2", "container"),
    *("apply", "applied", "apply:2", "applied:2", "sending", "sent"),
]


@pytest.mark.parametrize("point", PLAIN)
async def test_a_plain_message_is_answered_once(house: House, point: str) -> None:
    """Whenever the host dies, the next one answers, and the terminal sees one reply."""
    host = await house.start(point)
    await house.talk("m1", "hello", until=1)
    if point.endswith(":2") and house.texts:  # Hello and the reply had shared a batch: kill it right behind the reply
        host.kill()
    await died(host)
    async with house.restarted():
        await house.talk("m1", "hello", until=1)
        assert (await house.outcome("m1"))["state"] == "done"
    assert house.said in (["echo: hello"], ["echo: attempt 2 | hello"])


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("n", range(1, 11))
async def test_a_kill_at_any_commit(house: House, side: str, n: int) -> None:
    """A transaction is there whole or not at all, and either way the message is answered once."""
    host = await house.start(f"{side}-commit:{n}")
    await house.talk("m1", "hello", until=1)
    if house.texts:  # some commits had shared one: kill it right behind the reply
        host.kill()
    await died(host)
    async with house.restarted():
        await house.talk("m1", "hello", until=1)
        assert (await house.outcome("m1"))["state"] == "done"
    assert house.said in (["echo: hello"], ["echo: attempt 2 | hello"])


TOOL = ["apply:2", "applied:2", "acted", "letter:3", "sending", "sent", "sending:2", "sent:2"]


@pytest.mark.parametrize("point", TOOL)
async def test_a_tool_acts_once(house: House, point: str) -> None:
    """A tool that had acted does not act again, and the turn ends with its reply."""
    text = "!tool by tool\n!say by reply"
    host = await house.start(point)
    await house.talk("m1", text, until=3)
    await died(host)
    async with house.restarted():
        await house.talk("m1", text, until=2)
        assert (await house.outcome("m1"))["state"] == "done"
    assert house.said == ["by tool", "by reply"]


COMMAND = ["hearing", "heard", "before-commit:3", "after-commit:3", "sending", "sent"]


@pytest.mark.parametrize("point", COMMAND)
async def test_a_command_is_done_and_answered_once(house: House, point: str) -> None:
    """Effect, answer and "handled" are one transaction: the record shows it once, and so does the terminal."""
    host = await house.start(point)
    await house.talk("m1", "/new", until=1)
    if house.texts:  # some commits had shared one: kill it right behind the answer
        host.kill()
    await died(host)
    async with house.restarted() as next_host:
        await house.talk("m1", "/new", until=1)
        assert (await house.outcome("m1"))["state"] == "handled"
        assert len(await next_host.rows("SELECT 1 FROM audit WHERE verb = 'new conversation'")) == 1
    assert len(house.said) == 1


async def abandoned(house: House, text: str) -> None:
    """Say it, and kill the host while the agent works at it."""
    started = house.folder / "started"
    host = await house.start()
    async with asyncio.TaskGroup() as tg:
        tg.create_task(house.talk("m1", f"!mark {started}\n{text}", until=1))
        await eventually(started.exists)
        host.kill()
    await died(host)


async def test_new_counts_also_if_the_host_dies_right_behind_it(house: House) -> None:
    """The session is given up in the rows: the old agent goes, and the next message begins afresh."""
    host = await house.start("heard:2")
    await house.talk("m1", "!session", until=1)
    (old,) = house.sandbox.pids()
    await house.talk("m2", "/new", until=3)
    await died(host)
    async with house.restarted():
        await house.talk("m2", "/new", until=2)
        await house.talk("m3", "!session", until=3)
        assert old not in house.sandbox.pids()
    assert [house.said[0], house.said[2]] == ["resumed nothing"] * 2


async def test_the_living_agent_is_adopted(house: House) -> None:
    """A host that dies in mid-turn finds its agent again: the same process ends the turn."""
    go = house.folder / "go"
    await abandoned(house, f"!wait {go}\n!pid")
    (pid,) = house.sandbox.pids()
    async with house.restarted():
        go.touch()
        await house.talk("m1", "", until=1)
    assert house.said == [f"pid {pid}"]


async def test_an_agent_that_answered_while_no_host_lived(house: House) -> None:
    """A reply that was written to nobody is sent by the next host, also if its agent is dead by then."""
    go, gone = house.folder / "go", house.folder / "gone"
    done = '{"v": 2, "type": "done", "turns": ["TURN"], "outcome": "ok"}'
    await abandoned(house, f"!wait {go}\n!reply the answer\n!raw {done}\n!mark {gone}\n!die")
    go.touch()
    await eventually(lambda: gone.exists() and not house.sandbox.pids())
    async with house.restarted():
        await house.talk("m1", "", until=1)
        assert (await house.outcome("m1"))["state"] == "done"
    assert house.said == ["the answer"]


async def test_an_agent_that_died_while_no_host_lived(house: House) -> None:
    """Its turn is given again, which is no fault of the turn."""
    go = house.folder / "go"
    await abandoned(house, f"!wait {go}\nhello")
    house.sandbox.kill_all()
    go.touch()
    async with house.restarted():
        await house.talk("m1", "", until=1)
    assert house.said == ["echo: attempt 2 | hello"]


async def test_an_agent_of_an_older_image_is_removed(house: House) -> None:
    """It is gone before its turn is given to a new container: a session is open in one at a time."""
    go = house.folder / "go"
    await abandoned(house, f"!wait {go}\n!pid")
    (old,) = house.sandbox.pids()
    house.sandbox.image_id = "image-2"
    async with house.restarted():
        await eventually(lambda: old not in house.sandbox.pids())
        go.touch()
        await house.talk("m1", "", until=1)
        (new,) = house.sandbox.pids()
    assert house.said == [f"pid {new}\necho: attempt 2"]


async def test_killed_again_and_again(house: House) -> None:
    """Four hosts, each killed a little later than the one before: three messages, each answered once."""
    for n in range(4):
        host = await house.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.08 * n):
                for m in range(3):
                    await house.talk(f"m{m}", f"!separate\nhello {m}", word=f"hello {m}" if m == n else "")
        host.kill()
        await died(host)
    async with house.restarted():
        for m in range(3):
            await house.talk(f"m{m}", f"!separate\nhello {m}", word=f"hello {m}")
            assert (await house.outcome(f"m{m}"))["state"] == "done"
    everything = " ".join(house.said)
    assert [everything.count(f"hello {m}") for m in range(3)] == [1, 1, 1]


async def test_a_note_is_written_once(house: House) -> None:
    """The host dies when the file has it and the agent no answer: the next one looks before it writes."""
    asked = '!call remember {"text": "the walrus"}\n!report'
    host = await house.start("noted")
    await house.talk("m1", asked, until=1)
    await died(host)
    async with house.restarted():
        await house.talk("m1", asked, until=1)
    assert house.said[0].startswith("tools: ok That stands in memory/")
    (note,) = (house.home / "groups/main/memory").iterdir()
    assert note.read_text().count("walrus") == 1


ACTS = {
    "send_file": (
        '!write {home}/groups/main/a.txt x\n!call send_file {{"path": "a.txt"}}',
        ["[document: {home}/groups/main/a.txt]"],
    ),
    "react": ('!call react {{"emoji": "👍"}}', ["👍"]),
    "edit_message": ('!tool one\n!call edit_message {{"text": "two"}}', ["one", "two"]),
}
POINTS = ["apply:2", "applied:2", "acted", "sending", "sent", "letter:3"]


@pytest.mark.parametrize(
    ("tool", "point"),
    [*((tool, point) for tool in ACTS for point in POINTS), ("send_file", "copied"), ("edit_message", "acted:2")],
)
async def test_what_a_tool_sends_is_sent_once(house: House, tool: str, point: str) -> None:
    """A file, a sign, another text: whenever the host dies, people get it once, and the turn ends with its reply."""
    asked, wanted = ACTS[tool]
    text = asked.format(home=house.home) + "\n!say by reply"
    (house.home / "groups/main").mkdir(parents=True, exist_ok=True)
    house.home.chmod(0o700)
    host = await house.start(point)
    await house.talk("m1", text, until=len(wanted) + 2)
    await died(host)
    async with house.restarted():
        await house.talk("m1", text, until=len(wanted) + 1)
        assert (await house.outcome("m1"))["state"] == "done"
    assert house.said == [*(line.format(home=house.home) for line in wanted), "by reply"]


@pytest.mark.parametrize("point", ["applied:2", "acted", "sending", "sent", "hearing:2", "heard:2", "letter:3"])
async def test_a_question_is_asked_and_answered_once(house: House, point: str) -> None:
    """The agent waits on while no host lives; what was said to it is the answer, and no prompt."""
    asked = '!call ask_user {"question": "Which?"}\n!report'
    host = await house.start(point)
    await house.talk("m1", asked, until=1)
    if host.returncode is None and house.texts:
        await house.talk("m2", "blue", until=3)
    await died(host)
    async with house.restarted() as next_host:
        await house.talk("m1", asked, until=1)
        await house.talk("m2", "blue", until=2)
        assert (await house.outcome("m1"))["state"] == "done"
        assert len(await next_host.rows("SELECT 1 FROM turns")) == 1
    assert house.said[0] == "Which?"
    assert [("blue" in text) for text in house.said] == [False, True]
