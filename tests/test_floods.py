"""An agent that writes more than anybody reads: it is ended, and no other group waits for it."""

import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest

from nanoclaw.mailbox import Alive, Event, OutboxReader, Reply, Request, encode
from nanoclaw.run import listener
from nanoclaw.run.letters import MAX_BAD, MAX_WAITING
from nanoclaw.tools import chat
from tests.fakes import Hosted, hosting
from tests.story import busy, eventually_rows, forge, states

HELD = 2.0  # seconds of computing after which the loop must have done something else, also on a slow machine


class Held:
    """The longest time that this thread computed between two looks; what other processes take is not counted."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.005)
            self.longest = max(self.longest, time.thread_time() - began)


async def flood(host: Hosted, data: bytes) -> float:
    """One run of two is flooded; how long the loop was held until it had ended, the other group answered."""
    held = Held()
    watching = asyncio.ensure_future(held.watch())
    try:
        await forge(host, "bad", data)
        await host.channel.say("good", "hello")
        await host.channel.until(lambda: host.channel.to("good"))
        await eventually_rows(host, "SELECT 1 FROM runs WHERE lane = 'bad' AND cause = 'policy'")
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    return held.longest


FLOODS = {
    "alive": encode(Alive()),
    "short": b'{"v":2,"type":"alive"}\n',
    "newlines": b"\n",
    "events": encode(Event("TURN", "text", "x")),
    "thoughts": encode(Event("TURN", "thinking", "x")),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_holds_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Its run is ended at the hard limit; meanwhile another group is answered. The turn is asked again."""
    monkeypatch.setattr(listener, "MAX_OUTBOX", 1 << 20)
    async with hosting(folder) as host:
        await host.group("bad")
        await host.group("good")
        go = await busy(host, "bad", "hello")
        (turn,) = await host.rows("SELECT id FROM turns")
        line = FLOODS[kind].replace(b"TURN", turn["id"].encode())
        held = await flood(host, line * ((5 << 19) // len(line)))
        assert held < HELD
        go.touch()
        await host.channel.until(lambda: host.channel.to("bad"))
        assert host.channel.to("bad") == ["echo: attempt 2 | hello"]


async def test_what_was_said_before_the_abuse_counts(folder: Path) -> None:
    """Good letters beside too many bad ones are applied, then the run is ended."""
    async with hosting(folder) as host:
        await host.group("bad")
        await busy(host, "bad")
        (turn,) = await host.rows("SELECT id FROM turns")
        await forge(host, "bad", encode(Reply((turn["id"],), "half")) + b"no letter\n" * (MAX_BAD + 1))
        await host.channel.until(2)
        assert host.channel.texts[0] == "half"
        assert "I did not repeat it" in host.channel.texts[1]
        assert await states(host) == ["failed"]
        (run,) = await host.rows("SELECT cause FROM runs")
        assert run["cause"] == "policy"


async def test_too_many_calls_at_once_are_refused_at_once(folder: Path) -> None:
    """A few may wait for their answers; what is more is told so, and the run goes on."""
    async with hosting(folder) as host:
        await host.group("family")
        host.channel.connected = False
        go = await busy(host, "family", "\n".join(f"!ask {n}" for n in range(MAX_WAITING + 4)) + "\nhello")
        for state, count in (("answered", 4), ("acted", MAX_WAITING)):
            await eventually_rows(
                host, "SELECT count(*) FROM requests WHERE state = ? HAVING count(*) = ?", state, count
            )
        answers = await host.rows("SELECT DISTINCT answer FROM requests WHERE state = 'answered'")
        assert answers == [{"answer": "too many calls at once: wait for the answers to the others"}]
        host.channel.connected = True
        await host.poke("family")
        go.touch()
        await host.channel.until(MAX_WAITING + 1)
        assert host.channel.texts == [*map(str, range(MAX_WAITING)), "echo: hello"]
        assert len(host.sandbox.opened) == 1


async def test_a_flood_of_calls_ends_the_run(folder: Path) -> None:
    """Nobody else waits for it."""
    async with hosting(folder) as host:
        await host.group("bad")
        await host.group("good")
        await busy(host, "bad")
        (turn,) = await host.rows("SELECT id FROM turns")
        calls = (Request(n, turn["id"], "send_message", {"text": f"x{n}"}) for n in range(1, 3001))
        assert await flood(host, b"".join(map(encode, calls))) < HELD
        assert len(host.channel.to("bad")) <= MAX_WAITING + 1


async def test_a_turn_says_so_much_and_no_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over the limit is refused; the final answer still goes."""
    monkeypatch.setattr(chat, "MAX_SAID", 2)
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "!tool a\n!tool b\n!tool c\n!report")
        await host.channel.until(3)
        assert host.channel.texts[:2] == ["a", "b"]
        assert "no this turn has sent 2 messages" in host.channel.texts[2]


@pytest.mark.parametrize("way", ["!tool ", ""])
async def test_a_text_that_takes_long_to_put_into_parts_holds_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Other chats are heard and answered meanwhile: the store's one writer does not wait for it."""
    begun, over = threading.Event(), threading.Event()

    def parts(text: str) -> list[str]:
        if "long" in text:
            begun.set()
            over.wait(10)
        return [text]

    async with hosting(folder) as host:
        monkeypatch.setattr(host.channel, "parts", parts)
        await host.group("slow")
        await host.group("good")
        await host.channel.say("slow", way + "long " * 300)
        try:
            assert await asyncio.to_thread(begun.wait, 5)
            await host.channel.say("good", "hello")
            await host.channel.until(lambda: host.channel.to("good"))
            assert not host.channel.to("slow")
        finally:
            over.set()
        await host.channel.until(lambda: host.channel.to("slow"))


async def test_a_long_reply_is_one_text(folder: Path) -> None:
    """However many letters it took, and wherever it was cut: what is internal stays inside."""
    async with hosting(folder) as host:
        await host.group("family")
        go = await busy(host, "family", "!silent")
        (turn,) = await host.rows("SELECT id FROM turns")
        text = "begin" + "x" * 149_000 + " <internal>" + "y" * 1_600_000 + "</internal> end"
        parts = (text[i : i + 150_000] for i in range(0, len(text), 150_000))
        await forge(host, "family", b"".join(encode(Reply((turn["id"],), part)) for part in parts))
        go.touch()
        await host.settled()
        (out,) = host.channel.texts
        assert out.startswith("begin")
        assert out.endswith(" end")
        assert "y" not in out


STORM = "import os, sys, time; fd = os.open(sys.argv[1], os.O_RDWR); print(flush=True)\nwhile True: os.ftruncate(fd, 0)"


async def test_a_storm_of_changes_without_a_letter_costs_little(folder: Path) -> None:
    """The file is changed again and again and holds nothing: the host looks now and then, not each time."""
    async with hosting(folder) as host:
        await host.group("bad")
        await host.group("good")
        await busy(host, "bad")
        (run,) = await host.rows("SELECT id FROM runs")
        out = host.config.home / "runs" / run["id"] / "out.ndjson"
        size = out.stat().st_size
        storm = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STORM.replace("fd, 0", f"fd, {size}"), out, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert storm.stdout is not None
            await storm.stdout.readline()
            looks, read = 0, OutboxReader.read

            def counted(reader: OutboxReader) -> list[bytes]:
                nonlocal looks
                looks += 1
                return read(reader)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(OutboxReader, "read", counted)
                began = time.monotonic()
                await host.channel.say("good", "hello")
                await host.channel.until(lambda: host.channel.to("good"))
                await asyncio.sleep(max(0, began + 0.5 - time.monotonic()))
                assert looks < 500 * (time.monotonic() - began)  # thousands, if it looked each time
        finally:
            storm.kill()
            await storm.wait()
            (folder / "bad-go").touch()
