"""What breaks beneath the host, at every place where it can: stories in which one part fails and the rest goes on."""

import asyncio
import errno
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanoclaw import failpoints, groups, outbox
from nanoclaw.channels import Ears
from nanoclaw.dispatcher import Dispatcher
from nanoclaw.errors import Cause, SandboxError
from nanoclaw.mailbox import Reply, TurnDone, encode
from nanoclaw.models import Outgoing, Role, Sent, Turn
from nanoclaw.run import Run, runner
from nanoclaw.sandbox import Found, Spec
from nanoclaw.store import outgoing, turns
from tests.fakes import LIMIT, MemoryChannel, ProcessSandbox, eventually, hosting, living
from tests.story import abandoned, busy, eventually_rows, forge, states, until_parked


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host looks at what changes outside, and at its runs, twenty times a second."""
    monkeypatch.setattr("nanoclaw.app.outside.WATCH", 0.05)
    monkeypatch.setattr(runner, "HOST_EVERY", 0.05)


def failing(fn: Callable[..., Any], error: Exception, at: int = 1) -> Callable[..., Any]:
    """The function, but its call number `at` fails."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return fn(*args, **kwargs)

    return call


# --- turns and their ends ----------------------------------------------------------------------


async def test_a_turn_given_while_another_one_ends_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the run's turn like any other: /stop finds it, and the agent hears of it."""
    applying = asyncio.Event()
    monkeypatch.setattr(failpoints, "hit", lambda name: applying.set() if name == "apply" else None)
    async with hosting(folder) as host:
        await host.group("family", Olga=Role.OWNER)
        go = await busy(host, "family", "!separate\nfirst", "Olga")
        give = runner.Runner.give

        async def when_the_first_ends(self: runner.Runner, run: Run, turn: Turn) -> None:
            applying.clear()
            go.touch()
            await applying.wait()
            await give(self, run, turn)

        monkeypatch.setattr(runner.Runner, "give", when_the_first_ends)
        second = host.path("second")
        await host.channel.say("family", f"!mark {second}\n!wait {host.path('never')}", "Olga")
        await eventually(second.exists)
        monkeypatch.setattr(runner.Runner, "give", give)
        await host.channel.say("family", "/stop", "Olga")
        await host.channel.say("family", "next", "Olga")
        await host.channel.until(lambda: "echo: next" in host.channel.texts)
        await host.settled()
        assert await states(host) == ["done", "stopped", "done"]
        assert len(host.sandbox.opened) == 1


async def test_an_interruption_that_nobody_asked_for(folder: Path) -> None:
    """The turn is asked again; the second time it is failed and told."""
    async with hosting(folder) as host:
        await host.group("family")
        await busy(host, "family", "hello")
        (turn,) = await host.rows("SELECT id FROM turns")
        for n in (1, 2):
            await eventually_rows(host, "SELECT 1 FROM turns WHERE state = 'given' AND attempts = ?", n)
            await forge(host, "family", encode(TurnDone((turn["id"],), "stopped")))
        await host.channel.until(1)
        assert host.channel.texts[0].startswith("Sorry, something went wrong")
        assert await states(host) == ["failed"]


async def test_an_answer_at_the_last_moment_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a run had written when it was ended is taken whole: the turn is not told as failed, nor asked again."""
    monkeypatch.setattr("nanoclaw.app.host.STOP_GRACE", 0.05)
    async with hosting(folder) as host:
        await host.group("family")
        await busy(host, "family")
        (turn,) = await host.rows("SELECT id FROM turns")
        close = host.sandbox.close

        async def answered(container: str) -> None:
            monkeypatch.setattr(host.sandbox, "close", close)
            await forge(host, "family", encode(Reply((turn["id"],), "answer")) + encode(TurnDone((turn["id"],), "ok")))
            await close(container)

        monkeypatch.setattr(host.sandbox, "close", answered)
    said = host.channel.texts
    async with hosting(folder) as host:
        await host.settled()
        assert said + host.channel.texts == ["answer"]
        assert await states(host) == ["done"]


# --- the sandbox -------------------------------------------------------------------------------


async def test_a_container_that_could_not_be_closed_is_closed_at_the_next_look(
    folder: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that hangs does not hold its lane because the engine failed once."""
    monkeypatch.setattr(runner, "STOP_LIMIT", 0.1)
    async with hosting(folder) as host:
        await host.group("family", Olga=Role.OWNER)
        started = host.path("started")
        await host.channel.say("family", f"!mark {started}\n!hang", "Olga")
        await eventually(started.exists)
        (hung,) = host.sandbox.pids()
        host.sandbox.close_faults.append(SandboxError("could not kill", Cause.SANDBOX))
        await host.channel.say("family", "/stop", "Olga")
        await host.channel.say("family", "next", "Olga")
        await host.channel.until(2)
        assert host.channel.texts == ["Stopped.", "echo: next"]
        assert not host.sandbox.close_faults
        assert hung not in host.sandbox.pids()


