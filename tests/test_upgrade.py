"""From one version of a clone to another and back, with real git, real programs, and a host that lives meanwhile."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanoclaw import store
from nanoclaw.app import one_host
from nanoclaw.cli.service import living
from nanoclaw.errors import UpgradeError
from nanoclaw.groups import open_home
from nanoclaw.ops import migrating
from nanoclaw.ops.clone import Clone
from nanoclaw.ops.upgrade import Upgrade
from nanoclaw.store import MIGRATIONS, copy
from tests import systemctl

pytestmark = pytest.mark.timeout(240)
ROOT = Path(__file__).parent.parent
SCHEMA = len(list(MIGRATIONS.glob("*.sql")))
PACKAGES = next(p for p in sys.path if p.endswith("site-packages"))
TREE = (
    "nanoclaw",
    "container",
    "skills",
    "requirements",
    "pyproject.toml",
    "nanoclaw.sh",
    "README.md",
    "LICENSE",
    ".gitignore",
)
NO_ENGINE = "unix:///nonexistent.sock"
HOST = "nanoclaw/app/host.py"
KILLED = """
import os, signal
from nanoclaw.cli import app
from nanoclaw.ops.upgrade import Upgrade
ours = Upgrade._ours
def ours_and_then(self, *words):
    ours(self, *words)
    if words == ("self-check", "--migrate"):
        os.kill(os.getpid(), signal.SIGKILL)
Upgrade._ours = ours_and_then
app(["upgrade", "--no-image", "--to", "two"])
"""
NEWS = 'CREATE TABLE news(x); INSERT INTO news VALUES("of two");'


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *who, "-C", folder, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(repo: Path, tag: str) -> None:
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", f"This is {tag}")
    git(repo, "tag", tag)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project, as one; two has a new table and is fine; the others are broken, each in its own way."""
    repo = tmp_path_factory.mktemp("origin")
    for name in TREE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, repo / name, ignore=shutil.ignore_patterns("__pycache__", "ca.crt"))
        else:
            shutil.copy(ROOT / name, repo / name)
    git(repo, "init", "-q")
    commit(repo, "one")
    (repo / f"nanoclaw/store/migrations/{SCHEMA + 1:04}.sql").write_text(NEWS)
    edit(repo / "nanoclaw/__init__.py", "__version__ = ", '__version__ = "9.9" or ')
    commit(repo, "two")
    git(repo, "checkout", "-q", "-b", "no-program", "one")
    edit(repo / HOST, "import asyncio\n", "import asyncio\nimport nowhere\n")
    commit(repo, "unloadable")
    git(repo, "checkout", "-q", "-b", "no-start", "two")
    edit(repo / HOST, "        await self._adopt(progress)\n", "        raise OSError('a bad start')\n")
    commit(repo, "unstartable")
    git(repo, "checkout", "-q", "-b", "too-late", "two")
    late = "        await self._store.write(lambda tx: tx.execute(\"UPDATE outgoing SET state = 'sent'\"))\n"
    (repo / f"nanoclaw/store/migrations/{SCHEMA + 2:04}.sql").write_text("CREATE TABLE later(x);")
    edit(repo / HOST, "        await self._adopt(progress)\n", f"{late}        raise OSError('too late')\n")
    commit(repo, "late")
    git(repo, "checkout", "-q", "main")
    return repo


@dataclass
class Machine:
    """A clone with its packages, a home, and what `nanoclaw` says there."""

    clone: Path
    home: Path
    env: dict[str, str]

    async def run(self, *words: str, **more: str) -> tuple[int | None, str, str]:
        return await self.python("-m", "nanoclaw", *words, **more)

    async def python(self, *words: str, **more: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            self.clone / ".venv/bin/python", *words, stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**self.env, **more},
            cwd="/",
        )  # fmt: skip
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    async def upgrade(self, *words: str) -> tuple[int | None, str, str]:
        return await self.run("upgrade", "--no-image", *words)

    async def pid(self) -> int | None:
        return await asyncio.to_thread(living, self.home)

    @property
    def schema(self) -> int:
        return copy.schema(self.home / "nanoclaw.db")

    @property
    def tag(self) -> str:
        return git(self.clone, "describe", "--tags")


