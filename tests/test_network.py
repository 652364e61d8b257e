"""How far groups reach: what the owner sets, what an agent may ask for, what main is told, the command line."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nanoclaw.app import opened
from nanoclaw.control import groups, network
from nanoclaw.control.pending import WIDENINGS
from nanoclaw.errors import Refused
from nanoclaw.gateway import Border, Level
from nanoclaw.meter.traffic import MAX_TOLD, Traffic
from nanoclaw.models import By, Group, RunRow, RunState
from nanoclaw.store import Store, Tx, audit, chats, runs
from nanoclaw.store import network as rows
from tests.commands import nanoclaw
from tests.egress import ask, connect
from tests.fakes import Hosted, eventually, hosting, rows_of_one_group
from tests.story import busy

OWNER, AGENT = By("owner"), By("agent of family", typed=False)
NOW = 1_800_000_000_000
HOUR = 3_600_000


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Tx]:
    with rows_of_one_group(tmp_path / "db") as (tx, _):
        yield tx


def family(tx: Tx) -> Group:
    found = chats.group_by_folder(tx, "family")
    assert found is not None
    return found


def level(tx: Tx, now: int = NOW) -> Level:
    return rows.level(tx, family(tx).id, now)


# --- what is set -------------------------------------------------------------------------------


def test_a_new_group_reaches_nothing_and_main_its_starter_list(tx: Tx) -> None:
    """Short, by https, and what the owner takes away from it stays away."""
    assert (level(tx), family(tx).hosts) == (Level.NONE, ())
    main = chats.main_group(tx)
    assert (main.network, main.hosts) == (Level.ALLOWLIST, network.STARTER)
    for host in network.STARTER:
        network.deny_host(tx, chats.main_group(tx), host, OWNER, NOW)
    groups.ensure_main(tx, "terminal", "terminal", "terminal:owner", "Andy", NOW)
    assert chats.main_group(tx).hosts == ()


def test_allowing_a_host_opens_the_list_and_denying_takes_it_away(tx: Tx) -> None:
    """In the one form that is kept; each is on the record."""
    assert network.allow_host(tx, family(tx), " Example.ORG. ", OWNER, NOW) == "example.org"
    assert (level(tx), family(tx).hosts) == (Level.ALLOWLIST, ("example.org",))
    with pytest.raises(Refused, match="already"):
        network.allow_host(tx, family(tx), "example.org", OWNER, NOW)
    assert network.deny_host(tx, family(tx), "EXAMPLE.org", OWNER, NOW) == "example.org"
    with pytest.raises(Refused, match="not on the list"):
        network.deny_host(tx, family(tx), "example.org", OWNER, NOW)
    done = [(e.verb, e.detail) for e in audit.newest(tx, 2)]
    assert done == [("allow host", "family example.org"), ("deny host", "family example.org")]


def test_public_for_an_hour_ends_by_itself(tx: Tx) -> None:
    """And the level of before holds again; any other level ends it at once."""
    network.allow_host(tx, family(tx), "example.org", OWNER, NOW)
    network.set_level(tx, family(tx), Level.PUBLIC, OWNER, NOW, NOW + HOUR)
    assert [level(tx, NOW + t) for t in (0, HOUR - 1, HOUR)] == [Level.PUBLIC, Level.PUBLIC, Level.ALLOWLIST]
    assert "every host of the internet, by https, until" in network.listed_text(tx, family(tx), NOW, "UTC")
    network.set_level(tx, family(tx), Level.ALLOWLIST, OWNER, NOW)
    assert level(tx) is Level.ALLOWLIST
    network.set_level(tx, family(tx), Level.PUBLIC, OWNER, NOW, NOW + HOUR)
    tx.execute("UPDATE groups SET network = 'none'")  # as every other way of setting it does
    assert level(tx) is Level.NONE
    for wrong in (NOW + 25 * HOUR, NOW + 10**12):
        with pytest.raises(Refused, match="longer"):
            network.set_level(tx, family(tx), Level.PUBLIC, OWNER, NOW, wrong)
    with pytest.raises(Refused, match="only public"):
        network.set_level(tx, family(tx), Level.NONE, OWNER, NOW, NOW + HOUR)


def test_a_list_has_an_end(tx: Tx) -> None:
    """Nobody looks through thousands of hosts."""
    for n in range(200):
        network.allow_host(tx, family(tx), f"h{n}.example.org", OWNER, NOW)
    with pytest.raises(Refused, match="200"):
        network.allow_host(tx, family(tx), "one.more.example.org", OWNER, NOW)


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        (Level.PUBLIC, Level.ALLOWLIST, True),
        (Level.PUBLIC, Level.NONE, True),
        (Level.ALLOWLIST, Level.NONE, True),
        (Level.NONE, Level.ALLOWLIST, False),
        (Level.ALLOWLIST, Level.PUBLIC, False),
        (Level.PUBLIC, Level.PUBLIC, False),
    ],
)
def test_an_agent_narrows_alone_and_never_widens(tx: Tx, before: Level, after: Level, allowed: bool) -> None:
    """Whatever it asks for itself."""
    network.set_level(tx, family(tx), before, OWNER, NOW)
    if allowed:
        network.set_level(tx, family(tx), after, AGENT, NOW)
    else:
        with pytest.raises(Refused, match="owner"):
            network.set_level(tx, family(tx), after, AGENT, NOW)
    with pytest.raises(Refused, match="owner"):
        network.allow_host(tx, family(tx), "example.org", AGENT, NOW)


def test_what_an_agent_asks_for_is_said_exactly_and_done_by_the_owners_word(tx: Tx) -> None:
    """The host in the form in which it would count, the group, and for how long."""
    allow, change = WIDENINGS["allow_host"], WIDENINGS["network"]
    args = {"group": "family", "host": "*.Bücher.example"}
    said = allow.sentence(tx, args)
    assert "agent of family connect to *.xn--bcher-kva.example (that is every host below it)" in said
    assert "may connect to *.xn--bcher-kva.example" in allow.apply(tx, args, OWNER, NOW)
    assert family(tx).hosts == ("*.xn--bcher-kva.example",)
    hour = {"group": "family", "level": "public", "hours": 1}
    assert "network of family be public for 1 hour(s)?" in change.sentence(tx, hour)
    change.apply(tx, hour, OWNER, NOW)
    assert (level(tx), level(tx, NOW + HOUR)) == (Level.PUBLIC, Level.ALLOWLIST)


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("allow_host", {}),
        ("allow_host", {"group": "family"}),
        ("allow_host", {"group": "nobody", "host": "example.org"}),
        ("allow_host", {"group": "family", "host": ["example.org"]}),
        ("allow_host", {"group": "family", "host": "https://example.org"}),
        ("allow_host", {"group": "family", "host": "127.0.0.1"}),
        ("allow_host", {"group": "family", "host": "api.anthropic.com"}),
        ("network", {"group": "family", "level": "everything"}),
        ("network", {"group": "family", "level": "public", "hours": 1000}),
        ("network", {"group": "family", "level": "public", "hours": True}),
        ("network", {"group": "family", "level": "public", "hours": -1}),
    ],
)
def test_what_makes_no_sense_is_not_even_asked(tx: Tx, verb: str, args: dict[str, object]) -> None:
    """The agent hears why; the owner is not bothered."""
    with pytest.raises(Refused):
        WIDENINGS[verb].sentence(tx, args)


# --- what main is told -------------------------------------------------------------------------


@pytest.fixture
async def border(tmp_path: Path) -> AsyncIterator[tuple[Traffic, Store, list[int]]]:
    """The house behind the way out; its clock is a list, and nothing runs behind."""
    clock, jobs = [NOW], set[asyncio.Future[None]]()
    with rows_of_one_group(tmp_path / "db") as (tx, group):
        runs.insert(tx, RunRow("r", "family", group.id, RunState.ALIVE, ""), "m")
    async with opened(Store(tmp_path / "db")) as store:
        yield Traffic(
            store, lambda: clock[0] // (24 * HOUR) * 24 * HOUR, lambda: clock[0],
            lambda job, name: jobs.add(asyncio.ensure_future(job)), lambda: None, day_bytes=1000,
        ), store, clock  # fmt: skip
        await asyncio.gather(*jobs)


def test_it_is_a_border() -> None:
    """mypy compares the class with the Protocol that the egress knows."""
    _: type[Border] = Traffic


def notices(tx: Tx) -> list[str]:
    return [json.loads(r["payload"])["text"] if r["payload"].startswith("{") else r["payload"]
            for r in tx.execute("SELECT payload FROM outgoing ORDER BY id")]  # fmt: skip


async def test_main_is_told_of_a_refused_host_once_a_day(border: tuple[Traffic, Store, list[int]]) -> None:
    """With the command that allows it; a flood of hosts is a few sentences; it is listed for the owner."""
    traffic, store, clock = border

    async def told(host: str, port: int = 443) -> list[str]:
        await traffic._refused("r", host, port)
        return await store.read(notices)

    (text,) = await told("files.example.org")
    assert text == (
        "[family: network] The agent wanted to reach files.example.org and was refused. "
        "To allow it: `nanoclaw network allow family files.example.org`"
    )
    assert len(await told("files.example.org")) == 1
    assert "family files.example.org:22`" in (await told("files.example.org", 22))[-1]
    clock[0] += 24 * HOUR
    assert len(await told("files.example.org")) == 3
    for n in range(100):
        texts = await told(f"h{n}.example.org")
    assert len(texts) == 2 + MAX_TOLD
    assert "enough of them for today" in texts[-1]
    listed = await store.read(lambda tx: network.listed_text(tx, family(tx), clock[0], "UTC"))
    assert "Refused in the last week: h99.example.org (1), h98" in listed
    assert len(await store.read(lambda tx: rows.wanted(tx, family(tx).id, 0))) == rows.KEPT
    await traffic._refused("nobody", "example.org", 443)


async def test_bytes_of_a_day_are_counted_over_a_restart(border: tuple[Traffic, Store, list[int]]) -> None:
    """Per group; a new day begins at nothing, and a clock that is set back does not."""
    traffic, store, clock = border
    for count in (300, 500):
        await store.write(rows.carry, family_id := 2, clock[0] // (24 * HOUR) * 24 * HOUR, count)
    reach = await traffic.reach("r")
    assert (reach.group, reach.level, reach.bytes_left) == ("family", Level.NONE, 200)
    clock[0] -= 24 * HOUR
    assert (await traffic.reach("r")).bytes_left == 200
    clock[0] += 48 * HOUR
    assert (await traffic.reach("r")).bytes_left == 1000
    await store.write(rows.carry, family_id, clock[0] // (24 * HOUR) * 24 * HOUR, 100)
    assert (await traffic.reach("r")).bytes_left == 900
    assert (await traffic.reach("nobody")).level is Level.NONE


async def _asked_by(host: Hosted, name: str) -> int:
    (run,) = await host.rows("SELECT sockets FROM runs WHERE state <> 'ended'")
    asked = await ask(host.config.sockets / run["sockets"], connect(name))
    await asked.close()
    return asked.status


async def test_a_living_host_tells_main_and_obeys_at_once(folder: Path) -> None:
    """From the socket of a run to the owner's chat; what the owner allows counts for the same container."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.in_main("home")
        go = await busy(host, "family", "done")
        assert await _asked_by(host, "files.example.invalid") == 403
        assert await _asked_by(host, "files.example.org") == 403
        await host.channel.until(lambda: host.channel.to("home"))
        assert "nanoclaw network allow family files.example.org" in host.channel.to("home")[0]
        code, _, _ = await nanoclaw(host.config.home, "network", "allow", "family", "nowhere.example")
        assert code == 0
        assert await _asked_by(host, "nowhere.example") == 502  # allowed, and not there
        go.touch()
        await eventually(lambda: len(host.channel.to("family")) == 1)


