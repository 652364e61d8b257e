"""The proof that the wall holds: the container that a group would really get, looked at from inside.

Everything is as in a run of that group: the same spec, mounts, sockets, image and engine; only its session is another,
and in the agent's place the shipped probe runs (`container/agent/probe.py`). Behind the gateway stands not the model's
API but an ear of our own, which also hears what comes out there. No token is used, no row is written.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets as chance
import shlex
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from loguru import logger

from nanoclaw import safefs
from nanoclaw.config import Config, read_credential
from nanoclaw.errors import Cause, NanoClawError, Refused, SandboxError
from nanoclaw.gateway import Level, Reach
from nanoclaw.gateway.hosts import PROVIDERS
from nanoclaw.groups import MAIN, QUOTA, Home, check_room, make_group, make_run, open_home, remove_run, remove_state
from nanoclaw.mailbox import OutboxAbuse, OutboxReader
from nanoclaw.models import Group, RunRow, RunState
from nanoclaw.mounts.allowlist import place
from nanoclaw.ops.ear import HELP, Ear, gateway
from nanoclaw.ops.findings import Finding, Grade
from nanoclaw.prompts import plain
from nanoclaw.run import extras, outfit
from nanoclaw.sandbox import PROBES, Exit, Spec
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.sandbox.engine import address_of, connect, explained
from nanoclaw.sandbox.image import build_hash, find_image, resources
from nanoclaw.sandbox.spec import FILE_BYTES, FILES, PODMAN_TMPFS, Engine, identity, tmpfs_sizes
from nanoclaw.store import Tx, chats, copy, network

LIMIT = 30.0  # seconds for the container
PATIENCE = 10.0  # seconds of these for the search for keys
ORDERS = "probe.json"
_ANSWERS = 256 << 10  # bytes of what the probe may say
_ROOM = 512  # MiB that must be left to the machine while the limit of memory is tried
_LARGEST = 8192  # MiB of such a limit that is tried
_ANCHOR = 4  # bytes of a key that the probe is told, beside a salted digest: it must find what it compares
# Mounts that Podman adds.
_PODMAN_FILES = ("/run/.containerenv", "/run/secrets", "/run/podman-init", "/catatonit", "/etc/group", "/etc/passwd")
_OUT_OF_TIME = 128 + signal.SIGALRM  # the end that the probe sets itself
_WHOLE = 32  # characters from which both halves of a key are looked for, not only the whole
_ENGINE = "update the container engine, then look again"
_GRADES = {"ok": Grade.OK, "fail": Grade.FAIL, "unknown": Grade.WARN}

# What the probe looks at inside, and what to do where that fails.
CHECKS = {
    "user": HELP,
    "capabilities": _ENGINE,
    "no new privileges": _ENGINE,
    "seccomp": _ENGINE,
    "setuid programs": _ENGINE,
    "root": _ENGINE,
    "mounts": HELP,
    "devices": _ENGINE,
    "sockets": "take the folder that holds the socket from the group: nanoclaw mounts remove",
    "proc and sys": _ENGINE,
    "system calls": "update the container engine and its libseccomp, then look again",
    "namespaces": _ENGINE,
    "socket families": _ENGINE,
    "network": _ENGINE,
    "model gateway": HELP,
    "egress": HELP,
    "processes": "let the engine limit processes (the pids control group), then look again",
    "memory": "let the engine limit memory (the memory control group), then look again",
    "files": _ENGINE,
    "room": _ENGINE,
    "secrets": "remove the key from there, make a new one, and set it by `nanoclaw setup`",
}


@dataclass(frozen=True)
class Subject:
    """What the rows say of the group whose container it is to be."""

    group: Group
    level: Level  # how far it reaches at this moment
    install: str  # the label of this home's containers; "" before the first start


def subject(tx: Tx, folder: str, now: int) -> Subject:
    """Read it; `now` in ms. Raises Refused for a folder that no group has."""
    group = chats.group_by_folder(tx, folder or MAIN)
    if group is None:
        known = ", ".join(g.folder for g in chats.groups(tx))
        raise Refused(f"there is no group {plain(folder)[:80]!r}; known are {known}")
    return Subject(group, network.level(tx, group.id, now), copy.install(tx))


async def prove_sandbox(
    config: Config, environ: Mapping[str, str], about: Subject, *, sandbox: DockerSandbox | None = None
) -> list[Finding]:
    """Start the container, have the probe look, and say what it found; at most 40 seconds, beside a living host too.

    Never raises for what it looks at: whatever goes wrong is a finding. `sandbox` is another one than the settings'.
    """
    if whose := _others(config.home):
        mend = f"sudo -u '#{whose}' nanoclaw doctor --sandbox {shlex.quote(about.group.folder)}"
        return [Finding("container", Grade.FAIL, f"nothing was tried: the home is user {whose}'s", mend)]
    box = sandbox or DockerSandbox(
        install_id=about.install or f"probe-{chance.token_hex(8)}",
        environ=environ,
        address=config.engine,
        image=config.image,
        base_image=config.base_image,
    )
    try:
        async with asyncio.timeout(LIMIT + 10):
            return await _proved(config, environ, about, open_home(config.home, config.run_dir), box)
    except TimeoutError:
        return [Finding("container", Grade.FAIL, "the engine does not get done", _ENGINE)]
    except SandboxError as e:
        mend = "nanoclaw image build" if e.cause is Cause.IMAGE else "nanoclaw doctor"
        return [Finding("container", Grade.FAIL, f"it does not start: {e}", mend)]
    except (NanoClawError, OSError) as e:
        return [Finding("container", Grade.FAIL, f"it could not be tried: {e}", "nanoclaw doctor")]
    finally:
        if sandbox is None:
            await box.stop()


def _others(home: Path) -> str:
    """The user whose the home is, where that is not us: a group's folders that we made would be closed to its host."""
    with contextlib.suppress(OSError):
        owner = home.stat().st_uid
        return "" if owner == os.geteuid() else str(owner)
    return ""


