"""What a host finds when it starts, how long a turn may be silent, and what is told of each failure."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from nanoclaw import app
from nanoclaw.errors import Cause, SandboxError
from nanoclaw.groups import Home, make_run
from nanoclaw.mailbox import Alive, encode, letter_name
from nanoclaw.models import Role, RunRow, RunState
from nanoclaw.run import runner
from nanoclaw.sandbox import PROBES, Exit, Spec
from nanoclaw.store import Store, Tx, chats, runs
from tests.fakes import Hosted, ProcessSandbox, eventually, hosting, living
from tests.story import abandoned, busy, eventually_rows, forge, in_time, states, until_parked

ORPHANS = 20


# --- a restart ---------------------------------------------------------------------------------


def left_behind(tx: Tx, number: int) -> list[RunRow]:
    """As many runs of an earlier life, each in a lane of its own."""
    group = chats.group_by_folder(tx, "family")
    assert group is not None
    rows = [RunRow(f"left-{n}", f"family#{n}", group.id, RunState.ALIVE, "f", f"c-left-{n}") for n in range(number - 1)]
    rows.append(RunRow("left-own", "family", group.id, RunState.ALIVE, "f", "c-left-own"))
    for row in rows:
        runs.insert(tx, row, "model")
    return rows


@pytest.fixture
def orphans(sandbox: ProcessSandbox) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Their containers, of an older image: none can be adopted."""
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for child in made:
        child.kill()
        child.wait()


async def leave(store: Store, sandbox: ProcessSandbox, orphans: list[subprocess.Popen[bytes]]) -> None:
    """An earlier life ended without its containers: the same lanes once more."""
    async with app.opened(store):
        await store.write(lambda tx: tx.execute("DELETE FROM runs WHERE id LIKE 'left-%'"))
        for row in await store.write(left_behind, ORPHANS):
            orphans.append(subprocess.Popen([row.id, "600"], executable="/bin/sleep"))
            facts = {"run": row.id, "lane": row.lane, "pid": orphans[-1].pid, "image": "image-0"}
            (sandbox.registry / row.container).write_text(json.dumps(facts))


