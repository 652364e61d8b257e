"""The engine-guard's policy: a table of what is refused, and of what the host's own code asks for."""

import asyncio
import copy
import io
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from docker import DockerClient

from nanoclaw.errors import Cause, ConfigError, Refused, SandboxError
from nanoclaw.guard import policy
from nanoclaw.guard.__main__ import read_settings, serve
from nanoclaw.guard.policy import Act, Names, Root, Rules
from nanoclaw.guard.proxy import Guard
from nanoclaw.mailbox import PROTOCOL
from nanoclaw.sandbox import Bind, Spec
from nanoclaw.sandbox.engine import explained
from nanoclaw.sandbox.image import BUILD_LABEL, PROTOCOL_LABEL, build_hash, resources
from nanoclaw.sandbox.spec import Engine, create_body
from tests.fakes import LIMIT

IMAGE = "sha256:" + "a" * 64
DATA = "/var/lib/docker/volumes/p_data/_data"
NAMES = Names("p", bases=frozenset({"python:3.12-slim", "nanoclaw-base:bookworm"}))
ROOTS = (Root(DATA), Root("/srv/projects", whole=True), Root("/srv/music", read_only=True, whole=True))
RULES = Rules(NAMES, "10001:10001", IMAGE, ROOTS, Engine())
SPEC = Spec(
    "1234abcd", "main", IMAGE, 10001, 10001,
    (
        Bind(Path(DATA, "groups/main"), "/workspace/group", read_write=True),
        Bind(Path("/srv/projects/app"), "/workspace/extra/app", read_write=True),
        Bind(Path("/srv/music"), "/workspace/extra/music"),
    ),
    {"TZ": "UTC", "ANTHROPIC_API_KEY": "placeholder"},
)  # fmt: skip
LOOK = f"{policy.LABEL_PROJECT}=p"


def body(spec: Spec = SPEC, install: str = "c0ffee") -> dict[str, Any]:
    return json.loads(json.dumps(create_body(spec, install_id=install)))


