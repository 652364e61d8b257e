"""The wall as data: what is asked for, and that each missing piece is named."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.sandbox import Bind, Spec, seccomp
from nanoclaw.sandbox.spec import Engine, create_body, engine_of, identity, security_options, shortfalls, violations

SPEC = Spec(
    run_id="0123",
    lane="kitchen",
    image="sha256:abc",
    uid=10001,
    gid=10001,
    binds=(Bind(Path("/h/groups/kitchen"), "/workspace/group", True), Bind(Path("/h/skills"), "/skills")),
    env={"TZ": "UTC"},
    memory_mb=512,
    cpus=1.5,
    pids=100,
)

HOST: dict[str, Any] = {
    "NetworkMode": "none",
    "CapDrop": ["ALL"],
    "SecurityOpt": security_options(),
    "ReadonlyRootfs": True,
    "IpcMode": "private",
    "CgroupnsMode": "private",
    "Init": True,
    "PidsLimit": 100,
    "Memory": 512 << 20,
    "MemorySwap": 512 << 20,
    "NanoCpus": 1_500_000_000,
    "ShmSize": 64 << 20,
    "RestartPolicy": {"Name": "no"},
}


@pytest.mark.parametrize("key", HOST)
def test_the_wall_is_asked_for(key: str) -> None:
    """The table of DESIGN's section "The wall", word by word."""
    assert create_body(SPEC, install_id="i")["HostConfig"][key] == HOST[key]


def test_the_rest_of_the_body() -> None:
    """Who it is, where it works, what it is labelled, what it may write in memory."""
    body = create_body(SPEC, install_id="i")
    assert (body["Image"], body["User"], body["Hostname"]) == ("sha256:abc", "10001:10001", "agent")
    assert body["Labels"] == {"nanoclaw.install": "i", "nanoclaw.run": "0123", "nanoclaw.lane": "kitchen"}
    assert body["Env"] == ["TZ=UTC", "HOME=/home/agent"]
    assert [m["ReadOnly"] for m in body["HostConfig"]["Mounts"]] == [False, True]
    assert all(m["BindOptions"] == {"NonRecursive": True} for m in body["HostConfig"]["Mounts"])
    assert set(body["HostConfig"]["Tmpfs"]) == {"/tmp", "/home/agent", "/home/agent/.claude"}
    assert {"Name": "core", "Soft": 0, "Hard": 0} in body["HostConfig"]["Ulimits"]
    assert {"Privileged", "Devices", "CapAdd", "Binds", "ExposedPorts"}.isdisjoint({*body, *body["HostConfig"]})


def _inspect() -> dict[str, Any]:
    """What an engine says of a container that it made as asked."""
    body = create_body(SPEC, install_id="i")
    mounts = [
        {"Type": "bind", "Source": m["Source"], "Destination": m["Target"], "RW": not m["ReadOnly"]}
        for m in body["HostConfig"]["Mounts"]
    ]
    host = {**body["HostConfig"], "Privileged": False, "CapAdd": None, "Devices": []}
    return {"Image": SPEC.image, "Config": {"User": body["User"]}, "HostConfig": host, "Mounts": mounts}


def test_what_was_made_as_asked_passes() -> None:
    """No violation, no shortfall."""
    assert violations(_inspect(), SPEC, Engine()) == []
    assert shortfalls(Engine()) == []


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda inspect: inspect["HostConfig"].__setitem__(key, value)


# Our profile with one call more, as an engine of another mind might have it.
WEAKER = {**seccomp.profile(), "syscalls": [*seccomp.profile()["syscalls"], {"names": ["ptrace"]}]}

