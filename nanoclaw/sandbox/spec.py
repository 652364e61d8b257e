"""The wall, as data: what the engine is asked for one container, and what must be true of it (pure).

Both sides speak the engine's own language (the body of a create call, the answer of an inspect), so that
what was asked for and what was made are compared word by word.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanoclaw.sandbox import Spec

LABEL_INSTALL = "nanoclaw.install"
LABEL_RUN = "nanoclaw.run"
LABEL_LANE = "nanoclaw.lane"
HOME = "/home/agent"
SHM_BYTES = 64 << 20
_MIB = 1 << 20
_NO_LIMIT = "the engine cannot limit {}: turn on that control group for it, or use another engine"


@dataclass(frozen=True)
class Engine:
    """What an engine says of itself, as far as the wall depends on it."""

    version: str = ""
    cgroup: str = ""  # "1" or "2"
    rootless: bool = False
    seccomp: bool = True
    remapped: bool = False  # user ids inside are others outside (userns-remap)
    memory: bool = True  # the limits that it can enforce
    pids: bool = True
    swap: bool = True
    cpu: bool = True


def engine_of(info: Mapping[str, Any]) -> Engine:
    """Read the engine's answer to `info`. What it does not mention counts as absent."""
    options = [str(o) for o in info.get("SecurityOptions") or []]
    # Rootless without delegated control groups takes every limit and enforces none.
    limits = info.get("CgroupDriver", "none") != "none"
    return Engine(
        version=str(info.get("ServerVersion", "")),
        cgroup=str(info.get("CgroupVersion", "1")),
        rootless=any(o.startswith("name=rootless") for o in options),
        seccomp=any(o.startswith("name=seccomp") and "unconfined" not in o for o in options),
        remapped=any(o.startswith("name=userns") for o in options),
        memory=limits and bool(info.get("MemoryLimit")),
        pids=limits and bool(info.get("PidsLimit")),
        swap=limits and bool(info.get("SwapLimit")),
        cpu=limits and bool(info.get("CpuCfsQuota")),
    )


def identity(uid: int, gid: int, agent_uid: int, *, rootless: bool) -> tuple[int, int, dict[str, str]]:
    """(uid, gid, environment) of an agent, for a home that belongs to `uid` and `gid`.

    A rootless engine's uid 0 is the unprivileged user that runs it, and every other uid inside could not
    write that user's files; the CLI refuses uid 0 unless it is told that it sits in a sandbox.
    """
    if rootless:
        return 0, 0, {"IS_SANDBOX": "1"}
    return (agent_uid, agent_uid, {}) if uid == 0 else (uid, gid, {})


def create_body(spec: Spec, *, install_id: str) -> dict[str, Any]:
    """The body of the engine's create call: everything that is not asked for here is denied."""
    return {
        "Image": spec.image,
        "User": f"{spec.uid}:{spec.gid}",
        "Hostname": "agent",
        "WorkingDir": "/workspace/group",
        "Env": [f"{key}={value}" for key, value in {**spec.env, "HOME": HOME}.items()],
        "Labels": {LABEL_INSTALL: install_id, LABEL_RUN: spec.run_id, LABEL_LANE: spec.lane},
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],  # seccomp: the engine's default profile stays on
            "ReadonlyRootfs": True,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "Init": True,  # reaps what an agent's shells leave behind
            "PidsLimit": spec.pids,
            "Memory": spec.memory_mb * _MIB,
            "MemorySwap": spec.memory_mb * _MIB,  # memory and swap together: so no swap
            "NanoCpus": int(spec.cpus * 1e9),
            "ShmSize": SHM_BYTES,
            "Ulimits": [_ulimit("core", 0), _ulimit("nofile", 4096), _ulimit("fsize", 2 << 30)],
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
            "Tmpfs": _tmpfs(spec),
            "Mounts": [_mount(bind.source.as_posix(), bind.target, bind.read_write) for bind in spec.binds],
        },
    }


def _ulimit(name: str, value: int) -> dict[str, Any]:
    return {"Name": name, "Soft": value, "Hard": value}


