"""One home: its disk, its hosts one after the other, and the containers that outlive them."""

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from nanoclaw import app, control
from nanoclaw.channels.control_sock import connect
from nanoclaw.control import heartbeat
from nanoclaw.errors import NanoClawError
from nanoclaw.models import By, Group, Role, TriggerMode
from nanoclaw.store import Store, Tx, chats, tasks
from tests.chaos import plan
from tests.chaos.host import CLOCK, GONE, REGISTRY
from tests.chaos.phones import Phones
from tests.fakes import KEY, ROOT, ProcessSandbox
from tests.whatsapp.server import Person

MEMORY = Path("/dev/shm")  # a first login commits 812 keys one by one
DISK = 64 << 20  # bytes of the disk that can be filled
START = 40.0  # seconds: the import of everything, on a busy machine
FAMILY, CLUB = "120363000000000001", "120363000000000002"


class House:
    """What stays while hosts come and go."""

    scripted = True  # its agents are a script: they have a file to send, and the family's a heartbeat

    def __init__(self, folder: Path, phones: Phones, env: dict[str, str]) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.phones = phones
        self.sandbox = ProcessSandbox(folder / REGISTRY)
        self.host: asyncio.subprocess.Process | None = None
        self.can_be_full = False
        self.deaths: list[float] = []  # when hosts were found dead, by time.monotonic()
        self.sizes: list[tuple[int, int]] = []  # descriptors and resident KiB, life by life
        self._env = phones.env() | KEY | env
        self._env |= {
            "NANOCLAW_HOME": str(self.home), "NANOCLAW_WHATSAPP": "own", "NANOCLAW_MAX_RUNS": "3",
            "NANOCLAW_OWNERS": "+15552220001", "PYTHONPATH": f"{phones.env()['PYTHONPATH']}:{ROOT}",
            "NEONIZE_BOT_TAG": "off", "NANOCLAW_FAULTS": str(folder),
        }  # fmt: skip
        self._log = (folder / "log").open("ab")
        self.people = {
            "mia": phones.person("70000000000001", "15552220001", "Mia"),
            "ben": phones.person("70000000000002", "15552220002", "Ben"),
            "zoe": phones.person("70000000000003", "15552220003", "Zoe"),
        }
        mia, ben, zoe = self.people.values()
        phones.group(FAMILY, "Family", mia, ben, zoe)
        phones.group(CLUB, "Club", mia, ben)

    @property
    def database(self) -> Path:
        return self.home / "nanoclaw.db"

    def jid(self, chat: str) -> str:
        """Where a chat of the plan is, as its members see it."""
        groups = {"family": f"{FAMILY}@g.us", "club": f"{CLUB}@g.us"}
        return groups.get(chat) or str(self.people["mia" if chat == "main" else chat].jid)

    # --- hosts ------------------------------------------------------------------------------------

    async def start(self, fail_point: str = "") -> asyncio.subprocess.Process:
        """A new host; it may die of its fail point at any time."""
        ours, theirs = os.pipe()
        self._log.write(f"--- life with fail point {fail_point or 'none'}\n".encode())
        self._log.flush()
        self.host = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.host", str(self.folder), str(theirs)),
            env=self._env | {"NANOCLAW_FAIL_POINT": fail_point}, pass_fds=(theirs,), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        os.close(theirs)
        self._ready = ours
        return self.host

    async def ready(self) -> bool:
        """Until the host is; False when it died before."""
        readable, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(self._ready, readable.set)
        try:
            async with asyncio.timeout(START):
                await readable.wait()
            return bool(os.read(self._ready, 64))
        finally:
            loop.remove_reader(self._ready)

    def measure(self) -> None:
        """How large the living host is."""
        assert self.host
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{self.host.pid}/status").read_text()
            fds = len(list(Path(f"/proc/{self.host.pid}/fd").iterdir()))
            self.sizes.append((fds, int(status.split("VmRSS:")[1].split()[0])))

    async def kill(self) -> int:
        """SIGKILL, unless it died already; its exit code."""
        assert self.host
        with contextlib.suppress(ProcessLookupError):
            self.host.kill()
        code = await self.host.wait()
        self.deaths.append(time.monotonic())
        os.close(self._ready)
        self.host = None
        return code

    async def end(self) -> int:
        """An orderly stop; the exit code."""
        assert self.host
        self.host.send_signal(signal.SIGTERM)
        async with asyncio.timeout(START):
            code = await self.host.wait()
        os.close(self._ready)
        self.host = None
        return code

    def last_words(self, lines: int = 60) -> str:
        """The end of the hosts' logs."""
        self._log.flush()
        text = (self.folder / "log").read_text("utf-8", "replace")
        return "\n".join(text.splitlines()[-lines:])

    async def link(self) -> None:
        """The first life: the phone links it, and the chats get their groups."""
        await self.start()
        assert await self.ready(), self.last_words()
        async with await connect(self.home / "control.sock") as client, asyncio.timeout(START):
            await client.send({"verb": "pair", "args": {"watch": True}})
            scanned = False
            async for frame in client:
                if frame["state"] == "connected":
                    break
                if frame["qr"] and not scanned:
                    scanned = True
                    self.phones.scan(frame["qr"])
        await self.phones.login()
        async with app.opened(Store(self.database)) as store:
            await store.write(_add_groups, self.people["ben"], app.now_ms())
            if self.scripted:
                for folder in plan.CHATS:
                    (self.home / "groups" / folder).mkdir(parents=True, exist_ok=True)
                    (self.home / "groups" / folder / plan.FILE).write_text("bread, milk")
                (self.home / "groups/family" / heartbeat.FILE).write_text("- the oven")
                await store.write(_add_heartbeat, app.now_ms())

    def still(self) -> None:
        """While no host lives: the heartbeat comes no more, so that an end can be seen."""
        with contextlib.closing(sqlite3.connect(self.database)) as tx, tx:
            tx.execute("UPDATE tasks SET state = 'paused' WHERE json_extract(options, '$.heartbeat')")

    async def poke(self) -> None:
        """Let the host look at its rows now: its clock was set."""
        lanes = ("main", "ben", "family", "club")
        with contextlib.suppress(NanoClawError, OSError):
            async with await connect(self.home / "control.sock") as client:
                for lane in lanes:
                    await client.call("wake", lane=lane)

    # --- what breaks ------------------------------------------------------------------------------

    def set_clock(self, ahead_ms: int) -> None:
        """The wall clock of the hosts, relative to ours."""
        part = self.folder / f"{CLOCK}.part"
        part.write_text(str(ahead_ms))
        part.rename(self.folder / CLOCK)

    def take_engine(self) -> None:
        """The engine does not answer any more."""
        (self.folder / GONE).touch()

    def give_engine(self) -> None:
        """It does."""
        (self.folder / GONE).unlink(missing_ok=True)

    def refuse_commits(self) -> None:
        """Nothing can be written to the database, whatever room there is."""
        (self.folder / "commit").touch()

    def take_commits(self) -> None:
        """It can."""
        (self.folder / "commit").unlink(missing_ok=True)

    def fill_disk(self) -> None:
        """Nothing more fits, if the home has a disk of its own."""
        if not self.can_be_full:
            return
        with (self.home / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size) == size:
                        pass

    @property
    def full(self) -> bool:
        """Whether it is."""
        return (self.home / "filler").exists()

    def free_disk(self) -> None:
        """There is room again."""
        (self.home / "filler").unlink(missing_ok=True)

    async def kill_agents(self, which: slice) -> None:
        """Containers die, as of the kernel's hand."""
        for name in sorted(p.name for p in self.sandbox.registry.glob("c-*"))[which]:
            self.sandbox.kill(name)

    async def containers(self) -> list[str]:
        """Those that live."""
        return [f"process {pid}" for pid in self.sandbox.pids()]

    def leftovers(self) -> list[str]:
        """Folders of runs."""
        folders = [*(self.home / "runs").iterdir(), *(self.home / "run").iterdir()]
        return [str(path.relative_to(self.home)) for path in folders]

    async def close(self) -> None:
        """Nothing of it is left."""
        if self.host is not None:
            await self.kill()
        self.sandbox.kill_all()
        self._log.close()


