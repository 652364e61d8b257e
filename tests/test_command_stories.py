"""Commands against a living host: what they change counts at once, whatever runs."""

from pathlib import Path

from nanoclaw.control import pending
from nanoclaw.groups import FIRST_MEMORY
from nanoclaw.mailbox import Event, encode
from nanoclaw.models import By, Role, Show
from nanoclaw.store import Tx
from tests.fakes import Hosted, eventually, hosting
from tests.story import busy, forge, states, until_state


async def asked(host: Hosted, chat: str, text: str, sender: str = "Olga") -> str:
    """The answer to a command."""
    before = len(host.channel.to(chat))
    await host.channel.say(chat, text, sender)
    await host.channel.until(lambda: len(host.channel.to(chat)) > before)
    return host.channel.to(chat)[-1]


async def owned(host: Hosted) -> None:
    """The group "family", whose owner also has a chat of main's."""
    await host.group("family", Olga=Role.OWNER, Al=Role.ALLOWED)
    await host.in_main("own")


async def test_status_says_which_tool_is_at_work(folder: Path) -> None:
    """By its name alone; when the tool is done, it is not named any more."""
    async with hosting(folder) as host:
        await owned(host)
        go = await busy(host, "family", "slow", "Olga")
        (turn,) = await host.rows("SELECT id FROM turns")
        await forge(host, "family", encode(Event(turn["id"], "tool", "WebSearch: what Al asked for")))
        await host.channel.until(lambda: any(p.show is Show.TOOL for p in host.channel.shown))
        told = await asked(host, "family", "/status", "Al")
        assert "test: connected" in told
        assert "(now: WebSearch)" in told
        await forge(host, "family", encode(Event(turn["id"], "tool_done", "WebSearch")))
        await host.channel.until(lambda: any(p.show is Show.TOOL_DONE for p in host.channel.shown))
        assert "now:" not in await asked(host, "family", "/status")
        go.touch()
        await host.settled()


async def test_a_guest_stops_their_own_turn(folder: Path) -> None:
    """And no other."""
    async with hosting(folder) as host:
        await owned(host)
        go = await busy(host, "family", "slow", "Olga")
        await host.channel.say("family", "/stop", "Gus")
        assert "working" in await asked(host, "family", "/status")
        go.touch()
        await host.settled()
        for name in ("started", "go"):
            host.path(f"family-{name}").unlink()
        await busy(host, "family", "mine", "Gus")
        assert await asked(host, "family", "/stop", "Gus") == "Stopped."
        await until_state(host, "done", "stopped")


async def test_a_paused_group_only_reads_along(folder: Path) -> None:
    """From the next message on, while a turn runs; and it is answered again when that is over."""
    async with hosting(folder) as host:
        await owned(host)
        go = await busy(host, "family", "first", "Olga")
        assert "Paused" in await asked(host, "own", "/pause family")
        await host.channel.say("family", "second", "Olga")
        go.touch()
        await eventually(lambda: any("first" in text for text in host.channel.to("family")))
        assert "again" in await asked(host, "own", "/resume family")
        await host.channel.say("family", "third", "Olga")
        await eventually(lambda: any("third" in text for text in host.channel.to("family")))
        assert await states(host) == ["done", "done"]


async def test_a_wish_of_an_agent_is_done_by_the_owners_word(folder: Path) -> None:
    """It is asked in main, whoever reads along elsewhere; the yes counts at once."""

    def wish(tx: Tx) -> str:
        by = By("agent of family", typed=False)
        return pending.propose(tx, "allow_host", {"group": "family", "host": "example.org"}, by, "K7WQ2", host.clock())

    async with hosting(folder) as host:
        await owned(host)
        await host.store.write(wish)
        await host.poke("main")
        await host.channel.until(lambda: any("/yes K7WQ2" in text for text in host.channel.to("own")))
        assert await asked(host, "family", "/yes K7WQ2") == "/yes works in your own chat with me alone."
        assert "example.org" in await asked(host, "own", "/yes k7wq2")
        (row,) = await host.rows("SELECT hosts FROM groups WHERE folder = 'family'")
        assert row["hosts"] == '["example.org"]'
        assert not any("K7WQ2" in text for text in host.channel.to("family"))


async def test_a_memory_is_taken_back_while_the_host_lives(folder: Path) -> None:
    """The file follows the answer."""
    async with hosting(folder) as host:
        await owned(host)
        await host.channel.say("family", "hello", "Olga")
        await host.channel.until(1)
        file = host.config.home / "groups" / "family" / "CLAUDE.md"
        file.write_text("nonsense\n")
        assert "nonsense" in await asked(host, "own", "/memory family")
        await asked(host, "own", "/memory reset family")
        await eventually(lambda: file.read_text() == FIRST_MEMORY)
        await asked(host, "family", "/memory undo")
        await eventually(lambda: file.read_text() == "nonsense\n")