def at(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    """Put a value there."""

    def change(given: dict[str, Any]) -> None:
        for key in keys[:-1]:
            given = given[key]
        given[keys[-1]] = to

    return change


def host(key: str, to: Any) -> Callable[[dict[str, Any]], None]:
    return at("HostConfig", key, to=to)


def mount(**changed: Any) -> Callable[[dict[str, Any]], None]:
    """One more mount, which is right but for this."""
    right = {"Type": "bind", "Source": f"{DATA}/x", "Target": "/workspace/x", "ReadOnly": True,
             "BindOptions": {"NonRecursive": True}}  # fmt: skip
    return lambda given: given["HostConfig"]["Mounts"].append(right | changed)


def source(path: str) -> Callable[[dict[str, Any]], None]:
    return mount(Source=path)


BAD_BODIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "privileged": host("Privileged", True),
    "privileged, and said no": host("Privileged", False),
    "a network": host("NetworkMode", "bridge"),
    "the host's network": host("NetworkMode", "host"),
    "another's network": host("NetworkMode", "container:1234"),
    "a capability": host("CapAdd", ["SYS_ADMIN"]),
    "capabilities kept": host("CapDrop", []),
    "fewer dropped": host("CapDrop", ["NET_RAW"]),
    "no seccomp": host("SecurityOpt", ["no-new-privileges:true", "seccomp=unconfined"]),
    "another seccomp": host("SecurityOpt", ["no-new-privileges:true", 'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']),
    "the default seccomp": host("SecurityOpt", ["no-new-privileges:true"]),
    "new privileges": lambda given: given["HostConfig"]["SecurityOpt"].pop(0),
    "no apparmor": lambda given: given["HostConfig"]["SecurityOpt"].append("apparmor=unconfined"),
    "a writable root": host("ReadonlyRootfs", False),
    "the host's processes": host("PidMode", "host"),
    "the host's ipc": host("IpcMode", "host"),
    "the host's name": host("UTSMode", "host"),
    "the host's users": host("UsernsMode", "host"),
    "the host's control groups": host("CgroupnsMode", "host"),
    "a parent control group": host("CgroupParent", "/"),
    "a device": host("Devices", [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda"}]),
    "a gpu": host("DeviceRequests", [{"Count": -1}]),
    "device rules": host("DeviceCgroupRules", ["a *:* rwm"]),
    "binds": host("Binds", ["/:/host"]),
    "empty binds": host("Binds", []),
    "another's volumes": host("VolumesFrom", ["other"]),
    "a runtime": host("Runtime", "other"),
    "kernel settings": host("Sysctls", {"kernel.shm_rmid_forced": "0"}),
    "more groups": host("GroupAdd", ["docker"]),
    "never killed": host("OomScoreAdj", -1000),
    "no kill at the limit": host("OomKillDisable", True),
    "unmasked paths": host("MaskedPaths", []),
    "writable paths": host("ReadonlyPaths", []),
    "no limit of memory": host("Memory", 0),
    "swap": host("MemorySwap", -1),
    "no limit of processes": host("PidsLimit", -1),
    "limits that are no numbers": host("PidsLimit", True),
    "starts by itself": host("RestartPolicy", {"Name": "always"}),
    "logs elsewhere": host("LogConfig", {"Type": "syslog", "Config": {"syslog-address": "tcp://198.51.100.1:1"}}),
    "another tmpfs": host("Tmpfs", {"/tmp": "rw,suid,dev"}),
    "published ports": host("PortBindings", {"80/tcp": [{"HostPort": "80"}]}),
    "a storage option": host("StorageOpt", {"size": "1"}),
    "links": host("Links", ["other:other"]),
    "root": at("User", to="0:0"),
    "the group root": at("User", to="10001:0"),
    "the engine's group": at("User", to="10001:998"),
    "a name as user": at("User", to="root"),
    "no user": at("User", to=""),
    "another image": at("Image", to="sha256:" + "b" * 64),
    "an image by name": at("Image", to="nanoclaw-agent"),
    "another command": at("Cmd", to=["sh"]),
    "another entry": at("Entrypoint", to=["sh", "-c", "id"]),
    "volumes": at("Volumes", to={"/x": {}}),
    "a health check": at("Healthcheck", to={"Test": ["CMD", "sh"]}),
    "networks": at("NetworkingConfig", to={"EndpointsConfig": {"bridge": {}}}),
    "another label": at("Labels", LOOK.partition("=")[0], to="p"),
    "the guard's label": at("Labels", policy.LABEL_GUARD, to="other"),
    "an odd installation": at("Labels", "nanoclaw.install", to="a=b"),
    "a key in other letters": at("hostconfig", to={"Privileged": True}),
    "an environment of another kind": at("Env", to={"A": "b"}),
    "a variable without a value": at("Env", to=["A"]),
    "a home elsewhere": lambda given: given["Env"].append("HOME=/workspace"),
    "the machine": source("/"),
    "its settings": source("/etc"),
    "the engine's socket": source("/var/run/docker.sock"),
    "another volume": source("/var/lib/docker/volumes/other/_data"),
    "a name that only begins so": source(DATA + "2/x"),
    "the way up": source(f"{DATA}/../../other/_data"),
    "the data as a whole": source(DATA),
    "above what is listed": source("/srv"),
    "a relative path": source("groups/main"),
    "two slashes": source(f"/{DATA}/x"),
    "a control character": source(f"{DATA}/x\n"),
    "writing where it is for reading": mount(Source="/srv/music/new", ReadOnly=False),
    "a volume": mount(Type="volume", Source="other"),
    "an image as mount": mount(Type="image"),
    "a mount that goes on": mount(BindOptions={"NonRecursive": True, "Propagation": "rshared"}),
    "what lies below it too": mount(BindOptions={}),
    "mounted over the system": mount(Target="/etc"),
    "mounted over everything": mount(Target="/"),
    "mounted by the way up": mount(Target="/workspace/../etc"),
    "mounted over a folder in memory": mount(Target="/home/agent/.claude"),
    "mounted over all folders in memory": mount(Target="/home/agent"),
    "mounted over the agent itself": mount(Target="/opt/agent/app/agent"),
    "mounted at one place": mount(Target="/workspace/group"),
    "mounted within our own folder": mount(Target="/workspace/group/cron.d/x"),
    "mounted within a folder for reading": lambda given: [mount(Target=f"/workspace/{t}")(given) for t in ("x", "x/y")],
    "what is loaded first": lambda given: given["Env"].insert(0, "LD_PRELOAD=/workspace/x.so"),
    "what a runtime looks at": lambda given: given["Env"].insert(0, "NVIDIA_VISIBLE_DEVICES=all"),
    "mounts of no list": host("Mounts", {}),
    "no mounts": host("Mounts", None),
    "no host config": at("HostConfig", to=None),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_BODIES)
def test_no_other_container_can_be_made(what: str) -> None:
    """One thing is not as NanoClaw asks for it: refused, whatever it is."""
    given = body()
    BAD_BODIES[what](given)
    with pytest.raises(Refused):
        policy.created("nanoclaw-1234abcd", json.dumps(given).encode(), RULES)


VARIES = {"Env", "Labels.nanoclaw.install", "Labels.nanoclaw.lane", "HostConfig.NanoCpus", "HostConfig.PidsLimit"}
VARIES |= {"HostConfig.Mounts"}  # fewer, or for reading only


def paths(given: Any, *at: Any) -> Iterator[tuple[Any, ...]]:
    """Every place in it, those within included."""
    for key in given if isinstance(given, dict) else range(len(given)) if isinstance(given, list) else ():
        yield (*at, key)
        yield from paths(given[key], *at, key)


@pytest.mark.parametrize("value", [None, "", "x", 0, 1, -1, True, False, 1.5, [], {}, ["x"], {"x": "y"}, "gone"])
def test_every_place_is_held(value: Any) -> None:
    """Whatever stands in any one place instead: refused, or one of the few things that may vary."""
    found = list(paths(body()))
    assert len(found) > 60
    for path in found:
        given = inner = body()
        for key in path[:-1]:
            inner = inner[key]
        if inner[path[-1]] == value and type(inner[path[-1]]) is type(value):
            continue
        inner[path[-1]] = value
        if value == "gone" and isinstance(inner, dict):
            del inner[path[-1]]
        try:
            made = json.loads(policy.created("nanoclaw-1234abcd", json.dumps(given).encode(), RULES))
        except Refused:
            continue
        assert any(".".join(map(str, path)).startswith(varying) for varying in VARIES), path
        free = {"NanoCpus": 0, "PidsLimit": 0, "Mounts": []}
        assert {m["Source"] for m in made["HostConfig"]["Mounts"]} <= {str(bind.source) for bind in SPEC.binds}
        assert made["HostConfig"] | free == body()["HostConfig"] | free


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(body())[:-1] + ', "User": "0:0"}',
        json.dumps(body()).replace('"NetworkMode"', '"Privileged": true, "Privileged": false, "NetworkMode"'),
        json.dumps(body()).replace('"PidsLimit": 256', '"PidsLimit": NaN'),
        json.dumps(body()).replace('"PidsLimit": 256', '"PidsLimit": 256.0'),
        *(json.dumps(body()).replace('["ALL"]', "[" * n + "]" * n) for n in range(400, 1000, 50)),
        "[]", "null", '"x"', "", "{", "{}", "\xff", "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_plain_json_is_refused(text: str) -> None:
    """Said twice, no number, no object: two readers could take it for different things."""
    with pytest.raises(Refused):
        policy.created("nanoclaw-1234abcd", text.encode("latin-1"), RULES)


@pytest.mark.parametrize(
    "changed",
    [
        {"image": ""}, {"user": "1000:1000"}, {"user": "0:0"}, {"roots": ()}, {"runtime": "runsc"},
        {"roots": (Root(DATA),)}, {"engine": Engine(podman=True)}, {"memory_mb": 1024},
    ],
)  # fmt: skip
def test_the_rules_of_the_moment_count(changed: dict[str, Any]) -> None:
    """No image of this version, another user, no folders, another runtime: the same call is refused."""
    with pytest.raises(Refused):
        policy.created("nanoclaw-1234abcd", json.dumps(body()).encode(), replace(RULES, **changed))


@pytest.mark.parametrize(
    ("spec", "rules"),
    [
        (SPEC, RULES),
        (replace(SPEC, memory_mb=4096, cpus=0.29, pids=64, env={}), RULES),
        (replace(SPEC, uid=0, gid=0, env={"IS_SANDBOX": "1"}), replace(RULES, user="0:0")),
        (replace(SPEC, runtime="runsc"), replace(RULES, runtime="runsc")),
        (replace(SPEC, binds=(Bind(Path("/srv/music/a"), "/workspace/extra/a"),)), RULES),
    ],
)
def test_what_the_host_asks_for_passes(spec: Spec, rules: Rules) -> None:
    """As it is, with the guard's own label beside the others."""
    given = body(spec)
    made = json.loads(policy.created("nanoclaw-1234abcd", json.dumps(given).encode(), rules))
    assert made["Labels"].pop(policy.LABEL_GUARD) == "p"
    assert made == given
    with pytest.raises(Refused):
        policy.created("nanoclaw-other", json.dumps(given).encode(), rules)


def test_within_what_the_owner_listed_names_can_be_hidden() -> None:
    """As NanoClaw hides a name: something empty is mounted over it. Then that name has to be there, too."""
    hidden = Bind(Path(DATA, "empty"), "/workspace/extra/app/.ssh")
    made = policy.created(
        "nanoclaw-1234abcd", json.dumps(body(replace(SPEC, binds=(*SPEC.binds, hidden)))).encode(), RULES
    )
    sources = {f"{DATA}/groups/main", "/srv/projects/app", "/srv/music", f"{DATA}/empty"}
    assert {*policy.places(policy.made_binds(made))} == {*sources, "/srv/projects/app/.ssh"}


BAD_CALLS = """
POST /v1.40/containers/create?name=nanoclaw-1234abcd
POST /v1.24/containers/1234567890ab/start
GET /v1.41/containers/nanoclaw-1234abcd/json
POST /v1.41/containers/create?name=nanoclaw-engine-guard-1
POST /v1.41/containers/1234567890ab/exec
POST /v1.41/exec/1234567890ab/start
POST /v1.41/containers/1234567890ab/attach
GET /v1.41/containers/1234567890ab/attach/ws
GET /v1.41/containers/1234567890ab/archive?path=/
PUT /v1.41/containers/1234567890ab/archive?path=/
HEAD /v1.41/containers/1234567890ab/archive?path=/
GET /v1.41/containers/1234567890ab/export
POST /v1.41/containers/1234567890ab/update
POST /v1.41/containers/1234567890ab/rename?name=x
POST /v1.41/containers/1234567890ab/kill
POST /v1.41/containers/1234567890ab/start?detachKeys=x
GET /v1.41/containers/1234567890ab/logs?follow=1&tail=5
GET /v1.41/containers/1234567890ab/logs?tail=all
GET /v1.41/containers/1234567890ab/stats
DELETE /v1.41/containers/../images/x
DELETE /v1.41/containers/1234567890ab?force=1&force=0
DELETE /v1.41/containers/other
GET /v1.41/containers/json
GET /v1.41/containers/json?filters={}
GET /v1.41/containers/json?filters={"label":["com.docker.compose.project"]}
GET /v1.41/containers/json?filters={"label":["nanoclaw.install=a","x"]}
GET /v1.41/containers/json?filters={"label":["nanoclaw.install=a"],"name":["x"]}
GET /v1.41/containers/json?filters=nonsense
GET /v1.41/containers/json?filters={"label":"nanoclaw.install=a"}
POST /v1.41/containers/create
POST /v1.41/containers/create?name=other
POST /v1.41/containers/create?name=nanoclaw-1&platform=linux
POST /v1.41/containers/prune
POST /v1.41/commit?container=1234567890ab
POST /v1.41/build?buildargs={"BASE_IMAGE":"evil"}
POST /v1.41/build?buildargs={}
POST /v1.41/build
POST /v1.41/build?buildargs={"BASE_IMAGE":"python:3.12-slim"}&networkmode=host
POST /v1.41/build?buildargs={"BASE_IMAGE":"python:3.12-slim"}&extrahosts=a
POST /v1.41/build/prune
POST /v1.41/images/create?fromImage=evil&tag=latest
POST /v1.41/images/create?fromImage=python&tag=3.12
POST /v1.41/images/create?fromImage=python
POST /v1.41/images/create?fromImage=python:3.12-slim
POST /v1.41/images/create?fromImage=python:3.12-slim&tag=latest
POST /v1.41/images/create?fromSrc=-&repo=nanoclaw-agent
POST /v1.41/images/load
GET /v1.41/images/nanoclaw-agent/get
GET /v1.41/images/other/json
POST /v1.41/images/python:3.12-slim/push
POST /v1.41/images/nanoclaw-agent/tag?repo=nanoclaw-agent
POST /v1.41/images/sha256:{A}/tag?repo=python
POST /v1.41/images/sha256:{A}/tag?repo=nanoclaw-agent&tag=x
DELETE /v1.41/images/nanoclaw-agent
DELETE /v1.41/images/sha256:{A}?force=1
POST /v1.41/images/prune
GET /v1.41/images/json
GET /v1.41/images/json?filters={"label":["other"]}
GET /v1.41/images/json?filters={"reference":["*"]}
GET /v1.41/images/search?term=x
GET /v1.41/events
GET /v1.41/events?filters={"type":["container"],"event":["exec_start"],"label":["nanoclaw.install=a"]}
GET /v1.41/events?filters={"type":["image"],"event":["die"],"label":["nanoclaw.install=a"]}
GET /v1.41/networks
POST /v1.41/networks/create
POST /v1.41/networks/bridge/connect
GET /v1.41/volumes
POST /v1.41/volumes/create
DELETE /v1.41/volumes/p_data
POST /v1.41/volumes/prune
POST /v1.41/swarm/init
GET /v1.41/secrets
POST /v1.41/services/create
POST /v1.41/plugins/pull?remote=x
GET /v1.41/plugins
POST /v1.41/auth
POST /v1.41/session
GET /v1.41/system/df
GET /v1.41/distribution/x/json
POST /grpc
OPTIONS /v1.41/info
POST /v1.41/info
GET /v1.41/info?x=1
GET /v1.41//info
GET /v1.41/../info
GET /v1.41/%69nfo
GET /v1.41/info;x
GET /v99999/info
GET http://engine/v1.41/info
GET *
GET /
CONNECT engine:80
"""


@pytest.mark.parametrize("line", BAD_CALLS.strip().splitlines())
def test_no_other_call_passes(line: str) -> None:
    """Commands inside, files, commits, other containers, other images, networks, volumes, the engine itself."""
    method, _, target = line.replace("{A}", "a" * 64).partition(" ")
    with pytest.raises(Refused):
        policy.asked(method, quote(target, safe="/?&=%:;*"), NAMES)


@pytest.mark.parametrize(
    ("line", "act", "query"),
    [
        ("GET /version", Act.SAY, {}),
        ("GET /v1.41/info", Act.SAY, {}),
        ("GET /_ping", Act.SAY, {}),
        ('GET /v1.41/containers/json?limit=-1&all=1&size=0&trunc_cmd=0&filters={"label":["nanoclaw.install=a"]}',
         Act.LIST, {"all": "1", "filters": '{"label": ["nanoclaw.install=a", "nanoclaw.guard=p"]}'}),
        ('GET /events?filters={"type":["container"],"event":["die","destroy"],"label":["nanoclaw.install=a"]}',
         Act.EVENTS, {"filters": '{"type": ["container"], "event": ["die", "destroy"],'
                                 ' "label": ["nanoclaw.install=a", "nanoclaw.guard=p"]}'}),
        ("POST /v1.41/containers/create?name=nanoclaw-1234abcd", Act.CREATE, {"name": "nanoclaw-1234abcd"}),
        ("DELETE /v1.41/containers/1234567890ab?v=True&link=False&force=True", Act.REMOVE,
         {"v": "True", "link": "False", "force": "True"}),
        ('POST /v1.41/build?t=&q=False&rm=True&dockerfile=x&buildargs={"BASE_IMAGE":"python:3.12-slim","A":"b"}',
         Act.BUILD, {}),
        ("POST /v1.41/images/create?fromImage=python&tag=3.12-slim", Act.PULL,
         {"fromImage": "python", "tag": "3.12-slim"}),
        ("POST /v1.41/images/create?fromImage=own", Act.PULL, {"fromImage": "own", "tag": "latest"}),
        ("GET /v1.41/images/python:3.12-slim/json", Act.IMAGE, {}),
        ("GET /images/reg.example.com/own:V1/json", Act.IMAGE, {}),
    ],
)  # fmt: skip
def test_the_host_s_calls_pass_in_our_own_words(line: str, act: Act, query: dict[str, str]) -> None:
    """What a call may vary is checked, what it may not is put there."""
    method, _, target = line.partition(" ")
    names = replace(NAMES, bases=NAMES.bases | {"own:latest", "reg.example.com/own:V1"})
    made = policy.asked(method, quote(target, safe="/?&=%:"), names)
    assert (made.act, dict(made.query)) == (act, query)


@pytest.mark.parametrize("path", ["/", "/etc", "/var", "/var/lib/docker", "/proc/1", "srv", "/srv/../etc", "/run/user"])
def test_the_machine_itself_cannot_be_listed(path: str) -> None:
    """GUARD_ALLOW is the owner's, but slips are caught at the start."""
    with pytest.raises(ConfigError):
        read_settings({"GUARD_PROJECT": "p", "GUARD_ALLOW": f"/srv/projects,{path}"})


@pytest.mark.parametrize(
    "environ",
    [
        {}, {"GUARD_PROJECT": "A b"}, {"GUARD_PROJECT": "p", "PUID": "root"},
        {"GUARD_PROJECT": "p", "NANOCLAW_BASE_IMAGE": "python@sha256:" + "a" * 64},
    ],
)  # fmt: skip
def test_settings_that_are_not_right_are_told(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        read_settings(environ)


def test_settings_are_the_compose_file_s() -> None:
    """The user of agents is the host's, or an unprivileged one where that is root."""
    given = {"GUARD_PROJECT": "p", "GUARD_ALLOW": "/srv/a, /srv/b:ro"}
    settings = read_settings(given | {"PUID": "1000", "PGID": "100", "NANOCLAW_BASE_IMAGE": "b:1"})
    assert settings.allowed == (Root("/srv/a", whole=True), Root("/srv/b", read_only=True, whole=True))
    assert (settings.user, settings.names.bases) == ("1000:100", {"b:1"})
    assert read_settings(given | {"PUID": "0", "PGID": "0"}).user == "10001:10001"


# --- what is carried ---------------------------------------------------------------------------

OURS = {"Labels": {policy.LABEL_GUARD: "p"}, "User": "10001:10001"}
MADE = {"Type": "bind", "Source": f"{DATA}/groups/main", "Destination": "/workspace/group", "RW": True}
ASKER = {"Labels": {policy.LABEL_PROJECT: "p", policy.LABEL_SERVICE: "nanoclaw"}}
MOUNTS = [{"Type": "volume", "Source": DATA, "Destination": "/data"},
          {"Type": "volume", "Source": "/v/guard", "Destination": "/guard"},
          {"Type": "bind", "Source": "/home/ann/secrets", "Destination": "/run/secrets"}]  # fmt: skip


class FakeEngine:
    """Answers as an engine with one container of ours, one of somebody else, and the asker's; notes what comes."""

    def __init__(self, data: Path) -> None:
        self.heard: list[tuple[str, str, bytes]] = []
        self.starting, self.go, self.there = asyncio.Event(), asyncio.Event(), 1
        self.go.set()
        current = {"Labels": {BUILD_LABEL: build_hash(resources()), PROTOCOL_LABEL: str(PROTOCOL)}}
        self.stored: dict[str, Any] = {
            "/containers/" + "1" * 12: {"Id": "1" * 64, "Config": OURS, "Image": IMAGE, "Mounts": [MADE]},
            "/containers/" + "2" * 12: {"Id": "2" * 64, "Config": {"Labels": {}}},
            "/containers/" + "3" * 12: {"Id": "3" * 64, "Config": ASKER, "Mounts": MOUNTS},
            "/containers/" + socket.gethostname(): {
                "Config": ASKER,
                "Mounts": [MOUNTS[0] | {"Destination": str(data)}],
            },
            f"/images/{IMAGE}": {"Config": current},
            "/images/sha256:" + "b" * 64: {"Config": {"Labels": {}}},
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = "/" + request.path.lstrip("/").removeprefix("v1.41/")
        if request.method == "GET" and not request.path.startswith("/v1.41") and path != "/events":  # the guard asks
            found: Any = self.stored.get(path.removesuffix("/json"), {"CgroupDriver": "cgroupfs"})
            return web.json_response([{"Id": "3" * 12}] * self.there if path == "/containers/json" else found)
        if path.endswith("/start"):
            self.starting.set()
            await self.go.wait()
        self.heard.append((request.method, request.path, await request.read()))
        if path == "/events":
            told = web.StreamResponse()
            await told.prepare(request)
            await told.write(b'{"id":"1"}\n')
            await asyncio.sleep(LIMIT)
        return web.json_response({"Id": "new"}, status=201 if request.method == "POST" else 200)


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[FakeEngine]:
    (folder / "data/groups/main").mkdir(parents=True)
    fake, app = FakeEngine(folder / "data"), web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "e")).start()
    yield fake
    await runner.cleanup()


@pytest.fixture
async def client(folder: Path, engine: FakeEngine) -> AsyncIterator[aiohttp.ClientSession]:
    """Somebody who talks to a guard before that engine."""
    settings, ready = read_settings({"GUARD_PROJECT": "p"}), asyncio.Event()
    guard = asyncio.create_task(serve(Guard(str(folder / "e"), settings), folder / "g", ready=ready))
    async with asyncio.timeout(LIMIT):
        await ready.wait()
    assert (folder / "g").stat().st_mode & 0o777 == 0o660
    connector = aiohttp.UnixConnector(str(folder / "g"))
    async with aiohttp.ClientSession("http://x", connector=connector) as session:
        yield session
    guard.cancel()
    await asyncio.wait({guard})
    assert not (folder / "g").exists()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", f"/containers/{'1' * 12}/start", 201),
        ("POST", f"/containers/{'2' * 12}/start", 403),
        ("DELETE", f"/containers/{'1' * 12}?force=True", 200),
        ("DELETE", f"/containers/{'2' * 12}?force=True", 403),
        ("GET", f"/containers/{'2' * 12}/logs?tail=5", 403),
        ("GET", f"/containers/{'3' * 12}/json", 200),
        ("DELETE", f"/containers/{'3' * 12}?force=True", 403),
        ("POST", f"/images/{IMAGE}/tag?repo=nanoclaw-agent", 201),
        ("POST", f"/images/sha256:{'b' * 64}/tag?repo=nanoclaw-agent", 403),
        ("DELETE", f"/images/sha256:{'b' * 64}", 403),
        ("GET", f"/images/sha256:{'b' * 64}/json", 403),
        ("GET", "/info", 200),
    ],
)
async def test_a_call_is_about_what_is_ours(
    client: aiohttp.ClientSession, engine: FakeEngine, method: str, path: str, status: int
) -> None:
    """The engine hears only of calls about what was made through the guard; the asker may look at itself."""
    async with client.request(method, "/v1.41" + path) as answer:
        assert answer.status == status
        assert status != 403 or "engine-guard" in (await answer.json())["message"]
    assert len(engine.heard) == (status != 403)