@pytest.fixture
async def machine(origin: Path, folder: Path) -> AsyncIterator[Machine]:
    """A clone at one, whose packages are borrowed from this test's own."""
    clone, home = folder / "clone", folder / "home"
    git(folder, "clone", "-q", "-b", "main", str(origin), str(clone))
    git(clone, "reset", "-q", "--hard", "one")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    (site,) = clone.glob(".venv/lib/python*/site-packages")
    (site / "borrowed.pth").write_text(f"{clone}\n{PACKAGES}\n")
    bin = folder / "bin"  # no systemctl: no test touches the machine's own
    bin.mkdir()
    for name in ("git", "cksum"):
        (bin / name).symlink_to(str(shutil.which(name)))
    plain = {key: value for key, value in os.environ.items() if not key.startswith("NANOCLAW_")}
    env = {**plain, "PATH": str(bin), "NANOCLAW_HOME": str(home), "NANOCLAW_ENGINE": NO_ENGINE, "PYTHONPATH": ""}
    made = Machine(clone, home, env)
    yield made
    systemctl.kill_all_of(home)


def broken(machine: Machine) -> Iterator[str]:
    """What an upgrade has left that it should not have."""
    work = machine.clone / ".git/nanoclaw"
    yield from (path.name for path in work.iterdir() if path.name != "lock")
    yield from git(machine.clone, "status", "--porcelain").splitlines()
    if git(machine.clone, "worktree", "list").count("\n"):
        yield "a worktree"


async def refused(machine: Machine, ref: str, *told: str) -> None:
    """An upgrade that leaves no trace."""
    before = machine.tag, machine.schema
    code, _, err = await machine.upgrade("--to", ref)
    assert (code, [words for words in told if words not in err]) == (1, []), err
    assert (machine.tag, machine.schema) == before
    assert [*broken(machine)] == []


async def test_forward_and_back_while_a_host_lives(machine: Machine) -> None:
    """Two versions that are no good leave no trace; then comes one that is good, and one that fails too late."""
    assert (await machine.run("up"))[0] == 0
    pid = await machine.pid()

    # It cannot be loaded: the host was not even ended.
    await refused(machine, "no-program", "nowhere", "Nothing was changed")
    assert await machine.pid() == pid

    # It does not start: files and database are put back, and the old host lives again.
    await refused(machine, "no-start", "a bad start", "Everything is as it was")
    assert await machine.pid() not in (pid, None)
    assert git(machine.clone, "symbolic-ref", "--short", "HEAD") == "main"

    # The newest works: another process, another version, the same home, and its database has moved on.
    pid = await machine.pid()
    code, out, err = await machine.upgrade()
    assert (code, "Upgraded from one to two." in out) == (0, True), err
    assert [line[0] for line in err.splitlines() if "/6" in line] == ["1", "3", "4", "5", "6"]
    assert await machine.pid() not in (pid, None)
    assert (machine.tag, machine.schema) == ("two", SCHEMA + 1)
    assert git(machine.clone, "symbolic-ref", "--short", "HEAD") == "main"
    assert [copy.schema(path) for path in migrating.copies(machine.home)] == [SCHEMA, SCHEMA]
    assert [*broken(machine)] == []

    # Back to what could not read the database any more: refused.
    pid = await machine.pid()
    await refused(machine, "one", "newer NanoClaw", "Nothing was changed")
    assert await machine.pid() == pid

    # One that fails after it has sent something stays: what was sent is never sent again.
    waiting_text(machine.home / "nanoclaw.db")
    code, _, err = await machine.upgrade("--to", "too-late")
    assert (code, "only forward" in err) == (1, True), err
    assert (machine.tag, machine.schema) == ("late", SCHEMA + 2)
    assert [*broken(machine)] == []


def waiting_text(db: Path) -> None:
    """Something that is to be sent, and cannot be, because nobody listens there."""
    with closing(sqlite3.connect(db)) as tx:
        tx.execute("INSERT INTO chats(channel, name, seen) VALUES('whatsapp', 'x', 0)")
        tx.execute(
            "INSERT INTO outgoing(chat_id, kind, payload, state, created_at)"
            " SELECT max(id), 'notice', 'waits', 'queued', 0 FROM chats"
        )
        tx.commit()


