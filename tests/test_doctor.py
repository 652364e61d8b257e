"""nanoclaw doctor: a healthy home has nothing, and each thing that is really broken is found, with its command."""

import asyncio
import json
import os
import re
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from nanoclaw import __version__, app, cli, control
from nanoclaw.channels.control_sock import ControlServer, Frame, Stream
from nanoclaw.config import load
from nanoclaw.errors import Cause, NanoClawError
from nanoclaw.groups import Home, make_group, make_run, open_home
from nanoclaw.models import By, Mount, OutKind, RunRow, RunState
from nanoclaw.ops import doctor
from nanoclaw.ops.ballast import Ballast
from nanoclaw.ops.crashes import Life
from nanoclaw.ops.doctor import disk, mending, program
from nanoclaw.ops.doctor.scene import Scene, bounded, soon
from nanoclaw.ops.findings import Finding, Grade
from nanoclaw.sandbox import look as engine
from nanoclaw.store import Store, Tx, audit, chats, ledger, mounts, outgoing, runs, turns
from tests.commands import Terminal
from tests.fakes import ProcessSandbox
from tests.model_server import ModelServer

SECRET = "fake-key-of-a-test-0123456789"
ROOT = os.geteuid() == 0
AGENT = (10001, 10001) if ROOT else (os.getuid(), os.getgid())
MACHINES = ("disk", "filesystem", "open files")
as_root = pytest.mark.skipif(not ROOT, reason="only root can give files away and mount a small disk")


# --- a healthy home -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The rows of a home that was used; made once, because each migration waits for the disk."""
    made = tmp_path_factory.mktemp("rows") / "nanoclaw.db"

    def first_rows(tx: Tx) -> None:
        control.ensure_main(tx, "terminal", "terminal", "owner", "Andy", app.now_ms())
        ledger.install_id(tx, "install-of-a-test")

    asyncio.run(write(made, first_rows))
    return made.read_bytes()


@pytest.fixture
def home(folder: Path, database: bytes) -> Home:
    """As a host leaves it that was used and stopped in order."""
    made = open_home(folder / "home")
    made.db.write_bytes(database)
    make_group(made, "main", *AGENT)
    made.env_file.write_text(f"ANTHROPIC_API_KEY={SECRET}\n")
    for path in (made.env_file, made.db):
        path.chmod(0o600)
    assert Ballast(made.root).make()
    return made


async def write(db: Path, fn: Callable[[Tx], Any]) -> None:
    store = Store(db)
    async with app.opened(store):
        await store.write(fn)


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
def environ(home: Home, model: ModelServer) -> dict[str, str]:
    """No engine: what is found of it is another file's."""
    own = {"NANOCLAW_BASE_URL": model.url, "NANOCLAW_ZONE": "UTC", "DOCKER_HOST": f"unix://{home.root}/no-engine"}
    return {**own, "PATH": os.environ["PATH"]}


async def scene_of(home: Home, environ: dict[str, str], now: int | None = None) -> Scene:
    return await doctor.arrive(home.root, environ, app.now_ms() if now is None else now)


async def bad(scene: Scene, *, offline: bool = True) -> dict[str, Finding]:
    """The worst finding of each check that is not well; without the engine's, and what this very machine lacks."""
    found = [f for f in await doctor.examine(scene, offline=offline) if f.grade is not Grade.OK]
    found = [f for f in found if f.grade is Grade.FAIL or f.check not in MACHINES]
    assert all(f.mend for f in found if "could not look" not in f.said), "each says what to do"
    assert SECRET not in repr(found)
    return {f.check: f for f in sorted(found, key=lambda f: f.grade is Grade.FAIL) if f.check != "engine"}


def tree(root: Path) -> dict[str, tuple[int, ...]]:
    return {
        str(path): (s.st_mode, s.st_uid, s.st_size, s.st_ino, s.st_mtime_ns if path.is_file() else 0)
        for path in [root, *root.rglob("*")]
        for s in [path.lstat()]
    }


async def test_a_healthy_home_has_nothing_and_stays_as_it_is(home: Home, environ: dict[str, str]) -> None:
    """All is well, the API was asked for no token, and not a byte or a file of the home is another."""
    before = tree(home.root)
    assert await bad(await scene_of(home, environ), offline=False) == {}
    assert tree(home.root) == before


async def test_no_home_at_all(folder: Path, environ: dict[str, str]) -> None:
    """Before the set-up there is one thing to do; nothing is made by looking."""
    scene = await doctor.arrive(folder / "none", environ, app.now_ms())
    found = await bad(scene)
    assert found["home"].mend == "nanoclaw setup"
    assert set(found) == {"home", "credential"}
    assert not (folder / "none").exists()


# --- broken one by one --------------------------------------------------------------------------


