"""The host goes and comes back, containers die, sessions are refused: on the real engine and Claude Code."""

import asyncio
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from loguru import logger

from nanoclaw import app
from nanoclaw.channels.control_sock import connect
from nanoclaw.mailbox import Alive, Prompt
from nanoclaw.sandbox import Spec
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.sandbox.spec import LABEL_INSTALL, LABEL_LANE, LABEL_RUN
from nanoclaw.store import Store
from tests.agent_harness import agent_of, source
from tests.docker.test_host import KEY, PATIENCE, Living, hosting
from tests.fakes import ROOT, eventually
from tests.model_server import ModelServer, Seen, Slow, Status, Step, Text, ToolUse
from tests.story import in_time

ORPHANS = 20


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer(keys={KEY}) as server:
        yield server


@pytest.fixture
async def living(folder: Path, engine: DockerClient, agent_image: str, model: ModelServer) -> AsyncIterator[Living]:
    async with hosting(folder, engine, model) as host:
        yield host


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the host logs."""
    said: list[str] = []
    sink = logger.add(lambda m: said.append(str(m.record["message"])), level="INFO")
    yield said
    logger.remove(sink)


# --- a restart ---------------------------------------------------------------------------------


def orphan(engine: DockerClient, image: str, install: str, lane: str) -> str:
    """A container of ours that no row knows; it ends by force alone."""
    labels = {LABEL_INSTALL: install, LABEL_RUN: uuid.uuid4().hex[:8], LABEL_LANE: lane}
    command = ["-c", "import time; time.sleep(600)"]
    made = engine.containers.run(
        image, command, entrypoint="python3", labels=labels, detach=True, network_mode="none", init=True
    )
    return str(made.id)


@pytest.mark.timeout(240)
async def test_ready_within_a_second_whatever_was_left(
    folder: Path, engine: DockerClient, agent_image: str, model: ModelServer
) -> None:
    """20 containers of nobody: the host is ready, answers, and the lane of one of them waits for its removal alone."""
    async with hosting(folder, engine, model) as living:
        install = (await living.rows("SELECT value FROM meta WHERE key = 'install'"))[0]["value"]
    lanes = ["family", *(f"lane{n}" for n in range(1, ORPHANS))]

    async def restarted(_: str) -> float:
        for lane in lanes:
            await asyncio.to_thread(orphan, engine, agent_image, install, lane)
        started = time.monotonic()
        async with hosting(folder, engine, model) as living:
            ready = time.monotonic() - started
            await living.channel.say("family", "anybody there?")
            await living.channel.until(1, PATIENCE)
            answered = time.monotonic() - started
            async with asyncio.timeout(PATIENCE):
                while len(await living.containers()) > 1:
                    await asyncio.sleep(0.05)
            swept = time.monotonic() - started
        print(f"\n{ORPHANS} orphans: ready after {ready:.2f}, answered after {answered:.2f}, swept after {swept:.2f} s")
        assert "anybody there?" in living.channel.texts[0]
        return ready

    await in_time(1, restarted)


async def test_a_killed_host_is_no_event_for_a_chat(folder: Path, engine: DockerClient, agent_image: str) -> None:
    """kill -9 in mid-turn: the next host adopts the container, whose CLI asks anew; one answer comes, no more."""
    gate = asyncio.Event()
    home = folder / "home"
    async with ModelServer(keys={KEY}) as model:
        model.script((Text("slowly "), Slow(gate)), Text("but surely"), when="take your time")
        host = await _host(home, model)
        await _said(home, "take your time")
        async with asyncio.timeout(PATIENCE):
            await model.seen(1)
        host.kill()
        await host.wait()
        host = await _host(home, model)
        gate.set()
        try:
            async with await connect(home / "control.sock") as client, asyncio.timeout(PATIENCE):
                assert (await client.call("outcome", wa_id="m1"))["state"] == "done"
        finally:
            host.terminate()
            await host.wait()
            print("".join(p.read_text() for p in (home / "logs").iterdir()))  # shown if it fails
    async with app.opened(Store(home / "nanoclaw.db")) as store:
        told = await store.read(lambda tx: tx.execute("SELECT kind, payload FROM outgoing").fetchall())
        runs = await store.read(lambda tx: tx.execute("SELECT id FROM runs").fetchall())
        attempts = await store.read(lambda tx: tx.execute("SELECT sum(attempts) AS n FROM turns").fetchone())
    assert [r["kind"] for r in told] == ["reply"]
    assert "but surely" in told[0]["payload"]
    assert (len(runs), attempts["n"]) == (1, 1)


async def _host(home: Path, model: ModelServer) -> asyncio.subprocess.Process:
    env = {**os.environ, "NANOCLAW_HOME": str(home), "ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": KEY}
    host = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nanoclaw", "run"),
        env={**env, "PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await eventually((home / "control.sock").exists, PATIENCE)
    async with asyncio.timeout(PATIENCE):
        while not await _listens(home):
            await asyncio.sleep(0.05)
    return host


async def _listens(home: Path) -> bool:
    try:
        async with await connect(home / "control.sock"):
            return True
    except Exception:
        return False


async def _said(home: Path, text: str) -> None:
    async with await connect(home / "control.sock") as client, asyncio.timeout(PATIENCE):
        await client.attach()
        await client.send({"type": "say", "id": "m1", "text": text})
        while (frame := await client.receive()) is not None and frame["type"] != "heard":
            pass


# --- death -------------------------------------------------------------------------------------


def starve(engine: DockerClient, container: str) -> None:
    """Leave it no more memory than it has, and make it want more: the kernel takes its largest process, the CLI."""
    used = engine.api.stats(container, stream=False, one_shot=True)["memory_stats"]["usage"] + (8 << 20)
    engine.api.update_container(container, mem_limit=used, memswap_limit=used)
    eat = engine.api.exec_create(container, ["python3", "-c", "bytearray(64 << 20)"])
    engine.api.exec_start(eat["Id"])


ENDS: dict[str, tuple[Callable[[DockerClient, str], Any], str]] = {
    "killed": (lambda e, c: e.api.kill(c), "the container was killed"),
    "removed": (lambda e, c: e.api.remove_container(c, force=True), "somebody removed the container"),
    "stopped": (lambda e, c: e.api.kill(c, "SIGTERM"), "the container was killed"),
    "memory": (starve, "MB of memory"),
}


@pytest.mark.parametrize("how", ENDS)
async def test_a_death_is_noticed_within_a_second_and_named(living: Living, lines: list[str], how: str) -> None:
    """However the container ends in mid-turn, the host knows what it was, and the turn is answered by another one."""
    act, words = ENDS[how]

    async def noticed(what: str) -> float:
        lines.clear()
        gate, before = asyncio.Event(), len(living.channel.texts)
        living.model.script((Slow(gate), Text("too late")), when=f"count the {what}")
        asked = len(living.model.requests)
        await living.channel.say("family", f"count the {what}")
        async with asyncio.timeout(PATIENCE):
            await living.model.seen(asked + 1)
        (container,) = await living.containers()
        acting = asyncio.create_task(asyncio.to_thread(act, living.engine, container.id))
        died = await _died(living.engine, container.id)
        await eventually(lambda: any("ended: sandbox" in line for line in lines), PATIENCE)
        seconds = time.time() - died
        await acting
        (told,) = [line for line in lines if "ended: sandbox" in line]
        print(f"\n{how}: noticed {seconds:.3f} s after the engine said so: {told}")
        assert words in told
        gate.set()
        await living.channel.until(before + 1, PATIENCE)
        assert f"count the {what}" in living.channel.texts[before]
        return seconds

    await in_time(1, noticed)


async def _died(engine: DockerClient, container: str) -> float:
    """The engine's own time of its end."""

    def hear() -> float:
        heard = engine.api.events(
            filters={"container": container, "event": "die"}, since=int(time.time()) - 5, decode=True
        )
        try:
            return float(next(heard)["timeNano"]) / 1e9
        finally:
            heard.close()

    return await asyncio.to_thread(hear)


