"""What the owner changes by the command line counts at once in the living host; each setting where it is used."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw.channels.control_sock import connect
from nanoclaw.control import groups
from nanoclaw.models import By, Limits, Members
from nanoclaw.run import runner
from nanoclaw.store import Tx, chats
from tests.commands import nanoclaw
from tests.fakes import Hosted, ProcessSandbox, eventually, hosting, living
from tests.story import abandoned

OWNER = By("owner")


async def run(host: Hosted, *args: str) -> str:
    """The command, as its user has it; what it said."""
    code, out, err = await nanoclaw(host.config.home, *args)
    assert (code, err) == (0, ""), (args, err)
    return out


async def refused(host: Hosted, *args: str) -> str:
    code, out, err = await nanoclaw(host.config.home, *args)
    assert (code, out) == (1, ""), (args, out)
    assert err.startswith("nanoclaw: ")
    assert err.count("\n") == 1
    return err


async def number(host: Hosted, name: str) -> str:
    """The chat's number, as the command line tells it."""
    seen = json.loads(await run(host, "groups", "chats", "--json"))
    return str(next(chat["number"] for chat in seen if chat["name"] == name))


async def say(host: Hosted, chat: str, text: str, sender: str = "Ann") -> None:
    await host.channel.say(chat, text, sender)


async def works(host: Hosted, chat: str, name: str) -> Path:
    """A turn that runs until its file is there."""
    go, on = host.path(f"{name}-go"), host.path(f"{name}-on")
    await say(host, chat, f"@Andy\n!mark {on}\n!wait {go}\n!say {name}")
    await eventually(on.exists)
    return go


def set_limits(tx: Tx, limits: Limits) -> None:
    chats.save_group(tx, replace(groups.find(tx, "club"), limits=limits))


def add(tx: Tx, name: str) -> None:
    groups.add(tx, groups.chat_of(tx, name).number, None, OWNER, 1)
    groups.change(tx, groups.find(tx, name), {"who": "everyone"}, OWNER, 1)


async def changed(host: Hosted) -> None:
    """What the command line tells the host, behind each of its changes."""
    async with await connect(host.config.home / "control.sock") as client:
        await client.call("changed")


async def put(host: Hosted, **settings: str) -> None:
    """As `groups set` does, in this process."""
    await host.store.write(lambda tx: groups.change(tx, groups.find(tx, "club"), settings, OWNER, 1))
    await changed(host)


async def served(host: Hosted, *names: str) -> None:
    """A chat "club" with these people in it; it has been greeted."""
    host.channel.groups["club"] = Members(tuple((f"jid:{name}",) for name in names or ("Ann", "Bea")))
    await say(host, "club", "before")
    await host.store.write(add, "club")
    await changed(host)
    await host.channel.until(lambda: host.channel.to("club"))


async def test_the_life_of_a_group_by_the_command_line(folder: Path) -> None:
    """Seen, added, greeted, answered, paused, resumed, removed: each at once, and the folder stays."""
    async with hosting(folder) as host:
        await say(host, "club", "@Andy is anybody there?")
        chat = await number(host, "club")
        assert "not served" in await run(host, "groups", "chats")
        assert await run(host, "groups", "add", chat) == (
            "club is served; who may call it: owner. What is set: nanoclaw groups show club\n"
        )
        await host.channel.until(1)
        assert host.channel.texts[0].startswith("Hello, I am Andy")
        assert "has a group already" in await refused(host, "groups", "add", chat, "--folder", "other")
        await run(host, "groups", "set", "club", "who=everyone")
        await say(host, "club", "@Andy first")
        await host.channel.until(lambda: any("first" in t for t in host.channel.texts))
        assert not any("anybody" in t for t in host.channel.texts)  # what was said before is not known
        await run(host, "groups", "pause", "club")
        await say(host, "club", "@Andy two")
        await run(host, "groups", "resume", "club")
        await say(host, "club", "@Andy three")
        await host.channel.until(lambda: any("three" in t for t in host.channel.texts))
        assert (host.config.home / "groups" / "club" / "CLAUDE.md").is_file()
        said = len(host.channel.texts)
        assert "not served any more" in await run(host, "groups", "remove", "club")
        await eventually(lambda: not host.sandbox.pids())
        await say(host, "club", "@Andy four")
        await host.settled()
        assert len(host.channel.texts) == said
        assert (host.config.home / "groups" / "club" / "CLAUDE.md").is_file()
        assert "no group 'club'" in await refused(host, "groups", "show", "club")


