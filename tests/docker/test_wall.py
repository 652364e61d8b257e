"""The wall on the real engine, seen from inside a container that was opened as every agent's is."""

import asyncio
import gc
import os
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from nanoclaw.errors import Cause, SandboxError
from nanoclaw.groups import Home
from nanoclaw.sandbox import Death, Found, Spec
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.sandbox.spec import create_body, engine_of, violations
from tests.door import Door
from tests.story import in_time

FOREVER = 'print("up", flush=True)\nwhile True: time.sleep(60)'

# Those of every container: the terminal, nothing, chance, and links to /proc.
DEVICES = {"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"}
DEVICES |= {"stdin", "stdout", "stderr"}

Make = Callable[..., Spec]
WithScript = Callable[[Spec, str], Spec]


# --- what an agent finds -----------------------------------------------------------------------


async def test_there_is_no_network(inside: Any) -> None:
    """Only the loopback exists; neither an address nor a name outside can be reached."""
    _, said = await inside("""
        report(devices=[line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]],
               address=attempt(socket.create_connection, ("1.1.1.1", 443), 3),
               host=attempt(socket.create_connection, ("172.17.0.1", 80), 3),
               name=attempt(socket.getaddrinfo, "api.anthropic.com", 443))
    """)
    assert said["devices"] == ["lo"]
    assert said["address"] == said["host"] == "Network is unreachable"
    assert said["name"] != "done"


async def test_there_are_no_privileges(inside: Any, make_spec: Make) -> None:
    """Every capability set is empty, none can be gained, system calls are filtered, the uid is the agents'."""
    _, said = await inside("""
        import resource
        lines = Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
        run = lambda *command: subprocess.run(command, capture_output=True).returncode
        report(caps=[v for k, v in status.items() if k.startswith("Cap")],
               no_new=status["NoNewPrivs"], seccomp=status["Seccomp"],
               uid=os.getuid(), gid=os.getgid(), groups=os.getgroups(), devices=os.listdir("/dev"),
               mount=run("mount", "-t", "tmpfs", "none", "/mnt"), unshare=run("unshare", "-Ur", "true"),
               core=resource.getrlimit(resource.RLIMIT_CORE), first=Path("/proc/1/comm").read_text().strip())
    """)
    spec = make_spec()
    assert said["caps"] == ["0" * 16] * 5
    assert (said["no_new"], said["seccomp"]) == ("1", "2")
    assert (said["uid"], said["gid"]) == (spec.uid, spec.gid)
    assert set(said["groups"]) <= {spec.gid}
    assert said["mount"] != 0
    assert said["unshare"] != 0
    assert said["core"] == [0, 0]
    assert said["first"] in ("docker-init", "tini", "catatonit")
    assert set(said["devices"]) <= DEVICES


async def test_only_what_is_meant_can_be_written(inside: Any) -> None:
    """The system, the agent's own code, letters, skills and the host's folders refuse; the work places do not."""
    _, said = await inside("""
        def writes(folder):
            done = attempt(Path(folder, "probe").write_text, "x")
            if done == "done": os.unlink(folder + "/probe")
            return done == "done"
        Path("/tmp/run.sh").write_text("#!/bin/sh\\nexit 7\\n")
        os.chmod("/tmp/run.sh", 0o700)
        folders = ["/"] + [e.path for e in os.scandir("/") if e.is_dir(follow_symlinks=False)]
        for top in ("/opt", "/workspace", "/run", "/home", "/etc", "/var"):
            folders += [path for path, _, _ in os.walk(top)]
        report(writable=sorted(f for f in folders if not f.startswith("/proc") and writes(f)),
               runs=subprocess.run(["/tmp/run.sh"]).returncode)
    """)
    assert said["writable"] == [
        "/home/agent",
        "/home/agent/.claude",
        "/home/agent/.claude/projects",
        "/tmp",
        "/workspace/group",
    ]
    assert said["runs"] == 7


