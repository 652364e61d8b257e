"""The home's folders: names, modes, first files, and that no agent stands on the way to another's mount."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoclaw import groups
from nanoclaw.errors import Cause, HomeError, Refused, SandboxError, UnsafePath
from nanoclaw.groups import Home, binds, check_room, make_group, make_run, open_home, read_memory, remove_run
from nanoclaw.models import Group
from nanoclaw.sandbox import Spec
from nanoclaw.sandbox.spec import create_body

UID, GID = (10001, 10001) if os.getuid() == 0 else (os.getuid(), os.getgid())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return open_home(tmp_path / "h", tmp_path / "r")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    """Closed to others at the top, readable for the agents below, whoever calls."""
    before = os.umask(umask)
    try:
        home = open_home(tmp_path / "h", tmp_path / "r")
        make_group(home, "kitchen", UID, GID)
        make_run(home, "run1", "kitchen", "00c0ffee", UID, GID)
    finally:
        os.umask(before)
    assert {_mode(p) for p in (home.root, home.run_dir, home.group_dir("kitchen"), home.run_folder("run1"))} == {0o700}
    assert {_mode(p) for p in (home.inbox("run1"), home.skills, home.group_dir("global"))} == {0o755}
    assert (_mode(home.outbox("run1")), home.outbox("run1").stat().st_uid) == (0o600, UID)
    assert _mode(home.group_dir("kitchen") / "CLAUDE.md") == 0o644


def test_a_home_is_opened_again_as_it_is(home: Home, tmp_path: Path) -> None:
    """A second opening changes nothing, and a mode that got loose is closed again."""
    home.db.touch()
    home.root.chmod(0o755)
    assert open_home(tmp_path / "h", tmp_path / "r") == home
    assert _mode(home.root) == 0o700


def test_a_folder_of_others_is_not_taken(tmp_path: Path) -> None:
    """A slip like NANOCLAW_HOME=/tmp must not close that folder to everybody else."""
    (tmp_path / "shared").mkdir(mode=0o755)
    (tmp_path / "shared").chmod(0o755)
    (tmp_path / "shared/letter").touch()
    with pytest.raises(HomeError, match="holds other files"):
        open_home(tmp_path / "shared")
    assert _mode(tmp_path / "shared") == 0o755


def test_a_home_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """A file in its place, or a file system that takes nothing: one sentence with the path."""
    (tmp_path / "file").touch()
    with pytest.raises(HomeError, match=r"file: (Not a directory|File exists)"):
        open_home(tmp_path / "file")
    with pytest.raises(HomeError, match="/proc/nanoclaw"):
        open_home(Path("/proc/nanoclaw"))


def test_a_path_that_is_too_long_for_sockets_names_the_setting(tmp_path: Path) -> None:
    """What open_home lets pass can really be bound; what it refuses names the way out."""
    short = tmp_path / "r"
    with pytest.raises(HomeError, match="set run_dir"):
        open_home(tmp_path / ("x" * 90))
    with pytest.raises(HomeError, match="NANOCLAW_HOME"):
        open_home(tmp_path / ("x" * 90), short)
    longest = tmp_path / ("y" * (groups.MAX_SOCKET_PATH - len(os.fsencode(tmp_path)) - len("//00000000/egress.sock")))
    home = open_home(tmp_path / "h", longest)
    make_run(home, "run1", "kitchen", "00c0ffee", UID, GID)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(home.sockets("00c0ffee") / "egress.sock"))


@pytest.mark.parametrize("name", ["kitchen", "Kitchen-2", "a" * 64, "0_x"])
def test_good_names(name: str) -> None:
    """Letters, digits, - and _."""
    assert groups.check_new_folder(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "-x", "_x", "a" * 65, "küche", "a b", "a\n", "a\0", "global", "Main"]
)
def test_bad_names_are_refused_in_words(name: str) -> None:
    """What could leave the folder, hide in it, or is the assistant's own."""
    with pytest.raises(Refused):
        groups.check_new_folder(name)