def damage(home: Home) -> None:
    with home.db.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096 * 4))


def damaged_copy(home: Home) -> None:
    """The newest counts."""
    for name in ("20260101-000000", "20260102-000000"):
        path = home.root / f"backups/{name}-schema-6.before-upgrade.db"
        path.write_bytes(home.db.read_bytes() if name.endswith("1-000000") else b"SQLite format 3\0" + b"x" * 9000)
        path.chmod(0o600)


def future_schema(home: Home) -> None:
    with closing(sqlite3.connect(home.db)) as tx:
        tx.execute("PRAGMA user_version = 999")


def lost_row(home: Home) -> None:
    with closing(sqlite3.connect(home.db, isolation_level=None)) as tx:
        tx.execute("PRAGMA foreign_keys = OFF")
        tx.execute("INSERT INTO lanes(lane, group_id) VALUES('x', 4711)")


def dead_door(home: Home) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(home.control_sock))
    home.control_sock.chmod(0o600)


def crash(home: Home) -> None:
    """Ends as a killed process does: without its exit."""
    Life(home.root, app.now_ms, asyncio.sleep, patient=True).__enter__()


def crashes(home: Home) -> None:
    for _ in range(3):
        crash(home)


def old_pairing(home: Home) -> None:
    (home.root / "nanoclaw.toml").write_text('whatsapp = "own"\n')
    (home.root / "whatsapp").mkdir(0o700)
    (home.root / "whatsapp/session.db").touch(0o600)
    told = {"state": "outdated", "detail": "WhatsApp refuses this version"}
    (home.root / "whatsapp/pairing.json").write_text(json.dumps(told))
    (home.root / "whatsapp/pairing.json").chmod(0o600)


BROKEN: list[tuple[str, Callable[[Home], object], str, Grade, str]] = [
    ("an open home", lambda h: h.root.chmod(0o755), "home", Grade.FAIL, "mode 0755"),
    ("a readable key", lambda h: h.env_file.chmod(0o644), "files", Grade.FAIL, r"\.env \(mode 0644\)"),
    ("a readable database", lambda h: h.db.chmod(0o640), "files", Grade.FAIL, r"nanoclaw\.db \(mode 0640\)"),
    ("mounts.toml for all", lambda h: touch(h, "mounts.toml", "", 0o666), "files", Grade.FAIL, r"mounts\.toml"),
    ("a closed group folder", lambda h: h.group_dir("main").chmod(0o500), "group folders", Grade.FAIL, "cannot write"),
    ("an unknown setting", lambda h: touch(h, "nanoclaw.toml", "zoen = 1"), "settings", Grade.FAIL, "line 1.*zone"),
    ("no TOML", lambda h: touch(h, "nanoclaw.toml", "=\n"), "settings", Grade.FAIL, "no TOML"),
    ("wrong mounts.toml", lambda h: touch(h, "mounts.toml", "x = 1"), "mounts", Grade.FAIL, "'x' is unknown"),
    ("a damaged database", damage, "database", Grade.FAIL, "damaged|malformed|cannot be read"),
    ("no database", lambda h: h.db.write_bytes(b"words" * 2000), "database", Grade.FAIL, "not a database"),
    ("a newer database", future_schema, "database", Grade.FAIL, "schema 999"),
    ("a row without its chat", lost_row, "database", Grade.FAIL, r"1 row\(s\) name others"),
    ("a damaged copy", damaged_copy, "copy", Grade.WARN, "20260102-000000-schema-6"),
    ("no key", lambda h: h.env_file.unlink(), "credential", Grade.FAIL, "no key or token"),
    ("a dead host's door", dead_door, "leftovers", Grade.WARN, "control.sock"),
    ("an ended run's folder", lambda h: make_run(h, "r1", "main", "0a1b2c3d", *AGENT),
     "leftovers", Grade.WARN, r"2 folder\(s\)"),
    ("a crash", crash, "starts", Grade.WARN, "did not end in order"),
    ("crashes in a row", crashes, "starts", Grade.WARN, "3 crashes in a row: a service waits 30 s"),
    ("a library too old", old_pairing, "whatsapp", Grade.FAIL, "outdated .WhatsApp refuses"),
    ("never linked", lambda h: touch(h, "nanoclaw.toml", 'whatsapp = "own"'), "whatsapp", Grade.FAIL, "no device"),
    ("no ballast", lambda h: (h.root / "ballast").unlink(), "ballast", Grade.WARN, "no room is held"),
]  # fmt: skip


def touch(home: Home, name: str, text: str, mode: int = 0o600) -> None:
    (home.root / name).write_text(text)
    (home.root / name).chmod(mode)


