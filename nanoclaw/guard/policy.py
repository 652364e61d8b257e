"""What may be asked of the engine, and in which words it is passed on (pure). Everything else is refused."""

import json
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from nanoclaw.errors import Refused
from nanoclaw.sandbox import Bind, Spec
from nanoclaw.sandbox.image import BUILD_LABEL, PROTOCOL_LABEL, STAGE_LABEL
from nanoclaw.sandbox.spec import ENDS, LABEL_INSTALL, LABEL_LANE, LABEL_RUN, Engine, create_body, tmpfs_sizes

LABEL_GUARD = "nanoclaw.guard"  # on every container that was made through a guard: its compose project
LABEL_PROJECT = "com.docker.compose.project"
LABEL_SERVICE = "com.docker.compose.service"
MAX_BODY = 1 << 20  # bytes of a create call; one with a hundred mounts and the system call filter has 60 KiB
MAX_TARGET = 8192  # bytes of a path with its query; a build's arguments stand there
MAX_CONTAINERS = 128  # of one guard; max_runs ends at 100
_OLDEST = 41  # of the API, 1.x: an older one drops NonRecursive, and what lies below a mount would be writable
_MIB = 1 << 20
_TARGETS = ("/workspace", "/run/nanoclaw", "/opt/agent/plugins", "/home/agent")  # where an agent's mounts may stand
# What an agent's environment may say; a name beyond these could lead the engine's own runtime, or load code.
_ENV = {"HOME", "TZ", "ASSISTANT_NAME", "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "IS_SANDBOX"}
# What nobody may list for agents: the machine itself.
_NEVER = ("/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var/lib", "/var/run")


class Act(StrEnum):
    """What a call does."""

    SAY = "say"  # ping, version, info: what the engine says of itself
    EVENTS = "events"  # ends of our containers
    LIST = "list"  # our containers
    CREATE = "create"
    LOOK = "look"  # at one container of ours
    START = "start"
    LOGS = "logs"
    STATS = "stats"
    REMOVE = "remove"
    IMAGES = "images"  # ours
    IMAGE = "image"  # one of ours
    DROP_IMAGE = "drop image"
    TAG = "tag"
    PULL = "pull"
    BUILD = "build"


# By act: the methods and paths, and the query's keys with what their values may be.
_ID = r"(?P<of>[0-9a-f]{12,64})"
_IMAGE = r"(?P<of>sha256:[0-9a-f]{64}|[a-z0-9][a-zA-Z0-9._/:-]{0,200})"
_NO, _BIT = r"(0|False|false)?", r"(0|1|True|False|true|false)?"
# Of a build only what it is built on counts: the rest is put in the place of whatever was asked.
_OF_A_BUILD = ("t", "remote", "q", "nocache", "rm", "forcerm", "pull", "dockerfile", "buildargs")
_CALLS: list[tuple[Act, str, str, dict[str, str]]] = [
    (Act.SAY, "GET", "/_ping|/version|/info", {}),
    (Act.EVENTS, "GET", "/events", {"filters": r".*"}),
    (
        Act.LIST,
        "GET",
        "/containers/json",
        {"filters": r".*", "all": _BIT, "size": _NO, "limit": r"-1", "trunc_cmd": _BIT},
    ),
    (Act.CREATE, "POST", "/containers/create", {"name": r"nanoclaw-[0-9a-f]{8,64}"}),
    (Act.LOOK, "GET", f"/containers/{_ID}/json", {}),
    (Act.START, "POST", f"/containers/{_ID}/start", {}),
    (
        Act.LOGS,
        "GET",
        f"/containers/{_ID}/logs",
        {"stdout": _BIT, "stderr": _BIT, "timestamps": _BIT, "follow": _NO, "tail": r"[0-9]{1,4}"},
    ),
    (Act.STATS, "GET", f"/containers/{_ID}/stats", {"stream": r"0|False|false", "one-shot": _BIT}),
    (Act.REMOVE, "DELETE", f"/containers/{_ID}", {"v": _BIT, "force": _BIT, "link": _NO}),
    (Act.IMAGES, "GET", "/images/json", {"filters": r".*", "only_ids": _BIT, "all": _BIT}),
    (Act.IMAGE, "GET", f"/images/{_IMAGE}/json", {}),
    (Act.DROP_IMAGE, "DELETE", f"/images/{_IMAGE}", {"force": _NO, "noprune": _NO}),
    (Act.TAG, "POST", f"/images/{_IMAGE}/tag", {"repo": r"[a-z0-9._/-]{1,128}", "tag": r"(latest)?", "force": _BIT}),
    (Act.PULL, "POST", "/images/create", {"fromImage": r"[a-z0-9._/:-]{1,200}", "tag": r"[\w.-]{1,128}"}),
    (Act.BUILD, "POST", "/build", dict.fromkeys(_OF_A_BUILD, r".*")),
]  # fmt: skip
_PATHS = [(act, method, re.compile(path), keys) for act, method, path, keys in _CALLS]
_NEEDED = {Act.CREATE: "name", Act.TAG: "repo", Act.PULL: "fromImage", Act.EVENTS: "filters", Act.LIST: "filters",
           Act.STATS: "stream", Act.IMAGES: "filters"}  # fmt: skip


@dataclass(frozen=True)
class Names:
    """What this guard is for."""

    project: str  # the compose project that it belongs to
    service: str = "nanoclaw"  # and its service that asks
    image: str = "nanoclaw-agent"
    bases: frozenset[str] = frozenset()  # what the agent image may be built on


@dataclass(frozen=True)
class Asked:
    """A call that may be passed on as it stands here, once its subject was looked at."""

    act: Act
    path: str  # with the API's version
    query: Mapping[str, str]
    of: str = ""  # the container or image
    base: str = ""  # of a build


def asked(method: str, target: str, names: Names) -> Asked:
    """The call that a request line asks for, in our words. Raises Refused."""
    path, _, raw = target.partition("?")
    if len(target) > MAX_TARGET or not re.fullmatch(r"(/v1\.[0-9]{1,3})?(/[A-Za-z0-9_][A-Za-z0-9_.:-]*)+", path):
        raise Refused("that is no call of the engine's")
    version, own = re.fullmatch(r"(/v1\.[0-9]{1,3})?(.*)", path).groups()  # type: ignore[union-attr]
    if version and int(version.removeprefix("/v1.")) < _OLDEST:
        raise Refused(f"version 1.{_OLDEST} of the API or a newer one is needed")
    for act, verb, known, keys in _PATHS:
        if verb == method and (found := known.fullmatch(own)):
            query = _query(act, raw, keys)
            of = found.groupdict().get("of", "")
            return _made_anew(Asked(act, (version or "") + own, query, of), names)
    raise Refused(f"{method} {own[:80]} is not for agents")


def _query(act: Act, raw: str, keys: Mapping[str, str]) -> dict[str, str]:
    try:
        pairs = parse_qsl(raw, keep_blank_values=True, strict_parsing=bool(raw), max_num_fields=20)
    except ValueError:
        raise Refused("its query cannot be read") from None
    query = dict(pairs)
    if len(query) != len(pairs):
        raise Refused("its query says something twice")
    for key, value in query.items():
        if key not in keys or not re.fullmatch(keys[key], value, re.DOTALL):
            raise Refused(f"{act} with {key[:40]}={value[:60]!r} is not for agents")
    if (needed := _NEEDED.get(act)) and needed not in query:
        raise Refused(f"{act} without {needed} is not for agents")
    return query


def _made_anew(call: Asked, names: Names) -> Asked:
    """With the words that depend on whom this guard is for."""
    if call.act in (Act.EVENTS, Act.LIST, Act.IMAGES):
        filters = _FILTERS[call.act](_json(call.query["filters"]), names)
        query = {key: value for key, value in call.query.items() if key == "all"}
        return Asked(call.act, call.path, query | {"filters": json.dumps(filters)}, call.of)
    if call.act is Act.IMAGE and not call.of.startswith("sha256:") and call.of not in {names.image, *names.bases}:
        raise Refused(f"the image {call.of} is not for agents")
    if call.act in (Act.TAG, Act.DROP_IMAGE) and not call.of.startswith("sha256:"):
        raise Refused("an image that is changed has to be named by its id")
    if call.act is Act.TAG and call.query["repo"] != names.image:
        raise Refused(f"the name {call.query['repo']} is not for agents")
    if call.act is Act.PULL:
        name, tag = call.query["fromImage"], call.query.get("tag", "latest")
        tagless = {base for base in names.bases if ":" not in base.rpartition("/")[2]}
        if f"{name}:{tag}" not in (names.bases - tagless) | {f"{base}:latest" for base in tagless}:
            raise Refused(f"{name}:{tag} is not what agents are built on")
        return Asked(call.act, call.path, {"fromImage": name, "tag": tag})  # without a tag an engine takes them all
    if call.act is Act.BUILD:
        arguments = _json(call.query.get("buildargs", "{}"))
        base = arguments.get("BASE_IMAGE") if isinstance(arguments, dict) else None
        if base not in names.bases:
            raise Refused("agents are not built on that")
        return Asked(call.act, call.path, {}, base=str(base))
    return call


def _ends(filters: Any, names: Names) -> dict[str, list[str]]:
    given = _lists(filters, {"type", "event", "label"})
    if given.get("type") != ["container"] or not {*given.get("event", ["?"])} <= {*ENDS}:
        raise Refused("only the ends of containers are told")
    return given | _ours(given, names)


def _listed(filters: Any, names: Names) -> dict[str, list[str]]:
    return _ours(_lists(filters, {"label"}), names)


def _images(filters: Any, names: Names) -> dict[str, list[str]]:
    given = _lists(filters, {"label", "dangling", "reference"})
    if given == {"reference": [names.image]}:
        return given
    if given.get("label") not in ([BUILD_LABEL], [STAGE_LABEL]):
        raise Refused("only our own images are told")
    return given


_FILTERS: dict[Act, Callable[[Any, Names], dict[str, list[str]]]] = {
    Act.EVENTS: _ends,
    Act.LIST: _listed,
    Act.IMAGES: _images,
}


def _lists(filters: Any, known: set[str]) -> dict[str, list[str]]:
    try:
        given = {str(key): [str(value) for value in values] for key, values in filters.items()}
    except (AttributeError, TypeError):
        raise Refused("its filters cannot be read") from None
    if not given.keys() <= known or not all(isinstance(v, list) for v in filters.values()):
        raise Refused("its filters are not for agents")
    return given


def _ours(given: Mapping[str, list[str]], names: Names) -> dict[str, list[str]]:
    labels = given.get("label", [])
    if len(labels) != 1 or not re.fullmatch(rf"{re.escape(LABEL_INSTALL)}=[\w-]{{1,64}}", labels[0]):
        raise Refused("only the containers of one installation are told")
    return {"label": [*labels, f"{LABEL_GUARD}={names.project}"]}


# --- the body of a create call -----------------------------------------------------------------


@dataclass(frozen=True)
class Root:
    """A folder of the machine that agents may be given parts of."""

    path: str
    read_only: bool = False
    whole: bool = False  # also itself: what the owner listed; of our own folders only what is in them


@dataclass(frozen=True)
class Rules:
    """What a container may get at this moment."""

    names: Names
    user: str  # "uid:gid"
    image: str  # the id of the one image, "" for none
    roots: tuple[Root, ...]
    engine: Engine
    runtime: str = ""  # the setting, "" = the engine's default
    memory_mb: int = 1 << 20  # that one may have: what the machine has


def listed(text: str) -> tuple[Root, ...]:
    """GUARD_ALLOW, as in "/srv/projects,/srv/music:ro". Raises Refused for what nobody may list."""
    roots = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        path = word.removesuffix(":ro")
        _normal(path)
        if path == "/" or any(_within(path, never) or _within(never, path) for never in _NEVER):
            raise Refused(f"GUARD_ALLOW: {path} is the machine's own and no folder for agents")
        roots.append(Root(path, read_only=path != word, whole=True))
    return tuple(roots)


def asked_image(body: bytes) -> str:
    """The id of the image that a create call names. Raises Refused for anything but an id."""
    given = _json(body)
    image = given.get("Image") if isinstance(given, dict) else None
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", str(image)):
        raise Refused("a container has to name its image by the id")
    return str(image)


def created(name: str, body: bytes, rules: Rules) -> bytes:
    """The body of a create call, written anew from the few things that may vary. Raises Refused.

    What is asked for must be, word by word, what NanoClaw's own code asks for with these values.
    """
    given = _json(body)
    try:
        spec, install = _spec(given)
        wanted = create_body(spec, install_id=install, engine=rules.engine)
        different = _differences(given, wanted)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
        raise Refused(f"a container is not asked for like this ({type(e).__name__}: {str(e)[:80]})") from None
    if different:
        raise Refused(f"a container's {different[0]} is not what it may be")
    if name != f"nanoclaw-{spec.run_id}":
        raise Refused("a container has to be named by its run")
    _judge(spec, rules)
    wanted["Labels"][LABEL_GUARD] = rules.names.project
    return json.dumps(wanted).encode()


def _spec(given: Any) -> tuple[Spec, str]:
    host, labels = given["HostConfig"], given["Labels"]
    mounts, env = host["Mounts"], given["Env"]
    if not (type(env) is type(mounts) is list and len(env) <= 100 and len(mounts) <= 1000):
        raise ValueError("its lists")
    user = re.fullmatch(r"(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})", given["User"])
    if not user:
        raise ValueError("its user")
    if not re.fullmatch(r"[\w-]{1,64}", labels[LABEL_INSTALL]):
        raise ValueError("its installation")
    spec = Spec(
        run_id=_word(labels[LABEL_RUN]),
        lane=_word(labels[LABEL_LANE]),
        image=_word(given["Image"]),
        uid=int(user[1]),
        gid=int(user[2]),
        binds=tuple(Bind(Path(m["Source"]), _word(m["Target"]), read_write=m["ReadOnly"] is False) for m in mounts),
        env=dict(_word(word).split("=", 1) for word in env),
        memory_mb=_whole(host["Memory"]) // _MIB,
        cpus=_whole(host["NanoCpus"]) / 1e9,
        pids=_whole(host["PidsLimit"]),
        runtime=_word(host.get("Runtime", "")),
    )
    return spec, labels[LABEL_INSTALL]


def _whole(number: Any) -> int:
    if type(number) is not int:
        raise ValueError("its limits")
    return number


def _word(text: Any) -> str:
    if type(text) is not str:
        raise ValueError("its words")
    return text


def _differences(given: Any, wanted: Any, name: str = "") -> list[str]:
    """The names of what is not the same; true is not 1 here."""
    if isinstance(given, dict) and isinstance(wanted, dict):
        keys = sorted(map(str, given.keys() | wanted.keys()))
        nothing = object()
        return [
            found
            for key in keys
            for found in _differences(given.get(key, nothing), wanted.get(key, nothing), f"{name}.{key[:60]}")
        ]
    same = type(given) is type(wanted) and (
        given == wanted if not isinstance(given, list) else json.dumps(given) == json.dumps(wanted)
    )
    return [] if same else [name.lstrip(".") or "body"]


def _judge(spec: Spec, rules: Rules) -> None:
    if not rules.image or spec.image != rules.image:
        raise Refused("a container has to be made from the agent image of this version")
    if f"{spec.uid}:{spec.gid}" != rules.user:
        raise Refused(f"a container has to run as {rules.user}")
    if strange := sorted(spec.env.keys() - _ENV):
        raise Refused(f"a container is not told {strange[0][:40]!r}")
    if spec.runtime != rules.runtime:
        raise Refused(f"a container has to be run by {rules.runtime or 'the usual runtime'}")
    if spec.memory_mb > rules.memory_mb:
        raise Refused(f"the machine has {rules.memory_mb} MiB of memory, and a container may have no more")
    if not (spec.memory_mb >= 256 and 16 <= spec.pids <= 32768 and 0.1 <= spec.cpus <= 256):
        raise Refused("a container has to have limits")
    judge_binds(spec.binds, rules.roots)


def judge_binds(binds: tuple[Bind, ...], roots: tuple[Root, ...]) -> None:
    """What may stand in a container, and where. What the names lead to: `places`. Raises Refused."""
    if len({bind.target for bind in binds}) != len(binds):
        raise Refused("two folders are mounted at one place")
    for bind in binds:
        _judge_bind(bind, roots)
        if (outer := _outer(bind, binds)) and not any(r.whole and _within(str(outer.source), r.path) for r in roots):
            raise Refused(f"nothing is mounted within {outer.target[:80]}")


def places(binds: tuple[Bind, ...]) -> tuple[str, ...]:
    """What has to be there on the machine, by names that are no links: the sources, and where one stands in another.

    The engine would make a missing place, as root.
    """
    inner = ((bind, outer) for bind in binds if (outer := _outer(bind, binds)))
    within = (f"{outer.source}/{posixpath.relpath(bind.target, outer.target)}" for bind, outer in inner)
    return tuple(dict.fromkeys((*(str(bind.source) for bind in binds), *within)))


def _outer(bind: Bind, binds: tuple[Bind, ...]) -> Bind | None:
    """The mount that this one stands in."""
    around = [other for other in binds if other is not bind and _within(bind.target, other.target)]
    return max(around, key=lambda other: len(other.target), default=None)


def _judge_bind(bind: Bind, roots: tuple[Root, ...]) -> None:
    source = bind.source.as_posix()
    _normal(source)
    _normal(bind.target)
    if not any(_within(bind.target, top) for top in _TARGETS):
        raise Refused(f"nothing is mounted at {bind.target[:80]}")
    if any(_within(folder, bind.target) for folder in tmpfs_sizes()):
        raise Refused(f"nothing is mounted over {bind.target[:80]}")
    around = [root for root in roots if _within(source, root.path) and (root.whole or source != root.path)]
    if not around:
        raise Refused(f"{source[:200]} is not a folder for agents (GUARD_ALLOW lists more)")
    if bind.read_write and max(around, key=lambda root: len(root.path)).read_only:
        raise Refused(f"{source[:200]} is for reading only")


def made_binds(body: bytes) -> tuple[Bind, ...]:
    """The mounts of a body that `created` has made."""
    mounts = json.loads(body)["HostConfig"]["Mounts"]
    return tuple(Bind(Path(m["Source"]), m["Target"], read_write=not m["ReadOnly"]) for m in mounts)


def started(inspect: Mapping[str, Any], rules: Rules) -> tuple[Bind, ...]:
    """The mounts of a container that was made earlier and may start by the rules of now. Raises Refused."""
    try:
        mounts = [m for m in inspect.get("Mounts") or [] if m["Type"] != "tmpfs"]
        binds = tuple(Bind(Path(m["Source"]), _word(m["Destination"]), read_write=m["RW"] is not False) for m in mounts)
        kinds = {m["Type"] for m in mounts}
    except (KeyError, TypeError, ValueError):
        raise Refused("its mounts cannot be read") from None
    if not kinds <= {"bind"}:
        raise Refused("only folders of the machine are mounted")
    if not rules.image or image_of(inspect) != rules.image:
        raise Refused("it was made from another agent image than this version's")
    if (inspect.get("Config") or {}).get("User") != rules.user:
        raise Refused(f"a container has to run as {rules.user}")
    judge_binds(binds, rules.roots)
    return binds


def image_of(inspect: Mapping[str, Any]) -> str:
    """The id of a container's image; Podman leaves its first word out."""
    return "sha256:" + str(inspect.get("Image", "")).removeprefix("sha256:")


def _normal(path: str) -> None:
    if not path.startswith("/") or posixpath.normpath(path) != path or path.startswith("//") or not path.isprintable():
        raise Refused(f"{path[:80]!r} is no plain absolute path")


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _json(text: str | bytes) -> Any:
    """Strictly: a key that comes twice is read one way by us and another way by the engine."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Refused("it says something twice")
        return found

    def no_number(word: str) -> Any:
        raise Refused(f"{word} is no number")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except (ValueError, RecursionError):
        raise Refused("it is no JSON") from None


# --- what the engine answered ------------------------------------------------------------------


def is_made_here(inspect: Mapping[str, Any], names: Names) -> bool:
    """Whether this container was made through this guard: nobody else can give the label."""
    return _labels(inspect).get(LABEL_GUARD) == names.project


def is_the_asker(inspect: Mapping[str, Any], names: Names) -> bool:
    """Whether this container is the service that asks: it may look at itself, to learn what its folders are called."""
    labels = _labels(inspect)
    return (labels.get(LABEL_PROJECT), labels.get(LABEL_SERVICE)) == (names.project, names.service)


def is_of_project(inspect: Mapping[str, Any], names: Names) -> bool:
    """Whether this container belongs to the guard's compose project."""
    return _labels(inspect).get(LABEL_PROJECT) == names.project


def is_ours(image: Mapping[str, Any]) -> bool:
    """Whether an image is one of agents, or what a build of one left behind."""
    labels, (stage, word) = _labels(image), STAGE_LABEL.split("=")
    return BUILD_LABEL in labels or labels.get(stage) == word


def is_current(image: Mapping[str, Any], build: str, protocol: str) -> bool:
    """Whether an image was made from exactly the files that this guard has too."""
    labels = _labels(image)
    return labels.get(BUILD_LABEL) == build and labels.get(PROTOCOL_LABEL) == protocol


def is_nameless(image: Mapping[str, Any]) -> bool:
    """Whether nobody calls this image by a name."""
    return not [name for name in image.get("RepoTags") or [] if name != "<none>:<none>"]


def _labels(inspect: Mapping[str, Any]) -> Mapping[str, Any]:
    return (inspect.get("Config") or {}).get("Labels") or {}


def folders(inspect: Mapping[str, Any], wanted: tuple[str, ...]) -> tuple[Root, ...]:
    """What these folders of a container are called on the machine."""
    mounts = [m for m in inspect.get("Mounts") or [] if m.get("Type") in ("bind", "volume")]
    return tuple(
        Root(str(m["Source"]))
        for m in mounts
        if m.get("Destination") in wanted and str(m.get("Source", "")).startswith("/")
    )