async def test_one_that_was_broken_off_is_taken_back(machine: Machine) -> None:
    """Killed in the middle, whatever was done stands in the journal; the next one begins with the way back."""
    db = open_home(machine.home).db
    store._open(db).close()
    saved = machine.home / "backups/x.db"
    copy.copy(db, saved)
    with closing(sqlite3.connect(db)) as tx:
        tx.executescript(f"{NEWS} PRAGMA user_version = {SCHEMA + 1}")
    commit, to = (git(machine.clone, "rev-parse", ref) for ref in ("one", "two"))
    for name, part in (("nanoclaw/__init__.py", 0.5), (f"nanoclaw/store/migrations/{SCHEMA + 1:04}.sql", 1)):
        text = git(machine.clone, "show", f"two:{name}")
        (machine.clone / name).write_text(text[: int(len(text) * part)])
    work = machine.clone / ".git/nanoclaw"
    work.mkdir()
    (machine.clone / ".venv").rename(work / "venv-before")
    journal = {
        "home": str(machine.home),
        "commit": commit,
        "branch": "main",
        "to": to,
        "saved": str(saved),
        "moved": True,
    }
    (work / "journal.json").write_text(json.dumps(journal))
    said: list[str] = []
    one = upgrade_of(machine, machine.home, said.append)
    assert "nothing to do" in await asyncio.to_thread(one.run, "one")
    assert said[0] == "An upgrade was broken off."
    assert (machine.tag, machine.schema) == ("one", SCHEMA)
    assert (await machine.run("--version"))[0] == 0
    assert [*broken(machine)] == []

    # What somebody changes while it is prepared is seen before the files move.
    def edit_late(line: str) -> None:
        if line.startswith("5/6"):
            edit(machine.clone / "pyproject.toml", "[project]", "[project]  # mine")

    one.say = edit_late
    with pytest.raises(UpgradeError, match=r"changes of yours: pyproject\.toml"):
        await asyncio.to_thread(one.run, "two")
    assert (machine.tag, machine.schema) == ("one", SCHEMA)
    assert "# mine" in (machine.clone / "pyproject.toml").read_text()


def upgrade_of(machine: Machine, home: Path, say: Callable[[str], None] = lambda line: None) -> Upgrade:
    """One in this process."""
    return Upgrade(
        Clone(machine.clone), home, machine.env, living=lambda: living(home) is not None, now=lambda: 0, say=say,
        alone=lambda: one_host(home / "nanoclaw.lock"),
    )  # fmt: skip


async def killed(machine: Machine) -> None:
    """An upgrade to two, ended as by a power cut when the database is migrated and nothing is started yet."""
    code, _, err = await machine.python("-c", KILLED)
    assert code == -signal.SIGKILL, err
    assert (machine.tag, machine.schema) == ("two", SCHEMA + 1)


async def test_one_that_was_killed_loses_nothing(machine: Machine) -> None:
    """Neither a message that the new version had, nor another home's rows, nor what somebody wrote into the clone."""
    store._open(open_home(machine.home).db).close()
    await killed(machine)

    journal = machine.clone / ".git/nanoclaw/journal.json"
    told = journal.read_text()
    one = upgrade_of(machine, machine.home)

    # Said for another home, whose database is none of it.
    with pytest.raises(UpgradeError, match=f"NANOCLAW_HOME={machine.home}"):
        await asyncio.to_thread(upgrade_of(machine, machine.home.with_name("other")).run, "")

    # The clone has somebody's edits, and then commits.
    edit(machine.clone / "pyproject.toml", "[project]", "[project]  # mine")
    with pytest.raises(UpgradeError, match=r"pyproject\.toml; `git stash`"):
        await asyncio.to_thread(one.run, "")
    assert "# mine" in (machine.clone / "pyproject.toml").read_text()
    commit(machine.clone, "mine")
    with pytest.raises(UpgradeError, match="commits of yours"):
        await asyncio.to_thread(one.run, "")
    assert (machine.tag, machine.schema) == ("mine", SCHEMA + 1)
    git(machine.clone, "checkout", "-q", "-B", "main", "two")

    # The machine began again, so the new version lives, and something came: it stays.
    code, _, err = await machine.run("up")
    assert code == 0, err
    pid = await machine.pid()
    waiting_text(machine.home / "nanoclaw.db")
    with pytest.raises(UpgradeError, match="only forward"):
        await asyncio.to_thread(one.run, "one")
    assert (machine.tag, machine.schema) == ("two", SCHEMA + 1)
    assert await machine.pid() == pid
    assert [*broken(machine)] == []

    # The same, had nothing come: back, and what lived lives again.
    with closing(sqlite3.connect(machine.home / "nanoclaw.db")) as tx:
        assert tx.execute("DELETE FROM outgoing WHERE payload = 'waits'").rowcount == 1
        tx.commit()
    journal.write_text(told)
    assert "nothing to do" in await asyncio.to_thread(one.run, "one")
    assert (machine.tag, machine.schema) == ("one", SCHEMA)
    assert await machine.pid() not in (pid, None)


def test_the_copy_that_was_just_made_stays(folder: Path) -> None:
    """Also where the clock was set back, and it has the oldest name."""
    home = open_home(folder)
    store._open(home.db).close()
    for second in range(migrating.KEPT):
        migrating.save(home.root, "later", 1_700_000_000_000 + second * 1000)
    path = migrating.save(home.root, "now", 0)
    assert path.exists()
    assert len(migrating.copies(home.root)) == migrating.KEPT