@pytest.mark.parametrize(("what", "breaking", "check", "grade", "said"), BROKEN, ids=[b[0] for b in BROKEN])
async def test_what_is_broken_is_found(
    home: Home, environ: dict[str, str], what: str, breaking: Callable[[Home], object], check: str, grade: Grade,
    said: str,
) -> None:  # fmt: skip
    """This, and nothing else."""
    breaking(home)
    found = await bad(await scene_of(home, environ))
    blind = {c for c, f in found.items() if f.said.startswith("could not look: ") and "nanoclaw.db" in f.said}
    assert set(found) - (blind if breaking is damage else set()) == {check}, what
    assert found[check].grade is grade
    assert re.search(said, found[check].said)


@as_root
async def test_files_of_another_user(home: Home, environ: dict[str, str]) -> None:
    """As a sudo run leaves them behind, and as a group's folder must not be."""
    os.chown(home.db, 12345, 12345)
    os.chown(home.group_dir("main"), 12345, 12345)
    os.chown(home.group_dir("main") / "CLAUDE.md", 12345, 12345)
    found = await bad(await scene_of(home, environ))
    assert set(found) == {"files", "group folders"}
    assert found["files"].mend == f"sudo chown -R 0:0 {home.db}"
    assert found["group folders"].mend.startswith(f"sudo chown -R 10001:10001 {home.group_dir('main')}")


@as_root
async def test_root_in_somebody_elses_home(home: Home, environ: dict[str, str]) -> None:
    """It is said how to look as its owner, and --fix does nothing."""
    for path in [home.root, *home.root.rglob("*")]:
        os.chown(path, 12345, 12345)
    before = tree(home.root)
    scene = await scene_of(home, environ)
    found = await bad(scene)
    assert {f.mend for f in found.values()} == {"sudo -u '#12345' nanoclaw doctor"}
    (said,) = mending.mend(scene, app.one_host)
    assert "sudo -u '#12345'" in said
    assert tree(home.root) == before


async def test_what_waits_for_a_person(home: Home, environ: dict[str, str]) -> None:
    """Parked lanes with their causes, and texts that were given up in the last week."""

    def wait(tx: Tx) -> None:
        tx.execute("INSERT INTO lanes(lane, group_id) VALUES('family', 1)")
        for lane, cause in (("main", Cause.CREDENTIAL), ("family", Cause.BUDGET)):
            turns.park(tx, lane, cause, "", app.now_ms())
        main = chats.main_chat(tx)
        assert main is not None
        for at in (app.now_ms(), app.now_ms() - 8 * 86_400_000):
            outgoing.dead(tx, outgoing.queue(tx, main.id, "words of somebody", OutKind.NOTICE, at), "gone")

    await write(home.db, wait)
    found = [f for f in await doctor.examine(await scene_of(home, environ), offline=True) if f.check == "waiting"]
    assert [f.grade for f in found] == [Grade.WARN] * 3  # no host lives: it may be mended already
    told = " ".join(f.said for f in found)
    assert "[main: credential]" in told
    assert "[family: budget]" in told
    assert "1 text(s)" in told
    assert "somebody" not in told
    assert found[0].mend == "nanoclaw setup --replace-key"


async def test_a_granted_folder_that_cannot_be_given(home: Home, environ: dict[str, str]) -> None:
    """Judged as at a start: the missing root, and the group that goes without."""
    inside = home.root.parent / "projects/inside"
    inside.mkdir(parents=True)
    told = f'[[allowed_roots]]\npath = "{inside.parent}"\n[[allowed_roots]]\npath = "{inside.parent}/later"\n'
    touch(home, "mounts.toml", told)

    def grant(tx: Tx) -> None:
        main = chats.group_by_folder(tx, "main")
        assert main is not None
        mounts.put(tx, main.id, [Mount(str(inside), "inside")])

    await write(home.db, grant)
    scene = await scene_of(home, environ)
    assert "later, which mounts.toml allows, is no folder" in (await bad(scene))["mounts"].said
    (inside.parent / "later").mkdir()
    assert await bad(scene) == {}
    inside.rmdir()
    found = (await bad(scene))["mounts"]
    assert found.said.startswith("main goes without inside: ")
    assert found.mend == f"nanoclaw mounts check {inside} --group main"


async def test_a_clock_that_is_wrong(home: Home, environ: dict[str, str]) -> None:
    """Against the program's age, the newest row, and the API's own."""
    now = app.now_ms()
    await write(home.db, lambda tx: audit.note(tx, By("test"), "stop", "", now + 3_600_000))
    assert "60 minutes in the future" in (await bad(await scene_of(home, environ, now)))["clock"].said
    assert "1970-01-01" in next(
        f.said for f in await doctor.examine(await scene_of(home, environ, 0), offline=True) if f.check == "clock"
    )
    ahead = await bad(await scene_of(home, environ, now + 3_700_000), offline=False)
    assert set(ahead) == {"clock"}
    assert "62 minutes ahead" in ahead["clock"].said


