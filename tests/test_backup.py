"""A backup has all that was there, whoever writes meanwhile; a restore puts it back whole, or changes nothing."""

import asyncio
import fcntl
import hashlib
import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanoclaw import ops
from nanoclaw.errors import BackupError, HomeError, StoreError
from nanoclaw.groups import open_home
from nanoclaw.models import Role
from nanoclaw.ops import backup, restore
from nanoclaw.ops.backup import MANIFEST, SESSION, Made, Wishes, back_up
from nanoclaw.store import MIGRATIONS, Tx, copy
from tests.commands import Terminal, nanoclaw
from tests.fakes import hosting, rows_of_one_group
from tests.story import busy, eventually_rows

AT = 1_700_000_000_000  # when backups are made
LATER = AT + 86_400_000
NOTHING = Wishes()
ALL = Wishes(credential=True, whatsapp_session=True)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that was lived in."""
    root = open_home(tmp_path / "home").root
    with rows_of_one_group(root / "nanoclaw.db") as (tx, _):
        put(tx, "before")
    (root / "nanoclaw.toml").write_text('zone = "UTC"\n')
    (root / ".env").write_text("ANTHROPIC_API_KEY=secret-key\n")
    (root / ".env").chmod(0o600)
    (root / "groups/main/.git/refs").mkdir(parents=True)
    (root / "groups/main/CLAUDE.md").write_text("memory")
    os.utime(root / "groups/main/CLAUDE.md", (1_600_000_000, 1_600_000_000))
    (root / "groups/main/run.sh").write_text("#!/bin/sh")
    (root / "groups/main/run.sh").chmod(0o755)
    (root / "state/main/projects/p").mkdir(parents=True)
    (root / "state/main/projects/p/s.jsonl").write_text("{}\n")
    (root / "skills/one").mkdir()
    (root / "skills/one/SKILL.md").write_text("skill")
    (root / "whatsapp").mkdir(mode=0o700)
    session(root, "first")
    (root / "logs/nanoclaw.log").write_text("log")
    return root


def put(tx: Tx, key: str) -> None:
    tx.execute("INSERT INTO meta(key, value) VALUES(?, '')", (key,))


def keys(db: Path) -> set[str]:
    with closing(sqlite3.connect(db)) as tx:
        return {row[0] for row in tx.execute("SELECT key FROM meta")}


def session(root: Path, text: str) -> None:
    """A WhatsApp session, as the library leaves it: a database with a log beside it."""
    with closing(sqlite3.connect(root / SESSION)) as tx:
        tx.executescript("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS ratchet(at TEXT); DELETE FROM ratchet")
        tx.execute("INSERT INTO ratchet VALUES(?)", (text,))
        tx.commit()


def ratchet(root: Path) -> str:
    with closing(sqlite3.connect(root / SESSION)) as tx:
        return str(tx.execute("SELECT at FROM ratchet").fetchone()[0])


def saved(home: Path, wishes: Wishes = NOTHING, **more: Any) -> Made:
    return back_up(home, home.parent / "b.tar.gz", wishes, version="1.2", now=AT, **more)


def put_back(file: Path, home: Path, **more: Any) -> restore.Restored:
    return restore.restore(file, home, now=LATER, **more)


def names(file: Path) -> set[str]:
    with tarfile.open(file) as tar:
        return set(tar.getnames())


def picture(root: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below, with modes and contents; a database's side files come and go when it is looked at."""
    found = [p for p in root.rglob("*") if not p.name.endswith(("-shm", "-wal"))]
    return {str(p.relative_to(root)): (p.stat().st_mode, p.read_bytes() if p.is_file() else b"") for p in found}


# --- backup ------------------------------------------------------------------------------------


