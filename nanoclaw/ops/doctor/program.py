"""What this program runs on: Python, its packages against the lock, and how many files it may open."""

import re
import resource
import sys
from importlib import metadata
from pathlib import Path

from nanoclaw.ops.doctor.scene import Scene, fail, ok, q, warn
from nanoclaw.ops.findings import Finding
from nanoclaw.sandbox.image import resources

OLDEST = (3, 11)
_FEWEST = 4096  # open files: the WhatsApp library keeps some for ever
_NAMED = 4
_LINE = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)\s*(;)?")
_WHATSAPP = "neonize"


def look_python(scene: Scene) -> list[Finding]:
    """Is it new enough?"""
    said = f"Python {'.'.join(map(str, sys.version_info[:3]))}"
    if sys.version_info < OLDEST:
        return [fail("python", f"{said} is too old", "./nanoclaw.sh setup")]
    return [ok("python", said)]


def look_packages(scene: Scene) -> list[Finding]:
    """Are they those of the lock?"""
    lock = resources() / "requirements" / "host.txt"
    try:
        wanted = locked(lock.read_text("utf-8"))
    except FileNotFoundError:  # installed as a package: whoever did that chose them
        return [ok("packages", f"no lock beside the program; {_WHATSAPP} {installed(_WHATSAPP) or 'is missing'}")]
    mend = f"{q(sys.executable)} -m pip install --require-hashes -r {q(lock)}"
    return compare(wanted, {name: installed(name) for name in wanted}, mend)


def compare(wanted: dict[str, str], have: dict[str, str], mend: str) -> list[Finding]:
    """What differs, the WhatsApp library by itself: WhatsApp refuses old ones."""
    differs = [n for n, version in wanted.items() if have[n] != version]
    found = []
    if _WHATSAPP in differs:
        told = f"{_WHATSAPP} {have[_WHATSAPP] or 'is missing'}, and the lock says {wanted[_WHATSAPP]}"
        found.append(fail("packages", f"{told}: WhatsApp refuses other versions sooner or later", mend))
    if rest := [name for name in differs if name != _WHATSAPP]:
        named = ", ".join(f"{n} {have[n] or 'missing'} (not {wanted[n]})" for n in rest[:_NAMED])
        found.append(warn("packages", f"{len(rest)} are not as locked: {named}", mend))
    return found or [ok("packages", f"{len(wanted)} as locked; {_WHATSAPP} {wanted.get(_WHATSAPP, '-')}")]


def locked(text: str) -> dict[str, str]:
    """Versions by name; those that count only on some machines are left out."""
    lines = [m for line in text.splitlines() if (m := _LINE.match(line))]
    return {m[1]: m[2] for m in lines if not m[3]}


def installed(name: str) -> str:
    """The version of a package, "" where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def look_files(scene: Scene) -> list[Finding]:
    """How many files the host may open; of one that runs, how many it has."""
    if scene.host.pid and (told := _of_process(scene.host.pid)):
        most, used = told
        if used * 5 > most * 4:
            said = f"the host has {used} of at most {most} files open"
            return [fail("open files", said, "nanoclaw stop && nanoclaw run")]
        return [ok("open files", f"the host has {used} of at most {most}")]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _FEWEST:
        return [warn("open files", f"at most {hard} may be open at once", f"ulimit -n {_FEWEST}")]
    return [ok("open files", "enough may be open at once")]


def _of_process(pid: int) -> tuple[int, int] | None:
    """The limit of a process and how many it has; None where it may not be looked at."""
    here = Path(f"/proc/{pid}")
    try:
        limit = re.search(r"^Max open files\s+(\d+)", (here / "limits").read_text("ascii"), re.M)
        return (int(limit[1]), len(list((here / "fd").iterdir()))) if limit else None
    except OSError:
        return None
