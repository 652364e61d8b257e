"""The disk under the home: is there room, does it keep the promises that the database stands on."""

import os
import re
from pathlib import Path

from nanoclaw.groups import FREE_FLOOR
from nanoclaw.ops.ballast import Ballast
from nanoclaw.ops.doctor.scene import FIX, Scene, fail, ok, q, warn
from nanoclaw.ops.findings import Finding

_TIGHT = 3 * FREE_FLOOR
_FEW, _NONE = 20_000, 1_000  # files that can still be made
# There flock and shared memory hold between machines not at all, or not always.
_REMOTE = re.compile(r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|glusterfs|lustre|vboxsf|fuse\.?(?!blk).*")
_TABLE = Path("/proc/self/mountinfo")


def look_room(scene: Scene) -> list[Finding]:
    """Bytes and files that are free."""
    root = scene.home.root
    disk = os.statvfs(root)
    free = disk.f_bavail * disk.f_frsize
    mend = f"du -xh -d 2 {q(root)} | sort -h | tail"
    if free < FREE_FLOOR:
        found = [fail("disk", f"{free >> 20} MiB are free, and below {FREE_FLOOR >> 20} no container starts", mend)]
    elif free < _TIGHT:
        found = [warn("disk", f"{free >> 20} MiB are free; below {FREE_FLOOR >> 20} no container starts", mend)]
    else:
        found = [ok("disk", f"{free >> 30} GiB are free")]
    if disk.f_files and disk.f_favail < _FEW:  # some filesystems have no such limit, and say 0
        grade = fail if disk.f_favail < _NONE else warn
        found.append(grade("disk", f"only {disk.f_favail} more files can be made (inodes)", f"df -i {q(root)}"))
    return found


def look_filesystem(scene: Scene) -> list[Finding]:
    """What kind of disk it is."""
    kind = filesystem(scene.home.root, _TABLE.read_text("utf-8", "surrogateescape"))
    if is_remote(kind):
        said = f"the home lies on {kind}, where locks and the database's journal may fail and rows be lost"
        return [warn("filesystem", said, "NANOCLAW_HOME=/a/folder/on/a/local/disk")]
    return [ok("filesystem", f"the home lies on {kind or 'a disk of an unknown kind'}")]


def filesystem(path: Path, table: str) -> str:
    """The kind of filesystem that `path` lies on, by the kernel's list of mounts; "" for none."""
    best, kind = -1, ""
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= best:  # of two at one point, the later is seen
            best, kind = len(point.parts), after.split(" ")[0]
    return kind


def is_remote(kind: str) -> bool:
    """Whether it is another machine's disk, or one that a program plays."""
    return bool(_REMOTE.fullmatch(kind))


def look_ballast(scene: Scene) -> list[Finding]:
    """The room that is held for the database."""
    if Ballast(scene.home.root).there:
        return [ok("ballast", "16 MiB are held, so that rows can be stored when the disk is full")]
    if not scene.home.db.exists():
        return []  # the first start makes it
    return [warn("ballast", "no room is held for rows that must be stored when the disk is full", FIX)]
