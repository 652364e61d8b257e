"""The watch: what it finds, that main hears of it once and of its end once, and on a host that really stands still."""

import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanoclaw
from nanoclaw import failpoints
from nanoclaw.app import watching
from nanoclaw.channels.control_sock import connect
from nanoclaw.dispatcher import Dispatcher
from nanoclaw.errors import Cause, SandboxError, StoreError
from nanoclaw.groups import FREE_FLOOR, Home, open_home
from nanoclaw.ops import troubles
from nanoclaw.ops.troubles import Known, Sample, Trouble, faults, judge
from nanoclaw.store import watch
from tests.fakes import Clock, Hosted, ProcessSandbox, eventually, hosting, living, rows_of_one_group
from tests.story import busy, until_parked, until_state

MINUTE = 60_000
NOW = 1_800_000_000_000
GONE = SandboxError("no container engine at unix:///nowhere", Cause.ENGINE)

# --- what a sample means -----------------------------------------------------------------------

SAMPLES = [
    (Sample(), set()),
    (Sample(stall=1.0, waited=5.0, wal=64 << 20, free=2 << 30, names=1000, files=80, files_most=100), set()),
    (Sample(leap=-120.0, away={"whatsapp": 600.0}), set()),
    (Sample(stall=1.1), {Trouble.STALLS}),
    (Sample(waited=5.1, waiting=3), {Trouble.STORE}),
    (Sample(fault="disk I/O error"), {Trouble.STORE}),
    (Sample(wal=(64 << 20) + 1), {Trouble.WAL}),
    (Sample(engine="no container engine"), {Trouble.ENGINE}),
    (Sample(free=2 * FREE_FLOOR - 1), {Trouble.DISK}),
    (Sample(names=999), {Trouble.DISK}),
    (Sample(mute=("family",)), {Trouble.SOCKETS}),
    (Sample(stuck=("family",)), {Trouble.STUCK}),
    (Sample(late=("family",)), {Trouble.LATE}),
    (Sample(away={"whatsapp": 601.0}), {Trouble.CHANNEL}),
    (Sample(log="its file is gone"), {Trouble.LOG}),
    (Sample(files=81, files_most=100), {Trouble.FILES}),
    (Sample(files=81, files_most=0), set()),
    (Sample(leap=-121.0), {Trouble.CLOCK}),
    (Sample(program=True), {Trouble.PROGRAM}),
    (Sample(stall=9.0, fault="locked", engine="gone"), {Trouble.STALLS, Trouble.STORE, Trouble.ENGINE}),
]


@pytest.mark.parametrize(("sample", "wanted"), SAMPLES)
def test_what_a_sample_means(sample: Sample, wanted: set[Trouble]) -> None:
    """At its limit a thing is well, beyond it there is a word, a sentence and what mends it."""
    found = faults(sample)
    assert set(found) == wanted
    for trouble, fault in found.items():
        text = troubles.text(trouble, fault, Known(NOW))
        assert text.startswith(f"[watch: {trouble}] ")
        assert text.endswith(troubles.MEND[trouble])
        assert ".." not in text
        assert "family" not in fault.said  # names stand apart, so that they can be left out
        assert ("family" in text) == bool(fault.lanes)


def test_every_trouble_can_be_found() -> None:
    """No word without a sample, and none without advice."""
    assert set(Trouble) == set(troubles.MEND) == set().union(*(wanted for _, wanted in SAMPLES))


# --- when it is told ---------------------------------------------------------------------------


def looks(story: str, memory: dict[Trouble, Known] | None = None, start: int = NOW) -> tuple[list[str], list[int]]:
    """A look a minute, "x" where it sees the trouble: what was told, as "told 2", and silent bouts at each telling."""
    told, silent, memory = [], [], dict(memory or {})
    for n, sign in enumerate(story):
        judged = judge([Trouble.ENGINE] if sign == "x" else [], memory, start + n * MINUTE)
        memory = judged.memory
        told += [f"told {n}"] * len(judged.told) + [f"over {n}"] * len(judged.over)
        silent += [memory[trouble].silent for trouble in judged.told]
    return told, silent


HELD, HOUR = "xxx", "." * 60
STORIES = [
    ("", []),
    ("....", []),
    ("x", []),
    ("xx..xx..xx..", []),  # blips
    (HELD, ["told 2"]),
    ("xx.x", ["told 3"]),  # one look that misses it does not end it
    ("x.x.x", ["told 4"]),
    (HELD + "xxxxxxxx", ["told 2"]),
    (HELD + ".", ["told 2"]),
    (HELD + "..", ["told 2", "over 4"]),
    (HELD + ".x.x.x..", ["told 2", "over 10"]),
    (HELD + ".." + HELD + "..", ["told 2", "over 4"]),  # so soon it is only counted
    (HELD + "x" * 70, ["told 2"]),
    (HELD + ".." + HOUR + HELD + "..", ["told 2", "over 4", "told 67", "over 69"]),
    (HELD + ".." + "x" * 60, ["told 2", "over 4", "told 62"]),  # it came again, and stays
]


