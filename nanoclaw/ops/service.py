"""Runs the host without a terminal: as a unit of systemd, or where there is none in a session of its own."""

import getpass
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nanoclaw.errors import NanoClawError

# What the host is told by its environment, beside its home. No key: the unit's file is no place for one.
CARRIED = ("DOCKER_HOST", "SSL_CERT_FILE", "PIP_CERT", "NANOCLAW_BASE_IMAGE", "NANOCLAW_RUN_DIR")
FIXED = {"NEONIZE_BOT_TAG": "off"}  # the WhatsApp library reads it as the process begins
KEYS = ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN")
BACKGROUND_LOG = "up.log"  # in home/logs: what it said before it was ready
_TAIL = 5  # lines of a start that failed
_LOOK = 0.1  # seconds between two looks
_UNIT = """\
# Written by `nanoclaw service install`; `nanoclaw service uninstall` removes it.
[Unit]
Description={description}
{after}# Whatever is missing may be back later, and after crashes the host itself waits before it connects.
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
{environment}
# `nanoclaw stop` ends it in order, and then it stays ended.
Restart=on-failure
RestartSec=10
KillMode=mixed
TimeoutStopSec=90
UMask=0077
# Nothing here may make a mount namespace of its own: the engine and the host must see the same folders.
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes

[Install]
WantedBy={wanted_by}
"""


class State(StrEnum):
    """What systemd says of the unit."""

    ABSENT = "absent"  # no unit is installed
    STOPPED = "stopped"  # begins with the machine, and does not run now
    RUNNING = "running"
    FAILED = "failed"


@dataclass(frozen=True)
class Unit:
    """The unit of one home. `command` is systemctl, for the user's manager or the system's."""

    name: str
    folder: Path
    command: tuple[str, ...]
    system: bool

    @property
    def path(self) -> Path:
        """The unit's file."""
        return self.folder / self.name

    def ask(self, *words: str) -> tuple[int, str]:
        """systemctl's exit code and what it said."""
        return _run([*self.command, *words])

    def do(self, *words: str) -> None:
        """systemctl must succeed. Raises NanoClawError."""
        code, said = self.ask(*words)
        if code:
            raise NanoClawError(f"{' '.join([*self.command, *words])}: {said or f'exit code {code}'}")


def unit_of(home: Path, environ: Mapping[str, str], euid: int) -> Unit | None:
    """The unit of this home; None where no systemd answers: no such machine, or no session of the user's."""
    unit = unit_at(home, environ, euid)
    return unit if shutil.which("systemctl") and unit.ask("show-environment")[0] == 0 else None


def unit_at(home: Path, environ: Mapping[str, str], euid: int) -> Unit:
    """Where the unit of this home has its file, also where no systemd answers (in cron, after su)."""
    default = home == Path.home() / ".nanoclaw"
    name = "nanoclaw.service" if default else f"nanoclaw-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}.service"
    if euid == 0:
        return Unit(name, Path("/etc/systemd/system"), ("systemctl",), True)
    config = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Unit(name, config / "systemd" / "user", ("systemctl", "--user"), False)


# --- what it says ------------------------------------------------------------------------------


def program() -> list[str]:
    """The command that runs the host, whatever the folder and the PATH."""
    return [sys.executable, "-m", "nanoclaw", "run"]


def environment(home: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What the host is to find in its environment."""
    return {"NANOCLAW_HOME": str(home), **FIXED} | {key: environ[key] for key in CARRIED if environ.get(key)}


def left_behind(environ: Mapping[str, str]) -> list[str]:
    """Names of what counts in this shell and would not count for the unit."""
    ours = {"NANOCLAW_HOME", *CARRIED}
    return sorted(k for k in environ if environ[k] and (k.startswith("NANOCLAW_") or k in KEYS) and k not in ours)


def text_of(home: Path, command: Sequence[str], environ: Mapping[str, str], *, system: bool) -> str:
    """The unit's file. Raises NanoClawError for a path that none can name."""
    if "$" in command[0]:
        raise NanoClawError(f"systemd cannot start {command[0]}: move NanoClaw to a path without $")
    after = "After=network-online.target docker.service\nWants=network-online.target\n" if system else ""
    return _UNIT.format(
        description=f"NanoClaw ({_plain(str(home))})",
        after=after,
        command=" ".join(quoted(word, dollars=n > 0) for n, word in enumerate(command)),
        environment="\n".join(f"Environment={quoted(f'{k}={v}')}" for k, v in sorted(environ.items())),
        wanted_by="multi-user.target" if system else "default.target",
    )


def quoted(word: str, *, dollars: bool = False) -> str:
    """By systemd's rules; `dollars` where it would put variables in. Raises NanoClawError."""
    if any(ord(c) < 32 or ord(c) == 127 for c in word):
        raise NanoClawError(f"systemd takes no control characters: {word!r}")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped.replace("$", "$$") if dollars else escaped}"'