async def test_a_group_is_removed_in_the_middle_of_its_work(folder: Path) -> None:
    """Its container goes, and nothing is said of what it was at; another group does not notice."""
    async with hosting(folder) as host:
        await served(host)
        await host.group("family")
        other = await works(host, "family", "other")
        await works(host, "club", "mine")
        await say(host, "club", "@Andy and this?")
        said = len(host.channel.to("club"))
        await host.store.write(lambda tx: groups.remove(tx, groups.find(tx, "club"), OWNER, 1))
        await changed(host)
        await eventually(lambda: len(host.sandbox.pids()) == 1)
        other.touch()
        await host.channel.until(lambda: host.channel.to("family"))
        await host.settled()
        assert len(host.channel.to("club")) == said
        assert [r["state"] for r in await host.rows("SELECT state FROM turns WHERE lane = 'club'")] == [
            "stopped"
        ] * len(await host.rows("SELECT 1 FROM turns WHERE lane = 'club'"))


async def test_a_group_that_was_removed_while_no_host_lived(folder: Path, sandbox: ProcessSandbox) -> None:
    """Its container, which lives on, goes with the next start."""
    async with abandoned(folder, sandbox) as host:
        await served(host)
        await works(host, "club", "mine")
    assert (await nanoclaw(host.config.home, "groups", "remove", "club"))[0] == 0
    assert sandbox.pids()
    async with living(folder, sandbox) as host:
        await eventually(lambda: not sandbox.pids())
        await host.settled()
        assert host.channel.to("club") == []


async def test_who_is_in_the_group_is_asked_when_it_is_added(folder: Path) -> None:
    """So that who joins later is known to be new; the owner's word lets them call at once."""
    async with hosting(folder) as host:
        await served(host, "Ann", "Bea")
        await eventually_listed(host)
        await say(host, "club", "@Andy from Cem", "Cem")
        await say(host, "club", "@Andy from Bea", "Bea")
        await host.channel.until(lambda: any("from Bea" in t for t in host.channel.texts))
        assert any("context @Andy from Cem" in t for t in host.channel.texts)
        known = json.loads(await run(host, "people", "list", "--json"))
        (cem,) = next(p["jids"] for p in known if p["name"] == "Cem")
        assert await run(host, "people", "allow", cem) == "«Cem» (jid:Cem) is allowed.\n"
        await say(host, "club", "@Andy now?", "Cem")
        await host.channel.until(lambda: any("now?" in t for t in host.channel.texts))
        await run(host, "people", "deny", cem)
        await say(host, "club", "@Andy and now?", "Cem")
        assert (await host.rows("SELECT verdict FROM messages ORDER BY id DESC LIMIT 1"))[0]["verdict"] == "context"
        assert "«Cem» (jid:Cem): denied" in await run(host, "people", "list")


async def eventually_listed(host: Hosted) -> None:
    while not await host.rows("SELECT id FROM chats WHERE name = 'club' AND listed_at > 0"):
        await asyncio.sleep(0.01)


async def test_what_the_next_container_is_made_of(folder: Path) -> None:
    """Memory, processors, processes, time zone, skills: in the spec; the warm container of before goes at once."""
    async with hosting(folder) as host:
        await served(host)
        for name in ("tea", "coffee"):
            (host.config.home / "skills" / name).mkdir()
        await say(host, "club", "@Andy first")
        await host.channel.until(lambda: any("first" in t for t in host.channel.texts))
        before = host.sandbox.opened[-1]
        await put(host, memory="512", cpus="0.5", pids="100", zone="Asia/Tokyo", skills="tea,memory,no")
        await eventually(lambda: not host.sandbox.pids())
        await say(host, "club", "@Andy second")
        await host.channel.until(lambda: any("second" in t for t in host.channel.texts))
        spec = host.sandbox.opened[-1]
        assert (before.memory_mb, before.cpus, before.pids) == (1536, 2.0, 256)
        assert (spec.memory_mb, spec.cpus, spec.pids, spec.env["TZ"]) == (512, 0.5, 100, "Asia/Tokyo")
        skills = {b.target: b.source.name for b in spec.binds if "/plugins/" in b.target}
        assert skills == {
            "/opt/agent/plugins/home/skills/tea": "tea", "/opt/agent/plugins/nanoclaw/skills/memory": "memory",
        }  # fmt: skip
        assert all(not b.read_write for b in spec.binds if "/plugins/" in b.target)
        (turn,) = await host.rows("SELECT prompt FROM turns ORDER BY rowid DESC LIMIT 1")
        assert "(Asia/Tokyo)" in turn["prompt"]