async def test_a_container_is_made_of_our_own_words(client: aiohttp.ClientSession, engine: FakeEngine) -> None:
    """The folders are the asker's as it stands now; what reaches the engine is written by the guard."""
    own = replace(SPEC, binds=SPEC.binds[:1])
    wrong = [
        replace(own, binds=(Bind(Path(path), "/workspace/x"),))
        for path in ("/v/guard/engine.sock", "/home/ann/secrets/key", "/srv/projects/app")
    ]
    for spec, status in ((own, 201), *((spec, 403) for spec in wrong)):
        data = json.dumps(body(spec), indent=4)
        async with client.post("/v1.41/containers/create?name=nanoclaw-1234abcd", data=data) as answer:
            assert answer.status == status, await answer.text()
    ((_, _, heard),) = engine.heard
    expected = copy.deepcopy(body(own))
    expected["Labels"][policy.LABEL_GUARD] = "p"
    assert json.loads(heard) == expected


def a_link(there: Path) -> None:
    there.rmdir()
    there.symlink_to("/etc")


def a_link_on_the_way(there: Path) -> None:
    there.parent.rename(there.parents[1] / "elsewhere")
    there.parent.symlink_to("elsewhere")


SPOILT: dict[str, Callable[[Path], None]] = {
    "a link": a_link,
    "a link on the way": a_link_on_the_way,
    "nothing": Path.rmdir,
}