async def test_the_mounts_are_those_asked_for(inside: Any, make_spec: Make) -> None:
    """No mount beside the asked ones and the engine's own; each as writable as asked."""
    _, said = await inside("""
        rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        report(mounts={r[4]: r[5].split(",")[0] for r in rows})
    """)
    of_engine = {"/", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/tmp"}
    of_engine |= {"/sbin/docker-init", "/usr/sbin/docker-init", "/dev/init"}  # the first process
    of_engine |= {"/home/agent", "/home/agent/.claude", "/opt/agent/app/agent"}
    mounts = {
        target: mode
        for target, mode in said["mounts"].items()
        if target not in of_engine and not target.startswith(("/proc", "/sys", "/dev"))
    }
    assert mounts == {b.target: "rw" if b.read_write else "ro" for b in make_spec().binds}


async def test_nothing_can_stand_in_the_outbox_files_place(inside: Any, make_spec: Make) -> None:
    """Rename, unlink, link, pipe: none works on a file that is mounted by itself; appending does."""
    _, said = await inside("""
        out, other = "/run/nanoclaw/out.ndjson", "/workspace/group/other"
        Path(other).write_text("x")
        report(results=[attempt(os.rename, out, out + "2"), attempt(os.rename, other, out), attempt(os.unlink, out),
                        attempt(os.symlink, "/etc/passwd", out), attempt(os.link, other, out), attempt(os.mkfifo, out),
                        attempt(os.link, out, other + "2"), attempt(os.rename, "/run/nanoclaw", "/run/other"),
                        attempt(os.mkdir, out + ".d")])
        report(last=True)
    """)
    assert "done" not in said["results"]
    assert said["last"] is True


async def test_no_socket_of_the_engine_is_there(inside: Any) -> None:
    """No unix socket at all stands in the container, beside those of the run."""
    _, said = await inside("""
        found = []
        for path, folders, files in os.walk("/"):
            folders[:] = [f for f in folders if path != "/" or f not in ("proc", "sys")]
            found += [os.path.join(path, f) for f in files if stat.S_ISSOCK(os.lstat(os.path.join(path, f)).st_mode)]
        report(sockets=found)
    """)
    assert said["sockets"] == []


SEARCH = """
import mmap
needles = [half.encode() * 2 for half in (%r, %r)]
found = {}
def search(path):
    try:
        if path.startswith("/proc"):
            data = open(path, "rb").read(1 << 20)
        else:
            if not stat.S_ISREG(os.lstat(path).st_mode) or not os.path.getsize(path): return
            with open(path, "rb") as f: data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        for n in needles:
            if data.find(n) >= 0: found.setdefault(n.decode(), []).append(path)
    except (OSError, ValueError): pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline", "cgroup", "mountinfo", "status", "limits"): search(f"/proc/{pid}/{name}")
for path, folders, files in os.walk("/"):
    folders[:] = [f for f in folders if path != "/" or f not in ("proc", "sys", "dev")]
    for name in files: search(os.path.join(path, name))
report(found=found)
"""


async def test_the_key_is_nowhere(
    sandbox: DockerSandbox,
    engine: DockerClient,
    home: Home,
    make_spec: Make,
    with_script: WithScript,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in the environment, /proc, any file, the engine's description or the image's history.

    A second word, which is put into the group's folder, shows that the search finds what is there.
    """
    key, control = "NOT-A-KEY-", "control-word-"
    monkeypatch.setenv("ANTHROPIC_API_KEY", key * 2)
    home.env_file.write_text(f"ANTHROPIC_API_KEY={key * 2}\n")
    spec = with_script(make_spec(env={"ANTHROPIC_API_KEY": "placeholder"}), SEARCH % (key, control))
    (home.group_dir("kitchen") / "note").write_text(control * 2)
    (home.group_dir("kitchen") / "note").chmod(0o644)
    container = await sandbox.open(spec)
    described = str(engine.api.inspect_container(container)) + str(engine.api.history(spec.image))
    end = await sandbox.wait(container)
    assert end.code == 0, end.log
    assert home.outbox(spec.run_id).read_text() == ('{"found": {"%s": ["/workspace/group/note"]}}\n' % (control * 2))
    assert key * 2 not in described + str(engine.api.inspect_image(spec.image))


# --- limits and deaths -------------------------------------------------------------------------


async def test_the_limit_of_processes_bites(inside: Any) -> None:
    """A fork bomb meets an error, and the engine stays well."""
    _, said = await inside(
        """
        children, error = [], ""
        try:
            for _ in range(500): children.append(subprocess.Popen(["sleep", "60"]))
        except OSError as e: error = e.strerror
        report(started=len(children), error=error)
        """,
        pids=40,
    )
    assert 20 < said["started"] < 40
    assert said["error"] == "Resource temporarily unavailable"


EAT = "bytearray(400 << 20)"


async def test_a_greedy_child_dies_and_the_agent_lives(inside: Any) -> None:
    """The kernel takes the child that is over the limit; the container's end is no death by memory."""
    end, said = await inside(f"report(child=subprocess.run([sys.executable, '-c', {EAT!r}]).returncode)", memory_mb=128)
    assert said["child"] == -9
    assert end.death is Death.EXITED


async def test_death_by_memory_is_named(inside: Any) -> None:
    """The agent itself over its limit: killed, and the cause is known."""
    end, _ = await inside(EAT, memory_mb=128)
    assert end.death is Death.MEMORY


async def test_an_exit_code_and_the_last_words_are_known(inside: Any) -> None:
    """The code that it ended with and what it printed, without control characters."""
    end, _ = await inside(r"print('early ' * 2000); print('\x1b[31mlast words\x07'); sys.exit(7)")
    assert (end.death, end.code) == (Death.EXITED, 7)
    assert end.log.endswith("[31mlast words\n")
    assert len(end.log) <= 4096


@pytest.mark.parametrize(("how", "death"), [("kill", Death.KILLED), ("remove", Death.REMOVED)])
async def test_an_end_from_outside_is_noticed_within_a_second(
    sandbox: DockerSandbox, engine: DockerClient, make_spec: Make, with_script: WithScript, how: str, death: Death
) -> None:
    """Somebody kills or removes the container: wait() says which, and soon."""
    act = {"kill": engine.api.kill, "remove": lambda c: engine.api.remove_container(c, force=True)}[how]

    async def noticed(_: str) -> float:
        container = await sandbox.open(with_script(make_spec(), FOREVER))
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            waiting = group.create_task(sandbox.wait(container))
            await _heard(sandbox)
            started = time.monotonic()
            await asyncio.to_thread(act, container)
            end = await waiting
        assert end.death is death
        return time.monotonic() - started

    await in_time(1, noticed)


async def _heard(sandbox: DockerSandbox) -> None:
    """Return when the adapter hears events, as it does once a wait has begun."""
    await asyncio.sleep(0)
    await sandbox._deaths.listen()


async def test_an_end_before_the_wait_is_known_too(sandbox: DockerSandbox, make_spec: Make) -> None:
    """wait() on a container that is gone returns at once, however often it is asked."""
    container = await sandbox.open(make_spec())
    await sandbox.close(container)
    for _ in range(2):
        assert (await sandbox.wait(container)).death is Death.REMOVED


async def test_many_waits_need_one_thread(sandbox: DockerSandbox, make_spec: Make, with_script: WithScript) -> None:
    """Ten containers, awaited at once: each end wakes its own."""
    specs = [with_script(make_spec(f"g{n}"), f"time.sleep(0.2); sys.exit({n})") for n in range(10)]
    async with asyncio.timeout(60):
        containers = await asyncio.gather(*map(sandbox.open, specs))
        ends = await asyncio.gather(*map(sandbox.wait, containers))
    assert [end.code for end in ends] == list(range(10))


# --- opening and closing -----------------------------------------------------------------------


async def test_closing_is_fast_and_may_be_repeated(
    sandbox: DockerSandbox, make_spec: Make, with_script: WithScript
) -> None:
    """A container that would live on is away in well under the second that /stop has."""

    async def closed(_: str) -> float:
        container = await sandbox.open(with_script(make_spec(), FOREVER))
        started = time.monotonic()
        await sandbox.close(container)
        seconds = time.monotonic() - started
        await sandbox.close(container)
        return seconds

    await in_time(1, closed)
    await sandbox.close("f" * 64)
    assert await sandbox.found() == []


async def test_leftovers_are_found_and_removed(
    sandbox: DockerSandbox, install_id: str, make_spec: Make, with_script: WithScript
) -> None:
    """A later host finds what an earlier one left, running or not; another install's are never touched."""
    spec = with_script(make_spec(), FOREVER)
    container = await sandbox.open(spec)
    later = DockerSandbox(install_id=install_id, environ=os.environ)
    stranger = DockerSandbox(install_id="test-stranger", environ=os.environ)
    (found,) = await later.found()
    assert replace(found, created=0) == Found(container, spec.run_id, spec.image, True, spec.lane)
    assert found.created > 0
    assert await stranger.found() == []
    await later.close(container)
    assert await sandbox.found() == []
    await later.stop()
    await stranger.stop()


async def test_a_cancelled_open_leaves_nothing(
    sandbox: DockerSandbox, make_spec: Make, with_script: WithScript
) -> None:
    """Cancelled in the middle of create and start: when the cancellation is through, so is the container."""
    task = asyncio.ensure_future(sandbox.open(with_script(make_spec(), FOREVER)))
    while not await sandbox.found():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await sandbox.found() == []


async def test_a_missing_source_or_image_is_said(sandbox: DockerSandbox, make_spec: Make, home: Home) -> None:
    """The message names what is missing, the cause says whom to ask; no container is left."""
    spec = make_spec()
    home.outbox(spec.run_id).unlink()
    with pytest.raises(SandboxError, match=r"out\.ndjson"):
        await sandbox.open(spec)
    with pytest.raises(SandboxError, match="nanoclaw image build") as e:
        await sandbox.open(make_spec(image="sha256:" + "0" * 64))
    assert e.value.cause is Cause.IMAGE
    assert await sandbox.found() == []


WEAKENED: dict[str, tuple[str, Any]] = {
    "it has a network": ("NetworkMode", "bridge"),
    "it keeps capabilities": ("CapDrop", []),
    "it is given capabilities": ("CapAdd", ["NET_RAW"]),
    "it may gain privileges": ("SecurityOpt", []),
    "a security profile is switched off": ("SecurityOpt", ["no-new-privileges", "seccomp=unconfined"]),
    "its root is writable": ("ReadonlyRootfs", False),
    "it shares a namespace with the host": ("PidMode", "host"),
    "it is privileged": ("Privileged", True),
    "it is given devices": ("Devices", [{"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/k"}]),
    "its processes are not limited as asked": ("PidsLimit", -1),
    "its memory is not limited as asked": ("Memory", 0),
    "its mounts are not those asked for": ("Binds", ["/etc:/mnt:ro"]),
    "its writable folders in memory are not those asked for": ("Tmpfs", {"/etc": ""}),
}


@pytest.mark.parametrize("words", WEAKENED)
def test_a_weakened_container_is_seen(engine: DockerClient, install_id: str, make_spec: Make, words: str) -> None:
    """What the engine says of a container that lacks one wall names exactly that wall; it is never started."""
    spec, (key, value) = make_spec(), WEAKENED[words]
    body = create_body(spec, install_id=install_id)
    facts = engine_of(engine.info())
    body["HostConfig"][key] = value
    if key == "Memory":
        body["HostConfig"]["MemorySwap"] = 0
    made = engine.api.create_container_from_config(body, f"nanoclaw-{uuid.uuid4().hex}")["Id"]
    assert words in violations(engine.api.inspect_container(made), spec, facts)


def test_the_unweakened_container_passes(engine: DockerClient, install_id: str, make_spec: Make) -> None:
    """The control of the table above: no violation."""
    spec = make_spec()
    made = engine.api.create_container_from_config(create_body(spec, install_id=install_id), None)["Id"]
    assert violations(engine.api.inspect_container(made), spec, engine_of(engine.info())) == []


# --- the engine goes and comes back ------------------------------------------------------------


async def _refusal(call: Awaitable[object]) -> Cause:
    async with asyncio.timeout(10):  # it would take 30 to give up an engine that is silent
        with pytest.raises(SandboxError, match="no container engine at") as e:
            await call
    return e.value.cause


# The engine's client forgets to close a socket that could not be connected; the collector does it.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_a_lost_engine_is_said_and_found_again(install_id: str, make_spec: Make, with_script: WithScript) -> None:
    """While it is gone each call says ENGINE soon; when it is back the same adapter goes on."""
    with tempfile.TemporaryDirectory(prefix="nc-") as folder:
        door = Door(Path(folder) / "engine.sock")
        await door.open()
        sandbox = DockerSandbox(install_id=install_id, environ={}, address=f"unix://{door.path}")
        container = await sandbox.open(with_script(make_spec(), FOREVER))
        waiting = asyncio.ensure_future(sandbox.wait(container))
        await _heard(sandbox)
        await door.shut()
        calls = (waiting, sandbox.wait(container), sandbox.found(), sandbox.close(container), sandbox.probe())
        assert [await _refusal(call) for call in calls] == [Cause.ENGINE] * 5
        await door.open()
        waiting = asyncio.ensure_future(sandbox.wait(container))
        await _heard(sandbox)
        await sandbox.close(container)
        assert (await waiting).death is Death.REMOVED
        await sandbox.stop()
        await door.shut()
    del waiting, calls
    gc.collect()


async def test_the_engines_own_word_on_its_limits(sandbox: DockerSandbox) -> None:
    """The engine that runs these tests enforces what must hold."""
    facts = await sandbox.probe()
    assert facts.version
    assert (facts.seccomp, facts.memory, facts.pids) == (True, True, True)
    assert facts.cgroup in ("1", "2")


async def test_the_image_is_known_by_its_id(sandbox: DockerSandbox, agent_image: str) -> None:
    """The adapter names the image that was built, never a tag."""
    assert await sandbox.image() == agent_image


async def test_a_build_takes_one_thread(
    sandbox: DockerSandbox, make_spec: Make, with_script: WithScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many who want the image at once share one build, also of an asker who left; containers open and close beside."""
    begun, go, builds = asyncio.Event(), threading.Event(), []

    def slow(*args: object, progress: Callable[[str], None], **kwargs: object) -> str:
        builds.append(args)
        progress("building")
        go.wait(30)
        return f"sha256:{len(builds)}"

    monkeypatch.setattr("nanoclaw.sandbox.image.ensure_image", slow)
    sandbox._progress = lambda line: begun.set()
    specs = [with_script(make_spec(f"g{n}"), FOREVER) for n in range(8)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        first = group.create_task(sandbox.image())
        await begun.wait()
        first.cancel()
        asking = [group.create_task(sandbox.image()) for _ in range(20)]
        containers = await asyncio.gather(*map(sandbox.open, specs))
        await asyncio.gather(*map(sandbox.close, containers))
        assert not any(task.done() for task in asking)
        go.set()
    assert {task.result() for task in asking} == {"sha256:1"}
    assert await sandbox.image() == "sha256:2"


def test_the_runs_files_are_the_agents_to_use_and_no_more(make_spec: Make, home: Home) -> None:
    """The letters belong to the host, the one file and the sessions to the agent, the rest is closed."""
    spec = make_spec()
    modes = {b.target: (b.source.stat().st_uid, stat.S_IMODE(b.source.stat().st_mode)) for b in spec.binds}
    agent, host = spec.uid or os.getuid(), os.getuid()
    assert modes["/run/nanoclaw/out.ndjson"] == (agent, 0o600)
    assert modes["/workspace/group"] == (agent, 0o700)
    assert modes["/home/agent/.claude/projects"] == (agent, 0o700)
    assert modes["/run/nanoclaw/inbox"] == (host, 0o755)
    assert stat.S_IMODE(home.root.stat().st_mode) == stat.S_IMODE(home.run_dir.stat().st_mode) == 0o700
