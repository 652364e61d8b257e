"""The process that lives in this home, and what lives before it left behind."""

import re
from pathlib import Path

from nanoclaw import __version__
from nanoclaw.channels.control_sock import connect
from nanoclaw.errors import HomeError, NanoClawError, NotRunning
from nanoclaw.groups import Home, check_lengths, other_home
from nanoclaw.ops import crashes
from nanoclaw.ops.doctor.scene import FIX, Host, Scene, fail, in_time, ok, warn, words
from nanoclaw.ops.findings import Finding
from nanoclaw.ops.status import sign_of_life
from nanoclaw.store import Tx, condition, health, runs

RUN = "nanoclaw run"
LOGS = "nanoclaw logs"
_ANSWER = 5.0  # seconds
_STARTING = 1800  # seconds that a start may take until its door is open: the first one builds the agent image
_SOCKETS = re.compile(r"[0-9a-f]{8}")


async def ask_host(home: Home) -> Host:
    """What the host of this home says of itself."""
    pid = sign_of_life(home).pid
    try:
        return await in_time(_ask(home, pid), _ANSWER)
    except NotRunning:
        # It locks the home first and opens its door last, or it stands still.
        return Host(pid, fault="its control.sock is not open", shut=True) if pid else Host()
    except TimeoutError:
        return Host(pid, fault=f"it does not answer within {_ANSWER:.0f} s")
    except (NanoClawError, OSError) as e:
        return Host(pid, fault=words(e))


async def _ask(home: Home, pid: int) -> Host:
    async with await connect(home.control_sock) as client:
        return Host(client.host or pid, await client.call("status"))


def look_host(scene: Scene) -> list[Finding]:
    """Does it answer, and is it of this version?"""
    host = scene.host
    since = (scene.now - crashes.read(scene.home.root).at) // 1000
    if host.shut and 0 <= since < _STARTING:
        said = f"process {host.pid} starts, for {since} s; it may be building the agent image, which takes minutes"
        return [warn("host", said, "nanoclaw status")]
    if host.fault:
        who = f"process {host.pid}" if host.pid else "somebody"
        return [fail("host", f"{who} holds this home, and {host.fault}", f"kill {host.pid}" if host.pid else RUN)]
    if not host.status:
        return [ok("host", f"not running (`{RUN}` starts it)")]
    if (version := str(host.status.get("version"))) != __version__:
        return [warn("host", f"version {version} runs, {__version__} is installed", f"nanoclaw stop && {RUN}")]
    if troubles := [t for t in host.status.get("watch") or [] if isinstance(t, dict)]:
        return [warn("host", str(t.get("said")), str(t.get("mend"))) for t in troubles]
    return [ok("host", f"process {host.pid} answers, since {host.status.get('up_seconds', 0)} s")]


def look_sockets(scene: Scene) -> list[Finding]:
    """Are the paths of the sockets short enough?"""
    try:
        check_lengths(scene.home)
    except HomeError as e:
        where, _, advice = str(e).partition(": ")
        return [fail("sockets", where, advice)]
    if other := other_home(scene.home):
        said = f"{scene.home.run_dir} is of another home, {other}: neither may clear up there"
        return [fail("sockets", said, "nanoclaw config unset run_dir")]
    return [ok("sockets", "their paths are short enough")]


def look_starts(scene: Scene) -> list[Finding]:
    """Did the last lives end in order?"""
    last = crashes.read(scene.home.root)
    count = last.crashes + (last.open and not scene.host.lives)
    wait = crashes.WAITS[min(count, len(crashes.WAITS) - 1)]
    if wait:
        said = f"{count} crashes in a row: a service waits {wait} s before it connects"
        return [warn("starts", said, LOGS)]
    if count and not scene.host.lives:
        return [warn("starts", "the last life did not end in order", LOGS)]
    return [ok("starts", "no crashes in a row")]


def look_leftovers(scene: Scene) -> list[Finding]:
    """What no host will use again. While one lives it looks after that by itself."""
    if scene.host.lives or not scene.home.root.is_dir():
        return []
    left = len(leftovers(scene.home)) if health.fits(scene.home.db) else 0
    found = [warn("leftovers", f"{left} folder(s) of runs that have ended", FIX)] * bool(left)
    if scene.home.control_sock.exists():
        found.append(warn("leftovers", "control.sock of a host that has died", FIX))
    return found or [ok("leftovers", "none")]


def leftovers(home: Home) -> list[str]:
    """Names of folders of runs and sockets that no living run has."""
    kept = kept_names(home)
    there = [path.name for path in _entries(home.root / "runs") if path.is_dir()]
    if not other_home(home):
        there += [path.name for path in _entries(home.run_dir) if _SOCKETS.fullmatch(path.name)]
    return sorted(set(there) - kept)


def kept_names(home: Home) -> set[str]:
    """The folders of runs that the next host may adopt. Raises StoreError: then nothing may be removed."""

    def names(tx: Tx) -> set[str]:
        return {n for row in runs.living(tx) for n in (row.id, row.sockets, home.state_dir(row.lane).name)}

    return condition.peek(home.db, names)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
