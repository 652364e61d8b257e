"""What stands around the wall on the host: who else of this machine gets in, what files and logs tell them."""

import asyncio
import ctypes
import json
import os
import platform
import resource
import socket
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from nanoclaw import logs
from nanoclaw.channels.control_sock import connect
from nanoclaw.models import Role
from nanoclaw.ops import backup
from tests.commands import nanoclaw
from tests.fakes import Hosted, hosting

ROOT = Path(__file__).parent.parent
NOBODY = 65534
ENTRIES = (["-m", "nanoclaw"], ["-c", "from nanoclaw.cli import main; main()"])


@pytest.mark.parametrize("entry", ENTRIES, ids=["python -m nanoclaw", "nanoclaw"])
def test_every_entry_begins_with_files_that_are_its_users_alone(tmp_path: Path, entry: list[str]) -> None:
    """Whatever the shell before it had set, from the first file on."""
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, *entry, "groups", "list"], env={**os.environ, "NANOCLAW_HOME": str(home)},
        capture_output=True, cwd=ROOT, umask=0, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = [path for path in home.rglob("*") if not path.is_relative_to(home / "empty")]
    public = {"skills", "shipped", "global", "empty"}  # inside a home that is 0700, for agents with another uid
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert made
    for path in made:
        assert path.name in public or not stat.S_IMODE(path.stat().st_mode) & 0o077, path


async def test_another_user_is_refused_at_the_door(folder: Path) -> None:
    """By the folder's and the socket's modes; and where those were opened by mistake, by the kernel's word for it."""
    async with hosting(folder) as host:
        door = host.config.home / "control.sock"
        assert stat.S_IMODE(door.stat().st_mode) == 0o600
        assert stat.S_IMODE(host.config.home.stat().st_mode) == 0o700
        for path, mode in ((folder, 0o755), (host.config.home, 0o755), (door, 0o666)):
            path.chmod(mode)
        peer = _connected_as(door, NOBODY)
        reader, writer = await asyncio.open_unix_connection(sock=peer)
        writer.write(b'{"verb": "status"}\n')
        told = json.loads(await reader.readline())
        assert told == {"ok": False, "error": "this host belongs to another user"}
        writer.close()
        async with await connect(door) as client:
            assert (await client.call("status"))["state"] == "running"


def _connected_as(path: Path, uid: int) -> socket.socket:
    """A connection of another user: the kernel notes who connects."""
    peer = socket.socket(socket.AF_UNIX)
    _become(uid)
    try:
        peer.connect(str(path))
    finally:
        _become(os.getuid())
    peer.setblocking(False)
    return peer


def _become(uid: int) -> None:
    """This thread alone, which libc's own function would not do: the host's other threads open files meanwhile."""
    setresuid = {"x86_64": 117, "aarch64": 147}[platform.machine()]
    assert ctypes.CDLL(None, use_errno=True).syscall(setresuid, -1, uid, -1) == 0, os.strerror(ctypes.get_errno())


async def test_the_host_takes_all_the_files_that_it_may_open(folder: Path) -> None:
    """A run, a chat and a connection take a few each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    async with hosting(folder):
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


MARKED = "marker-text-7f3a"
NAMED = "Marker7f3b"
SECRET = "sk-ant-visibly-fake-marker-7f3c-no7key2At4all"


@pytest.mark.usefixtures("logging_restored")
async def test_what_people_say_is_in_no_log_and_no_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A host with all kinds of trouble: a person's text and name, a stranger's and the key, looked for in all that it
    writes for others. A backup has texts where they belong, in the database, and the key nowhere."""
    async with hosting(folder, environ={"ANTHROPIC_API_KEY": SECRET}) as host:
        home = host.config.home
        log = logs.configure(home, "INFO", lambda: [SECRET], stderr="INFO")
        (home / ".env").write_text(f"ANTHROPIC_API_KEY={SECRET}\n")
        await host.group("family", **{NAMED: Role.ALLOWED})
        await _troubles(host)
        status = [json.dumps(await host.status())]
        for args in (["status", "--json"], ["status"], ["log"]):
            code, out, err = await nanoclaw(home, *args)
            assert code == 0, err
            status.append(out + err)
    saved = folder / "saved"
    made = backup.back_up(home, saved, backup.Wishes(), version="1", now=1)
    assert made.size
    with tarfile.open(saved) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}  # type: ignore[union-attr]
    written = "".join([log.read_text(), capsys.readouterr().err, *status, *members, members["manifest.json"].decode()])
    assert "Heard a message on test: work" in written
    assert "failed: model" in written
    for mark in (MARKED, NAMED, SECRET):
        assert mark not in written
    assert [name for name, data in members.items() if SECRET.encode() in data] == []
    assert {name for name, data in members.items() if MARKED.encode() in data} >= {"nanoclaw.db"}


async def _troubles(host: Hosted) -> None:
    """Work, an error of the model's API, a death, a refused tool, a stranger, a file; each told or answered."""
    said = [
        f"hello {MARKED}",
        f"!status 400 no {MARKED}",
        f'!call send_file {{"path": "{MARKED}"}}\nand',
        "!garbage 3\nand",
    ]
    for number, text in enumerate(said, 1):
        await host.channel.say("family", text, NAMED)
        await host.channel.until(lambda number=number: len(host.channel.to("family")) >= number, 25.0)
    await host.channel.say(f"stranger {NAMED}", f"psst {MARKED}", f"Other{NAMED}")
    await host.settled()
