"""Settings while the host lives: each that needs no restart is in force at once, and a broken file changes nothing."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from nanoclaw import app
from nanoclaw.app.live import MENDED, Live
from nanoclaw.channels.control_sock import connect
from nanoclaw.config import Config, Current
from nanoclaw.config.reading import load_home
from nanoclaw.config.schema import KEYS, needs_restart
from nanoclaw.config.writing import set_settings
from nanoclaw.control.naming import call_assistant
from nanoclaw.errors import Cause, Refused, StoreError
from nanoclaw.gateway import Ask
from nanoclaw.meter import DayMeter
from nanoclaw.models import Incoming, Role, Sender, TriggerMode, Usage
from nanoclaw.run import letters
from nanoclaw.store import Store, Tx, audit, chats, ledger
from tests.commands import nanoclaw, start
from tests.fakes import KEY, Hosted, eventually, hosting, rows_of_one_group
from tests.model_server import ModelServer
from tests.story import busy

PATIENCE = 60.0  # seconds: these wait for something that happens, on a busy machine too
DAY_MS = 86_400_000
ASK = {"model": "claude-sonnet-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Living:
    """A living host, its inside, and how much it logs."""

    hosted: Hosted
    inside: app.Host
    levels: list[str]

    @property
    def home(self) -> Path:
        return self.hosted.config.home

    async def set(self, **values: Any) -> dict[str, Any]:
        """As `nanoclaw config set` does it."""
        set_settings(self.home, values)
        return await self.hint()

    async def hint(self) -> dict[str, Any]:
        async with await connect(self.home / "control.sock") as client:
            return await client.call("settings")

    async def until(self, sql: str, *args: object) -> None:
        async with asyncio.timeout(PATIENCE):
            while not await self.hosted.rows(sql, *args):
                await asyncio.sleep(0.02)

    async def answered(self, chat: str, text: str = "hello") -> str:
        """The prompt that a message became, once it is answered."""
        before = len(self.hosted.channel.to(chat))
        await self.hosted.channel.say(chat, text)
        await self.hosted.channel.until(lambda: len(self.hosted.channel.to(chat)) > before, PATIENCE)
        (row,) = await self.hosted.rows("SELECT prompt FROM turns ORDER BY rowid DESC LIMIT 1")
        return str(row["prompt"])


@asynccontextmanager
async def living(folder: Path) -> AsyncIterator[Living]:
    found: list[app.Host] = []
    levels: list[str] = []

    class Seen(app.Host):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._effects._log = levels.append
            found.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "Host", Seen)
        async with hosting(folder) as hosted:
            yield Living(hosted, found[0], levels)


# --- one proof for each setting that counts at once ---------------------------------------------


async def name(it: Living) -> None:
    await it.hosted.group("family")
    await it.hosted.store.write(word_of_family, "@Andy")
    await it.set(name="Bea")
    assert await it.hosted.rows("SELECT 1 FROM groups WHERE folder = 'main' AND name = 'Bea'")
    assert await it.hosted.rows("SELECT 1 FROM groups WHERE folder = 'family' AND word = '@Bea'")
    await it.answered("family")
    assert it.hosted.sandbox.opened[-1].env["ASSISTANT_NAME"] == "Bea"


async def model(it: Living) -> None:
    await it.hosted.group("family")
    await it.set(model="model-of-the-test")
    await it.answered("family")
    (run,) = await it.hosted.rows("SELECT id FROM runs")
    inbox = it.home / "runs" / run["id"] / "inbox"
    assert "model-of-the-test" in "".join(p.read_text() for p in inbox.iterdir() if p.is_file())


async def zone(it: Living) -> None:
    await it.hosted.group("family")
    assert "(UTC)" in await it.answered("family")
    await it.set(zone="Asia/Tokyo")
    assert "(Asia/Tokyo)" in await it.answered("family")
    assert it.hosted.sandbox.opened[-1].env["TZ"] == "Asia/Tokyo"


async def max_runs(it: Living) -> None:
    await it.set(max_runs=1)
    for chat in ("one", "two"):
        await it.hosted.group(chat)
    go = await busy(it.hosted, "one", "done")
    await it.hosted.channel.say("two", "hello")
    await it.until("SELECT 1 FROM messages WHERE text = 'hello'")
    assert not it.hosted.channel.to("two")
    await it.set(max_runs=2)
    await it.hosted.channel.until(lambda: it.hosted.channel.to("two"), PATIENCE)
    go.touch()
    await it.hosted.channel.until(lambda: it.hosted.channel.to("one"), PATIENCE)
    await it.set(max_runs=1)  # the one that was idle longest goes
    await it.until("SELECT 1 FROM runs WHERE lane = 'two' AND state = 'ended'")
    assert await it.hosted.rows("SELECT 1 FROM runs WHERE lane = 'one' AND state <> 'ended'")


async def idle_timeout(it: Living) -> None:
    await it.hosted.group("family")
    await it.answered("family")
    await it.set(idle_timeout=1)
    await it.until("SELECT 1 FROM runs WHERE state = 'ended'")


async def silent(it: Living, seconds: float) -> None:
    """A turn runs, and by now its agent has been at it, without a word, for so long."""
    run = it.inside._runner.runs["family"]
    now = asyncio.get_running_loop().time()
    run.last_alive = now + seconds
    await it.inside._runner._check(run, now + seconds)


async def turn_silence(it: Living) -> None:
    await it.hosted.group("family")
    await busy(it.hosted, "family")
    await silent(it, 30)
    assert await it.hosted.rows("SELECT 1 FROM turns WHERE state = 'given'")
    await it.set(turn_silence=20)
    await silent(it, 30)
    await it.until("SELECT 1 FROM turns WHERE state = 'failed'")


async def turn_timeout(it: Living) -> None:
    await it.hosted.group("family")
    await busy(it.hosted, "family")
    await silent(it, 500)
    assert await it.hosted.rows("SELECT 1 FROM turns WHERE state = 'given'")
    await it.set(turn_timeout=400)
    await silent(it, 500)
    await it.until("SELECT 1 FROM turns WHERE state = 'failed'")


async def tokens_per_day(it: Living) -> None:
    await it.hosted.group("family")
    meter = it.inside._meter
    (row,) = await it.hosted.rows("SELECT id FROM groups WHERE folder = 'family'")
    await meter.open("r", row["id"])
    meter.record("r", Usage("m", input=100))
    assert not meter.refusal("r")
    await it.set(tokens_per_day=50)
    assert "50 tokens" in meter.refusal("r")
    await it.hosted.store.write(park_family, Cause.BUDGET)
    await it.set(tokens_per_day=500)
    assert not meter.refusal("r")
    assert await it.hosted.rows("SELECT 1 FROM lanes WHERE lane = 'family' AND parked = ''")


def budget(key: str, chat: str = "family") -> Callable[[Living], Awaitable[None]]:
    """What a request may cost is held against it, also within a turn that runs."""

    async def proof(it: Living) -> None:
        await (it.hosted.in_main(chat) if chat == "mine" else it.hosted.group(chat))
        await busy(it.hosted, chat)
        (run,) = it.inside._runner.runs.values()
        meter, ask = it.inside._meter, Ask("claude-sonnet-5-5", 1000, 1000)
        meter.settle(meter.reserve(run.row.id, ask), None)
        await it.set(**{key: 0.0001})
        with pytest.raises(Refused, match="limit"):
            meter.reserve(run.row.id, ask)

    return proof


async def base_url(it: Living) -> None:
    await it.hosted.group("family")
    await it.inside._meter.open("probe", 1)
    folder = it.hosted.folder / "probe"
    folder.mkdir()
    await it.hosted.store.write(park_family, Cause.CREDENTIAL)
    async with ModelServer() as first, ModelServer() as second:
        await it.set(base_url=first.url)
        assert await it.hosted.rows("SELECT 1 FROM lanes WHERE lane = 'family' AND parked = ''")
        await it.inside._gateway.open("probe", folder, search=False)
        connector = aiohttp.UnixConnector(str(folder / "model.sock"))
        async with aiohttp.ClientSession("http://gateway", connector=connector) as http:
            for server in (first, second):
                await it.set(base_url=server.url)
                async with http.post("/v1/messages", json=ASK) as answer:
                    assert answer.status == 200
        await it.inside._gateway.close("probe")
        assert (len(first.requests), len(second.requests)) == (1, 1)


async def owners(it: Living) -> None:
    await it.set(owners="+12025550123")
    sql = (
        "SELECT 1 FROM people p JOIN person_jids j ON j.person_id = p.id"
        " WHERE j.jid = '12025550123@s.whatsapp.net' AND p.role = ?"
    )
    assert await it.hosted.rows(sql, Role.OWNER)
    await it.set(owners=None)
    assert await it.hosted.rows(sql, Role.GUEST)


async def late_after(it: Living) -> None:
    await it.hosted.group("family")
    channel, then = it.hosted.channel, app.now_ms() - 3600_000
    assert channel.ears
    who = Sender(("jid:Ann",), "Ann")
    await channel.ears.hear(Incoming("test", ("family",), "a", "first", who, then, is_group=True))
    await it.set(late_after=600)
    await channel.ears.hear(Incoming("test", ("family",), "b", "second", who, then, is_group=True))
    found = await it.hosted.rows("SELECT text, verdict FROM messages ORDER BY id")
    assert [(row["text"], row["verdict"]) for row in found] == [("first", "work"), ("second", "context")]


async def log_level(it: Living) -> None:
    await it.set(log_level="DEBUG")
    assert it.levels == ["DEBUG"]


async def on_whatsapp(it: Living) -> None:
    """What becomes of these on WhatsApp is shown with a real connection, in tests/whatsapp/test_channel_signs.py."""
    await it.set(reaction="", typing="yes")
    assert (it.inside._current().reaction, it.inside._current().typing) == ("", True)


def old_rows(sql: str, count: str) -> Callable[[str], Callable[[Living], Awaitable[None]]]:
    """A row that is three days old goes as soon as only two days are kept."""

    def of(key: str) -> Callable[[Living], Awaitable[None]]:
        async def proof(it: Living) -> None:
            await it.hosted.group("family")
            await it.until("SELECT 1 FROM meta WHERE key = 'retention'")
            await it.hosted.store.write(lambda tx: tx.execute(sql, (app.now_ms() - 3 * DAY_MS,)))
            await it.set(**{key: 2})
            await it.until(f"SELECT 1 WHERE (SELECT count(*) FROM {count}) = 0")

        return proof

    return of


def old_files(path: str) -> Callable[[str], Callable[[Living], Awaitable[None]]]:
    """A file that is three days old, likewise."""

    def of(key: str) -> Callable[[Living], Awaitable[None]]:
        async def proof(it: Living) -> None:
            await it.hosted.group("family")
            await it.until("SELECT 1 FROM meta WHERE key = 'retention'")
            then = time.time() - 3 * 86_400
            file = it.home / path.format(day=time.strftime("%Y-%m-%d", time.gmtime(then)))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("old")
            os.utime(file, (then, then))
            await it.set(**{key: 2})
            await eventually(lambda: not file.exists(), PATIENCE)

        return proof

    return of


AUDIT = "INSERT INTO audit(at, who, verb, detail) VALUES(?, 'terminal', 'test', '')"
USAGE = (
    "INSERT INTO usage(at, group_id, run_id, model, input, output, cache_read, cache_write)"
    " VALUES(?, 1, 'r', 'm', 1, 1, 1, 1)"
)
CHAT = "INSERT INTO chats(channel, name, is_group, seen) VALUES('test', 'stranger', 0, ?)"
PROOFS: dict[str, Callable[[Living], Awaitable[None]]] = {
    "name": name,
    "model": model,
    "zone": zone,
    "max_runs": max_runs,
    "idle_timeout": idle_timeout,
    "turn_silence": turn_silence,
    "turn_timeout": turn_timeout,
    "tokens_per_day": tokens_per_day,
    "budget_turn": budget("budget_turn"),
    "budget_group_day": budget("budget_group_day"),
    "budget_main_day": budget("budget_main_day", "mine"),
    "budget_month": budget("budget_month"),
    "base_url": base_url,
    "owners": owners,
    "late_after": late_after,
    "reaction": on_whatsapp,
    "typing": on_whatsapp,
    "keep_messages": old_rows(CHAT, "chats WHERE name = 'stranger'")("keep_messages"),
    "keep_conversations": old_files("kept/family/conversations/{day}.md")("keep_conversations"),
    "keep_media": old_files("kept/family/media/{day}-1-x.txt")("keep_media"),
    "keep_transcripts": old_files("state/family/projects/-workspace-group/old.jsonl")("keep_transcripts"),
    "keep_audit": old_rows(AUDIT, "audit WHERE verb = 'test'")("keep_audit"),
    "keep_usage": old_rows(USAGE, "usage")("keep_usage"),
    "log_level": log_level,
}


def test_every_setting_counts_at_once_or_says_that_it_does_not() -> None:
    """There is none without a proof below."""
    assert set(PROOFS) == {key for key in KEYS if not needs_restart(key)}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("key", PROOFS)
async def test_a_setting_is_in_force_at_once(folder: Path, key: str) -> None:
    """Without a restart, in a host that was alive before."""
    async with living(folder) as it:
        await PROOFS[key](it)
        assert (await it.hosted.status())["settings"] == "in force"


def word_of_family(tx: Tx, word: str) -> None:
    group = chats.group_by_folder(tx, "family")
    assert group
    chats.save_group(tx, replace(group, mode=TriggerMode.ALWAYS, word=word))


def park_family(tx: Tx, cause: Cause) -> None:
    (chat,) = tx.execute("SELECT id FROM chats WHERE name = 'family'").fetchall()
    letters.park(tx, "family", chat["id"], cause, "as the test wants it", 1, quoted=False)


# --- changes by hand, broken files, restarts ----------------------------------------------------


async def told(it: Living) -> list[str]:
    rows = await it.hosted.rows("SELECT payload FROM outgoing WHERE payload LIKE '%nanoclaw.toml%' ORDER BY id")
    return [str(row["payload"]) for row in rows]


async def test_a_file_that_was_edited_by_hand_is_taken_over_when_it_is_whole(folder: Path) -> None:
    """An editor that writes in pieces is waited for: what looks the same twice is done."""
    async with living(folder) as it:
        settings, file = it.inside._settings, it.home / "nanoclaw.toml"
        file.write_text('zone = "Asia/')
        await settings.look()
        file.write_text('zone = "Asia/Tokyo"\n')
        await settings.look()
        assert it.inside._current().zone == "UTC"
        await settings.look()
        assert it.inside._current().zone == "Asia/Tokyo"
        file.write_text("# all defaults\n")
        await eventually(lambda: it.inside._current().zone == "UTC", PATIENCE)  # the host looks by itself
        assert await told(it) == []


@pytest.mark.parametrize("how", [Path.unlink, lambda path: path.write_text("")])
async def test_a_file_that_is_gone_or_empty_opens_nothing(folder: Path, how: Callable[[Path], object]) -> None:
    """A full disk or a slip of the hand does not lift a budget; main is told."""
    async with living(folder) as it:
        await it.set(budget_month=5)
        how(it.home / "nanoclaw.toml")
        assert "empty or gone" in (await it.hint())["fault"]
        assert it.inside._current().budget_month == 5
        assert len(await told(it)) == 1
        await it.set(budget_month=6)
        assert (await told(it))[1:] == [MENDED]
        assert it.inside._current().budget_month == 6
        await it.set(budget_month=None)  # the last one: this is the owner's wish
        assert it.inside._current().budget_month != 6


async def test_a_change_while_the_host_starts_is_seen(tmp_path: Path) -> None:
    """Between its reading and its first look."""
    file = tmp_path / "nanoclaw.toml"
    file.write_text('zone = "Asia/Tokyo"\n')
    current = Current(load_home(tmp_path, {}).config)
    file.write_text('zone = "Europe/Berlin"\n')
    live, _ = alone(current)
    await live.look()
    assert current().zone == "Europe/Berlin"


async def test_an_effect_that_fails_is_tried_again_and_named(tmp_path: Path) -> None:
    """With the next look; until then status says so."""
    current = Current(load_home(tmp_path, {}).config)
    live, applied = alone(current, fails=1)
    (tmp_path / "nanoclaw.toml").write_text('zone = "Asia/Tokyo"\n')
    await live.look(now=True)
    assert live.facts() == {"settings": "tried again, because it failed: zone"}
    await live.look()
    assert live.facts() == {"settings": "in force"}
    await live.look()
    assert applied == [frozenset({"zone"})] * 2


def alone(current: Current, fails: int = 0) -> tuple[Live, list[frozenset[str]]]:
    applied: list[frozenset[str]] = []

    async def apply(changed: frozenset[str]) -> None:
        applied.append(changed)
        if len(applied) <= fails:
            raise StoreError("disk full")

    async def tell(text: str) -> None:
        return None

    return Live(current, {}, tell=tell, apply=apply), applied


async def test_one_effect_that_fails_does_not_hold_up_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says more although the day could not be counted anew."""
    async with living(folder) as it:

        async def failing() -> None:
            raise StoreError("disk full")

        with monkeypatch.context() as patch:
            patch.setattr(it.inside._effects._meter, "renew", failing)
            assert "zone" in (await it.set(zone="Asia/Tokyo", name="Bea"))["fault"]
            assert await it.hosted.rows("SELECT 1 FROM groups WHERE folder = 'main' AND name = 'Bea'")
        assert not (await it.hint())["fault"]