def test_what_is_saved_is_what_comes_back(home: Path) -> None:
    """On an empty place: rows, files, folders, what may be run; no key, no session, no logs."""
    made = saved(home)
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert made.size == made.path.stat().st_size
    other = home.parent / "other"
    done = put_back(made.path, other)
    assert (done.before, done.kept, done.manifest.version, done.manifest.at) == (None, (), "1.2", AT)
    assert "before" in keys(other / "nanoclaw.db")
    for rel in ("nanoclaw.toml", "groups/main/CLAUDE.md", "state/main/projects/p/s.jsonl", "skills/one/SKILL.md"):
        assert (other / rel).read_bytes() == (home / rel).read_bytes()
        assert int((other / rel).stat().st_mtime) == int((home / rel).stat().st_mtime) or rel == "nanoclaw.toml"
    assert (other / "groups/main/.git/refs").is_dir()
    assert (other / "groups/main/run.sh").stat().st_mode & 0o777 == 0o755
    assert (other / "groups/main/CLAUDE.md").stat().st_mode & 0o777 == 0o644
    assert (other / "nanoclaw.db").stat().st_mode & 0o777 == 0o600
    assert (other.stat().st_mode & 0o777, (other / "groups").stat().st_mode & 0o777) == (0o700, 0o700)
    assert not any((other / rel).exists() for rel in (".env", "whatsapp", "logs/nanoclaw.log"))
    assert sorted(p.name for p in home.parent.iterdir()) == ["b.tar.gz", "home", "other"]


def test_key_and_session_come_when_asked_for(home: Path) -> None:
    """And the file says what that means, as it does without them."""
    plain, full = saved(home), saved(home, ALL, force=True)
    assert plain.manifest.notes == [backup.WITHOUT_CREDENTIAL, backup.WITHOUT_SESSION]
    assert {".env", SESSION} <= names(full.path)
    assert [backup.STALE in note for note in full.manifest.notes] == [False, True]
    with tarfile.open(full.path) as tar:
        inside = tar.extractfile(MANIFEST)
        assert inside is not None
        told = json.load(inside)
    assert (told["notes"], told["schema"], told["at"]) == (full.manifest.notes, len(list(MIGRATIONS.glob("*.sql"))), AT)
    other = home.parent / "other"
    assert put_back(full.path, other).note == backup.STALE
    assert (other / ".env").read_text() == "ANTHROPIC_API_KEY=secret-key\n"
    assert ratchet(other) == "first"
    assert {(other / rel).stat().st_mode & 0o777 for rel in (".env", SESSION)} == {0o600}