@pytest.mark.parametrize(("story", "wanted"), STORIES)
def test_when_main_is_told(story: str, wanted: list[str]) -> None:
    """Once it has held, once when it is over, and not again within the hour."""
    assert looks(story)[0] == wanted


def test_what_was_not_told_is_counted() -> None:
    """Bouts within the quiet hour are in the next telling, and then forgotten."""
    flapping = (HELD + "..") * 13
    told, silent = looks(flapping)
    assert told == ["told 2", "over 4", "told 62", "over 64"]
    assert silent == [0, 11]
    assert looks(flapping * 2)[1] == [0, 11, 11]
    text = troubles.text(Trouble.ENGINE, faults(Sample(engine="gone"))[Trouble.ENGINE], Known(NOW, silent=11))
    assert text.endswith("It came 11 more time(s) since I last told it.")


@given(st.text("x.", max_size=300), st.integers(-100, 100))
def test_nobody_is_flooded(story: str, jump: int) -> None:
    """Whatever comes and goes: told and over take turns, two tellings are an hour apart, the memory stays small."""
    told, _ = looks(story)
    assert [t.split()[0] for t in told] == (["told", "over"] * len(told))[: len(told)]
    at = [int(t.split()[1]) for t in told if t.startswith("told")]
    assert all(later - earlier >= 60 for earlier, later in pairwise(at))
    # A clock that was set meanwhile silences nothing for ever.
    memory = {Trouble.ENGINE: Known(NOW, told_at=NOW + jump * 1000 * MINUTE)}
    assert looks(HELD + "x" * 60, memory)[0]


def test_a_restart_tells_nothing_twice(tmp_path: Path) -> None:
    """The rows say what main knows: told and not over, or over and not to be told again so soon."""
    with rows_of_one_group(tmp_path / "db") as (tx, _):
        assert not watch.over(tx, "wal", "over", NOW)  # nobody was told that it began
        assert watch.tell(tx, "wal", "", "text", NOW)
        assert not watch.tell(tx, "wal", "", "text", NOW + 1)
        assert watch.told(tx) == {"wal": (NOW, True)}
        assert watch.over(tx, "wal", "over", NOW + 2)
        assert not watch.over(tx, "wal", "over", NOW + 3)
        assert watch.told(tx) == {"wal": (NOW, False)}
        assert watch.tell(tx, "wal", "", "text", NOW + 4)
        assert watch.told(tx) == {"wal": (NOW + 4, True)}
        texts = [r["payload"] for r in tx.execute("SELECT payload FROM outgoing ORDER BY id")]
        assert texts == ["text", "over", "text"]


# --- samples -----------------------------------------------------------------------------------


def test_a_clock_that_is_set_is_named_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also back; time that merely goes by, asleep or not, is none."""
    now = [1000.0]
    monkeypatch.setattr(watching, "_boot_time", lambda: now[0])
    wall = [NOW]
    leaps = watching.Leaps(lambda: wall[0])

    def after(seconds: float, leap: float = 0.0) -> float:
        now[0] += seconds
        wall[0] += int((seconds + leap) * 1000)
        return leaps.look()

    assert [after(60), after(8 * 3600), after(60, 119)] == [0, 0, 0]
    assert after(60, -7200) == pytest.approx(-7200)
    assert [round(after(60)) for _ in range(59)] == [-7200] * 59
    assert after(60) == 0


def test_what_files_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is taken away, and a program that is replaced, are seen; before there is a log none is missed."""
    program = tmp_path / "program"
    program.mkdir()
    (program / "one.py").write_text("1")
    monkeypatch.setattr(nanoclaw, "__path__", [str(program)])
    home = open_home(tmp_path / "h", tmp_path / "r")
    machine = watching.Machine(home)
    seen = machine.look({})
    assert (seen["log"], seen["program"], seen["mute"]) == ("", False, ())
    assert 0 < seen["files"] < seen["files_most"]
    assert seen["free"] > 0
    (home.logs / "nanoclaw.log").write_text("a line\n")
    assert machine.look({})["log"] == ""
    (home.logs / "nanoclaw.log").unlink()
    (program / "one.py").write_text("one")
    seen = machine.look({"family": tmp_path})
    assert (seen["log"], seen["program"], seen["mute"]) == ("its file is gone", True, ("family",))