async def test_a_broken_file_changes_nothing_and_main_is_told_once(folder: Path) -> None:
    """And once more when it is over; `status` names the fault all the while."""
    async with living(folder) as it:
        await it.set(zone="Asia/Tokyo")
        file = it.home / "nanoclaw.toml"
        for text in ('zone = "Mars"\n', "max_rnus = 2\n", "= 5\n"):
            file.write_text(text)
            assert (await it.hint())["fault"]
        assert it.inside._current().zone == "Asia/Tokyo"
        (first,) = await told(it)
        assert "line 1: zone: 'Mars' is no time zone" in first
        assert "no TOML" in (await it.hosted.status())["settings"]
        file.write_text('zone = "Europe/Berlin"\n')
        assert not (await it.hint())["fault"]
        assert it.inside._current().zone == "Europe/Berlin"
        assert (await told(it))[1:] == [MENDED]
        assert (await it.hosted.status())["settings"] == "in force"


async def test_what_needs_a_restart_is_said_and_not_done(folder: Path) -> None:
    """By the command and by status, until it is set back; what else was changed counts."""
    async with living(folder) as it:
        answer = await it.set(engine="unix:///nowhere.sock", whatsapp="own", zone="Asia/Tokyo")
        assert answer["restart"] == ["engine", "whatsapp"]
        now = it.inside._current()
        assert (now.engine, now.whatsapp, now.zone) == ("", "off", "Asia/Tokyo")
        assert (await it.hosted.status())["settings"] == "restart pending: engine, whatsapp"
        code, out, _ = await nanoclaw(it.home, "config", "set", "image", "mine")
        assert (code, out) == (0, 'image = "mine": counts after a restart (nanoclaw stop, then nanoclaw run)\n')
        assert (await it.set(engine=None, whatsapp=None, image=None))["restart"] == []
        assert (await it.hosted.status())["settings"] == "in force"