async def test_a_start_does_not_wait_for_what_is_removed(
    folder: Path, sandbox: ProcessSandbox, orphans: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 orphans whose removal hangs: ready within a second; only the lane whose session one may have open waits."""
    async with living(folder, sandbox) as host:
        await host.group("family")
        await host.group("other")
    close, engine_free = sandbox.close, asyncio.Event()

    async def hanging(container: str) -> None:
        await engine_free.wait()
        await close(container)

    monkeypatch.setattr(sandbox, "close", hanging)

    async def ready(_: str) -> float:
        await leave(Store(folder / "home" / "nanoclaw.db"), sandbox, orphans)
        started = time.monotonic()
        async with living(folder, sandbox):
            seconds = time.monotonic() - started
            print(f"\nready with {ORPHANS} orphans: {seconds:.3f} s")
            engine_free.set()  # else the host waits for it when it stops
        engine_free.clear()
        return seconds

    await in_time(1, ready)
    await leave(Store(folder / "home" / "nanoclaw.db"), sandbox, orphans)
    async with living(folder, sandbox) as host:
        await host.channel.say("family", "hello")
        await host.channel.say("other", "hello")
        await host.channel.until(1)
        assert host.channel.to("other") == ["echo: hello"]
        assert [spec.lane for spec in sandbox.opened] == ["other"]
        engine_free.set()
        await host.channel.until(2)
        assert host.channel.to("family") == ["echo: hello"]
        await eventually(lambda: not list(sandbox.registry.glob("c-left-*")))
        assert await host.rows("SELECT 1 FROM runs WHERE state <> 'ended' AND id LIKE 'left-%'") == []


async def test_a_container_that_cannot_be_removed_holds_its_own_lane_alone(
    folder: Path, sandbox: ProcessSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chat is told once, the others are served; when the engine can remove it, what was kept is answered."""
    async with abandoned(folder, sandbox) as host:
        await host.group("family")
        await host.group("other")
        await busy(host, "family", "first")
    sandbox.image_id = "image-2"
    close, stuck = sandbox.close, True
    (old,) = [f.container for f in await sandbox.found()]

    async def failing(container: str) -> None:
        if stuck and container == old:
            raise SandboxError("the container is stuck")
        await close(container)

    monkeypatch.setattr(sandbox, "close", failing)
    monkeypatch.setattr("nanoclaw.app.outside.WATCH", 0.05)
    async with living(folder, sandbox) as host:
        await until_parked(host)
        await host.channel.say("other", "hello")
        await host.channel.until(2)
        await asyncio.sleep(0.2)  # four looks: there is no event for what must not happen
        (told,) = host.channel.to("family")
        assert "cannot work" in told
        assert host.channel.to("other") == ["echo: hello"]
        stuck = False
        (folder / "family-go").touch()
        await host.channel.until(3)
        assert host.channel.to("family")[1:] == ["echo: attempt 2 | first"]


async def test_an_image_that_was_away_at_the_start_is_no_event(folder: Path, sandbox: ProcessSandbox) -> None:
    """Which containers there are is known all the same: nothing is parked for it."""
    async with abandoned(folder, sandbox) as host:
        await host.group("family")
        go = await busy(host, "family", "hello")
    image = sandbox.image

    async def missing() -> str:
        sandbox.image = image  # type: ignore[method-assign]
        raise SandboxError("the agent image is gone", Cause.IMAGE)

    sandbox.image = missing  # type: ignore[method-assign]
    async with living(folder, sandbox) as host:
        go.touch()
        await host.channel.until(1)
        assert host.channel.texts == ["echo: attempt 2 | hello"]


@pytest.mark.parametrize("survives", [True, False])
async def test_a_crash_is_no_event_for_a_chat(folder: Path, sandbox: ProcessSandbox, survives: bool) -> None:
    """Whether the container lived on or not: one answer, and not a word about it."""
    async with abandoned(folder, sandbox) as host:
        await host.in_main("owner")
        await host.group("family")
        go = await busy(host, "family", "hello")
    if not survives:
        sandbox.kill_all()
    go.touch()
    async with living(folder, sandbox) as host:
        await host.channel.until(1)
        await host.settled()
        assert host.channel.texts == ["echo: hello" if survives else "echo: attempt 2 | hello"]


async def test_a_container_that_outlives_its_run_goes_before_the_next_is_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine could not be asked to remove it when the run ended: a session is open in one container still."""
    monkeypatch.setattr(runner, "STOP_LIMIT", 0.1)
    monkeypatch.setattr(runner, "_ENGINE_RETRY", 0.01)
    async with hosting(folder) as host:
        await host.group("family", Olga=Role.OWNER)
        opening, away = host.sandbox.open, SandboxError("it is gone", Cause.ENGINE)
        beside: list[list[int]] = []  # who lived when a container was opened

        async def opened(spec: Spec) -> str:
            beside.append(host.sandbox.pids())
            return await opening(spec)

        async def lost(container: str) -> Exit:
            raise away

        monkeypatch.setattr(host.sandbox, "open", opened)
        with monkeypatch.context() as patch:
            patch.setattr(host.sandbox, "wait", lost)
            await host.channel.say("family", f"!mark {host.path('started')}\n!hang", "Olga")
            await eventually(host.path("started").exists)
            host.sandbox.close_faults.extend([away] * 2)
            await host.channel.say("family", "/stop", "Olga")
            await eventually_rows(host, "SELECT 1 FROM runs WHERE state = 'ended'")
            await eventually(lambda: not host.sandbox.close_faults)
        await host.channel.say("family", "next", "Olga")
        await host.channel.until(2)
        assert host.channel.texts == ["Stopped.", "echo: next"]
        assert beside == [[], []]


# --- liveness ----------------------------------------------------------------------------------


async def test_a_tool_that_said_how_long_it_takes_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be silent for as long; when it is over, silence counts again."""
    monkeypatch.setattr(runner, "HOST_EVERY", 0.05)
    async with hosting(folder, turn_silence=5) as host:  # a slow machine needs some until the agent is up
        await host.group("family")
        await busy(host, "family")
        await forge(host, "family", encode(Alive("t", 3600)))
        await asyncio.sleep(5.5)  # there is no event for what must not happen
        assert host.sandbox.pids()
        await forge(host, "family", encode(Alive("t")))
        await host.channel.until(1)
        assert host.channel.texts[0].startswith("Sorry, that took too long")


async def test_no_announcement_outlives_the_limit_of_a_turn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent may announce what it likes, and show signs without end."""
    monkeypatch.setattr(runner, "HOST_EVERY", 0.05)
    async with hosting(folder, turn_silence=5, turn_timeout=6) as host:
        await host.group("family")
        await busy(host, "family")
        await forge(host, "family", encode(Alive("t", (1 << 53) - 1)))
        await host.channel.until(1)
        assert host.channel.texts[0].startswith("Sorry, that took too long")
        assert await states(host) == ["failed"]


# --- a conversation that the model refuses -----------------------------------------------------


async def test_a_refused_conversation_is_replaced_once(folder: Path) -> None:
    """400 behind earlier turns: asked afresh; if that is refused too, it is told and not asked again."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "!session")
        await host.channel.until(1)
        await host.channel.say("family", "!status 400 messages.1: invalid content")
        await host.channel.until(2)
        assert host.channel.texts[1].startswith("Sorry, something went wrong")
        assert [r["attempts"] for r in await host.rows("SELECT attempts FROM turns ORDER BY rowid")] == [1, 2]
        await host.channel.say("family", "!session")
        await host.channel.until(3)
        assert host.channel.texts[2].startswith("resumed nothing")


async def test_a_new_conversation_says_that_it_is_one(folder: Path) -> None:
    """In front of its first prompt and of no other."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "one")
        await host.channel.until(1)
        tried = host.path("tried")
        await host.channel.say("family", f"!unless {tried} !status 400 no\n!mark {tried}\ntwo")
        await host.channel.until(2)
        await host.channel.say("family", "three")
        await host.channel.until(3)
        (run,) = await host.rows("SELECT id FROM runs WHERE state <> 'ended'")
        inbox = host.config.home / "runs" / run["id"] / "inbox"
        assert ["could not be resumed" in (inbox / letter_name(n)).read_text() for n in (2, 3)] == [True, False]
        assert host.channel.texts == ["echo: one", "echo: two", "echo: three"]


# --- told once ---------------------------------------------------------------------------------

SAID = "secret-detail"
# What the agent's run ends with, the cause, what its chat is told, what main is told.
FAILS = [
    (f"!status 401 {SAID}", Cause.CREDENTIAL, "I cannot work at the moment", "nanoclaw setup --replace-key"),
    (f"!status 402 {SAID}", Cause.BILLING, "I cannot work at the moment", "billing"),
    (f"!status 400 {SAID} Your credit balance is too low", Cause.BILLING, "I cannot work at the moment", "billing"),
    (f"!status 429 {SAID}", Cause.QUOTA, "I am out of quota", "quota is used up"),
    (f"!status 529 {SAID}", Cause.OVERLOAD, "Sorry, the model is overloaded", "overloaded"),
    (f"!status 502 {SAID}", Cause.NETWORK, "Sorry, I could not reach the model", "check the connection"),
    (f"!status 403 {SAID} through the gateway", Cause.POLICY, "Sorry, something went wrong", SAID),
    (f"!status 400 {SAID}", Cause.MODEL, "Sorry, something went wrong", SAID),
    ("!die 7", Cause.SANDBOX, "Sorry, something went wrong", "ended with code 7"),
    ("!big", Cause.POLICY, "Sorry, something went wrong", "a line of more than"),
    ("!hang", Cause.TIMEOUT, "Sorry, that took too long", "no progress for"),
]
PARKS = {Cause.CREDENTIAL, Cause.BILLING, Cause.QUOTA}


def told_main(host: Hosted, times: int) -> bool:
    """Whether the owner's chat got so many texts."""
    return len(host.channel.to("owner")) >= times


@pytest.mark.parametrize(("directive", "cause", "told", "detail"), FAILS, ids=lambda x: str(x)[:20])
async def test_a_failure_is_told_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, directive: str, cause: Cause, told: str, detail: str
) -> None:
    """The chat hears one sentence and no detail, main the detail; what parks is not told again."""
    monkeypatch.setattr(runner, "HOST_EVERY", 0.05)
    monkeypatch.setattr("nanoclaw.run.letters.RETRY_BASE_MS", 1)
    async with hosting(folder, turn_silence=0.5 if cause is Cause.TIMEOUT else 600) as host:
        await host.in_main("owner")
        await host.group("family")
        for n in (1, 2):
            await host.channel.say("family", directive)
            await host.channel.until(partial(told_main, host, 1 if cause in PARKS else n))
            if cause in PARKS:
                await until_parked(host)
                await eventually_rows(host, "SELECT 1 FROM turns WHERE attempts >= ?", n)
                host.clock.advance(61)  # the next message tries again
        await host.settled()
        for texts, words in ((host.channel.to("family"), told), (host.channel.to("owner"), detail)):
            assert len(texts) == (1 if cause in PARKS else 2)
            assert all(words in text for text in texts)
        assert not any(SAID in text or "code 7" in text for text in host.channel.to("family"))
        assert all(f"[family: {cause}]" in text for text in host.channel.to("owner"))


async def test_a_start_leaves_the_doctors_container_alone(folder: Path, sandbox: ProcessSandbox) -> None:
    """`doctor --sandbox` may be at work; what it leaves behind when it is killed goes two minutes later."""
    lane = f"family#task-{PROBES + 5}"
    async with living(folder, sandbox) as host:
        await host.group("family")
        home = Home(host.config.home, host.config.sockets)
    make_run(home, "0a1b2c3d", lane, "0a1b2c3d", os.getuid(), os.getgid())
    mine = (home.run_folder("0a1b2c3d"), home.sockets("0a1b2c3d"), home.state_dir(lane))
    facts = {"run": "0a1b2c3d", "lane": lane, "pid": 0, "image": "image-1", "created": app.now_ms() // 1000}
    container = sandbox.registry / "c-0a1b2c3d"
    container.write_text(json.dumps(facts))
    async with living(folder, sandbox):
        assert [path.is_dir() for path in mine] == [True] * 3
    assert container.exists()  # in its end it removes what nobody knows
    container.write_text(json.dumps(facts | {"created": facts["created"] - 121}))
    async with living(folder, sandbox):
        assert [path.exists() for path in mine] == [False] * 3
        await eventually(lambda: not container.exists())
