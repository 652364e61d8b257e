"""`nanoclaw status`: with a host, without one, and with one that says nothing; for people, programs and scripts."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.channels.control_sock import connect
from nanoclaw.cli import status as command
from nanoclaw.cli import status_text
from nanoclaw.commands import turns as turns_commands
from nanoclaw.commands.base import Asked, House
from nanoclaw.config import Config
from nanoclaw.errors import Cause
from nanoclaw.groups import Home, open_home
from nanoclaw.models import OutKind, Role
from nanoclaw.ops import status
from nanoclaw.ops.troubles import Trouble
from nanoclaw.sandbox.memory import memory_of
from nanoclaw.store import Store, Tx, chats, outgoing, turns
from tests.commands import nanoclaw
from tests.fakes import family, hosting, rows_of_one_group
from tests.story import busy

NOW = 1_800_000_000_000  # 2027-01-15 08:00 UTC


DOCS = (Path(__file__).parent.parent / "docs" / "status.md").read_text("utf-8")


async def told(home: Home, now: int = NOW) -> dict[str, Any]:
    return await command._told(home, Config.model_validate({"home": home.root}), now)


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """This process holds the lock, as a host does."""
    fd = os.open(home.lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def deaf(home: Home) -> Iterator[None]:
    """Somebody listens on control.sock, and never says a word."""
    with locked(home), socket.socket(socket.AF_UNIX) as door:
        door.bind(str(home.control_sock))
        door.listen()
        yield


def schedule(tx: Tx, group_id: int, chat_id: int) -> None:
    """A task that is due, and one that is in an hour."""
    for due in (NOW - 1, NOW + 3_600_000):
        tx.execute(
            "INSERT INTO tasks(group_id, chat_id, prompt, schedule, zone, state, next_due, created_at)"
            " VALUES(?, ?, 'secret', '{}', 'UTC', 'active', ?, 1)",
            (group_id, chat_id, due),
        )


# --- without a host ----------------------------------------------------------------------------


async def test_what_waits_is_told_though_nobody_lives(folder: Path) -> None:
    """Turns, texts, parked lanes and tasks, with exit code 3; nothing is written, and no name gets to programs."""
    async with family(folder) as (store, home, group):
        chat = await store.read(chats.chat, 1)
        await store.write(lambda tx: turns.ensure_lane(tx, "family", group.id))
        await store.write(turns.park, "family", Cause.DISK, "full", NOW - 7_200_000)
        await store.write(outgoing.queue, chat.id, "secret words", OutKind.NOTICE, NOW)
        dead = await store.write(outgoing.queue, chat.id, "more secret words", OutKind.NOTICE, NOW)
        await store.write(outgoing.dead, dead, "gone")
        await store.write(schedule, group.id, chat.id)
    home.lock.touch()
    before = {path.name for path in home.root.iterdir()}
    found = await told(home)
    assert {path.name for path in home.root.iterdir()} == before
    assert (found["state"], found["crashed"]) == ("not running", False)
    assert found["parked"] == [{"lane": "family", "cause": "disk"}]
    assert found["outgoing"] == {"queued": 1, "dead": 1}
    assert found["tasks"] == {"active": 2, "due": 1, "failing": 0, "next": NOW + 3_600_000}
    text = "\n".join(status_text.lines(found, NOW, "UTC"))
    assert "[family: disk] The disk is full" in text
    assert "1 could not be delivered" in text
    assert "2 active, 1 due; next 09:00" in text
    code, out, err = await nanoclaw(home.root, "status", "--json")
    assert (code, err) == (3, "")
    assert json.loads(out)["lanes"][0]["lane"] == str(group.id)
    assert "family" not in out
    assert "secret" not in out
    code, out, _ = await nanoclaw(home.root, "status", "--json", "--names")
    assert (code, json.loads(out)["lanes"][0]["lane"]) == (3, "family")


async def test_a_host_that_was_killed_is_told_from_one_that_was_stopped(folder: Path) -> None:
    """The lock's time is the last sign of life."""
    home = open_home(folder / "h", folder / "r")
    assert "is not running; start" in status_text._head(await told(home), NOW, "UTC")
    home.lock.touch()
    os.utime(home.lock, (NOW / 1000 - 3600, NOW / 1000 - 3600))
    assert "is not running since 07:00; start" in status_text._head(await told(home), NOW, "UTC")
    (home.root / "starts.json").write_text(json.dumps({"at": 1, "crashes": 0, "open": True}))
    found = await told(home)
    assert found["crashed"]
    assert "it ended in the middle of its work" in status_text._head(found, NOW, "UTC")


async def test_broken_things_are_named(folder: Path) -> None:
    """Settings that are not right and a database that is none: the rest is told all the same."""
    home = open_home(folder / "h", folder / "r")
    home.db.write_bytes(b"no database" * 1000)
    (home.root / "nanoclaw.toml").write_text("max_runs = [\n")
    code, out, err = await nanoclaw(home.root, "status")
    assert (code, err) == (3, "")
    assert "settings    " in out
    assert "nanoclaw.toml" in out
    assert "database: " in out
    assert "free; " in out