WAYS: list[Callable[[Home, str], Path]] = [
    Home.group_dir,
    Home.kept_dir,
    Home.state_dir,
    Home.run_folder,
    Home.inbox,
    Home.outbox,
    Home.sockets,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc", "a\n", ".hidden", "a#b#c", "a#../b"])
def test_no_path_is_made_of_a_bad_name(home: Home, way: Callable[[Home, str], Path], name: str) -> None:
    """Rows hold names: even a bad row cannot point out of the home."""
    with pytest.raises(UnsafePath):
        way(home, name)


def test_no_two_lanes_share_a_state(home: Home) -> None:
    """A group's own lane, and those of its tasks."""
    lanes = ["a", "a#task-1", "a#task-2", "a-task-1", "a_task"]
    assert len({home.state_dir(lane) for lane in lanes}) == len(lanes)
    assert {home.state_dir(lane).parent for lane in lanes} == {home.root / "state"}


def test_a_group_keeps_what_it_has(home: Home) -> None:
    """The first memory is written once; a link that an agent put there instead is left alone, not followed."""
    make_group(home, "kitchen", UID, GID)
    memory = home.group_dir("kitchen") / "CLAUDE.md"
    assert memory.stat().st_uid == UID
    memory.write_text("mine")
    make_group(home, "kitchen", UID, GID)
    assert memory.read_text() == "mine"
    memory.unlink()
    memory.symlink_to(home.env_file)
    make_group(home, "kitchen", UID, GID)
    assert not home.env_file.exists()


def test_a_run_leaves_only_its_sessions(home: Home) -> None:
    """Letters and sockets go with the run; removing twice, or what was never made, is no error."""
    make_run(home, "run1", "kitchen", "00c0ffee", UID, GID)
    (home.state_dir("kitchen") / "projects/s.jsonl").touch()
    for _ in range(2):
        remove_run(home, "run1", "00c0ffee")
    assert not home.run_folder("run1").exists()
    assert not home.sockets("00c0ffee").exists()
    assert (home.state_dir("kitchen") / "projects/s.jsonl").exists()


def test_a_run_is_never_made_twice(home: Home) -> None:
    """The files of one run are never handed to a second one."""
    make_run(home, "run1", "kitchen", "00c0ffee", UID, GID)
    with pytest.raises(HomeError, match="File exists"):
        make_run(home, "run1", "kitchen", "00c0ffef", UID, GID)


def test_memory_is_told_by_its_content(home: Home) -> None:
    """Another text, the group's or the global one, is another digest; a link is one too, and is not followed."""
    make_group(home, "kitchen", UID, GID)
    seen = {read_memory(home, "kitchen"), read_memory(home, "nobody")}
    (home.group_dir("kitchen") / "CLAUDE.md").write_text("new")
    seen.add(read_memory(home, "kitchen"))
    (home.group_dir("global") / "CLAUDE.md").write_text("for all")
    seen.add(read_memory(home, "kitchen"))
    (home.group_dir("kitchen") / "CLAUDE.md").unlink()
    (home.group_dir("kitchen") / "CLAUDE.md").symlink_to("/dev/zero")
    seen.add(read_memory(home, "kitchen"))
    assert len(seen) == 5


def test_no_agent_can_write_on_the_way_to_a_mount(home: Home, tmp_path: Path) -> None:
    """The walk over the spec: below no writable mount lies another one's source, nor any folder on its way.

    The engine follows links: one on that way would open any folder of the host.
    """
    lanes = [("kitchen", "kitchen"), ("main", "main"), ("kitchen", "kitchen#task-1")]
    every = []
    for n, (folder, lane) in enumerate(lanes):
        make_group(home, folder, UID, GID)
        make_run(home, f"run{n}", lane, f"{n:08x}", UID, GID)
        every += binds(home, Group(n, folder, folder), lane, f"run{n}", f"{n:08x}", tmp_path / "skills")
    (tmp_path / "skills").mkdir()
    writable = {b.source for b in every if b.read_write}
    assert len(writable) == 2 + 3 + 3  # two groups' folders, three outbox files, three lanes' sessions
    for bind in every:
        assert bind.source == bind.source.resolve()
        assert bind.source.exists()
        assert not writable & set(bind.source.parents)
        ours = [p for p in bind.source.parents if home.root in (p, *p.parents)]
        assert all(p.stat().st_uid == os.getuid() and not _mode(p) & 0o022 for p in ours)


def test_no_mount_point_lies_where_an_agent_writes(home: Home, tmp_path: Path) -> None:
    """The engine makes what is missing on the way to a mount point, as root: so each one lies in the image or in a
    folder in memory that no process has seen yet, never in what a run of before could write; and each source is there
    before the engine is asked."""
    make_group(home, "kitchen", UID, GID)
    make_run(home, "run1", "kitchen", "00c0ffee", UID, GID)
    (tmp_path / "skills").mkdir()
    own = binds(home, Group(1, "kitchen", "k"), "kitchen", "run1", "00c0ffee", tmp_path / "skills")
    body = create_body(Spec("run1", "kitchen", "image", UID, GID, own), install_id="x")["HostConfig"]
    targets = [Path(mount["Target"]) for mount in body["Mounts"]]
    writable = {Path(mount["Target"]) for mount in body["Mounts"] if not mount["ReadOnly"]}
    fresh = {Path(path) for path in body["Tmpfs"]}
    assert len(writable) == 3
    for target in (*targets, *fresh):
        assert not writable & set(target.parents)
    assert {t for t in targets if fresh & set(t.parents)} == {Path("/home/agent/.claude/projects")}
    assert all(Path(mount["Source"]).exists() for mount in body["Mounts"])


def test_only_what_an_agent_may_change_is_writable(home: Home) -> None:
    """The table of the mounts."""
    made = binds(home, Group(1, "kitchen", "k"), "kitchen", "run1", "00c0ffee", Path("/shipped"))
    assert {b.target: b.read_write for b in made} == {
        "/workspace/group": True,
        "/workspace/global": False,
        "/workspace/media": False,
        "/workspace/conversations": False,
        "/run/nanoclaw/inbox": False,
        "/run/nanoclaw/out.ndjson": True,
        "/run/nanoclaw/sockets": False,
        "/home/agent/.claude/projects": True,
        "/opt/agent/plugins/nanoclaw/skills": False,
        "/opt/agent/plugins/home/skills": False,
    }


def test_room_is_counted_over_all_that_the_agent_may_write(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files and its sessions together; and some of the disk is always left to the store."""
    make_group(home, "kitchen", UID, GID)
    make_run(home, "run1", "kitchen", "00c0ffee", UID, GID)
    monkeypatch.setattr(groups, "QUOTA", 1 << 20)
    check_room(home, "kitchen", "kitchen")
    for heap in (home.group_dir("kitchen") / "heap", home.state_dir("kitchen") / "projects" / "heap"):
        heap.write_bytes(b"x" * (700 << 10))
    with pytest.raises(SandboxError, match="delete what is not needed") as e:
        check_room(home, "kitchen", "kitchen")
    assert e.value.cause is Cause.DISK
    check_room(home, "pantry", "pantry")
    monkeypatch.setattr(groups, "FREE_FLOOR", 1 << 62)
    with pytest.raises(SandboxError, match="free some room"):
        check_room(home, "pantry", "pantry")


def test_two_homes_do_not_share_a_folder_of_sockets(tmp_path: Path) -> None:
    """Each host removes the sockets that its rows do not know; the second is refused, and can take none away."""
    first = open_home(tmp_path / "h", tmp_path / "r")
    first.db.touch()
    first.sockets("0a1b2c3d").mkdir()
    for taken in (first.run_dir, first.root / "run"):
        with pytest.raises(HomeError, match="is of another home"):
            open_home(tmp_path / "h2", taken)
    second = Home(tmp_path / "h2", tmp_path / "r")
    (second.root / "runs").mkdir(exist_ok=True)
    (second.root / "state").mkdir(exist_ok=True)
    groups.remove_other_runs(second, ())
    assert first.sockets("0a1b2c3d").is_dir()
    first.root.rename(tmp_path / "moved")  # the same one, elsewhere
    moved = open_home(tmp_path / "moved", tmp_path / "r")
    assert groups.other_home(moved) == ""
    groups.remove_other_runs(moved, ())
    assert not moved.sockets("0a1b2c3d").exists()
