"""Where the host itself runs in a container: what its paths are called on the machine, where the engine looks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanoclaw.errors import SandboxError
from nanoclaw.mounts.way import identity
from nanoclaw.sandbox import Spec

if TYPE_CHECKING:
    from docker import DockerClient

# The engine gives each container files of its own: where they lie says which one it is.
_OWN_FILE = re.compile(r"/(?:overlay-)?containers/([0-9a-f]{64})/(?:userdata/)?(?:hostname|hosts|resolv\.conf)")
_GROUP = re.compile(r"[/-]([0-9a-f]{64})(?:\.scope)?$")


@dataclass(frozen=True)
class HostPaths:
    """By the paths of our own container, what the engine calls them; without any, both are the same machine."""

    container: str = ""
    sources: tuple[
        tuple[Path, Path | None], ...
    ] = ()  # inside -> on the machine, or None: the engine cannot pass it on

    def translate(self, path: Path) -> Path:
        """What the engine calls it. Raises SandboxError, naming both sides."""
        if not self.container:
            return path
        around = [(inside, source) for inside, source in self.sources if path == inside or inside in path.parents]
        inside, source = max(around, key=lambda pair: len(pair[0].parts), default=(Path("/"), None))
        if source is None:
            raise SandboxError(
                f"{path} is only inside the container {self.container[:12]} that NanoClaw itself runs in, so the engine"
                f" on the machine cannot see it: mount a folder of the machine there, as in `-v /srv/x:{path}`"
            )
        return source / path.relative_to(inside)

    def spec(self, spec: Spec) -> Spec:
        """The same, in the engine's words. Raises SandboxError."""
        return replace(spec, binds=tuple(replace(bind, source=self.translate(bind.source)) for bind in spec.binds))


def own_container(mountinfo: str, cgroup: str = "") -> str:
    """The id of the container that we run in, by /proc/self/mountinfo and /proc/self/cgroup; "" for none."""
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        own = len(fields) > 4 and fields[4] in ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
        if own and (found := _OWN_FILE.search(fields[3])):
            return found[1]
    found = next((m for line in cgroup.splitlines() if (m := _GROUP.search(line))), None)
    return found[1] if found else ""


def of_inspect(container: str, inspect: Mapping[str, Any]) -> HostPaths:
    """From what the engine says of our own container."""
    found = [(Path(m["Destination"]), _source(m)) for m in inspect.get("Mounts") or []]
    tmpfs = [(Path(target), None) for target in inspect.get("HostConfig", {}).get("Tmpfs") or {}]
    return HostPaths(container, (*found, *tmpfs))


def _source(mount: Mapping[str, Any]) -> Path | None:
    source = str(mount.get("Source", ""))
    return Path(source) if mount.get("Type") in ("bind", "volume") and source.startswith("/") else None


def discover(client: "DockerClient") -> HostPaths:
    """Our own; an engine that does not know our container (its own is inside ours, say) needs no translation."""
    from docker.errors import NotFound

    container = own_container(_read("/proc/self/mountinfo"), _read("/proc/self/cgroup"))
    if not container:
        return HostPaths()
    try:
        return of_inspect(container, client.api.inspect_container(container))
    except NotFound:
        return HostPaths()


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def unseen(words: str, spec: Spec, asked: Spec) -> SandboxError | None:
    """The engine's refusal of a source that it does not find, in words that name both sides."""
    found = re.search(r"bind source path does not exist: (.+?)\s*$", words)
    pair = found and next(
        ((a, b) for a, b in zip(spec.binds, asked.binds, strict=True) if str(b.source) == found[1]), None
    )
    if not pair:
        return None
    here, there = pair
    return SandboxError(
        f"the engine does not see {here.source} of this machine (it looks for {there.source}):"
        " is it another machine, or does it run in a container that lacks this folder?"
    )


def moved(spec: Spec) -> list[str]:
    """The sources that are not what was judged any more."""
    return [str(bind.source) for bind in spec.binds if bind.inode is not None and _inode(bind.source) != bind.inode]


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        return identity(path)
    except OSError:
        return None