async def create(client: aiohttp.ClientSession, spec: Spec) -> int:
    data = json.dumps(body(spec))
    async with client.post("/v1.41/containers/create?name=nanoclaw-1234abcd", data=data) as answer:
        return answer.status


async def start(client: aiohttp.ClientSession) -> int:
    async with client.post(f"/v1.41/containers/{'1' * 12}/start") as answer:
        return answer.status


@pytest.mark.parametrize("what", SPOILT)
async def test_nothing_is_mounted_by_a_link(
    client: aiohttp.ClientSession, engine: FakeEngine, folder: Path, what: str
) -> None:
    """The engine would follow it as root: neither is such a container made, nor does one start that was made before."""
    own = replace(SPEC, binds=SPEC.binds[:1])
    assert (await create(client, own), await start(client)) == (201, 201)
    engine.heard.clear()
    SPOILT[what](folder / "data/groups/main")
    assert (await create(client, own), await start(client)) == (403, 403)
    assert engine.heard == []


@pytest.mark.parametrize("waits", [True, False])
async def test_what_changes_while_it_starts_is_removed(
    client: aiohttp.ClientSession, engine: FakeEngine, folder: Path, waits: bool
) -> None:
    """Also when who asked has left meanwhile."""
    engine.go.clear()
    asking = asyncio.create_task(start(client))
    async with asyncio.timeout(LIMIT):
        await engine.starting.wait()
        if not waits:
            asking.cancel()
            await asyncio.wait({asking})
        a_link(folder / "data/groups/main")
        engine.go.set()
        assert not waits or await asking == 403
        while len(engine.heard) < 2:
            await asyncio.sleep(0.01)
    assert [(method, path) for method, path, _ in engine.heard] == [
        ("POST", f"/v1.41/containers/{'1' * 64}/start"),
        ("DELETE", f"/containers/{'1' * 64}"),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"Config": OURS | {"User": "0:0"}}, {"Image": "sha256:" + "b" * 64}, {"Image": ""},
        {"Mounts": [MADE | {"Source": "/srv/projects/app"}]}, {"Mounts": [MADE | {"Type": "volume"}]},
        {"Mounts": [MADE | {"Destination": "/home/agent"}]}, {"Mounts": [{}]},
    ],
)  # fmt: skip
async def test_what_was_made_by_other_rules_does_not_start(
    client: aiohttp.ClientSession, engine: FakeEngine, changed: dict[str, Any]
) -> None:
    """Another user, an old image, a folder that is not listed any more."""
    engine.stored["/containers/" + "1" * 12] |= changed
    assert await start(client) == 403
    assert engine.heard == []