BROKEN: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("network", _set("NetworkMode", "bridge")),
    ("network", _set("NetworkMode", "")),
    ("shares a namespace with a container", _set("NetworkMode", "container:abc")),
    ("privileged", _set("Privileged", True)),
    ("keeps capabilities", _set("CapDrop", None)),
    ("keeps capabilities", _set("CapDrop", ["NET_RAW"])),
    ("given capabilities", _set("CapAdd", ["SYS_ADMIN"])),
    ("may gain privileges", _set("SecurityOpt", None)),
    ("may gain privileges", _set("SecurityOpt", ["no-new-privileges:false"])),
    ("profile is switched off", _set("SecurityOpt", ["no-new-privileges", "seccomp=unconfined"])),
    ("profile is switched off", _set("SecurityOpt", ["no-new-privileges", "apparmor=unconfined"])),
    ("profile is switched off", _set("SecurityOpt", ["no-new-privileges", "label=disable"])),
    ("root is writable", _set("ReadonlyRootfs", False)),
    ("not filtered as asked", _set("SecurityOpt", ["no-new-privileges"])),
    ("not filtered as asked", _set("SecurityOpt", ["no-new-privileges", "seccomp=/etc/other.json"])),
    ("not filtered as asked", _set("SecurityOpt", ["no-new-privileges", f"seccomp={json.dumps(WEAKER)}"])),
    ("not filtered as asked", _set("SecurityOpt", [*security_options(), f"seccomp={json.dumps(WEAKER)}"])),
    ("namespace with the host", _set("PidMode", "host")),
    ("namespace with the host", _set("IpcMode", "host")),
    ("namespace with the host", _set("UTSMode", "host")),
    ("namespace with the host", _set("UsernsMode", "host")),
    ("given devices", _set("Devices", [{"PathOnHost": "/dev/sda"}])),
    ("given devices", _set("DeviceRequests", [{"Driver": "nvidia"}])),
    ("memory is not limited", _set("Memory", 0)),
    ("processes are not limited", _set("PidsLimit", None)),
    ("writable folders in memory", _set("Tmpfs", {})),
    ("another user", lambda i: i["Config"].__setitem__("User", "")),
    ("another image", lambda i: i.__setitem__("Image", "sha256:other")),
    ("mounts are not", lambda i: i["Mounts"].pop()),
    ("mounts are not", lambda i: i["Mounts"][1].__setitem__("RW", True)),
    ("mounts are not", lambda i: i["Mounts"][0].__setitem__("Source", "/")),
    ("mounts are not", lambda i: i["Mounts"].append({"Type": "volume", "Destination": "/v", "RW": True})),
]