async def test_the_model_and_the_word(folder: Path) -> None:
    """From the next message on."""
    async with hosting(folder) as host:
        await served(host)
        await put(host, model="claude-opus-5", word="Computer")
        await say(host, "club", "@Andy\n!model")
        await say(host, "club", "Computer\n!model")
        await host.channel.until(lambda: any("claude-opus-5" in t for t in host.channel.texts))
        assert len(await host.rows("SELECT id FROM turns")) == 1


async def test_a_turn_takes_as_long_as_its_group_may(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its container is ended and the chat is told."""
    monkeypatch.setattr(runner, "HOST_EVERY", 0.05)
    async with hosting(folder) as host:
        await served(host)
        await host.store.write(set_limits, Limits(turn_timeout=1))
        await say(host, "club", "@Andy\n!hang")
        await host.channel.until(lambda: any("took too long" in t for t in host.channel.texts), 30)


async def test_a_container_lives_as_long_as_its_group_may(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn that runs is ended by itself; the next one gets a new container."""
    monkeypatch.setattr(runner, "HOST_EVERY", 0.05)
    async with hosting(folder) as host:
        await served(host)
        await put(host, run_timeout="3600")
        go = await works(host, "club", "first")
        host.clock.advance(3601)
        go.touch()
        await host.channel.until(lambda: any("first" in t for t in host.channel.texts))
        await eventually(lambda: not host.sandbox.pids())
        await say(host, "club", "@Andy\n!say second")
        await host.channel.until(lambda: any("second" in t for t in host.channel.texts))
        assert len(host.sandbox.opened) == 2


async def test_two_writers_at_once(folder: Path) -> None:
    """One folder has one group, whoever was first; what two set of different things is both set."""
    async with hosting(folder) as host:
        for name in ("left", "right"):
            await say(host, name, "hello")
        seen = await host.store.read(groups.seen)
        numbers = [str(chat.number) for chat in seen if chat.name in ("left", "right")]
        ends = await asyncio.gather(
            *(nanoclaw(host.config.home, "groups", "add", n, "--folder", "mine") for n in numbers)
        )
        assert sorted(code or 0 for code, _, _ in ends) == [0, 1]
        pairs = ["memory=1000", "pids=100", "cpus=1", "zone=Asia/Tokyo", "word=Computer", "prefix=Bot"]
        await asyncio.gather(*(run(host, "groups", "set", "mine", pair) for pair in pairs), say(host, "left", "more"))
        told = json.loads(await run(host, "groups", "show", "mine", "--json"))
        assert [f"{key}={told[key]}" for key in ("memory", "pids", "cpus", "zone", "word", "prefix")] == pairs


async def test_without_a_host_the_rows_are_the_truth(folder: Path) -> None:
    """Every command works; what is wrong is one line that says what to do."""
    async with hosting(folder) as host:
        await served(host)
    await run(host, "groups", "rename", "club", "The club")
    await run(host, "groups", "set", "club", "who=allowed", "memory=2048")
    shown = await run(host, "groups", "show", "The club")
    assert "who: allowed" in shown
    assert "memory: 2048" in shown
    assert await run(host, "groups", "list") == (
        "main: «Andy», active, who: owner, mode: always\nclub: «The club», active, who: allowed, mode: word\n"
    )
    assert [g["folder"] for g in json.loads(await run(host, "groups", "list", "--json"))] == ["main", "club"]
    assert "known are mode, word" in await refused(host, "groups", "set", "club", "colour=red")
    assert "KEY=VALUE" in await refused(host, "groups", "set", "club", "colour")
    assert "from 256 to" in await refused(host, "groups", "set", "club", "memory=1")
    assert "no chat is known as" in await refused(host, "groups", "add", "nothing")
    assert "+4915112345678" in await refused(host, "people", "allow", "4915112345678")
    assert "is allowed" in await run(host, "people", "allow", "+49 151 12345678")
    for words in (("groups", "--help"), ("groups", "set", "--help"), ("people", "--help")):
        assert "who" in (await run(host, *words)).lower()