# --- a real host -------------------------------------------------------------------------------


class Looks:
    """Counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._done = 0
        look = watching.Watching.look

        async def counted(of: watching.Watching) -> None:
            await look(of)
            self._done += 1

        monkeypatch.setattr(watching.Watching, "look", counted)

    async def more(self, count: int) -> None:
        """Return when so many have ended that began after now."""
        wanted = self._done + count + 1
        await eventually(lambda: self._done >= wanted)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Looks:
    """A look every moment."""
    monkeypatch.setattr(watching, "EVERY", 0.05)
    monkeypatch.setattr(watching, "BEAT", 0.02)
    monkeypatch.setattr(watching, "_stamp", lambda: 0)  # the source may be edited while its tests run
    return Looks(monkeypatch)


async def told_by(host: Hosted, trouble: Trouble) -> list[str]:
    """What main was told of it."""
    return [text for text in host.channel.to("boss") if text.startswith(f"[watch: {trouble}]")]


async def until_told(host: Hosted, trouble: Trouble, times: int) -> list[str]:
    await host.channel.until(lambda: sum(f"[watch: {trouble}]" in text for text in host.channel.to("boss")) >= times)
    return await told_by(host, trouble)


async def found(host: Hosted) -> dict[str, list[str]]:
    """What `status` names, with the lanes that it is about."""
    return {entry["cause"]: entry["lanes"] for entry in (await host.status())["watch"]}


async def until_found(host: Hosted, trouble: Trouble) -> list[str]:
    async with asyncio.timeout(25):
        while trouble not in (names := await found(host)):
            await asyncio.sleep(0.02)
    return names[trouble]


@pytest.mark.usefixtures("quick")
async def test_a_loop_that_stands_still(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and main hears of it once."""
    monkeypatch.setattr(troubles, "STALL", 0.03)
    async with hosting(folder) as host:
        await host.in_main("boss")
        end = time.monotonic() + 25
        while not await told_by(host, Trouble.STALLS):
            assert time.monotonic() < end
            asyncio.get_running_loop().call_soon(time.sleep, 0.06)
            await asyncio.sleep(0.02)
        assert len(await told_by(host, Trouble.STALLS)) == 1
        async with await connect(host.config.home / "control.sock") as client:
            assert (await client.call("health"))["fatal"] == ""  # all is answered
            monkeypatch.setattr(troubles, "STANDSTILL", 0.03)
            while "stood still" not in (await client.call("health"))["fatal"]:
                assert time.monotonic() < end
                asyncio.get_running_loop().call_soon(time.sleep, 0.06)
                await asyncio.sleep(0.02)


@pytest.mark.usefixtures("quick")
async def test_an_engine_that_goes_and_comes_back(folder: Path, sandbox: ProcessSandbox) -> None:
    """Told once, over a restart too; over once; a lane that it parked has told main already."""
    async with living(folder, sandbox) as host:
        await host.in_main("boss")
        sandbox.fault = GONE
        (text,) = await until_told(host, Trouble.ENGINE, 1)
        assert "no container engine at unix:///nowhere" in text
        assert (await host.status())["engine"] == "no container engine at unix:///nowhere"
    async with living(folder, sandbox) as host:
        await until_found(host, Trouble.ENGINE)
        (entry,) = [e for e in (await host.status())["watch"] if e["cause"] == Trouble.ENGINE]
        assert entry["told"]
        sandbox.fault = None
        (text,) = await until_told(host, Trouble.ENGINE, 1)
        assert "over" in text
        assert Trouble.ENGINE not in await found(host)
        await host.group("family")
        sandbox.fault = GONE
        await host.channel.say("family", "hello")
        await until_parked(host)
        await until_found(host, Trouble.ENGINE)
        assert len(await told_by(host, Trouble.ENGINE)) == 1
        sandbox.fault = None
        await host.settled()


