"""The wall as data: what is asked for, and that each missing piece is named."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.sandbox import Bind, Spec
from nanoclaw.sandbox.spec import Engine, create_body, engine_of, identity, shortfalls, violations

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
    "SecurityOpt": ["no-new-privileges:true"],
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