async def test_paths_too_long_for_sockets(folder: Path, environ: dict[str, str]) -> None:
    """The kernel's limit is told before the host fails of it."""
    root = folder / ("x" * 90)
    root.mkdir(0o700)
    found = await bad(await doctor.arrive(root, environ, app.now_ms()))
    assert "too long a path" in found["sockets"].said


async def test_commands_can_be_copied(folder: Path) -> None:
    """Paths in them are quoted."""
    home = open_home(folder / "John Doe" / "h")
    home.root.chmod(0o755)
    found = await bad(await scene_of(home, {"NANOCLAW_ZONE": "UTC", "DOCKER_HOST": f"unix://{folder}/none"}))
    assert found["home"].mend == f"chmod 700 '{home.root}'"


async def test_a_journal_that_grew(home: Home, environ: dict[str, str]) -> None:
    """Of a host that was killed; --fix writes it into the database."""
    code = (
        "import sqlite3, sys, os; tx = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "tx.execute('PRAGMA wal_autocheckpoint=0');"
        "tx.execute('INSERT INTO meta VALUES(?, hex(zeroblob(34000000)))', ('x',)); os._exit(0)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(home.db))
    assert await process.wait() == 0
    scene = await scene_of(home, environ)
    found = (await bad(scene))["database"]
    assert (found.grade, found.mend) == (Grade.WARN, "nanoclaw doctor --fix")
    assert "wrote the journal into the database" in mending.mend(scene, app.one_host)
    assert await bad(scene) == {}


@as_root
async def test_a_disk_that_is_full(folder: Path, home: Home, environ: dict[str, str]) -> None:
    """Bytes and files of a small disk of its own."""
    small = folder / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=300", "tmpfs", small]
    if subprocess.run(mount).returncode:
        pytest.skip("root may mount nothing here")
    try:
        made = open_home(small / "home")
        scene = await scene_of(made, environ)
        found = [f for f in await doctor.examine(scene, offline=True) if f.check == "disk"]
    finally:
        subprocess.run(["umount", "-l", small], check=True)
    assert [f.grade for f in found] == [Grade.FAIL, Grade.FAIL]
    assert "MiB are free, and below 1024 no container starts" in found[0].said
    assert "more files can be made" in found[1].said


def test_a_disk_of_another_machine() -> None:
    """By the kernel's list of mounts: the nearest, of two at one point the later."""
    table = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /srv/on\\040it rw - nfs4 server:/x rw\n"
        "31 22 0:41 / /home rw - ext4 /dev/sdb rw\n32 31 0:42 / /home rw - fuse.sshfs me@there: rw\n"
    )
    kinds = {path: disk.filesystem(Path(path), table) for path in ("/srv/x", "/srv/on it/y", "/home/me/.nanoclaw")}
    assert list(kinds.values()) == ["ext4", "nfs4", "fuse.sshfs"]
    assert [bool(disk.is_remote(kind)) for kind in (*kinds.values(), "fuseblk", "xfs", "cifs", "btrfs", "9p")] == [
        *(False, True, True), *(False, False, True, False, True)
    ]  # fmt: skip


def test_packages_against_their_lock() -> None:
    """The WhatsApp library by itself; what counts on other machines is no matter."""
    lock = "neonize==0.5.2 \\\n    --hash=sha256:00\nrich==15.0.0 \\\npywin32==312 ; sys_platform == 'win32' \\\n"
    wanted = program.locked(lock)
    assert wanted == {"neonize": "0.5.2", "rich": "15.0.0"}
    assert [f.grade for f in program.compare(wanted, dict(wanted), "pip")] == [Grade.OK]
    old = program.compare(wanted, {"neonize": "0.3.0", "rich": ""}, "pip")
    assert [(f.grade, f.mend) for f in old] == [(Grade.FAIL, "pip"), (Grade.WARN, "pip")]
    assert "neonize 0.3.0, and the lock says 0.5.2" in old[0].said
    assert "rich missing (not 15.0.0)" in old[1].said


# --- the model's API ----------------------------------------------------------------------------


@asynccontextmanager
async def api(status: int, body: str, tls: ssl.SSLContext | None = None, **headers: str) -> AsyncIterator[str]:
    """One that answers just this; its address."""

    async def answer(request: web.Request) -> web.Response:
        assert request.path == "/v1/messages/count_tokens"
        assert request.headers["x-api-key"] == SECRET
        return web.Response(status=status, text=body, headers=headers)

    server = web.Application()
    server.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(server, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _error(kind: str, message: str) -> str:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}})