async def test_a_letter_that_could_not_be_written_is_written_at_the_next_look(
    folder: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row stands; the file follows as soon as the disk has room."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "!pid")
        await host.channel.until(1)
        await host.settled()
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(runner, "put_letter", failing(runner.put_letter, full))
        await host.channel.say("family", "!pid")
        await host.channel.until(2)
        assert len(set(host.channel.texts)) == 1


async def test_no_container_is_opened_before_the_engine_has_said_which_there_are(
    folder: Path, quick: None, sandbox: ProcessSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container of an earlier life may have the session open: first it goes, then its message is answered."""
    async with abandoned(folder, sandbox) as host:
        await host.group("family")
        go = await busy(host, "family", "hello")
    (old,) = sandbox.pids()
    found, opening = sandbox.found, sandbox.open
    mended = False
    beside: list[list[int]] = []  # who lived when a container was opened

    async def asked() -> list[Found]:
        if not mended:
            raise SandboxError("it does not answer", Cause.ENGINE)
        return await found()

    async def opened(spec: Spec) -> str:
        beside.append(sandbox.pids())
        return await opening(spec)

    monkeypatch.setattr(sandbox, "found", asked)
    monkeypatch.setattr(sandbox, "open", opened)
    async with living(folder, sandbox) as host:
        await host.channel.until(1)
        assert "cannot work" in host.channel.texts[0]
        assert (sandbox.pids(), beside) == ([old], [])
        mended = True
        go.touch()
        await host.channel.until(2)
        assert host.channel.texts[1:] == ["echo: attempt 2 | hello"]
        assert beside == [[]]


async def test_an_adopted_run_that_ends_during_the_start_frees_one_slot(
    folder: Path, sandbox: ProcessSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are never more containers than max_runs."""
    async with abandoned(folder, sandbox) as host:
        for n, chat in enumerate(("one", "two"), 1):
            await host.group(chat)
            await host.channel.say(chat, chat)
            await host.channel.until(n)
            await host.settled()
    starting, opening = Dispatcher.start, sandbox.open
    most = 0

    async def killing(self: Dispatcher) -> None:  # the runs are adopted by now
        sandbox.kill_all()
        await eventually(lambda: not list(sandbox.registry.glob("c-*")))
        await starting(self)

    async def opened(spec: Spec) -> str:
        nonlocal most
        container = await opening(spec)
        most = max(most, len(sandbox.pids()))
        return container

    monkeypatch.setattr(Dispatcher, "start", killing)
    monkeypatch.setattr(sandbox, "open", opened)
    async with living(folder, sandbox, max_runs=1) as host:
        go = await busy(host, "one")
        await host.channel.say("two", "hello")
        await asyncio.sleep(0.2)  # there is no event for what must not happen
        go.touch()
        await host.channel.until(lambda: host.channel.to("two"))
        assert most == 1


# --- the disk ----------------------------------------------------------------------------------


async def test_a_full_quota_ends_the_run(folder: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes too much is ended and told once; when there is room again the turn goes on by itself."""
    monkeypatch.setattr(groups, "QUOTA", 1 << 20)
    monkeypatch.setattr(runner, "ROOM_EVERY", 0)
    async with hosting(folder) as host:
        await host.in_main("owner")
        await host.group("family")
        go = await busy(host, "family", "hello")
        heap = host.config.home / "groups" / "family" / "heap"
        heap.write_bytes(b"x" * (2 << 20))
        await until_parked(host)
        await eventually(lambda: not host.sandbox.pids())
        assert (await host.status())["parked"] == [{"lane": "family", "cause": "disk"}]
        await look_again(monkeypatch)
        heap.unlink()
        go.touch()
        await host.channel.until(lambda: "echo: attempt 2 | hello" in host.channel.texts)
        assert len(host.channel.to("family")) == 2
        (told,) = host.channel.to("owner")
        assert "MiB" in told
        assert len(host.sandbox.opened) == 2


async def look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the host has looked at the disk once more."""
    looked = asyncio.Event()
    loop = asyncio.get_running_loop()
    check = runner.check_room

    def checked(*args: Any) -> None:
        loop.call_soon_threadsafe(looked.set)
        check(*args)

    monkeypatch.setattr(runner, "check_room", checked)
    async with asyncio.timeout(LIMIT):
        await looked.wait()


async def test_nothing_is_started_on_a_full_disk(folder: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of the disk is the store's; the message is kept, told once, and answered when there is room."""
    with monkeypatch.context() as full:
        full.setattr(groups, "FREE_FLOOR", 1 << 62)
        async with hosting(folder) as host:
            await host.group("family")
            await host.channel.say("family", "hello")
            await host.channel.until(1)
            await look_again(full)
            assert host.sandbox.opened == []
            full.undo()
            monkeypatch.setattr("nanoclaw.app.outside.WATCH", 0.05)
            await host.channel.until(2)
            assert "cannot work" in host.channel.texts[0]
            assert host.channel.texts[1:] == ["echo: hello"]


# --- the store, the channels -------------------------------------------------------------------

BROKEN = sqlite3.OperationalError("disk I/O error")


async def test_a_read_that_fails_in_the_outbox(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text waits a moment, the host lives."""
    monkeypatch.setattr(outbox, "_TROUBLE", 0.01)
    async with hosting(folder) as host:
        await host.group("family")
        monkeypatch.setattr(outgoing, "next_due", failing(outgoing.next_due, BROKEN))
        await host.channel.say("family", "one")
        await host.channel.until(1)
        monkeypatch.setattr(outgoing, "next_try", failing(outgoing.next_try, BROKEN))
        await host.channel.say("family", "two")
        await host.channel.until(2)


async def test_a_read_that_fails_in_the_watch(folder: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One look is lost, not the watch: an engine that comes back is seen."""
    async with hosting(folder) as host:
        await host.group("family")
        host.sandbox.fault = SandboxError("it is gone", Cause.ENGINE)
        await host.channel.say("family", "hello")
        await host.channel.until(1)
        monkeypatch.setattr(turns, "parked_lanes", failing(turns.parked_lanes, BROKEN))
        host.sandbox.fault = None
        await host.channel.until(2)


async def test_a_channel_that_breaks_is_started_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its run() raises."""
    monkeypatch.setattr("nanoclaw.app.host._CHANNEL_AGAIN", 0.01)
    run = MemoryChannel.run
    lives = 0

    async def breaking(self: MemoryChannel, ears: Ears) -> None:
        nonlocal lives
        lives += 1
        if lives == 1:
            raise ConnectionError("the line broke")
        await run(self, ears)

    monkeypatch.setattr(MemoryChannel, "run", breaking)
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "hello")
        await host.channel.until(1)
        assert lives == 2


async def test_a_stop_waits_for_what_is_being_sent(
    folder: Path, sandbox: ProcessSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other side has it, its acknowledgement is on the way: the next life does not send it again."""
    taken: list[str] = []
    acknowledged = asyncio.Event()

    async def slow(out: Outgoing) -> Sent:
        taken.append(out.text)
        await acknowledged.wait()
        return Sent("x", 1)

    async with living(folder, sandbox) as host:
        await host.group("family")
        monkeypatch.setattr(host.channel, "send", slow)
        await host.channel.say("family", "hello")
        await eventually(lambda: taken)
        asyncio.get_running_loop().call_later(0.2, acknowledged.set)
    async with living(folder, sandbox) as host:
        await host.settled()
        assert taken + host.channel.texts == ["echo: hello"]


# --- trouble of one group ----------------------------------------------------------------------


async def test_a_parked_chat_is_told_once(folder: Path, sandbox: ProcessSandbox) -> None:
    """Another group's success tries it again, and so does a restart; as long as it fails, in silence."""
    async with living(folder, sandbox) as host:
        await host.group("parked")
        await host.group("fine")
        await host.channel.say("parked", "!status 403 no such model for this key")
        await until_parked(host)
        for n in (2, 3):
            await host.channel.say("fine", "hello")
            await eventually_rows(host, "SELECT 1 FROM turns WHERE attempts = ? AND state = 'parked'", n)
        await host.settled()
        assert len(host.channel.to("parked")) == 1
    async with living(folder, sandbox) as host:
        await eventually_rows(host, "SELECT 1 FROM turns WHERE attempts = 4 AND state = 'parked'")
        await host.settled()
        assert host.channel.to("parked") == []