@pytest.mark.parametrize(("words", "change"), BROKEN)
def test_each_missing_piece_is_named(words: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """One thing is otherwise than asked: it does not pass, and the sentence says which."""
    inspect = copy.deepcopy(_inspect())
    change(inspect)
    assert any(words in text for text in violations(inspect, SPEC, Engine()))


@pytest.mark.parametrize(
    "written",
    [
        f"seccomp={json.dumps(seccomp.profile(), indent=4, sort_keys=True)}",  # an engine that writes it out anew
        seccomp.option(by_path=True),  # one that was given the file
    ],
)
def test_the_same_filter_in_other_words_passes(written: str) -> None:
    """What counts is what it says."""
    inspect = _inspect()
    inspect["HostConfig"]["SecurityOpt"] = ["no-new-privileges", written]
    assert violations(inspect, SPEC, Engine()) == []


PODMAN = Engine(podman=True)


def _of_podman() -> dict[str, Any]:
    """What Podman 4.3 says of a container that it made as asked."""
    body = create_body(SPEC, install_id="i", engine=PODMAN)
    host = body["HostConfig"]
    tmpfs = {target: text.replace(",notmpcopyup", "") + ",rprivate" for target, text in host["Tmpfs"].items()}
    dropped = "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID"
    dropped += " SETPCAP SETUID SYS_CHROOT"
    inspect = _inspect()
    inspect["HostConfig"] |= {
        "CapDrop": dropped.split(),
        "CapAdd": [],
        "SecurityOpt": ["no-new-privileges", *host["SecurityOpt"][1:]],
        "Tmpfs": {**tmpfs, "/run": "rw,rprivate,nosuid,nodev,tmpcopyup", "/var/tmp": "rw,rprivate,nosuid,nodev"},
        "IpcMode": "shareable",
        "PidMode": "private",
        "UTSMode": "private",
        "CgroupnsMode": "",
    }
    return inspect


def test_podman_has_words_of_its_own() -> None:
    """It takes a profile as a file, and tells the same wall in another way; what is missing in it is named all the
    same, and from another engine these words are no wall."""
    assert engine_of({**INFO, "BuildahVersion": "1.28"}).podman
    assert violations(_of_podman(), SPEC, PODMAN) == []
    assert len(violations(_of_podman(), SPEC, Engine())) == 2
    for change, words in (
        (_set("CapDrop", ["CHOWN"]), "keeps capabilities"),
        (_set("Tmpfs", {"/tmp": "rw"}), "writable folders in memory"),
        (_set("SecurityOpt", ["no-new-privileges"]), "not filtered as asked"),
    ):
        inspect = _of_podman()
        change(inspect)
        assert [words in text for text in violations(inspect, SPEC, PODMAN)] == [True]
    (_, option) = create_body(SPEC, install_id="i", engine=PODMAN)["HostConfig"]["SecurityOpt"]
    assert json.loads(Path(option.removeprefix("seccomp=")).read_text("utf-8")) == seccomp.profile()


# What no agent of ours may ask for, whatever the engine's own profile says.
NEVER = """
    ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp io_uring_setup io_uring_enter
    io_uring_register userfaultfd bpf perf_event_open keyctl add_key request_key unshare setns clone3 mount umount2
    pivot_root chroot fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr open_by_handle_at
    name_to_handle_at fanotify_init init_module finit_module delete_module kexec_load kexec_file_load reboot swapon
    swapoff acct quotactl syslog sethostname setdomainname settimeofday clock_settime clock_adjtime adjtimex modify_ldt
    ioperm iopl memfd_secret socketcall ipc lookup_dcookie vhangup nfsservctl uselib
"""


def test_what_the_filter_never_lets_through() -> None:
    """It is an allowlist without these; sockets and namespaces are bound to their arguments."""
    rules = seccomp.profile()["syscalls"]
    allowed = {name for rule in rules for name in rule["names"] if rule["action"] == "SCMP_ACT_ALLOW"}
    assert seccomp.profile()["defaultAction"] == "SCMP_ACT_ERRNO"
    assert allowed.isdisjoint(NEVER.split())
    assert all(rule.get("args") for rule in rules if {"socket", "clone", "personality"} & {*rule["names"]})
    assert {arch["architecture"] for arch in seccomp.profile()["archMap"]} == {"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"}
    assert not any(arch["subArchitectures"] for arch in seccomp.profile()["archMap"])


@pytest.mark.parametrize(
    ("asked", "made", "well"), [("", "runc", True), ("runsc", "runsc", True), ("runsc", "runc", False)]
)
def test_the_runtime_is_the_one_asked_for(asked: str, made: str, well: bool) -> None:
    """None asked for is the engine's choice."""
    spec = replace(SPEC, runtime=asked)
    assert create_body(spec, install_id="i")["HostConfig"].get("Runtime", "") == asked
    inspect = _inspect()
    inspect["HostConfig"]["Runtime"] = made
    assert (violations(inspect, spec, Engine()) == []) is well


@pytest.mark.parametrize(
    ("words", "engine"),
    [
        ("memory", Engine(memory=False)),
        ("processes (pids)", Engine(pids=False)),
        ("seccomp", Engine(seccomp=False)),
        ("userns-remap", Engine(remapped=True)),
    ],
)
def test_an_engine_that_cannot_hold_the_wall_is_refused(words: str, engine: Engine) -> None:
    """A limit that the engine takes and does not enforce is a violation that names the limit."""
    assert [words in text for text in violations(_inspect(), SPEC, engine)] == [True]


def test_what_is_only_said() -> None:
    """Swap and processor time may be missing: `status` says so, the container starts."""
    assert len(shortfalls(Engine(swap=False, cpu=False))) == 2
    assert violations(_inspect(), SPEC, Engine(swap=False, cpu=False)) == []


@pytest.mark.parametrize(("uid", "rootless", "refused"), [(0, False, True), (0, True, False)])
def test_root_only_where_root_is_nobody(uid: int, rootless: bool, refused: bool) -> None:
    """Uid 0 is the agents' only on a rootless engine, where it is the user that runs it."""
    spec = Spec("r", "l", SPEC.image, uid, 0, ())
    inspect = _inspect() | {"Config": {"User": "0:0"}}
    assert ("it runs as root" in violations(inspect, spec, Engine(rootless=rootless))) is refused


@pytest.mark.parametrize(
    ("owner", "rootless", "expected"),
    [
        ((1000, 1001), False, (1000, 1001, {})),
        ((0, 0), False, (10001, 10001, {})),
        ((1000, 1001), True, (0, 0, {"IS_SANDBOX": "1"})),
    ],
)
def test_who_an_agent_is(owner: tuple[int, int], rootless: bool, expected: object) -> None:
    """The home's owner, never root; under a rootless engine its root, which is that owner."""
    assert identity(*owner, 10001, rootless=rootless) == expected


INFO: dict[str, Any] = {
    "ServerVersion": "27.1",
    "CgroupVersion": "2",
    "CgroupDriver": "systemd",
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
    "MemoryLimit": True,
    "PidsLimit": True,
    "SwapLimit": True,
    "CpuCfsQuota": True,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Engine("27.1", "2")),
        ({"SwapLimit": False}, Engine("27.1", "2", swap=False)),
        ({"SecurityOptions": ["name=seccomp,profile=unconfined"]}, Engine("27.1", "2", seccomp=False)),
        ({"SecurityOptions": None}, Engine("27.1", "2", seccomp=False)),
        (
            {"SecurityOptions": [*INFO["SecurityOptions"], "name=rootless"], "CgroupDriver": "none"},
            Engine("27.1", "2", rootless=True, memory=False, pids=False, swap=False, cpu=False),
        ),
        ({"SecurityOptions": [*INFO["SecurityOptions"], "name=userns"]}, Engine("27.1", "2", remapped=True)),
    ],
)
def test_what_an_engine_says_of_itself(change: dict[str, Any], expected: Engine) -> None:
    """Its answer to `info`, of the kinds that were seen."""
    assert engine_of({**INFO, **change}) == expected