def _add_groups(tx: Tx, ben: Person, now: int) -> None:
    def add(jids: tuple[str, ...], folder: str, mode: TriggerMode, is_group: bool) -> None:
        chat = chats.learn_chat(tx, "whatsapp", jids, folder, is_group, now)
        control.add_group(tx, chat.id, Group(0, folder, "Andy", mode=mode), now)

    bens = (str(ben.jid), str(ben.number_jid))
    chats.learn_person(tx, "whatsapp", bens, "Ben", Role.ALLOWED)
    add(bens, "ben", TriggerMode.ALWAYS, False)
    add((f"{FAMILY}@g.us",), "family", TriggerMode.ALWAYS, True)
    add((f"{CLUB}@g.us",), "club", TriggerMode.WORD, True)


def _add_heartbeat(tx: Tx, now: int) -> None:
    group = chats.group_by_folder(tx, "family")
    assert group is not None
    task = heartbeat.turn_on(tx, group, "1m", "", "UTC", By("terminal"), now)
    tasks.reword(tx, replace(task, prompt="!say a beat"))


@asynccontextmanager
async def built(
    kind: Callable[[Path, Phones, dict[str, str]], House], env: dict[str, str], *, small: bool = True
) -> AsyncIterator[House]:
    """A house; on a `small` disk of its own where root can mount one."""
    folder = Path(tempfile.mkdtemp(prefix="nc-", dir=MEMORY if MEMORY.is_dir() else "/tmp"))
    (folder / "home").mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(folder / "home")]
    mounted = small and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        async with Phones() as phones:
            house = kind(folder, phones, env)
            house.can_be_full = mounted
            try:
                yield house
            finally:
                await house.close()
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder / "home")], check=True)
        shutil.rmtree(folder)