# --- the command line --------------------------------------------------------------------------


async def test_the_command_line_shows_and_changes(tmp_path: Path) -> None:
    """One line for each change, JSON for scripts, and refusals that say what to do."""
    with rows_of_one_group(tmp_path / "nanoclaw.db"):
        pass
    (tmp_path / "nanoclaw.toml").touch()

    async def say(*words: str) -> tuple[int | None, str, str]:
        return await nanoclaw(tmp_path, "network", *words)

    assert await say("allow", "family", "Example.org") == (0, "family may connect to example.org.\n", "")
    assert await say("level", "family", "public", "--hours", "1")
    code, out, _ = await say("show", "family")
    assert (code, "On its list: example.org" in out) == (0, True)
    assert await say("deny", "family", "example.org") == (0, "family may not connect to example.org any more.\n", "")
    assert (await say("level", "family", "none"))[1] == "family reaches nothing.\n"
    _, out, _ = await say("show", "--json")
    assert [g["group"] for g in json.loads(out)] == ["main", "family"]
    assert json.loads(out)[1] == {"group": "family", "level": "none", "public_until": 0, "hosts": [], "refused": []}
    for words in (("allow", "family", "10.0.0.1"), ("allow", "nobody", "example.org"), ("deny", "family", "x.org")):
        code, out, err = await say(*words)
        assert (code, out, err.count("\n")) == (1, "", 1)


async def test_usage_is_one_command(tmp_path: Path) -> None:
    """Also where nothing was used, and for scripts."""
    code, out, _ = await nanoclaw(tmp_path, "usage", "--json")
    assert code == 0
    assert json.loads(out)["month"] == {"dollars": 0.0, "tokens": 0, "tokens_without_price": 0, "requests": 0}
    _, out, _ = await nanoclaw(tmp_path, "usage")
    assert out == "Today $0.00 (0 tokens); this month $0.00 of $30.00 (0 tokens).\n"