async def _proved(
    config: Config, environ: Mapping[str, str], about: Subject, home: Home, box: DockerSandbox
) -> list[Finding]:
    image = await asyncio.to_thread(_image, config, environ)
    engine = await box.probe()
    stat = home.root.stat()
    uid, gid, own = identity(stat.st_uid, stat.st_gid, config.agent_uid, rootless=engine.rootless)
    row = _row(about.group)
    keys = _keys(config.home, environ)
    try:
        make_group(home, about.group.folder, uid, gid)
        make_run(home, row.id, row.lane, row.sockets, uid, gid)
        asked = outfit.spec(
            home,
            about.group,
            row,
            image=image,
            runtime=config.runtime,
            user=(uid, gid),
            env=outfit.environment(config, read_credential(config.home, environ), own),
            extra=await asyncio.to_thread(_extra, config, environ, about.group, home),
        )
        reach = Reach(about.group.folder, about.level, about.group.hosts, 1 << 20)
        async with (
            _still(),
            Ear(f"probe-{chance.token_hex(16)}") as ear,
            gateway(row.id, home.sockets(row.sockets), reach, ear, config.base_url),
        ):
            told = orders(asked, engine, keys, salt=chance.token_bytes(16), addresses=_addresses(), free=_free())
            safefs.write_file(home.inbox(row.id), ORDERS, json.dumps(told).encode())
            end, leaks = await _ended(box, asked, partial(_described, config, environ, image, keys))
            said = await asyncio.to_thread(_said, home.outbox(row.id))
        room = await asyncio.to_thread(_room, home, row)
        return [_started(end), *findings(said), leaks, ear.finding(), room]
    finally:
        with contextlib.suppress(NanoClawError, OSError):
            remove_run(home, row.id, row.sockets)
        with contextlib.suppress(NanoClawError, OSError):
            remove_state(home, row.lane)


@contextlib.asynccontextmanager
async def _still() -> AsyncIterator[None]:
    """What the gateway refuses the probe is no news: it stays out of the log."""
    of_http = logging.getLogger("aiohttp.server")
    before = of_http.disabled
    of_http.disabled = True
    logger.disable("nanoclaw.gateway")
    try:
        yield
    finally:
        logger.enable("nanoclaw.gateway")
        of_http.disabled = before


def _row(group: Group) -> RunRow:
    """A run that no row knows, with sessions of its own. By its lane a host that begins, or lives, knows it and leaves
    it alone; and clears away what a killed doctor left of it."""
    name = chance.token_hex(4)
    return RunRow(
        id=name,
        lane=f"{group.folder}#task-{PROBES + chance.randbelow(PROBES)}",
        group_id=group.id,
        state=RunState.STARTING,
        fingerprint="",
        sockets=name,
        started_at=0,
    )


def _image(config: Config, environ: Mapping[str, str]) -> str:
    """The id of the image as it is. Raises SandboxError: nothing is built here."""
    address = address_of(environ, config.engine)
    with explained(address), contextlib.closing(connect(address)) as client:
        found = find_image(client, config.image, build_hash(resources(), config.base_image))
    if not found:
        raise SandboxError("the agent image is missing or stale", Cause.IMAGE)
    return found


def _extra(config: Config, environ: Mapping[str, str], group: Group, home: Home) -> Any:
    here = place(home.root, home.run_dir, address_of(environ, config.engine))
    looked = [extras.given(home, here, mount, group.is_main) for mount in group.mounts]
    return tuple(bind for got in looked for bind in got.binds)


async def _ended(box: DockerSandbox, spec: Spec, describe: Callable[[str], Finding]) -> tuple[Exit | None, Finding]:
    """The container's end, None where it had to be killed; and what is to be seen of it from outside."""
    container = await box.open(spec)
    try:
        seen = await asyncio.to_thread(describe, container)
        async with asyncio.timeout(LIMIT):
            return await box.wait(container), seen
    except TimeoutError:
        return None, seen
    finally:
        await box.close(container)


