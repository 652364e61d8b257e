"""What the owner has set: settings, time zone, clock, and the folders of the machine."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import nanoclaw
from nanoclaw.config import SETTINGS_FILE
from nanoclaw.config.reading import Source, faults, misspelt, read_text
from nanoclaw.control.mounts import listed
from nanoclaw.errors import ConfigError
from nanoclaw.models import Group, Mount
from nanoclaw.mounts import Place, allowlist
from nanoclaw.mounts.judge import judge
from nanoclaw.ops.doctor.scene import Scene, fail, ok, q, warn
from nanoclaw.ops.findings import Finding
from nanoclaw.sandbox.engine import address_of
from nanoclaw.store import condition, health

_NAMED = 10
_DAY = 86_400  # seconds
_LOCALTIME = Path("/etc/localtime")
_IN_FORCE = "in force"  # as the living host says it


def look_settings(scene: Scene) -> list[Finding]:
    """nanoclaw.toml and the environment."""
    path = scene.home.root / SETTINGS_FILE
    try:
        wrong = [fault.public for fault in faults(path, read_text(path), scene.home.root, scene.environ)]
    except ConfigError as e:
        wrong = [e.public]
    found = [fail("settings", said, "nanoclaw config edit") for said in wrong[:_NAMED]]
    found += [warn("settings", str(fault), "nanoclaw config show") for fault in misspelt(scene.environ)]
    state = str(scene.host.status.get("settings", _IN_FORCE))
    if not wrong and state != _IN_FORCE:
        mend = "nanoclaw stop && nanoclaw run" if state.startswith("restart") else "nanoclaw config check"
        found.append(warn("settings", f"of the host that runs: {state}", mend))
    by_environment = [key for key, source in scene.sources.items() if source is Source.ENVIRONMENT]
    more = f"; the environment sets {', '.join(sorted(by_environment))}" if by_environment else ""
    return found or [ok("settings", f"understood{more}")]


def look_zone(scene: Scene) -> list[Finding]:
    """Is it the machine's, where nobody has chosen one?"""
    if not scene.settled:
        return []
    zone, at = scene.config.zone, datetime.fromtimestamp(scene.now / 1000, UTC)
    theirs = at.astimezone(ZoneInfo(zone)).utcoffset()
    machines = at.astimezone().utcoffset()
    if theirs != machines and scene.sources.get("zone") is Source.DEFAULT:
        said = f"the assistant keeps {zone}, and this machine's clock another time: tasks come at other hours"
        return [warn("zone", said, f"nanoclaw config set zone {_machines(scene) or 'Europe/Berlin'}")]
    return [ok("zone", zone)]


def _machines(scene: Scene) -> str:
    """The name of this machine's time zone, "" where nobody says it."""
    name = scene.environ.get("TZ") or str(_LOCALTIME.resolve()).partition("/zoneinfo/")[2]
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ""
    return name


def look_clock(scene: Scene) -> list[Finding]:
    """It cannot be older than this program."""
    made = Path(nanoclaw.__file__).stat().st_mtime
    if scene.now / 1000 < made - _DAY:
        at = datetime.fromtimestamp(scene.now / 1000, UTC)
        said = f"the clock says {at:%Y-%m-%d}, which is before this program was installed: TLS and WhatsApp will fail"
        return [fail("clock", said, "timedatectl set-ntp true")]
    return []


def look_mounts(scene: Scene) -> list[Finding]:
    """mounts.toml, the folders that it allows, and those that were granted: judged as at a start."""
    address = address_of(scene.environ, scene.config.engine)
    place = allowlist.place(scene.home.root, scene.home.run_dir, address)
    fits = health.fits(scene.home.db)
    groups = condition.peek(scene.home.db, listed) if fits else []
    if not (scene.home.root / allowlist.FILE).exists() and not groups:
        return [ok("mounts", "no folder of the machine can be granted (there is no mounts.toml)")]
    if isinstance(place.allowlist, str):
        return [fail("mounts", place.allowlist, "nanoclaw mounts --help")]
    found = [
        warn("mounts", f"{root.path}, which mounts.toml allows, is no folder", f"ls -ld {q(root.path)}")
        for root in place.roots
        if not Path(root.path).is_dir()
    ]
    found += [said for group in groups for mount in group.mounts for said in _granted(place, group, mount)]
    return found or [ok("mounts", f"{sum(len(g.mounts) for g in groups)} folder(s) granted, and all can be given")]


def _granted(place: Place, group: Group, mount: Mount) -> list[Finding]:
    verdict = judge(place, mount.source, read_write=mount.read_write, main=group.is_main)
    how = f"nanoclaw mounts check {q(mount.source)} --group {group.folder}{' --write' if mount.read_write else ''}"
    say = partial(warn, "mounts", mend=how)
    if verdict.refusal:
        return [say(f"{group.folder} goes without {mount.target}: {verdict.refusal}")]
    if str(verdict.source) != mount.source:
        return [say(f"{group.folder} goes without {mount.target}: it leads elsewhere now")]
    if mount.read_write and not verdict.read_write:
        return [say(f"{group.folder} only reads {mount.target}: {verdict.rules[-1].words}")]
    return []