async def test_the_command_reaches_the_living_host(folder: Path) -> None:
    """`config set` says that it is in force now, and it is; it is on record; `show` names what waits."""
    async with living(folder) as it:
        code, out, err = await nanoclaw(it.home, "config", "set", "zone", "Asia/Tokyo")
        assert (code, out, err) == (0, 'zone = "Asia/Tokyo": in force now\n', "")
        assert it.inside._current().zone == "Asia/Tokyo"
        (entry,) = await it.hosted.store.read(audit.newest, 10)
        assert (entry.who, entry.verb, entry.detail) == ("terminal", "config", "zone")
        await nanoclaw(it.home, "config", "set", "engine", "unix:///nowhere.sock")
        code, out, _ = await nanoclaw(it.home, "config", "show", "--json")
        assert (code, json.loads(out)["restart_pending"]) == (0, ["engine"])


async def test_a_variable_of_the_host_goes_before_the_file(folder: Path) -> None:
    """Whatever is in the environment of who asks."""
    async with living(folder) as it:
        it.hosted.environ["NANOCLAW_ZONE"] = "UTC"
        _, out, _ = await nanoclaw(it.home, "config", "set", "zone", "Asia/Tokyo")
        assert out == 'zone = "Asia/Tokyo": written, but NANOCLAW_ZONE in the environment goes before it\n'
        assert it.inside._current().zone == "UTC"