def test_the_copy_is_of_one_moment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that commits all the time is neither held up nor able to hold it up."""
    monkeypatch.setattr(copy, "_PAGES", 1)
    with rows_of_one_group(home / "nanoclaw.db", "more") as (tx, _):
        steps: list[int] = []

        def commits(done: int, total: int) -> None:
            steps.append(done)
            put(tx, f"during {len(steps)}")

        copy.copy(home / "nanoclaw.db", home.parent / "copy.db", commits)
        assert len(steps) > 20
        assert keys(home / "nanoclaw.db") - keys(home.parent / "copy.db") == {
            f"during {n + 1}" for n in range(len(steps))
        }
    assert ops.integrity(home.parent / "copy.db") == []


HOSTILE: dict[str, Callable[[Path], object]] = {
    "link": lambda p: p.symlink_to("/etc/passwd"),
    "link to a folder": lambda p: p.symlink_to("/etc"),
    "pipe": os.mkfifo,
    "full of holes": lambda p: (p.touch(), os.truncate(p, 1 << 40)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_an_agent_planted_is_left_out_and_named(home: Path, what: str) -> None:
    """Nothing but plain files and folders is read; the rest goes on."""
    HOSTILE[what](home / "groups/main/planted")
    made = saved(home)
    assert [entry.split(":")[0] for entry in made.manifest.left_out] == ["groups/main/planted"]
    assert "groups/main/planted" not in names(made.path)
    assert "groups/main/CLAUDE.md" in names(made.path)


def test_files_that_change_meanwhile_do_not_break_it() -> None:
    """One that shrinks is filled up and named, one that grows is cut."""
    short = backup._Measured(io.BytesIO(b"abc"), 5)
    assert (short.read(4), short.read(4), short.short) == (b"abc\0", b"\0", True)
    assert short.hash.digest() == hashlib.sha256(b"abc\0\0").digest()
    assert (backup._Measured(io.BytesIO(b"abcdef"), 3).read(10)) == b"abc"


def test_too_deep_a_tree_is_cut(home: Path) -> None:
    """What lies deeper than anything honest is named once, and what comes out can be put back."""
    path = home / "groups/main" / "/".join("d" * 70)
    path.mkdir(parents=True)
    made = saved(home)
    assert len(made.manifest.left_out) == 1
    put_back(made.path, home.parent / "other")


def refused(home: Path, target: Path) -> str:
    with pytest.raises(BackupError) as e:
        back_up(home, target, NOTHING, version="1", now=AT)
    return str(e.value)


def test_where_it_cannot_go(home: Path) -> None:
    """A file that is there, a folder, a place that is backed up itself, no home: said, and nothing is written."""
    taken = home.parent / "taken"
    taken.write_text("mine")
    assert "--force" in refused(home, taken)
    assert taken.read_text() == "mine"
    assert "no name for a file" in refused(home, home.parent)
    assert "no name for a file" in refused(home, home / "none/b")
    assert "would lie in what is backed up" in refused(home, home / "groups/main/b")
    assert "nothing to back up" in refused(home.parent / "none", home.parent / "b")
    back_up(home, home / "backups/b", NOTHING, version="1", now=AT)
    assert sorted(p.name for p in (home / "backups").iterdir()) == ["b"]


def test_a_damaged_database_is_not_saved_over_a_good_backup(home: Path) -> None:
    """The one before stays, and nothing else is left."""
    good = saved(home).path.read_bytes()
    confuse(home / "nanoclaw.db")
    with pytest.raises(BackupError, match="damaged"):
        saved(home, force=True)
    assert (home.parent / "b.tar.gz").read_bytes() == good
    assert sorted(p.name for p in home.parent.iterdir()) == ["b.tar.gz", "home"]


def confuse(db: Path) -> None:
    """Two indexes change places: every page can be read, and searches find nothing."""
    names = ("sqlite_autoindex_chat_jids_1", "sqlite_autoindex_person_jids_1")
    with closing(sqlite3.connect(db)) as tx:
        roots = [tx.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (n,)).fetchone()[0] for n in names]
        tx.execute("PRAGMA writable_schema = ON")
        for name, root in zip(names, reversed(roots), strict=True):
            tx.execute("UPDATE sqlite_master SET rootpage = ? WHERE name = ?", (root, name))
        tx.commit()


def damage(db: Path) -> None:
    """Overwrite what lies behind the first page."""
    with db.open("r+b") as f:
        f.seek(4096)
        f.write(b"\xff" * (db.stat().st_size - 4096))


def test_integrity_names_what_is_wrong(home: Path) -> None:
    """A sound one: nothing. Torn pages, a row that names a row that is gone, no database: in words."""
    db = home / "nanoclaw.db"
    assert ops.integrity(db) == []
    with closing(sqlite3.connect(db)) as tx:
        tx.execute("INSERT INTO chat_jids VALUES('x', 'test', 99, 0)")
        tx.commit()
    assert [("chat_jids" in told, "chats" in told) for told in ops.integrity(db)] == [(True, True)]
    damage(db)
    assert ops.integrity(db)
    assert ops.integrity(home / "none.db")
    assert not (home / "none.db").exists()


# --- restore -----------------------------------------------------------------------------------


def test_the_old_home_is_kept_and_its_newest_things_stay(home: Path) -> None:
    """The key, the session and the other backups of the home win over the backup's: they are newer."""
    made = saved(home, ALL)
    session(home, "second")
    (home / ".env").write_text("ANTHROPIC_API_KEY=newer-key\n")
    (home / "groups/main/CLAUDE.md").write_text("lost")
    (home / "backups/monthly").write_text("b")
    was = picture(home)
    done = put_back(made.path, home)
    assert done.before == home.with_name("home.before-20231115-221320")
    assert picture(done.before) == was
    assert (home / "groups/main/CLAUDE.md").read_text() == "memory"
    assert (home / ".env").read_text() == "ANTHROPIC_API_KEY=newer-key\n"
    assert (home / ".env").stat().st_mode & 0o777 == 0o600
    assert ratchet(home) == "second"
    assert (home / "backups/monthly").read_text() == "b"
    assert (done.kept, done.note) == (("the key or token", "the WhatsApp session"), restore.MOVED)
    assert put_back(made.path, home).before == home.with_name("home.before-20231115-221320-1")