async def test_an_engine_that_never_answers(folder: Path, quick: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look goes on without its answer, and it is asked no second time meanwhile."""
    monkeypatch.setattr(watching, "PATIENCE", 0.05)
    async with hosting(folder) as host:
        asked = []

        async def hangs() -> list[object]:
            asked.append(1)
            await asyncio.Event().wait()
            return []

        monkeypatch.setattr(host.sandbox, "found", hangs)
        await until_found(host, Trouble.ENGINE)
        before = len(asked)
        await quick.more(3)
        assert len(asked) == before


@asynccontextmanager
async def held(db: Path) -> AsyncIterator[None]:
    """Another process has the database for itself."""
    script = (
        "import sqlite3, sys; tx = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)\n"
        "tx.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(db), stdin=PIPE, stdout=PIPE)
    assert process.stdout
    assert await process.stdout.readline() == b"held\n"
    try:
        yield
    finally:
        await process.communicate(b"")


async def test_rows_that_cannot_be_written(folder: Path, quick: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named while it lasts, told when that can be stored, once; nothing is lost and no look hangs."""
    monkeypatch.setattr(watching, "PATIENCE", 0.1)
    monkeypatch.setattr(troubles, "SLOW_WRITE", 0.3)
    monkeypatch.setattr(watching, "_DEAF", 0.3)
    async with hosting(folder) as host:
        await host.in_main("boss")
        async with asyncio.TaskGroup() as tg, held(host.config.home / "nanoclaw.db"):
            tg.create_task(host.channel.say("boss", "hello"))
            await until_found(host, Trouble.STORE)
            async with await connect(host.config.home / "control.sock") as client:
                assert "written" in (await client.call("health"))["fatal"]
            await quick.more(troubles.HOLD)
        await until_told(host, Trouble.STORE, 2)
        first, second = await told_by(host, Trouble.STORE)
        assert "written" in first
        assert "over" in second
        async with await connect(host.config.home / "control.sock") as client:
            assert (await client.call("health"))["fatal"] == ""


@pytest.mark.usefixtures("quick")
async def test_what_becomes_of_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets that are gone, a turn beyond its limit and work that does not begin are named with their lanes."""
    wake = Dispatcher.wake
    monkeypatch.setattr(Dispatcher, "wake", lambda self, lane: None if lane == "deaf" else wake(self, lane))
    monkeypatch.setattr(watching, "WAITS", 0)
    async with hosting(folder) as host:
        await host.group("family")
        await host.group("deaf")
        go = await busy(host, "family")
        await host.channel.say("deaf", "anybody there?")
        assert await until_found(host, Trouble.STUCK) == ["deaf"]
        assert not {Trouble.LATE, Trouble.SOCKETS} & set(await found(host))
        monkeypatch.setattr(watching, "SLACK", -100_000.0)
        assert await until_found(host, Trouble.LATE) == ["family"]
        (run,) = await host.rows("SELECT sockets FROM runs WHERE state <> 'ended'")
        sockets = Home(host.config.home, host.config.sockets).sockets(run["sockets"])
        (sockets / "model.sock").unlink()
        assert await until_found(host, Trouble.SOCKETS) == ["family"]
        go.touch()
        await until_state(host, "done")


async def test_an_image_that_is_being_built_holds_nobody_up(
    folder: Path, quick: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that waits for it is at work: nobody is told to begin anew, which would break the build off."""
    monkeypatch.setattr(watching, "WAITS", 0)
    async with hosting(folder) as host:
        await host.group("family")
        asked, built, image = asyncio.Event(), asyncio.Event(), host.sandbox.image

        async def building() -> str:
            asked.set()
            await built.wait()
            return await image()

        monkeypatch.setattr(host.sandbox, "image", building)
        await host.channel.say("family", "hello")
        async with asyncio.timeout(25):
            await asked.wait()
        await quick.more(2)
        assert Trouble.STUCK not in await found(host)
        built.set()
        await host.channel.until(1)


@pytest.mark.usefixtures("quick")
async def test_a_commit_that_failed_is_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed last stays named until rows can be written again, though nobody else writes any."""
    async with hosting(folder) as host:
        monkeypatch.setattr(failpoints, "fails", lambda name: name == "commit")
        with pytest.raises(StoreError):
            await host.channel.say("family", "hello")
        await until_found(host, Trouble.STORE)
        monkeypatch.setattr(failpoints, "fails", lambda name: False)
        async with asyncio.timeout(25):
            while Trouble.STORE in await found(host):
                await asyncio.sleep(0.02)


def test_the_clock_of_tests_is_one_that_leaps() -> None:
    """The look goes by the host's own clock."""
    clock = Clock()
    leaps = watching.Leaps(clock)
    clock.advance(7200)
    assert leaps.look() == pytest.approx(7200, abs=1)


def test_a_database_of_another_version(tmp_path: Path) -> None:
    """Words that this version does not know are left alone."""
    with rows_of_one_group(tmp_path / "db") as (tx, _):
        tx.execute("INSERT INTO notices(cause, chat_id, at) SELECT 'watch:unheard', id, 1 FROM chats LIMIT 1")
        assert watch.told(tx) == {"unheard": (1, True)}