ANSWERS = [
    (401, _error("authentication_error", "invalid x-api-key"), Grade.FAIL, "refuses the key", "setup --replace-key"),
    (403, _error("permission_error", "no"), Grade.FAIL, r"403 \(permission_error\)", "setup --replace-key"),
    (400, _error("invalid_request_error", "Your credit balance is too low"), Grade.FAIL, "wants payment", "base_url"),
    (404, _error("not_found_error", "model: claude-x"), Grade.FAIL, "does not know the model", "unset model"),
    (404, "<html>", Grade.WARN, "cannot count tokens", "base_url"),
    (429, _error("rate_limit_error", "slow down"), Grade.WARN, r"429 \(rate_limit_error\).*limit", "usage"),
    (529, _error("overloaded_error", "later"), Grade.WARN, "overloaded", "doctor"),
    (302, "", Grade.FAIL, "answered 302", "base_url"),
    (200, "{}", Grade.OK, "takes it", ""),
]


@pytest.mark.parametrize(("status", "body", "grade", "said", "mend"), ANSWERS)
async def test_what_the_api_answers(
    home: Home, environ: dict[str, str], status: int, body: str, grade: Grade, said: str, mend: str
) -> None:
    """Each has a name and a way out; a redirect is not followed with the key."""
    async with api(status, body, location="http://127.0.0.1:1/") as url:
        found = await doctor.examine(await scene_of(home, {**environ, "NANOCLAW_BASE_URL": url}))
    (about,) = [f for f in found if f.check == "model API"]
    assert about.grade is grade
    assert re.search(said, about.said)
    assert mend in about.mend
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://127.0.0.1:1", "cannot be reached: "), ("http://no-such-host.invalid", "name|cannot be reached")],
)
async def test_an_api_that_is_not_there(home: Home, environ: dict[str, str], url: str, said: str) -> None:
    """Nobody answers, or nobody is called that."""
    found = await bad(await scene_of(home, {**environ, "NANOCLAW_BASE_URL": url}), offline=False)
    assert set(found) == {"model API"}
    assert re.search(said, found["model API"].said)


async def test_an_api_whose_certificate_nobody_knows(home: Home, environ: dict[str, str], folder: Path) -> None:
    """A proxy on the way, say: the key is not sent there, and it is said where to look."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begin, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, end).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(
        made.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem")
    async with api(200, "{}", tls=context) as url:
        found = await bad(await scene_of(home, {**environ, "NANOCLAW_BASE_URL": url}), offline=False)
    assert "certificate is not trusted here" in found["model API"].said


async def test_the_key_goes_to_no_other_api(home: Home, environ: dict[str, str]) -> None:
    """With settings that cannot be read nobody knows whose it is: the default's is not asked."""
    touch(home, "nanoclaw.toml", "=")
    found = await bad(await scene_of(home, environ), offline=False)
    assert "not asked" in found["model API"].said


# --- the engine ---------------------------------------------------------------------------------


