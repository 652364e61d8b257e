"""The wall, as data: what the engine is asked for one container, and what must be true of it (pure).

Both sides speak the engine's own language (the body of a create call, the answer of an inspect), so that
what was asked for and what was made are compared word by word.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanoclaw.sandbox import Spec, seccomp

LABEL_INSTALL = "nanoclaw.install"
LABEL_RUN = "nanoclaw.run"
LABEL_LANE = "nanoclaw.lane"
HOME = "/home/agent"
ENDS = ("die", "destroy", "died", "remove")  # a container's end among the engine's events: Docker's words, and Podman's
SHM_BYTES = 64 << 20
FILES = 4096  # that a process may have open
FILE_BYTES = 2 << 30  # of one file
_MIB = 1 << 20
# MiB. .claude by itself: else the engine makes that folder, as root, on the way to the transcripts' mount.
_TMPFS = {"/tmp": 256, HOME: 128, f"{HOME}/.claude": 64}  # noqa: S108 - inside the container
# What Podman gives a container: capabilities where nobody says otherwise, and folders beside a root that is read-only.
_GIVEN = {
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID",
    "SYS_CHROOT",
}  # fmt: skip
PODMAN_TMPFS = {"/run", "/var/tmp"}  # noqa: S108 - inside the container
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
    podman: bool = False  # it takes a seccomp profile as a file's path


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
        podman="BuildahVersion" in info,  # it answers as Docker would, with a few words of its own
    )


def identity(uid: int, gid: int, agent_uid: int, *, rootless: bool) -> tuple[int, int, dict[str, str]]:
    """(uid, gid, environment) of an agent, for a home that belongs to `uid` and `gid`.

    A rootless engine's uid 0 is the unprivileged user that runs it, and every other uid inside could not
    write that user's files; the CLI refuses uid 0 unless it is told that it sits in a sandbox.
    """
    if rootless:
        return 0, 0, {"IS_SANDBOX": "1"}
    return (agent_uid, agent_uid, {}) if uid == 0 else (uid, gid, {})


def security_options(*, by_path: bool = False) -> list[str]:
    """The engine's SecurityOpt of every container of ours: exactly these, in this order.

    The second is the whole seccomp profile ("seccomp={...}"), or its file's path for an engine that wants that.
    """
    return ["no-new-privileges:true", seccomp.option(by_path=by_path)]


def create_body(spec: Spec, *, install_id: str, engine: Engine | None = None) -> dict[str, Any]:
    """The body of the engine's create call: everything that is not asked for here is denied."""
    podman = engine is not None and engine.podman
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
            "SecurityOpt": security_options(by_path=podman),
            "ReadonlyRootfs": True,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "Init": True,  # reaps what an agent's shells leave behind
            "PidsLimit": spec.pids,
            "Memory": spec.memory_mb * _MIB,
            "MemorySwap": spec.memory_mb * _MIB,  # memory and swap together: so no swap
            "NanoCpus": int(spec.cpus * 1e9),
            "ShmSize": SHM_BYTES,
            "Ulimits": [_ulimit("core", 0), _ulimit("nofile", FILES), _ulimit("fsize", FILE_BYTES)],
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
            "Tmpfs": _tmpfs(spec, podman=podman),
            "Mounts": [_mount(bind.source.as_posix(), bind.target, bind.read_write) for bind in spec.binds],
            **({"Runtime": spec.runtime} if spec.runtime else {}),
        },
    }


def _ulimit(name: str, value: int) -> dict[str, Any]:
    return {"Name": name, "Soft": value, "Hard": value}


def _mount(source: str, target: str, read_write: bool) -> dict[str, Any]:
    # What is mounted below a source stays out: most engines would pass it on writable, also where this is read-only.
    own = {"Type": "bind", "Source": source, "Target": target, "ReadOnly": not read_write}
    return {**own, "BindOptions": {"NonRecursive": True}}


def _tmpfs(spec: Spec, *, podman: bool = False) -> dict[str, str]:
    """Fresh for each run. They count as memory; `exec`, because agents make virtual environments there."""
    # Podman knows no owner of such a folder (there is one user inside, so that everybody's is as good as its own), and
    # would take its mode from the image.
    own = "mode=1777,notmpcopyup" if podman else f"mode=700,uid={spec.uid},gid={spec.gid}"
    return {
        target: f"rw,exec,nosuid,nodev,{own if target.startswith(HOME) else 'mode=1777'},size={mib}m"
        for target, mib in _TMPFS.items()
    }


def tmpfs_sizes() -> dict[str, int]:
    """Bytes of each folder in memory, by where it is."""
    return {target: mib << 20 for target, mib in _TMPFS.items()}


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
        ("it keeps capabilities", _drops_all({*(host.get("CapDrop") or [])}, engine)),
        ("it is given capabilities", not host.get("CapAdd")),
        ("it may gain privileges", any(o in denied for o in options)),
        ("a security profile is switched off", not any("unconfined" in o or "disable" in o for o in options)),
        ("the engine filters no system calls (seccomp)", engine.seccomp),
        ("its system calls are not filtered as asked (seccomp)", seccomp.is_ours(options)),
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
        ("it is run by another runtime", spec.runtime in ("", host.get("Runtime"))),
        ("it runs another image", inspect.get("Image") in (spec.image, f"sha256:{spec.image}")),
        ("its mounts are not those asked for", {m for m in made if m[0] != "tmpfs"} == asked),
        ("its writable folders in memory are not those asked for", _is_tmpfs(host.get("Tmpfs") or {}, spec, engine)),
        (_NO_LIMIT.format("memory"), engine.memory),
        (_NO_LIMIT.format("the number of processes (pids)"), engine.pids),
        ("its memory is not limited as asked", host.get("Memory") == spec.memory_mb * _MIB),
        ("its processes are not limited as asked", host.get("PidsLimit") == spec.pids),
    ]


def _drops_all(dropped: set[str], engine: Engine) -> bool:
    """Podman names one by one what it would have given."""
    names = {name.removeprefix("CAP_") for name in dropped}
    return "ALL" in names or (engine.podman and names >= _GIVEN)


def _is_tmpfs(made: Mapping[str, str], spec: Spec, engine: Engine) -> bool:
    """Podman adds options of its own, as rprivate, and folders; one that it was given it does not tell."""
    asked = _tmpfs(spec, podman=engine.podman)
    if not engine.podman:
        return dict(made) == asked
    options = {target: {*text.split(",")} for target, text in made.items() if target not in PODMAN_TMPFS}
    return options.keys() == asked.keys() and all(
        {*text.split(",")} - {"notmpcopyup"} <= options[t] for t, text in asked.items()
    )


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