async def test_other_packages_come_with_it(machine: Machine, origin: Path) -> None:
    """Made beside the old ones from the lock, by hash, and then in their place."""
    pins = (ROOT / "requirements/host.txt").read_text().replace("\\\n", "").splitlines()
    build = [
        pin
        for pin in pins
        if pin.split("=")[0] in ("hatchling", "editables", "packaging", "pathspec", "pluggy", "trove-classifiers")
    ]
    env = {"PYTHONPATH": PACKAGES}  # all else is borrowed: fetching it would take a minute
    git(origin, "checkout", "-q", "-B", "packages", "two")
    (origin / "requirements/host.txt").write_text("\n".join(build) + "\n")
    git(origin, "commit", "-q", "-a", "-m", "other packages")
    code, out, err = await machine.run("upgrade", "--no-image", "--to", "packages", **env)
    assert (code, "Upgraded" in out) == (0, True), err
    assert not [*machine.clone.glob(".venv/lib/python*/site-packages/borrowed.pth")]
    script = (machine.clone / ".venv/bin/nanoclaw").read_text()
    assert script.startswith(f"#!{machine.clone}/.venv/bin/python")
    done = subprocess.run([machine.clone / ".venv/bin/nanoclaw", "--version"], env={**machine.env, **env}, stdout=PIPE)
    assert done.stdout == b"nanoclaw 9.9\n"
    assert (machine.clone / ".venv/.nanoclaw").read_text().startswith(f"{machine.clone} ")
    assert [*broken(machine)] == []


async def test_the_front_door_takes_it_away(machine: Machine) -> None:
    """./nanoclaw.sh stop and uninstall: what is gone already is no fault; what is no home of ours stays."""
    shim = machine.clone / ".venv/bin/nanoclaw"
    shim.write_text("#!/nowhere/python\n")  # as in a clone that was moved
    shim.chmod(0o755)
    open_home(machine.home)
    (machine.home / "nanoclaw.toml").touch()

    async def door(*words: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            machine.clone / "nanoclaw.sh", *words, stdin=PIPE, stdout=PIPE, stderr=STDOUT,
            env={**machine.env, "PATH": os.environ["PATH"]},
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode, out.decode()

    code, out = await door("stop")
    assert (code, "does not run" in out) == (0, True)
    code, out = await door("uninstall", "--purge")
    assert (code, f"{machine.home} is deleted" in out) == (0, True), out
    assert not machine.home.exists()
    assert not (machine.clone / ".venv").exists()
    code, out = await door("uninstall")
    assert (code, "Nothing is installed here" in out) == (0, True)
    code, out = await door("stop")
    assert (code, "nothing is installed" in out) == (1, True)


async def own_commits_stay(machine: Machine) -> None:
    """Without a name it never goes back, and never leaves commits behind that are not there."""
    one = upgrade_of(machine, machine.home)
    for begin, tag, told in (("one", "beside", "commits of its own"), ("two", "above", "nothing to do")):
        git(machine.clone, "reset", "-q", "--hard", begin)
        (machine.clone / "LICENSE").write_text(tag)
        commit(machine.clone, tag)
        try:
            said = await asyncio.to_thread(one.run, "")
        except UpgradeError as e:
            said = str(e)
        assert (told in said, machine.tag) == (True, tag), said


# --- what is refused ---------------------------------------------------------------------------


async def test_what_stands_in_the_way_is_said(machine: Machine) -> None:
    """Changed files by name, an unknown version, a second upgrade, a clone that is none."""
    clone = Clone(machine.clone)
    (machine.clone / "pyproject.toml").write_text("mine")
    code, _, err = await machine.upgrade()
    assert (code, "pyproject.toml" in err, "git stash" in err) == (1, True, True)
    git(machine.clone, "checkout", "-q", ".")
    for ref in ("nowhere", "--all", "-x"):
        with pytest.raises(UpgradeError, match="no branch, tag or commit"):
            clone.newest(ref)
    with (clone.work() / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another upgrade" in (await machine.upgrade())[2]
    code, out, _ = await machine.run("upgrade", "--check")
    assert (code, "Here: one" in out, "There: two" in out, "This is two" in out) == (0, True, True, True)
    code, _, err = await machine.run("upgrade", NANOCLAW_UNDER_COMPOSE="1")
    assert (code, "docker compose up -d --build" in err) == (1, True)
    await own_commits_stay(machine)
    git(machine.clone, "remote", "set-url", "origin", str(machine.home / "gone"))
    with pytest.raises(UpgradeError, match="git fetch"):
        clone.newest("")
    shutil.rmtree(machine.clone / ".git")
    assert not clone.is_one()
    code, _, err = await machine.run("upgrade", "--check")
    assert (code, "no clone" in err) == (1, True)