# --- sessions ----------------------------------------------------------------------------------


def refusing(word: str, message: str) -> Callable[[Seen], Step | None]:
    """A model that takes no conversation in which this word stands."""
    return lambda seen: Status(400, message=message) if word in seen.raw.decode() else None


@pytest.mark.parametrize(
    "message",
    [
        "messages.1.content.0.image.source.base64.data: Could not process image",
        "messages.2: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1",
        "messages.0: invalid content",
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
async def test_a_conversation_that_the_model_refuses_is_replaced(living: Living, message: str, resumed: bool) -> None:
    """The turn is asked once more in a new session and says so; the old transcript is kept under another name."""
    await living.turn("the word is Zebulon")
    old = (await living.rows("SELECT session FROM lanes WHERE lane = 'family'"))[0]["session"]
    if resumed:
        for container in await living.containers():
            await asyncio.to_thread(container.remove, force=True)
        await living.no_run()
    living.model.answer(refusing("Zebulon", message))
    asked = len(living.model.requests)
    reply = await living.turn("what now?")
    assert "could not be resumed" in living.model.requests[-1].raw.decode()
    assert "what now?" in reply
    new = (await living.rows("SELECT session, refused FROM lanes WHERE lane = 'family'"))[0]
    assert new["session"] not in ("", old)
    assert new["refused"] == ""
    projects = living.config.home / "state" / "family" / "projects" / "-workspace-group"
    assert {old + ".refused", new["session"] + ".jsonl"} <= {p.name for p in projects.iterdir()}
    assert not (projects / f"{old}.jsonl").exists()
    assert len(living.channel.texts) == 2
    print(f"\nrequests for the refused turn: {len(living.model.requests) - asked}")


async def test_a_message_that_the_model_refuses_is_told_once(living: Living) -> None:
    """400 in a new session too: the message is to blame, its chat is told, and the next one is answered."""
    living.model.answer(refusing("Zebulon", "messages.0: invalid content"))
    assert (await living.turn("Zebulon")).startswith("Sorry, something went wrong")
    assert "hello" in await living.turn("hello")


# --- liveness ----------------------------------------------------------------------------------


async def test_a_long_command_announces_its_time(sandbox: DockerSandbox, make_spec: Callable[..., Spec]) -> None:
    """The host hears of it as long as the command runs, and no longer."""
    async with agent_of(sandbox, make_spec()) as agent:
        command = "until [ -e go ]; do sleep 0.05; done"
        agent.model.script(ToolUse("Bash", {"command": command, "timeout": 3_600_000}), Text("done"))
        agent.put(Prompt("t1", "wait for it"))
        await agent.get(Alive, lambda alive: alive.seconds == 3600)
        (source(agent.spec, "/workspace/group") / "go").touch()
        await agent.done("t1")
        heard = len(agent.letters)
        await agent.get(Alive, lambda alive: agent.letters.index(alive) >= 0 and len(agent.letters) > heard)
        assert [x.seconds for x in agent.letters if isinstance(x, Alive)][-1] == 0