def test_the_agents_files_are_theirs(home: Path) -> None:
    """Where the host is root the agents are somebody else; what only the host writes stays the host's."""
    (home / "groups/global/CLAUDE.md").write_text("for all")
    agent = (10001, 10001) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    other = home.parent / "other"
    put_back(saved(home).path, other, agent=agent)
    theirs = ["groups/main", "groups/main/CLAUDE.md", "state/main/projects", "state/main/projects/p/s.jsonl"]
    ours = ["groups", "groups/global/CLAUDE.md", "state/main", "skills/one/SKILL.md", "nanoclaw.db"]
    assert {(other / rel).stat().st_uid for rel in theirs} == {agent[0]}
    assert {(other / rel).stat().st_uid for rel in ours} == {os.geteuid()}


def test_without_an_exchange_the_names_move_one_by_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems cannot swap two names at once."""

    def cannot(one: Path, other: Path) -> None:
        raise OSError("no")

    made = saved(home)
    (home / "groups/main/CLAUDE.md").write_text("lost")
    monkeypatch.setattr(restore, "_exchange", cannot)
    done = put_back(made.path, home)
    assert done.before is not None
    assert (done.before / "groups/main/CLAUDE.md").read_text() == "lost"
    assert (home / "groups/main/CLAUDE.md").read_text() == "memory"


def test_an_interrupted_restore_changes_nothing(home: Path) -> None:
    """Ctrl-C in the middle: the home is whole, and nothing lies beside it."""
    made = saved(home)
    was = picture(home)

    def interrupted(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put_back(made.path, home, report=interrupted)
    assert picture(home) == was
    assert sorted(p.name for p in home.parent.iterdir()) == ["b.tar.gz", "home"]


Part = tuple[tarfile.TarInfo, bytes]
Parts = list[Part]


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "") -> Part:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), link
    return info, data


@contextmanager
def opened_up(file: Path) -> Iterator[Parts]:
    """The file's members, to be changed; the manifest is made to agree with them."""
    with tarfile.open(file) as tar:
        parts: Parts = []
        for info in tar:
            inside = tar.extractfile(info)
            parts.append((info, inside.read() if inside else b""))
    manifest = json.loads(parts.pop()[1])
    yield parts
    manifest["members"] = {i.name: hashlib.sha256(d).hexdigest() for i, d in parts if i.isreg()}
    parts.append(member(MANIFEST, data=json.dumps(manifest).encode()))
    written(file, parts)


def written(file: Path, parts: Parts) -> None:
    with tarfile.open(file, "w:gz") as tar:
        for info, data in parts:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


EVIL = [
    member("../evil"),
    member("/tmp/evil"),
    member("groups/../../evil"),
    member("groups/./evil"),
    member("groups//evil"),
    member("evil"),
    member("groups"),
    member("whatsapp/other"),
    member("groups/link", tarfile.SYMTYPE, link="/etc"),
    member("groups/hard", tarfile.LNKTYPE, link="nanoclaw.db"),
    member("groups/pipe", tarfile.FIFOTYPE),
    member("groups/device", tarfile.CHRTYPE),
    member("nanoclaw.db"),
    member("groups/main", data=b"a file where a folder is"),
    member("groups/none/evil"),
    member("whatsapp", tarfile.DIRTYPE),
    member("groups/" + "/".join("d" * 70)),
]


