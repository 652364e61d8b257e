"""The host in a container: which one it is, and what the engine calls our paths."""

from pathlib import Path

import pytest

from nanoclaw.errors import SandboxError
from nanoclaw.sandbox import Bind, Spec
from nanoclaw.sandbox.hostpaths import HostPaths, moved, of_inspect, own_container, unseen

ID = "0123456789abcdef" * 4
DOCKER = f"1 2 254:0 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/sda rw"
PODMAN = f"1 2 0:53 /containers/overlay-containers/{ID}/userdata/resolv.conf /etc/resolv.conf rw - tmpfs tmpfs rw"
# A machine whose disk holds containers: that is no word on where we are ourselves.
MACHINE = f"1 2 254:0 /containers/{ID}/hostname /mnt/backup rw - ext4 /dev/sda rw\n27 1 254:0 / / rw - ext4 /dev/sda rw"

INSPECT = {
    "Mounts": [
        {"Type": "bind", "Source": "/srv/nanoclaw", "Destination": "/data"},
        {"Type": "volume", "Source": "/var/lib/docker/volumes/run/_data", "Destination": "/data/run"},
        {"Type": "tmpfs", "Source": "", "Destination": "/data/scratch"},
        {"Type": "bind", "Source": "/home/ann/code", "Destination": "/code"},
    ],
    "HostConfig": {"Tmpfs": {"/tmp": ""}},
}


@pytest.mark.parametrize(
    ("mountinfo", "cgroup", "expected"),
    [
        (DOCKER, "", ID),
        (PODMAN, "", ID),
        (MACHINE, "", ""),
        ("", "", ""),
        ("garbage\n\n1 2 3", "", ""),
        ("", f"12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}", ID),
        ("", f"0::/system.slice/docker-{ID}.scope", ID),
        ("", "0::/\n1:name=systemd:/user.slice/session-1.scope", ""),
    ],
)
def test_which_container_we_are_in(mountinfo: str, cgroup: str, expected: str) -> None:
    """By files that engines give to each of theirs, else by the control group; on a machine by none."""
    assert own_container(mountinfo, cgroup) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/groups/main", "/srv/nanoclaw/groups/main"),
        ("/data", "/srv/nanoclaw"),
        ("/data/run/00c0ffee", "/var/lib/docker/volumes/run/_data/00c0ffee"),
        ("/code/app", "/home/ann/code/app"),
    ],
)
def test_our_paths_in_the_engine_s_words(path: str, expected: str) -> None:
    """The deepest mount above a path counts, be it a folder or a volume."""
    assert of_inspect(ID, INSPECT).translate(Path(path)) == Path(expected)


@pytest.mark.parametrize("path", ["/etc/x", "/database", "/data/scratch/x", "/tmp/x", "/"])
def test_what_the_engine_cannot_see_names_both_sides(path: str) -> None:
    """A path of the container alone, or of its memory: the error says which container, and what would help."""
    with pytest.raises(SandboxError) as e:
        of_inspect(ID, INSPECT).translate(Path(path))
    assert path in str(e.value)
    assert ID[:12] in str(e.value)
    assert f":{path}" in str(e.value)


def _spec(*sources: Path, inode: tuple[int, int] | None = None) -> Spec:
    return Spec("r", "l", "i", 1, 1, tuple(Bind(s, f"/t{n}", inode=inode) for n, s in enumerate(sources)))


def test_on_the_machine_itself_nothing_is_translated() -> None:
    """The usual case."""
    spec = _spec(Path("/etc"), Path("/srv"))
    assert HostPaths().spec(spec) == spec


def test_an_engine_elsewhere_is_told_apart(tmp_path: Path) -> None:
    """It refuses a source that is here: both names are said; other refusals stay as they are."""
    spec = _spec(Path("/data/a"))
    asked = of_inspect(ID, INSPECT).spec(spec)
    told = unseen('invalid mount config for type "bind": bind source path does not exist: /srv/nanoclaw/a', spec, asked)
    assert "/data/a of this machine (it looks for /srv/nanoclaw/a)" in str(told)
    assert unseen("bind source path does not exist: /other", spec, asked) is None
    assert unseen("no such image", spec, asked) is None


def test_another_folder_in_the_place_of_one_is_noticed(tmp_path: Path) -> None:
    """A link to it, a new one of the same name, or none: each is not what was judged."""
    folder, other = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    other.mkdir()
    found = folder.stat()
    spec = _spec(folder, inode=(found.st_dev, found.st_ino))
    assert moved(spec) == []
    assert moved(_spec(tmp_path / "never")) == []  # what nobody judged is not looked at
    folder.rename(tmp_path / "c")
    assert moved(spec) == [str(folder)]
    folder.symlink_to(tmp_path / "c")
    assert moved(spec) == [str(folder)]
    folder.unlink()
    other.rename(folder)
    assert moved(spec) == [str(folder)]