def _described(config: Config, environ: Mapping[str, str], image: str, keys: set[str], container: str) -> Finding:
    """What the engine tells everybody who may ask it."""
    address = address_of(environ, config.engine)
    with explained(address), contextlib.closing(connect(address)) as client:
        told = json.dumps([client.api.inspect_container(container), client.api.inspect_image(image)])  # type: ignore[no-untyped-call]
    if any(key in told for key in keys):
        return Finding("description", Grade.FAIL, "the engine's description of the container holds a key", HELP)
    return Finding("description", Grade.OK, "no key in what the engine says of the container and its image")


def _room(home: Home, row: RunRow) -> Finding:
    try:
        check_room(home, row.lane.partition("#")[0], row.lane)
    except SandboxError as e:
        return Finding("quota", Grade.FAIL, str(e), "delete what is not needed there")
    return Finding("quota", Grade.OK, f"the group's files are within their {QUOTA >> 20} MiB")


# --- what the probe is told --------------------------------------------------------------------


def orders(
    spec: Spec, engine: Engine, keys: set[str], *, salt: bytes, addresses: list[str], free: int
) -> dict[str, Any]:
    """What its container is meant to have, and what it must not find there; `free` memory of the machine in MiB.

    No key is told: its first bytes, its length and a salted digest.
    """
    return {
        "uid": spec.uid,
        "gid": spec.gid,
        "runtime": spec.runtime,
        "binds": [[bind.target, bind.read_write] for bind in spec.binds],
        "tmpfs": tmpfs_sizes(),
        "more": [*PODMAN_TMPFS, *_PODMAN_FILES] if engine.podman else [],
        "pids": spec.pids,
        "memory": spec.memory_mb << 20,
        "hog": engine.swap and spec.memory_mb <= _LARGEST and free > spec.memory_mb + _ROOM,
        "file_size": FILE_BYTES,
        "files": FILES,
        "addresses": addresses,
        "hosts": [f"{name}:443" for name in PROVIDERS],
        "secrets": [w for key in sorted(keys) for w in _wanted(key, salt)],
        "salt": salt.hex(),
        "patience": PATIENCE,
    }


def _wanted(key: str, salt: bytes) -> list[dict[str, Any]]:
    raw = key.encode()
    texts = [raw[: len(raw) // 2], raw[len(raw) // 2 :]] if len(raw) >= _WHOLE else [raw]
    # As it looks in base64 when it stands in a longer text: without the signs that its neighbours share.
    texts += [base64.b64encode(b"\0" * shift + raw)[4 * bool(shift) : -4] for shift in range(3)]
    texts += [raw.hex().encode()]
    return [
        {
            "first": text[:_ANCHOR].hex(),
            "length": len(text),
            "digest": hmac.new(salt, text, hashlib.sha256).hexdigest(),
            "everywhere": text is texts[0],
        }
        for text in texts
        if len(text) > 2 * _ANCHOR
    ]


def _keys(home: Path, environ: Mapping[str, str]) -> set[str]:
    """Those of the environment and of the file."""
    found = [read_credential(home, source) for source in (environ, {})]
    return {credential.secret for credential in found if credential is not None}


def _addresses() -> list[str]:
    """Of this machine, as far as its name leads to them."""
    with contextlib.suppress(OSError):
        found = {str(known[4][0]) for known in socket.getaddrinfo(socket.gethostname(), None)}
        return sorted(a for a in found if not ip_address(a.partition("%")[0]).is_loopback)[:4]
    return []


def _free() -> int:
    """MiB of memory that nobody needs just now; 0 where the kernel does not say."""
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return sum(int(line.split()[1]) >> 10 for line in lines if line.startswith("MemAvailable:"))
    return 0


# --- what it said ------------------------------------------------------------------------------


def _said(outbox: Path) -> list[bytes]:
    """Its lines, as far as they are no more than it may say."""
    with contextlib.closing(OutboxReader(outbox)) as reader:
        if reader.size() > _ANSWERS:
            return []
        try:
            return reader.read()
        except OutboxAbuse:
            return []


def _started(end: Exit | None) -> Finding:
    if end is None:
        return Finding("container", Grade.FAIL, f"the probe was not done after {LIMIT:.0f} s", "nanoclaw doctor")
    if end.code == _OUT_OF_TIME:
        said = "the probe was not done in time: the machine is busy, or stood still"
        return Finding("container", Grade.FAIL, said, "nanoclaw doctor --sandbox, once more")
    if end.code:
        said = plain(end.log[-200:]).strip()
        return Finding("container", Grade.FAIL, f"the probe ended with code {end.code}: {said}", "nanoclaw doctor")
    return Finding("container", Grade.OK, "made as its spec asks, and lived through the probe")


def findings(lines: list[bytes]) -> list[Finding]:
    """One for each check that was asked for: what was not answered, or not in the form agreed on, fails."""
    answers: dict[str, tuple[Grade, str]] = {}
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError):
            told = json.loads(line)
            if told.get("check") in CHECKS and told["check"] not in answers:
                answers[told["check"]] = (_GRADES[told["verdict"]], " ".join(plain(str(told["said"])).split())[:300])
    silent = (Grade.FAIL, "the probe did not get to it")
    found = [(check, *answers.get(check, silent)) for check in CHECKS]
    return [Finding(check, grade, said, CHECKS[check] if grade is Grade.FAIL else "") for check, grade, said in found]