@pytest.mark.parametrize("evil", EVIL, ids=lambda evil: f"{evil[0].name[:20]}-{evil[0].type.decode()}")
def test_what_we_never_write_is_refused(home: Path, evil: Part) -> None:
    """Whatever is in the file, nothing is written but below the new home, and the old one is not touched."""
    made = saved(home)
    with opened_up(made.path) as parts:
        parts.append(evil)
    assert_refused(made.path, home)


def assert_refused(file: Path, home: Path, why: str = ".") -> None:
    was = picture(home.parent)
    with pytest.raises((BackupError, StoreError), match=why):
        put_back(file, home)
    assert picture(home.parent) == was


def test_a_file_that_opened_up_and_closed_is_still_one(home: Path) -> None:
    """The tests that change one would refuse nothing else."""
    made = saved(home)
    with opened_up(made.path) as parts:
        parts.append(member("groups/main/new", data=b"new"))
    put_back(made.path, home)
    assert (home / "groups/main/new").read_bytes() == b"new"


def test_a_torn_or_changed_file_is_refused(home: Path) -> None:
    """Cut at any place, a byte turned, a member gone, no backup at all."""
    made = saved(home)
    whole = made.path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 100):
        made.path.write_bytes(whole[:cut])
        assert_refused(made.path, home)
    made.path.write_bytes(whole)
    with tarfile.open(made.path) as tar:
        parts = [(i, f.read() if (f := tar.extractfile(i)) else b"") for i in tar]
    written(made.path, [(i, b"changed" if i.name.endswith("CLAUDE.md") else d) for i, d in parts])
    assert_refused(made.path, home, "damaged: 'groups/main/CLAUDE.md'")
    written(made.path, [(i, d) for i, d in parts if not i.name.endswith("CLAUDE.md")])
    assert_refused(made.path, home, "damaged: 'groups/main/CLAUDE.md'")
    with opened_up(made.path) as without:
        without[:] = [part for part in without if part[0].name != "nanoclaw.db"]
    assert_refused(made.path, home, "no backup")
    written(made.path, parts[:-1])
    assert_refused(made.path, home)
    written(made.path, parts[1:])
    assert_refused(made.path, home)
    assert_refused(home.parent / "none", home, "No such file")


@pytest.mark.parametrize(
    ("change", "why"),
    [({"format": 99}, "newer"), ({"members": 5}, "no backup"), ({"x": 1}, "no backup"), ({"at": "x"}, "no backup")],
)
def test_a_manifest_that_we_cannot_read_is_refused(home: Path, change: dict[str, Any], why: str) -> None:
    """A newer format says what to do."""
    made = saved(home)
    with tarfile.open(made.path) as tar:
        parts = [(i, f.read() if (f := tar.extractfile(i)) else b"") for i in tar]
    info, data = parts.pop()
    written(made.path, [*parts, (info, json.dumps({**json.loads(data), **change}).encode())])
    assert_refused(made.path, home, why)


@pytest.mark.parametrize(("sql", "why"), [("PRAGMA user_version = 99", "newer"), ("", "damaged|cannot be read")])
def test_a_database_of_tomorrow_or_a_damaged_one_is_refused(home: Path, sql: str, why: str) -> None:
    """Both before anything is touched."""
    made = saved(home)
    db = home.parent / "db"
    with opened_up(made.path) as parts:
        n = next(n for n, (info, _) in enumerate(parts) if info.name == "nanoclaw.db")
        db.write_bytes(parts[n][1])
        if sql:
            with closing(sqlite3.connect(db)) as tx:
                tx.execute(sql)
        else:
            damage(db)
        parts[n] = (parts[n][0], db.read_bytes())
    db.unlink()
    assert_refused(made.path, home, why)