def _mount(source: str, target: str, read_write: bool) -> dict[str, Any]:
    # What is mounted below a source stays out: most engines would pass it on writable, also where this is read-only.
    own = {"Type": "bind", "Source": source, "Target": target, "ReadOnly": not read_write}
    return {**own, "BindOptions": {"NonRecursive": True}}


def _tmpfs(spec: Spec) -> dict[str, str]:
    """Fresh for each run. They count as memory; `exec`, because agents make virtual environments there."""
    own = f"rw,exec,nosuid,nodev,mode=700,uid={spec.uid},gid={spec.gid}"
    # .claude by itself: else the engine makes that folder, as root, on the way to the transcripts' mount.
    return {
        "/tmp": "rw,exec,nosuid,nodev,mode=1777,size=256m",  # noqa: S108 - inside the container
        HOME: f"{own},size=128m",
        f"{HOME}/.claude": f"{own},size=64m",
    }


def violations(inspect: Mapping[str, Any], spec: Spec, engine: Engine) -> list[str]:
    """What must hold and does not, in words; a container with any never starts."""
    host = inspect["HostConfig"]
    return [text for text, holds in (*_walls(host, engine), *_own(inspect, spec, engine)) if not holds]


def _walls(host: Mapping[str, Any], engine: Engine) -> list[tuple[str, bool]]:
    options = host.get("SecurityOpt") or []
    denied = {"no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"}
    modes = [host.get(key) for key in ("NetworkMode", "PidMode", "IpcMode", "UTSMode", "UsernsMode", "CgroupnsMode")]
    return [
        ("it has a network", host.get("NetworkMode") == "none"),
        ("it is privileged", host.get("Privileged") is False),
        ("it keeps capabilities", {"ALL", "CAP_ALL"} & {*(host.get("CapDrop") or [])} != set()),
        ("it is given capabilities", not host.get("CapAdd")),
        ("it may gain privileges", any(o in denied for o in options)),
        ("a security profile is switched off", not any("unconfined" in o or "disable" in o for o in options)),
        ("the engine filters no system calls (seccomp)", engine.seccomp),
        ("its root is writable", host.get("ReadonlyRootfs") is True),
        ("it shares a namespace with the host", "host" not in modes),
        ("it shares a namespace with a container", not any(str(m).startswith("container:") for m in modes)),
        ("it is given devices", not any(host.get(key) for key in ("Devices", "DeviceRequests", "DeviceCgroupRules"))),
    ]


def _own(inspect: Mapping[str, Any], spec: Spec, engine: Engine) -> list[tuple[str, bool]]:
    host = inspect["HostConfig"]
    asked = {("bind", b.source.as_posix(), b.target, b.read_write) for b in spec.binds}
    made = [(m["Type"], m.get("Source", ""), m["Destination"], m["RW"]) for m in inspect["Mounts"]]
    return [
        ("it runs as root", spec.uid != 0 or engine.rootless),
        ("it runs as another user", inspect["Config"].get("User") == f"{spec.uid}:{spec.gid}"),
        ("the engine maps user ids (userns-remap), which is not supported", not engine.remapped),
        ("it runs another image", inspect.get("Image") in (spec.image, f"sha256:{spec.image}")),
        ("its mounts are not those asked for", {m for m in made if m[0] != "tmpfs"} == asked),
        ("its writable folders in memory are not those asked for", (host.get("Tmpfs") or {}) == _tmpfs(spec)),
        (_NO_LIMIT.format("memory"), engine.memory),
        (_NO_LIMIT.format("the number of processes (pids)"), engine.pids),
        ("its memory is not limited as asked", host.get("Memory") == spec.memory_mb * _MIB),
        ("its processes are not limited as asked", host.get("PidsLimit") == spec.pids),
    ]


def shortfalls(engine: Engine) -> list[str]:
    """What the engine cannot do and we can live with, for `status`."""
    return [
        text
        for text, can in (
            ("swap is not limited: an agent's memory may move to the disk", engine.swap),
            ("processor time is not limited: one agent may slow down the others", engine.cpu),
        )
        if not can
    ]