async def test_there_is_an_end_to_containers_and_listeners(client: aiohttp.ClientSession, engine: FakeEngine) -> None:
    own = replace(SPEC, binds=SPEC.binds[:1])
    engine.stored["/info"] = {"CgroupDriver": "cgroupfs", "MemTotal": 2 << 30}
    assert await create(client, replace(own, memory_mb=2049)) == 403
    assert await create(client, replace(own, memory_mb=2048)) == 201
    engine.there = policy.MAX_CONTAINERS
    assert await create(client, own) == 403
    filters = {"type": ["container"], "event": ["die"], "label": ["nanoclaw.install=a"]}
    listening = [await client.get("/events", params={"filters": json.dumps(filters)}) for _ in range(9)]
    assert [answer.status for answer in listening] == [200] * 8 + [503]
    for answer in listening:
        answer.close()


async def test_bodies_and_upgrades_are_not_carried(client: aiohttp.ClientSession, engine: FakeEngine) -> None:
    """Nothing rides along with a call, and no connection becomes another."""
    start = f"/v1.41/containers/{'1' * 12}/start"
    too_much = io.BytesIO(b" " * (policy.MAX_BODY + 1))
    for path, headers, data in (
        (start, {"Connection": "Upgrade", "Upgrade": "tcp"}, None),
        (start, {"Connection": "upgrade"}, None),
        (start, {}, b'{"Binds": ["/:/x"]}'),
        ("/v1.41/containers/create?name=nanoclaw-1234abcd", {}, too_much),
    ):
        async with client.post(path, headers=headers, data=data) as answer:
            assert answer.status == 403
    assert engine.heard == []