# --- with one that says nothing ----------------------------------------------------------------


async def test_a_host_that_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with its process, and what the rows say is told; it is not healthy."""
    monkeypatch.setattr(command, "_PATIENCE", 0.1)
    async with family(folder) as (_, home, _):
        with deaf(home):
            found = await told(home)
            assert (found["state"], found["pid"]) == ("silent", os.getpid())
            assert found["groups"]
            head = status_text._head(found, NOW, "UTC")
            assert f"(process {os.getpid()}) and does not answer" in head
            with pytest.raises(Exception, match=r"unhealthy: it does not answer within"):
                await command._health(home.root)
        home.control_sock.unlink()
        with locked(home):
            found = await told(home)
            assert (found["state"], found["pid"]) == ("starting", os.getpid())
            assert "starting or stopping" in status_text._head(found, NOW, "UTC")
        assert (await told(home))["state"] == "not running"


# --- with one that lives -----------------------------------------------------------------------


async def test_a_living_host(folder: Path) -> None:
    """What works, waits and was said, by number and by name; a missing key and a lost channel are no bad health."""
    async with hosting(folder, environ={}) as host:
        await host.group("family")
        host.channel.connected = False
        go = await busy(host, "family")
        now = host.clock()
        home = Home(host.config.home, host.config.sockets)
        found = await told(home, now)
        (lane,) = found["lanes"]
        assert (lane["lane"], lane["state"], lane["turns"]) == ("family", "busy", 1)
        (run,) = found["runs"]
        assert run["lane"] == "family"
        assert now - found["last"]["heard"] < 60_000
        assert found["credential"] == "missing: nanoclaw setup"
        assert [key for key in found if f"`{key}`" not in DOCS] == []
        lines = status_text.lines(found, now, "UTC")
        assert "test: disconnected" in "\n".join(lines)
        assert len(lines) < 39
        await command._health(home.root)
        bare = json.dumps(status.without_names(found))
        assert "family" not in bare
        assert str(host.folder) not in bare
        go.touch()
        code, out, _ = await nanoclaw(home.root, "status", "--health")
        assert (code, out) == (0, "ok\n")


async def test_a_store_that_fails_is_no_good_health(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line why; the report says it too."""
    async with hosting(folder) as host:
        home = Home(host.config.home, host.config.sockets)
        async with await connect(home.control_sock) as client:
            assert (await client.call("health")) == {"fatal": ""}
        monkeypatch.setattr(Store, "fault", "disk I/O error", raising=False)
        monkeypatch.setattr(Store, "behind", lambda self: (3, 31.0))
        with pytest.raises(Exception, match=r"unhealthy: 3 row\(s\) wait to be written, for up to 31 s"):
            await command._health(home.root)


def test_forty_lines_are_enough() -> None:
    """However much there is, it fits on a screen; the rest is counted."""
    lanes = [{"lane": f"g{n}", "state": "busy", "turns": 1, "messages": 2, "since": NOW} for n in range(300)]
    watch = [{"cause": "wal", "said": "It has grown.", "mend": "Begin anew.", "lanes": ["a", "b"]}] * 30
    channels = [{"name": n, "state": "banned_until", "detail": "x" * 50} for n in ("terminal", "whatsapp")]
    found = {
        "state": "running", "version": "1", "pid": 7, "up_seconds": 100_000, "channels": channels, "lanes": lanes,
        "runs": [{"age": 90_000}], "slots": 5, "watch": watch, "outgoing": {"dead": 3, "duplicate": 1, "queued": 2},
        "last": {"heard": NOW, "said": 0}, "tasks": {"active": 1, "due": 1, "failing": 1, "next": NOW},
        "cost": {"today": 0.5, "month": 1234.5, "limits": {"month": 2000}, "tokens_without_price": 5},
        "disk": {"free": 1 << 40, "home": None, "database": 5, "wal": 6}, "ballast": "dropped", "store": "slow",
        "engine": "answers", "settings": "in force", "credential": "given",
        "fallback": [{"group": "family", "model": "small"}] * 5,
    }  # fmt: skip
    lines = status_text.lines(found, NOW, "Europe/Berlin")
    assert len(lines) < 40
    text = "\n".join(lines)
    for part in (
        "and 294 more", "and 24 more", "1 of 5 agent(s) run, the oldest for 25 h", "last one in: 09:00, out: never",
        "$0.50 today, $1,234.50 of $2,000.00 this month; 5 tokens without a price", "1,024.0 GiB free",
        "1 active, 1 due, 1 failed when last done; next 09:00", "wal: It has grown. (a, b) Begin anew.",
        "whatsapp: banned until",
    ):  # fmt: skip
        assert part in text


def test_a_home_of_somebody_else_is_no_host_that_hangs() -> None:
    """Nobody is advised to kill a process that nobody knows."""
    found = {"state": "silent", "pid": 0, "why": "control.sock cannot be reached: Permission denied", "seen": NOW}
    assert "cannot be asked: control.sock cannot be reached" in status_text._head(found, NOW, "UTC")