@as_root
def test_an_engine_that_one_may_not_use(folder: Path) -> None:
    """Told apart from one that does not run. Another user, in a process of its own."""
    folder.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "engine.sock"))
        door.listen()
        (folder / "engine.sock").chmod(0o600)
        code = (
            "import os, sys, docker, requests\nfrom nanoclaw.sandbox import engine, look, docker_sandbox\n"
            "from nanoclaw.errors import SandboxError\nfrom nanoclaw.ops.doctor import engine as doctor\n"
            "os.setuid(65534)\ntry: look.meet(sys.argv[1])\nexcept SandboxError as e: print(doctor.mend_of(str(e)), e)"
        )
        command = [sys.executable, "-c", code, f"unix://{folder}/engine.sock"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.startswith("sudo usermod -aG docker $USER no permission to use unix://")


@as_root
def test_a_home_that_one_may_not_enter(folder: Path) -> None:
    """One finding says so, and what else is of the machine is told all the same."""
    folder.chmod(0o755)
    (folder / "mine").mkdir(0o700)
    code = (
        "import asyncio, os, sys, aiohttp, docker, requests\nfrom pathlib import Path\n"
        "from nanoclaw.ops import doctor\nfrom nanoclaw.sandbox import engine, look, docker_sandbox, image\n"
        "async def main():\n"
        "    scene = await doctor.arrive(Path(sys.argv[1]), {'DOCKER_HOST': 'unix:///none'}, 1)\n"
        "    return await doctor.examine(scene, offline=True)\n"
        "os.setuid(65534)\nfor f in asyncio.run(main()): print(f.grade, f.check, f.said)"
    )
    out = subprocess.run([sys.executable, "-c", code, folder / "mine/home"], capture_output=True, text=True, check=True)
    lines = out.stdout.splitlines()
    assert lines[0] == f"fail home could not look: {folder}/mine/home: Permission denied"
    assert {line.split()[1] for line in lines} == {"home", "python", "packages", "open", "engine", "credential"}


@contextmanager
def fake_engine(folder: Path, info: dict[str, Any]) -> Iterator[str]:
    """A socket that answers as an engine would; in a process of its own, because the client blocks."""
    path = folder / "engine.sock"
    code = (
        "import asyncio, json, sys\nfrom aiohttp import web\n"
        "async def answer(request):\n"
        "    told = json.loads(sys.argv[2])\n"
        "    version = {'ApiVersion': '1.41', 'Version': 'test'}\n"
        "    return web.json_response(told if request.path.endswith('/info') else version)\n"
        "app = web.Application()\napp.router.add_route('*', '/{path:.*}', answer)\n"
        "web.run_app(app, path=sys.argv[1], print=lambda *_: print('ready', flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, path, json.dumps(info)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield f"unix://{path}"
        finally:
            process.kill()


async def test_what_an_engine_cannot_do(folder: Path, home: Home, environ: dict[str, str]) -> None:
    """User ids that are mapped, no filter of system calls, no limits of memory and processes: each by name."""
    weak = {"ServerVersion": "1", "SecurityOptions": ["name=userns"], "CgroupVersion": "1", "CgroupDriver": "cgroupfs"}
    weak |= {"Runtimes": {"runc": {}}}
    env = {**environ, "NANOCLAW_RUNTIME": "runsc"}
    with fake_engine(folder, weak) as address:
        (folder / "engine.sock").chmod(0o777)
        found = await doctor.examine(await scene_of(home, {**env, "DOCKER_HOST": address}), offline=True)
    told = [(f.check, f.grade, f.said) for f in found if f.check in ("engine", "seccomp", "limits")]
    assert [(check, grade) for check, grade, _ in told] == [
        *[("engine", grade) for grade in (Grade.OK, Grade.FAIL, Grade.WARN, Grade.FAIL)],
        ("seccomp", Grade.FAIL), *[("limits", Grade.FAIL)] * 2,
        *[("limits", Grade.WARN)] * 2,
    ]  # fmt: skip
    assert "userns-remap" in told[1][2]
    assert "every user" in told[2][2]
    assert "no runtime 'runsc', only runc" in told[3][2]
    assert "pids" in told[6][2]


async def test_an_engine_that_is_not_there(home: Home, environ: dict[str, str], folder: Path) -> None:
    """Stopped or refused: one line, and nothing more about it."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "dead.sock"))
    for address, said in (("none.sock", "no container engine at"), ("dead.sock", "no container engine at")):
        scene = await scene_of(home, {**environ, "DOCKER_HOST": f"unix://{folder}/{address}"})
        (about,) = [f for f in await doctor.examine(scene, offline=True) if f.check == "engine"]
        assert about.grade is Grade.FAIL
        assert said in about.said or "no container engine is installed" in about.said
        assert about.mend


def test_an_engine_that_was_never_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket, and no program that would make one; an address on the network says nothing of that."""
    monkeypatch.setenv("PATH", str(folder))
    assert engine.is_absent(f"unix://{folder}/none.sock")
    assert not engine.is_absent("tcp://127.0.0.1:1")
    (folder / "podman").touch(0o700)
    assert not engine.is_absent(f"unix://{folder}/none.sock")


# --- the host -----------------------------------------------------------------------------------


async def test_a_host_that_lives(home: Home, environ: dict[str, str]) -> None:
    """What it says of itself is taken for what it is: another version, a channel in trouble, settings that wait."""
    status: Frame = {
        "version": __version__, "up_seconds": 5,
        "watch": [{"cause": "late", "said": "a turn is late", "mend": "/stop"}], "settings": "restart pending: image",
        "channels": [{"name": "whatsapp", "state": "disconnected", "detail": "it is tried again"}],
    }  # fmt: skip

    async def answer(args: Frame, stream: Stream) -> Frame:
        return status

    touch(home, "nanoclaw.toml", 'whatsapp = "own"')
    (home.root / "whatsapp").mkdir(0o700)
    (home.root / "whatsapp/session.db").touch(0o600)
    server = ControlServer(home.control_sock, {"status": answer})
    await server.start()
    try:
        with app.one_host(home.lock):
            scene = await scene_of(home, environ)
            found = await bad(scene)
            assert scene.host.pid == os.getpid()
            assert "a host lives" in mending.mend(scene, app.one_host)[-1]
            assert home.control_sock.exists()
            status["version"] = "0.0.1"
            assert "0.0.1 runs" in (await bad(await scene_of(home, environ)))["host"].said
    finally:
        await server.close()
    assert {check: f.grade for check, f in found.items()} == dict.fromkeys(("settings", "host", "whatsapp"), Grade.WARN)
    assert (found["host"].said, found["host"].mend) == ("a turn is late", "/stop")
    assert "disconnected (it is tried again)" in found["whatsapp"].said


async def test_a_real_host_that_lives_has_nothing(home: Home, environ: dict[str, str], sandbox: ProcessSandbox) -> None:
    """Its database is read beside it, and no lock and no door of its is touched."""
    config = load({**environ, "NANOCLAW_HOME": str(home.root)})
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tg:
        host = tg.create_task(app.serve(config, environ, ready=ready, sandbox=lambda install: sandbox))
        async with asyncio.timeout(25):
            await ready.wait()
        scene = await scene_of(home, environ)
        found = await bad(scene, offline=False)
        done = mending.mend(scene, app.one_host)
        assert not host.done()
        host.cancel()
    assert found == {}
    assert scene.host.pid == os.getpid()
    assert done == ["a host lives: what it looks after by itself was left to it"]


async def test_a_host_that_hangs(home: Home, environ: dict[str, str]) -> None:
    """It holds the lock and opens no door: its process is named."""
    with app.one_host(home.lock):
        found = await bad(await scene_of(home, environ))
        crash(home)
        starting = await bad(await scene_of(home, environ, app.now_ms() + 1_200_000))  # as long as a build may take
    assert set(found) == set(starting) == {"host"}
    assert f"process {os.getpid()} holds this home" in found["host"].said
    assert found["host"].mend == f"kill {os.getpid()}"
    # One that has only begun may be building the image: nobody is told to end it.
    assert (starting["host"].grade, starting["host"].mend) == (Grade.WARN, "nanoclaw status")


async def test_folders_of_living_runs_are_kept(home: Home, environ: dict[str, str]) -> None:
    """What the next host may adopt is no leftover; without rows nothing is."""
    make_run(home, "r1", "main", "0a1b2c3d", *AGENT)
    make_run(home, "r2", "main", "0a1b2c3e", *AGENT)
    row = RunRow("r1", "main", 1, RunState.ALIVE, "", sockets="0a1b2c3d", started_at=1)
    await write(home.db, lambda tx: runs.insert(tx, row, "m"))
    scene = await scene_of(home, environ)
    assert "2 folder(s)" in (await bad(scene))["leftovers"].said
    assert "removed 2 folder(s) of runs that have ended" in mending.mend(scene, app.one_host)
    assert home.run_folder("r1").is_dir()
    assert home.sockets("0a1b2c3d").is_dir()
    assert not home.run_folder("r2").exists()
    future_schema(home)
    make_run(home, "r3", "main", "0a1b2c3f", *AGENT)
    assert not any("removed" in said for said in mending.mend(scene, app.one_host))
    assert home.run_folder("r3").is_dir()


async def test_sockets_of_another_home_are_left_alone(home: Home, environ: dict[str, str], folder: Path) -> None:
    """Two homes with one run_dir: it is said, and --fix takes nothing away there."""
    other = open_home(folder / "other", folder / "r")
    other.db.touch()
    make_run(other, "r1", "main", "0a1b2c3d", *AGENT)
    touch(home, "nanoclaw.toml", f'run_dir = "{folder}/r"\n')
    scene = await scene_of(home, environ)
    assert scene.home.run_dir == other.run_dir
    found = await bad(scene)
    assert (set(found), found["sockets"].mend) == ({"sockets"}, "nanoclaw config unset run_dir")
    assert any("is of another home" in said for said in mending.mend(scene, app.one_host))
    assert other.sockets("0a1b2c3d").is_dir()


# --- the doctor itself --------------------------------------------------------------------------


async def test_mending_loses_nothing(home: Home, environ: dict[str, str]) -> None:
    """Modes, folders, ballast, a dead host's door: said one by one, then all is well; what people own is as it was."""
    home.root.chmod(0o755)
    home.env_file.chmod(0o644)
    touch(home, "nanoclaw.toml", 'name = "Bea"\n', 0o666)
    (home.root / "logs").rmdir()
    (home.root / "ballast").unlink()
    (home.group_dir("main") / "notes.txt").write_text("mine")
    dead_door(home)
    scene = await scene_of(home, environ)
    assert set(await bad(scene)) == {"home", "files", "leftovers", "ballast"}
    done = mending.mend(scene, app.one_host)
    assert sorted(said.split()[0] for said in done) == ["closed", "closed", "closed", "made", "removed", "wrote"]
    assert await bad(await scene_of(home, environ)) == {}
    assert mending.mend(await scene_of(home, environ), app.one_host) == []
    assert home.env_file.stat().st_mode & 0o777 == 0o600
    assert (home.root / "nanoclaw.toml").read_text() == 'name = "Bea"\n'
    assert (home.group_dir("main") / "notes.txt").read_text() == "mine"


async def test_a_look_that_breaks_is_a_finding(
    home: Home, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are told all the same, and its exception's text, which may hold anything, is not."""

    def broken(scene: Scene) -> list[Finding]:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setitem(doctor.LOOKS, "python", broken)
    (about,) = [f for f in await doctor.examine(await scene_of(home, environ), offline=True) if f.check == "python"]
    assert about.said == "could not look: ZeroDivisionError"


async def test_a_look_that_hangs_is_a_finding() -> None:
    """It holds up neither the others nor the end."""
    began = time.monotonic()
    hanging = await bounded("slow disk", soon("slow disk", lambda: time.sleep(30) or [], 0.05))
    assert time.monotonic() - began < 25
    assert (hanging[0].check, hanging[0].grade) == ("slow disk", Grade.FAIL)
    assert hanging[0].said.startswith("could not look: no answer")


async def test_the_command(home: Home, environ: dict[str, str]) -> None:
    """One line each; exit code 1 for a failure; the WhatsApp library is not loaded; nothing of the key is shown."""
    seen = "import sys; sys.argv = ['nanoclaw', 'doctor']; from nanoclaw.cli import main\n"
    seen += "try: main()\nfinally: print('neonize' in sys.modules)"
    env = {**os.environ, **environ, "NANOCLAW_HOME": str(home.root)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", seen, env=env, stdout=pipe, stderr=pipe)
    out, err = (text.decode() for text in await process.communicate())
    lines = out.splitlines()
    assert any(line.startswith("ok    database: sound") for line in lines)
    assert any(line.startswith("FAIL  engine: ") and "  ->  " in line for line in lines)
    assert " findings: 1 fail, " in lines[-2]
    assert (process.returncode, lines[-1], err) == (1, "False", "")
    assert SECRET not in out


@pytest.mark.parametrize("args", [("family",), ("--sandbox", "--fix"), ("--sandbox", "--offline")])
def test_what_does_not_go_together(args: tuple[str, ...]) -> None:
    """It is said, before anything is looked at."""
    result = CliRunner().invoke(cli.app, ["doctor", *args])
    assert isinstance(result.exception, NanoClawError)
    assert "--sandbox" in str(result.exception)


async def test_a_machine_with_another_time_zone_and_few_files(home: Home, environ: dict[str, str]) -> None:
    """The zone is asked for where nobody chose one; the limit of open files is the process's own. In a container the
    commands are told as they are typed outside of it."""
    limited = ["sh", "-c", 'ulimit -n 512; exec "$0" -m nanoclaw doctor --offline --json', sys.executable]
    env = {**os.environ, **environ, "NANOCLAW_HOME": str(home.root), "TZ": "Asia/Tokyo", "NANOCLAW_UNDER_COMPOSE": "1"}
    del env["NANOCLAW_ZONE"]
    process = await asyncio.create_subprocess_exec(*limited, env=env, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    found = {f["check"]: f for f in json.loads(out)["findings"] if f["grade"] == "warn"}
    assert {"zone", "open files"} <= set(found)
    assert found["zone"]["mend"] == "docker compose exec nanoclaw nanoclaw config set zone Asia/Tokyo"
    assert "at most 512" in found["open files"]["said"]


async def test_mending_on_a_terminal(home: Home, environ: dict[str, str]) -> None:
    """Each deed is said, then it looks again."""
    home.env_file.chmod(0o644)
    terminal = await Terminal.open(home.root, "doctor", "--offline", "--fix", columns=200, **environ)
    async with asyncio.timeout(60):
        await terminal.shows("fix   closed ")
        await terminal.shows(" findings: 1 fail, ")  # the engine's
        assert await terminal.ends() == 1


async def test_environment_variables_are_named_by_their_keys(home: Home, environ: dict[str, str]) -> None:
    """Never by their values; one that is nearly a setting's counts for nothing, and is said."""
    touch(home, "nanoclaw.toml", 'owners = ["0151-of-somebody"]')
    assert "owners is not right" in (await bad(await scene_of(home, environ)))["settings"].said
    (home.root / "nanoclaw.toml").unlink()
    env = {**environ, "NANOCLAW_NAME": "Secretname", "NANOCLAW_ZOME": "UTC"}
    found = await doctor.examine(await scene_of(home, env), offline=True)
    told = " ".join(f.said for f in found if f.check == "settings")
    assert "NANOCLAW_ZOME" in told
    assert "Secretname" not in repr(found)
    del env["NANOCLAW_ZOME"]
    found = await doctor.examine(await scene_of(home, env), offline=True)
    assert "the environment sets base_url, name, zone" in " ".join(f.said for f in found if f.check == "settings")