async def test_events_come_as_they_happen_and_end_with_who_listens(
    client: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    """A stream without an end is passed on line by line, and let go of when its listener leaves."""
    filters = {"type": ["container"], "event": ["die"], "label": ["nanoclaw.install=a"]}
    for _ in range(3):
        async with client.get("/v1.41/events", params={"filters": json.dumps(filters)}) as answer:
            async with asyncio.timeout(LIMIT):
                assert await answer.content.readline() == b'{"id":"1"}\n'
    assert len(engine.heard) == 3


async def test_without_an_engine_it_begins_anew(folder: Path, engine: FakeEngine) -> None:
    """A socket that was mounted stays the old one: only a new container sees the engine's new one."""
    guard = Guard(str(folder / "e"), read_settings({"GUARD_PROJECT": "p"}))
    ready = asyncio.Event()
    serving = asyncio.create_task(serve(guard, folder / "g", ready=ready, watch=0.01))
    async with asyncio.timeout(LIMIT):
        await ready.wait()
        await asyncio.sleep(0.1)
        assert not serving.done()
        (folder / "e").unlink()
        with pytest.raises(SandboxError, match="no engine answers"):
            await serving


async def test_an_engine_that_is_gone_is_told(folder: Path, client: aiohttp.ClientSession) -> None:
    """The host takes it for what it is: lanes wait for the engine, nothing fails."""
    (folder / "e").unlink()

    def ask() -> None:
        host = DockerClient(f"unix://{folder / 'g'}", version="1.41")
        with closing(host), explained(""):
            host.api.info()

    with pytest.raises(SandboxError, match="reaches no engine") as e:
        await asyncio.to_thread(ask)
    assert e.value.cause is Cause.ENGINE