def _plain(text: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise NanoClawError(f"systemd takes no control characters: {text!r}")
    return text.replace("%", "%%").replace("\\", "\\\\")


# --- what it does ------------------------------------------------------------------------------


def install(unit: Unit, text: str) -> bool:
    """Write it and let it begin with the machine; whether anything is new. It is not started. Raises NanoClawError."""
    new = not unit.path.is_file() or unit.path.read_text("utf-8") != text
    if new:
        try:
            unit.folder.mkdir(parents=True, exist_ok=True)
            unit.path.write_text(text, "utf-8")
            unit.path.chmod(0o644)
        except OSError as e:
            raise NanoClawError(f"{unit.path} cannot be written: {e.strerror}") from None
        unit.do("daemon-reload")
    unit.do("enable", unit.name)
    return new


def uninstall(unit: Unit) -> bool:
    """Stop it, and remove it; whether there was one. Raises NanoClawError."""
    if not unit.path.exists():
        return False
    unit.do("disable", "--now", unit.name)
    unit.path.unlink(missing_ok=True)
    unit.do("daemon-reload")
    unit.ask("reset-failed", unit.name)
    return True


def delete(unit: Unit) -> bool:
    """Remove its files where no systemd answers, so that it does not begin again; whether there were any.

    Raises NanoClawError.
    """
    link = unit.folder / f"{'multi-user' if unit.system else 'default'}.target.wants" / unit.name
    there = [path for path in (link, unit.path) if os.path.lexists(path)]
    for path in there:
        try:
            path.unlink()
        except OSError as e:
            names = " and ".join(map(str, there))
            raise NanoClawError(f"{path} cannot be removed ({e.strerror}): delete {names}") from None
    return bool(there)


def state(unit: Unit) -> State:
    """As of now."""
    if not unit.path.exists():
        return State.ABSENT
    match unit.ask("is-active", unit.name)[1].strip():
        case "active" | "activating" | "reloading" | "deactivating":
            return State.RUNNING
        case "failed":
            return State.FAILED
    return State.STOPPED


def lingers() -> bool:
    """Whether the user's services live on when the user logs out, and begin with the machine."""
    code, said = _run(["loginctl", "show-user", getpass.getuser(), "--property=Linger", "--value"])
    return code == 0 and said.strip() == "yes"


def start_unit(unit: Unit, ready: Callable[[], bool], limit: float) -> None:
    """Start it and wait until it is ready. Raises NanoClawError with its last words."""
    unit.do("start", unit.name)
    if not _wait(ready, lambda: state(unit) is State.FAILED or _restarts(unit) > 0, limit):
        log = ["journalctl", *([] if unit.system else ["--user"]), "-u", unit.name, "-n", str(_TAIL), "-o", "cat"]
        said = _last(_run(log)[1])
        unit.ask("stop", unit.name)  # else it would be tried again for ever
        raise NanoClawError(f"it did not come up: {said} (more: {' '.join(log[:-4])})")


def _restarts(unit: Unit) -> int:
    told = unit.ask("show", "--property=NRestarts", "--value", unit.name)[1].strip()
    return int(told) if told.isdigit() else 0


def start_background(
    home: Path, command: Sequence[str], environ: Mapping[str, str], ready: Callable[[], bool], limit: float
) -> int:
    """Start it in a session of its own, which outlives this one, and wait until it is ready; its process id.

    Raises NanoClawError with its last words.
    """
    log = home / "logs" / BACKGROUND_LOG
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise NanoClawError(f"{log} cannot be written: {e.strerror}") from None
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(environ), cwd="/",
            start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(out)
    is_ready = _wait(ready, lambda: child.poll() is not None, limit)
    code = child.poll()
    if code is None:
        child.returncode = 0  # it outlives us, and nobody waits for it
    if is_ready:
        return child.pid
    said = _last(log.read_text("utf-8", "replace"))
    if code is None:
        raise NanoClawError(f"it is not ready after {limit:.0f} s; what it said is in {log}: {said}")
    raise NanoClawError(f"it ended: {said or f'exit code {code}'}")


def _wait(ready: Callable[[], bool], over: Callable[[], bool], limit: float) -> bool:
    end = time.monotonic() + limit
    while not ready():
        if over() or time.monotonic() > end:
            return ready()
        time.sleep(_LOOK)
    return True


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("nanoclaw: ")]
    return " / ".join((told or lines)[-_TAIL:] if not told else told[-1:]).removeprefix("nanoclaw: ")[:500]


def _run(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        return 1, str(e)
    return done.returncode, (done.stdout or done.stderr).strip()