def test_every_cause_is_explained() -> None:
    """In the document that programs are written by."""
    assert [cause for cause in Trouble if f"| `{cause}` |" not in DOCS] == []


def test_numbers_in_the_place_of_names() -> None:
    """Also in a task's lane, of a group that is unknown, and wherever else a lane or group is named."""
    found = {
        "groups": [{"group": 3, "folder": "family", "state": "active"}],
        "lanes": [{"lane": "family#task-7", "group": 3}, {"lane": "other", "group": 4}],
        "watch": [{"cause": "stuck", "lanes": ["family", "family#task-7"]}],
        "fallback": [{"group": "family", "model": "m"}],
        "channels": [{"name": "whatsapp"}],
    }
    bare = status.without_names(found)
    assert bare["groups"] == [{"group": 3, "state": "active"}]
    assert [lane["lane"] for lane in bare["lanes"]] == ["3#task-7", "?"]
    assert bare["watch"] == [{"cause": "stuck", "lanes": ["3", "3#task-7"]}]
    assert bare["fallback"] == [{"group": 3, "model": "m"}]
    assert bare["channels"] == [{"name": "whatsapp"}]


def test_main_hears_what_the_watch_has_found(tmp_path: Path) -> None:
    """By /status in the owner's own chat; nobody else is troubled with it."""
    house = House(wrong=lambda: ["[watch: wal] It has grown."])
    with rows_of_one_group(tmp_path / "db") as (tx, group):
        chat, main = chats.chat(tx, 1), chats.main_group(tx)
        assert "[watch: wal]" in turns_commands.status(tx, Asked(main, Role.OWNER, NOW, chat, house=house)).text
        assert "[watch: wal]" not in turns_commands.status(tx, Asked(group, Role.OWNER, NOW, chat, house=house)).text


@pytest.mark.parametrize(
    ("place", "stat", "wanted"),
    [
        ("memory/docker/{}", "cache 5\nrss 6\ntotal_rss 77\n", 77),
        ("system.slice/docker-{}.scope", "anon 78\nfile 9\n", 78),
        ("docker/{}", "anon 79\n", 79),
        ("docker/{}", "file 79\n", None),
        ("elsewhere/{}", "anon 79\n", None),
    ],
)
def test_memory_as_the_kernel_counts_it(tmp_path: Path, place: str, stat: str, wanted: int | None) -> None:
    """Wherever the engine keeps the container's group; a name that is no id is looked for nowhere."""
    container = "0123456789ab" * 4
    group = tmp_path / place.format(container)
    group.mkdir(parents=True)
    (group / "memory.stat").write_text(stat)
    assert memory_of(container, tmp_path) == wanted
    assert memory_of("../" + container, tmp_path) is None


def test_it_costs_little() -> None:
    """What a health check loads: nothing that only a host needs."""
    script = (
        "import sys; from nanoclaw.cli import status; "
        "print(sorted({'docker', 'aiohttp', 'neonize', 'rich.live', 'rich.console'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_lock_of_another_disk_is_not_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file has the same inode: the process is named only where it has our very file open."""
    home = open_home(tmp_path / "h", tmp_path / "r")
    home.lock.touch()
    found, locks = home.lock.stat(), tmp_path / "locks"
    monkeypatch.setattr(status, "_PROC_LOCKS", locks)

    def holder(device: str, pid: int) -> int:
        locks.write_text(f"1: FLOCK  ADVISORY  WRITE {pid} {device}:{found.st_ino} 0 EOF\n")
        return status.sign_of_life(home).pid

    ours = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    assert holder(ours, 4321) == 4321
    assert holder("fe:fe", os.getpid()) == 0
    with home.lock.open():  # as on btrfs, which tells of another device
        assert holder("fe:fe", os.getpid()) == os.getpid()


def test_a_cause_of_another_version_is_told_by_its_word() -> None:
    """Rows outlive the program that wrote them."""
    lane = {"lane": "family", "cause": "weather"}
    (line,) = [line for line in status_text.lines({"lanes": [lane]}, NOW, "UTC") if "weather" in line]
    assert "family: parked (weather)" in line


async def test_no_number_of_a_person_is_told(folder: Path) -> None:
    """What is wrong with the owners is said without them: what status says is shown to others."""
    home = open_home(folder / "h", folder / "r")
    (home.root / "nanoclaw.toml").write_text('owners = ["+49151 0000000O"]\n')
    for args in (("status",), ("status", "--json")):
        _, out, _ = await nanoclaw(home.root, *args)
        assert "line 1: owners is not right" in out
        assert "0000000" not in out


async def test_nor_by_a_living_host(folder: Path) -> None:
    """Main alone hears of the value."""
    async with hosting(folder) as host:
        await host.in_main("boss")
        (host.config.home / "nanoclaw.toml").write_text('owners = ["+49151 0000000O"]\n')
        async with await connect(host.config.home / "control.sock") as client:
            assert "owners is not right" in (await client.call("settings"))["fault"]
        assert (await host.status())["settings"].endswith("line 1: owners is not right")
