"""The host in a tree that an agent wrote: what is honest passes, what is hostile is refused by name."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoclaw import safefs
from nanoclaw.errors import UnsafePath


@pytest.fixture(autouse=True, params=[True, False], ids=["openat2", "by component"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds in both ways; a kernel without openat2 has the second alone."""
    if request.param and not safefs.AT_ONCE:
        pytest.skip("this kernel does not know openat2")
    monkeypatch.setattr(safefs, "AT_ONCE", request.param)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of an agent, beside a file of the host's that nothing may reach."""
    (tmp_path / "secret").write_text("the host's")
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "sub/note.md").write_text("hello")
    return root


def test_an_honest_file_is_read_and_written(tree: Path) -> None:
    """What is written is what is read, in a folder of its own too."""
    safefs.write_file(tree, "sub/new.md", b"text")
    assert safefs.read_file(tree, "sub/new.md", 4) == b"text"
    assert safefs.read_file(tree, "sub/note.md", 100) == b"hello"
    assert (tree / "sub/new.md").stat().st_mode & 0o777 == 0o644
    assert sorted(p.name for p in (tree / "sub").iterdir()) == ["new.md", "note.md"]


def test_a_path_that_is_longer_than_the_kernel_takes_is_walked(tree: Path) -> None:
    """30 folders of 150 letters each."""
    parts = ["n" * 150] * 30
    folder = os.open(tree, os.O_RDONLY)
    for part in parts:
        os.mkdir(part, dir_fd=folder)
        inner = os.open(part, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    file = os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
    os.write(file, b"deep")
    os.close(file)
    os.close(folder)
    assert safefs.read_file(tree, "/".join([*parts, "x"]), 10) == b"deep"
    safefs.remove_tree(tree)  # what clears up afterwards cannot


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "link to a file": lambda p: p.symlink_to(p.parent.parent / "secret"),
    "link to nothing": lambda p: p.symlink_to("/nowhere"),
    "link to itself": lambda p: p.symlink_to(p),
    "link to a device": lambda p: p.symlink_to("/dev/zero"),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "socket": _socket,
    "too large": lambda p: p.write_bytes(b"x" * 101),
    "sparse and huge": lambda p: (p.touch(), os.truncate(p, 1 << 40)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_plain_small_file_is_refused(tree: Path, what: str) -> None:
    """Links, pipes, folders, sockets and large files: UnsafePath at once, never a wait."""
    HOSTILE[what](tree / "CLAUDE.md")
    with pytest.raises(UnsafePath, match=r"CLAUDE\.md"):
        safefs.read_file(tree, "CLAUDE.md", 100)


def test_a_walk_hands_out_plain_files_and_folders_alone(tree: Path) -> None:
    """Each folder before what is in it; everything else by name, with the reason."""
    for n, plant in enumerate(HOSTILE.values()):
        plant(tree / f"sub/{n}")
    found = list(safefs.entries(tree))
    names = [f.rel for f in found]
    assert names.index("sub") < names.index("sub/note.md")
    assert {f.rel for f in found if f.fault} == {f"sub/{n}" for n in (0, 1, 2, 3, 4, 6)}
    assert {f.rel: f.file.read() for f in safefs.entries(tree) if f.file and f.rel.endswith("md")} == {
        "sub/note.md": b"hello"
    }
    assert all(f.file.closed for f in found if f.file)


def test_a_walk_has_an_end(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many entries: the rest is left out, and that is said."""
    monkeypatch.setattr(safefs, "MAX_ENTRIES", 50)
    for n in range(200):
        (tree / f"{n}").touch()
    found = list(safefs.entries(tree))
    assert len([f for f in found if not f.fault]) == 50
    assert 1 <= len([f for f in found if f.fault]) <= 2


def test_a_walk_follows_no_link_to_its_root(tree: Path) -> None:
    """The root itself may have been swapped."""
    (tree / "link").symlink_to(tree / "sub")
    with pytest.raises(UnsafePath):
        list(safefs.entries(tree / "link"))


NOT_PLAIN = ["", ".", "..", "../secret", "/etc/passwd", "sub/../../secret", "a//b", "a\0b", "/".join("d" * 65)]
NOT_PLAIN.append("\ud800")


@pytest.mark.parametrize("rel", NOT_PLAIN)
def test_only_plain_relative_paths_are_taken(tree: Path, rel: str) -> None:
    """Nothing that leaves the root, or that is spelled in two ways."""
    with pytest.raises(UnsafePath):
        safefs.read_file(tree, rel, 100)
    with pytest.raises(UnsafePath):
        safefs.write_file(tree, rel, b"")


def test_a_linked_folder_on_the_way_is_refused(tree: Path) -> None:
    """A link among the folders is as bad as one at the end, for reading and for writing."""
    (tree / "way").symlink_to(tree.parent)
    with pytest.raises(UnsafePath, match="way/secret"):
        safefs.read_file(tree, "way/secret", 100)
    with pytest.raises(UnsafePath, match="way/planted"):
        safefs.write_file(tree, "way/planted", b"x")
    assert not (tree.parent / "planted").exists()


def test_a_root_that_is_a_link_is_refused(tree: Path) -> None:
    """The root itself is opened without following."""
    (tree.parent / "alias").symlink_to(tree)
    for act in (safefs.tree_size, safefs.remove_tree):
        with pytest.raises(UnsafePath):
            act(tree.parent / "alias")
    assert (tree / "sub/note.md").exists()


def test_what_is_missing_is_said_as_missing(tree: Path) -> None:
    """A missing file is no attack: FileNotFoundError, so that the caller can go on."""
    with pytest.raises(FileNotFoundError):
        safefs.read_file(tree, "none.md", 100)
    safefs.remove_tree(tree / "none")


def test_writing_replaces_a_link_and_not_its_target(tree: Path) -> None:
    """The link goes, what it showed to stays as it was, and no part file is left."""
    (tree / "CLAUDE.md").symlink_to(tree.parent / "secret")
    safefs.write_file(tree, "CLAUDE.md", b"ours")
    assert (tree.parent / "secret").read_text() == "the host's"
    assert not (tree / "CLAUDE.md").is_symlink()


def test_writing_over_a_folder_is_refused_and_leaves_nothing(tree: Path) -> None:
    """A folder in the file's place is refused, and the part file is taken away."""
    with pytest.raises(UnsafePath):
        safefs.write_file(tree, "sub", b"x")
    assert [p.name for p in tree.iterdir()] == ["sub"]


def test_the_size_counts_blocks_and_follows_no_link(tree: Path) -> None:
    """Blocks on the disk: a sparse file costs nothing, a link to elsewhere neither."""
    before = safefs.tree_size(tree)
    (tree / "out").symlink_to("/usr")
    (tree / "sub/data").write_bytes(b"x" * 1_000_000)
    (tree / "sub/hole").touch()
    os.truncate(tree / "sub/hole", 1 << 40)
    assert 1_000_000 <= safefs.tree_size(tree) - before <= 1_100_000


def test_a_wide_tree_needs_no_handle_per_folder(tree: Path) -> None:
    """Two thousand folders side by side are counted and removed (1,024 handles are usual)."""
    for n in range(2000):
        (tree / f"d{n}").mkdir()
    safefs.tree_size(tree)
    safefs.remove_tree(tree)
    assert not tree.exists()


def _deep(root: Path, levels: int) -> None:
    """Deeper than a path may be long, so made step by step."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_a_deep_tree_is_refused_for_counting_and_can_be_removed(tree: Path) -> None:
    """Three thousand levels: no recursion limit, no path limit."""
    _deep(tree, 3000)
    with pytest.raises(UnsafePath, match="too many"):
        safefs.tree_size(tree)
    safefs.remove_tree(tree)
    assert not tree.exists()


def test_a_slow_walk_ends(tree: Path) -> None:
    """A tree that takes longer than the limit is refused."""
    times = iter([0.0, 1.0, 100.0, 100.0])
    with pytest.raises(UnsafePath, match="too many"):
        safefs.tree_size(tree, clock=lambda: next(times))


def test_removing_follows_no_link_and_stops_at_no_mode(tree: Path) -> None:
    """Links are removed, not followed; folders without any permission go too."""
    (tree / "out").symlink_to(tree.parent)
    (tree / "locked/below").mkdir(parents=True)
    (tree / "locked/below/file").touch()
    os.mkfifo(tree / "locked/pipe")
    (tree / "locked/below").chmod(0)
    (tree / "locked").chmod(0)
    safefs.remove_tree(tree)
    assert [p.name for p in tree.parent.iterdir()] == ["secret"]


def test_adding_to_a_file_keeps_what_is_there(tree: Path) -> None:
    """A new one is made; a full one takes no more."""
    safefs.append_file(tree, "a.md", b"one\n", 10)
    safefs.append_file(tree, "a.md", b"two\n", 10)
    assert (tree / "a.md").read_bytes() == b"one\ntwo\n"
    assert (tree / "a.md").stat().st_mode & 0o777 == 0o644
    with pytest.raises(UnsafePath, match="larger than 10"):
        safefs.append_file(tree, "a.md", b"more\n", 10)
    assert (tree / "a.md").read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_but_a_file_is_added_to(tree: Path, what: str) -> None:
    """Links are not followed, a pipe holds nobody, and what is full stays as it is."""
    HOSTILE[what](tree / "a.md")
    with pytest.raises(UnsafePath):
        safefs.append_file(tree, "a.md", b"ours", 100)


def test_a_folder_is_made_once_and_never_through_a_link(tree: Path) -> None:
    """What stands in its place is refused, and so is a linked folder above it."""
    safefs.make_folder(tree, "new")
    (tree / "new/file").touch()
    safefs.make_folder(tree, "new")
    assert (tree / "new/file").exists()
    (tree / "link").symlink_to(tree / "new")
    (tree / "plain").touch()
    for rel in ("link", "plain", "link/below"):
        with pytest.raises(UnsafePath):
            safefs.make_folder(tree, rel)
    assert not (tree / "new/below").exists()


def test_whatever_stands_there_is_set_aside(tree: Path) -> None:
    """A link as the link that it is, a folder with all that it holds."""
    (tree / "target").write_text("theirs")
    (tree / "a").symlink_to(tree / "target")
    safefs.set_aside(tree, "a", "b")
    assert (tree / "b").is_symlink()
    assert (tree / "target").read_text() == "theirs"
    (tree / "full/of").mkdir(parents=True)
    safefs.set_aside(tree, "full", "c")
    assert (tree / "c/of").is_dir()


@pytest.mark.parametrize("what", HOSTILE)
def test_what_would_be_opened_is_looked_at_first(tree: Path, what: str) -> None:
    """A plain file of the right size passes, all else is refused, nothing is opened; what is missing is missing."""
    safefs.check_file(tree, "sub/note.md", 100)
    with pytest.raises(FileNotFoundError):
        safefs.check_file(tree, "sub/none.md", 100)
    HOSTILE[what](tree / "sub/x")
    with pytest.raises(UnsafePath, match="sub/x"):
        safefs.check_file(tree, "sub/x", 100)


def test_a_folder_that_is_swapped_while_it_is_looked_at(tree: Path) -> None:
    """Now a folder, now a link to one of the host's: what is read is the agent's own, or nothing."""
    (tree.parent / "host").mkdir()
    (tree.parent / "host/note.md").write_text("the host's")
    (tree / "way").mkdir()
    (tree / "way/note.md").write_text("hello")
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            (tree / "way").rename(tree / "aside")
            (tree / "way").symlink_to(tree.parent / "host")
            (tree / "way").unlink()
            (tree / "aside").rename(tree / "way")

    thread = threading.Thread(target=swap)
    thread.start()
    read = refused = 0
    try:
        while (read + refused < 500 or not refused) and read < 100_000:
            try:
                assert safefs.read_file(tree, "way/note.md", 100) == b"hello"
                read += 1
            except (UnsafePath, FileNotFoundError):
                refused += 1
    finally:
        over.set()
        thread.join()


def test_an_error_shows_no_more_of_a_path_than_people_read(tree: Path) -> None:
    """Who asks for a path of a megabyte gets no megabyte back."""
    for rel in ("x" * 1_000_000, "x/" * 500_000 + "x", "../" + "x" * 1_000_000):
        with pytest.raises(UnsafePath) as e:
            safefs.read_file(tree, rel, 100)
        assert len(str(e.value)) < 1000