@pytest.mark.timeout(180)
async def test_a_running_assistant_logs_more_at_once(folder: Path) -> None:
    """The real process: its log file, which was quiet before."""
    home = folder / "home"
    host = await start(home, "run", NANOCLAW_ENGINE="unix:///nonexistent/engine.sock", **KEY)
    try:
        assert host.stderr
        async with asyncio.timeout(PATIENCE):
            while b"ready" not in await host.stderr.readline():
                pass
        log = home / "logs/nanoclaw.log"
        assert "DEBUG" not in log.read_text()
        assert (await nanoclaw(home, "config", "set", "log_level", "DEBUG"))[1] == 'log_level = "DEBUG": in force now\n'
        await eventually(lambda: "DEBUG" in log.read_text(), PATIENCE)
    finally:
        host.terminate()
        await host.communicate()


# --- pieces --------------------------------------------------------------------------------------


def test_another_name_reaches_only_words_that_were_made_from_it(tmp_path: Path) -> None:
    """A word that somebody chose stays, and so do other groups' names."""
    with rows_of_one_group(tmp_path / "db") as (tx, family):
        chats.save_group(tx, replace(family, word="@Helper"))
        call_assistant(tx, "Bea")
        call_assistant(tx, "Bea")
        assert [(g.name, g.word) for g in chats.groups(tx)] == [("Bea", ""), (family.name, "@Helper")]


async def test_another_zone_counts_the_day_anew(tmp_path: Path) -> None:
    """What was used before the day of that zone began does not count in it."""
    with rows_of_one_group(tmp_path / "db"):
        pass
    config = Current(Config(home=tmp_path, zone="UTC", tokens_per_day=100))
    noon = 1_800_000_000_000 // DAY_MS * DAY_MS + DAY_MS // 2
    async with app.opened(Store(tmp_path / "db")) as store:
        # In Kiritimati, 14 hours ahead, it is 2 o'clock in the night, in UTC noon.
        for run, at in (("a", noon - 3 * 3600_000), ("b", noon - 3600_000)):
            await store.write(ledger.add_usage, 1, run, Usage("m", input=60), at)
        meter = DayMeter(store, config, lambda: noon, lambda job, name: job.close())
        await meter.open("r", 1)
        assert meter.refusal("r")
        config.put(config().model_copy(update={"zone": "Pacific/Kiritimati"}))
        await meter.renew()
        assert not meter.refusal("r")
