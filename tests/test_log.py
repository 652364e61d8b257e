"""nanoclaw log and nanoclaw pending, as their users have them; and /restart, as the process that is asked has it."""

import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nanoclaw import store
from nanoclaw.app import now_ms
from nanoclaw.channels.control_sock import connect
from nanoclaw.cli.house import TERMINAL
from nanoclaw.control import lanes, pending
from nanoclaw.models import By, Group
from nanoclaw.store import Tx
from tests.commands import nanoclaw, start
from tests.fakes import rows_of_one_group, short_folder

pytestmark = pytest.mark.timeout(120)
AGENT = By("agent of family", typed=False)
OFFLINE = {"NANOCLAW_ENGINE": "unix:///nonexistent.sock", "NANOCLAW_WHATSAPP": "off"}


@pytest.fixture
async def home() -> AsyncIterator[Path]:
    """With main and the group "family"."""
    with short_folder() as path:
        (path / "home").mkdir(0o700)
        with rows_of_one_group(path / "home" / "nanoclaw.db") as (tx, group):
            fill(tx, group)
        yield path / "home"


def fill(tx: Tx, group: Group) -> None:
    lanes.fresh_session(tx, group.lane, TERMINAL, 1_750_000_000_000)
    now = now_ms()
    pending.propose(tx, "allow_host", {"group": "family", "host": "example.org"}, AGENT, "AAAAA", now)
    pending.propose(tx, "allow_host", {"group": "family", "host": "example.net"}, AGENT, "BBBBB", now)


async def test_log_says_who_did_what(home: Path) -> None:
    """Oldest first; so many; for programs an object a line. It is there without a host."""
    code, out, _ = await nanoclaw(home, "log", NANOCLAW_ZONE="Europe/Berlin")
    assert code == 0
    assert out.splitlines()[0] == "2025-06-15 17:06:40  terminal: new conversation family"
    assert out.splitlines()[1].endswith("  agent of family: ask allow_host")
    code, out, _ = await nanoclaw(home, "log", "--json", "-n", "1")
    (entry,) = [json.loads(line) for line in out.splitlines()]
    assert (code, entry["who"], entry["verb"]) == (0, "agent of family", "ask")
    assert (await nanoclaw(home, "log", "-n", "0"))[0] == 2


async def test_pending_is_answered_at_the_terminal(home: Path) -> None:
    """Listed, allowed, refused; a wrong code is said and is no success; the record knows all."""
    code, out, _ = await nanoclaw(home, "pending", "list", "--json")
    assert [(w["code"], w["asker"]) for w in json.loads(out)] == [("AAAAA", AGENT.who), ("BBBBB", AGENT.who)]
    code, out, _ = await nanoclaw(home, "pending", "yes", "aaaaa")
    assert (code, "example.org" in out) == (0, True)
    code, out, err = await nanoclaw(home, "pending", "yes", "AAAAA")
    assert (code, out, "used already" in err) == (1, "", True)
    assert (await nanoclaw(home, "pending", "no", "BBBBB"))[0] == 0
    assert (await nanoclaw(home, "pending", "list"))[1] == "Nothing waits for you.\n"
    _, out, _ = await nanoclaw(home, "log")
    assert "terminal: yes allow_host for the agent of family" in out
    assert "terminal: no allow_host for the agent of family" in out
    tx = store._open(home / "nanoclaw.db")
    hosts = tx.execute("SELECT hosts FROM groups WHERE folder = 'family'").fetchone()["hosts"]
    tx.close()
    assert json.loads(hosts) == ["example.org"]


async def say(home: Path, text: str, wa_id: str = "r") -> str:
    """As `nanoclaw chat` does; the answer."""
    async with await connect(home / "control.sock") as client:
        await client.attach()
        await client.send({"type": "say", "id": wa_id, "text": text})
        async for frame in client:
            if frame["type"] == "message":
                await client.send({"type": "ack", "id": frame["id"]})
                if frame["kind"] == "command":
                    return str(frame["text"])
    raise AssertionError("no answer")


async def test_restart_begins_the_host_anew(home: Path) -> None:
    """The same process, whoever looks after it; the chat is told once that it is back, and it still stops in order."""
    process = await start(home, "run", **OFFLINE)
    assert process.stderr is not None
    try:
        while b"ready" not in await process.stderr.readline():
            continue
        assert await say(home, "/restart") == "I restart now, and say so when I am back."
        while b"ready" not in (line := await process.stderr.readline()):
            assert line, "it did not come back"
        assert process.returncode is None
        assert (await say(home, "/status", "s")).startswith("I am idle")
        tx = store._open(home / "nanoclaw.db")
        (back,) = tx.execute("SELECT count(*) FROM outgoing WHERE payload = 'I am back.'").fetchone()
        tx.close()
        assert back == 1
        status = json.loads((await nanoclaw(home, "status", "--json", **OFFLINE))[1])
        assert status["pid"] == process.pid
        os.kill(process.pid, signal.SIGTERM)
        await process.communicate()
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_where_nobody_would_start_it_again(home: Path) -> None:
    """A host that lives as long as `nanoclaw chat` says so, and goes on."""
    code, out, err = await nanoclaw(home, "chat", "-m", "/restart", **OFFLINE)
    assert (code, bool(re.search("leave it and start it again", out))) == (0, True), err