def test_a_folder_of_somebody_else_is_not_replaced(home: Path, tmp_path: Path) -> None:
    """NANOCLAW_HOME may have slipped."""
    made = saved(home)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(HomeError, match="other files"):
        put_back(made.path, tmp_path / "mine")
    assert (tmp_path / "mine/thesis.tex").exists()


# --- what waited when it was made --------------------------------------------------------------


async def test_nothing_is_said_or_done_twice(folder: Path) -> None:
    """A backup from the middle of things: what waited in it is over, and main is told once with the numbers."""
    file = folder / "b"
    async with hosting(folder) as host:
        for chat in ("family", "work"):
            await host.group(chat, Ann=Role.OWNER)
        await host.in_main("boss")
        host.channel.connected = False
        await host.channel.say("family", "one")
        await eventually_rows(host, "SELECT 1 FROM outgoing WHERE payload = 'echo: one'")
        go = await busy(host, "work", "two")
        await asyncio.to_thread(back_up, host.config.home, file, NOTHING, version="1", now=AT)
        host.channel.connected = True
        go.touch()
        await host.poke("family")
        await host.channel.until(2)
        await host.settled()
    done = await asyncio.to_thread(put_back, file, folder / "home")
    assert (done.texts, done.messages) == (1, 1)
    for told in (1, 0):
        async with hosting(folder) as host:
            await host.channel.say("family", f"hello {told}")
            await host.channel.say("work", f"hello {told}")
            await host.channel.until(told + 2)
            assert [text[:14] for text in host.channel.to("boss")] == ["I was put back"] * told
            assert not await host.rows("SELECT 1 FROM turns WHERE state IN ('open', 'given') AND prompt LIKE '%two%'")
            assert host.channel.to("family") == host.channel.to("work") == [f"echo: hello {told}"]
            assert await host.rows("SELECT state FROM outgoing WHERE payload = 'echo: one'") == [{"state": "dead"}]


# --- the commands ------------------------------------------------------------------------------


async def test_the_commands(home: Path) -> None:
    """One writes beside a living host and says what is missing; the other wants a yes and nobody living there."""
    file = str(home.parent / "b")
    (home / "groups/main/link").symlink_to("/etc")
    code, out, err = await nanoclaw(home, "backup", file)
    assert (code, err) == (0, "")
    assert "Left out (1):" in out
    assert backup.STALE in out
    code, out, _ = await nanoclaw(home, "backup", file, "--force", "--json", "--with-credential")
    told = json.loads(out)
    assert (code, told["file"], told["notes"][0]) == (0, file, backup.WITH_CREDENTIAL)
    assert [entry.split(":")[0] for entry in told["left_out"]] == ["groups/main/link"]
    code, _, err = await nanoclaw(home, "restore", file)
    assert (code, "--yes" in err) == (1, True)
    with (home / "nanoclaw.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = await nanoclaw(home, "restore", file, "--yes")
        assert (code, "stop it first" in err) == (1, True)
    code, out, err = await nanoclaw(home, "restore", file, "--yes")
    assert (code, err) == (0, "")
    assert f"{home.parent}/home.before-" in out
    code, _, err = await nanoclaw(home, "restore", str(home / "nanoclaw.toml"), "--yes")
    assert (code, err.count("\n"), "no backup" in err) == (1, 1, True)


async def test_progress_is_shown_on_a_terminal(home: Path) -> None:
    """And a question is asked there."""
    terminal = await Terminal.open(home, "backup", str(home.parent / "b"), columns=200)
    await terminal.shows("━")
    await terminal.shows("files,")
    assert await terminal.ends() == 0
    terminal = await Terminal.open(home, "restore", str(home.parent / "b"), columns=200)
    await terminal.shows("[y/N]")
    terminal.type("n\n")
    assert await terminal.ends() == 1
    assert not list(home.parent.glob("home.before*"))
