"""The agent image: is the one that the engine has made from these very files, and if not, make it.

Every function here blocks, and leaves an engine that is gone to `engine.explained`.
"""

import contextlib
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound

from nanoclaw.errors import Cause, SandboxError
from nanoclaw.mailbox import PROTOCOL
from nanoclaw.sandbox.base import make_base, own_base

DEFAULT_BASE = "python:3.12-slim"  # the Dockerfile's default; a test compares them
BUILD_LABEL = "nanoclaw.build"
PROTOCOL_LABEL = "nanoclaw.protocol"
STAGE_LABEL = "nanoclaw.stage=build"  # on what a builder leaves behind beside the image
DOCKERFILE = "container/Dockerfile"
_CA_FILE = "container/ca.crt"
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT")
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_NOT_BUILT_FROM = {_CA_FILE, "container/requirements.in"}
_TAIL = 15  # lines of a failed build that are shown

Progress = Callable[[str], None]


def resources() -> Path:
    """The folder that holds container/ and skills/: the checkout's root, else what the package brought along."""
    package = Path(__file__).resolve().parent.parent
    if (package.parent / "container" / "Dockerfile").is_file():
        return package.parent
    return package / "_shipped"


# --- what it is built from ---------------------------------------------------------------------


def context_files(root: Path) -> dict[str, Path]:
    """Everything that the build sees, by its path in the build context, sorted."""
    mailbox = Path(__file__).resolve().parent.parent / "mailbox.py"
    found = {
        p.relative_to(root).as_posix(): p
        for p in (root / "container").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    if DOCKERFILE not in found:
        raise SandboxError(f"{root / 'container'} has no Dockerfile; install NanoClaw again", Cause.IMAGE)
    kept = {name: path for name, path in found.items() if name not in _NOT_BUILT_FROM}
    return dict(sorted({**kept, "nanoclaw/mailbox.py": mailbox}.items()))


def build_hash(root: Path, base: str = "") -> str:
    """16 hex digits that change with any file of the build context, the base image's name or the protocol."""
    digest = hashlib.sha256(f"{base or DEFAULT_BASE}\0{PROTOCOL}\0".encode())
    for name, path in context_files(root).items():
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def ca_bundle(environ: Mapping[str, str]) -> bytes | None:
    """The CA bundle that this machine's Python is told to use: the build's downloads need the same one."""
    for key in _CA_VARIABLES:
        if (value := environ.get(key)) and (path := Path(value)).is_file():
            return path.read_bytes()
    return None


def context(root: Path, environ: Mapping[str, str]) -> io.BytesIO:
    """The build context as a tar, with the CA bundle where there is one."""
    contents = {name: path.read_bytes() for name, path in context_files(root).items()}
    if ca := ca_bundle(environ):
        contents[_CA_FILE] = ca
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in contents.items():
            # Owner, mode and time are fixed, so that the builder's cache knows unchanged files again.
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    out.seek(0)
    return out


def build_arguments(build: str, *, base: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The build's arguments: what it is built on, what it is made from, and the network's proxies."""
    arguments = {"BASE_IMAGE": base, "NANOCLAW_BUILD": build, "NANOCLAW_PROTOCOL": str(PROTOCOL)}
    return arguments | {key: environ[key] for key in _PROXY_VARIABLES if environ.get(key)}


# --- the image ---------------------------------------------------------------------------------


def find_image(client: docker.DockerClient, name: str, build: str) -> str | None:
    """The id of the image of this name, if it was made from exactly this; else None."""
    try:
        image = client.images.get(name)
    except ImageNotFound:
        return None
    return str(image.id) if _is(image, build) else None


def _is(image: Any, build: str) -> bool:
    labels = image.labels
    return bool(labels.get(BUILD_LABEL) == build and labels.get(PROTOCOL_LABEL) == str(PROTOCOL))


def ensure_image(
    client: docker.DockerClient,
    name: str,
    *,
    root: Path,
    environ: Mapping[str, str],
    base: str = "",
    progress: Progress = lambda line: None,
) -> str:
    """The id of an image made from exactly these files: the one that is there, else a new one.

    Raises SandboxError: IMAGE, or DISK when the engine ran out of room.
    """
    build = build_hash(root, base)
    if found := find_image(client, name, build):
        return found
    try:
        old = _tagged(client, name)
        progress("The agent image is stale: building it anew." if old else "Building the agent image (a few minutes).")
        new = _build(client, root, build, base=_base(client, base, progress), environ=environ, progress=progress)
        client.images.get(new).tag(name)
    except APIError as e:
        raise SandboxError(f"the agent image could not be built: {_sentence(e)}", Cause.IMAGE) from None
    _forget(client, old)
    progress("The agent image is ready.")
    return new


def _tagged(client: docker.DockerClient, name: str) -> str | None:
    try:
        return str(client.images.get(name).id)
    except ImageNotFound:
        return None


def _forget(client: docker.DockerClient, replaced: str | None) -> None:
    """Remove the image that lost its name, and the leftovers of all builds but the last, which are its cache."""
    leftovers = client.images.list(filters={"label": STAGE_LABEL, "dangling": True})
    leftovers.sort(key=lambda image: str(image.attrs["Created"]))
    nameless = [i for i in client.images.list(filters={"label": BUILD_LABEL, "dangling": True}) if i.id == replaced]
    for image in [*nameless, *leftovers[:-1]]:
        # In use by a container: the next build's to remove.
        with contextlib.suppress(APIError):
            client.images.remove(str(image.id))


def _build(
    client: docker.DockerClient, root: Path, build: str, *, base: str, environ: Mapping[str, str], progress: Progress
) -> str:
    output = client.api.build(
        fileobj=context(root, environ),
        custom_context=True,
        dockerfile=DOCKERFILE,
        buildargs=build_arguments(build, base=base, environ=environ),
        rm=True,
        forcerm=True,
        decode=True,
    )
    image = _follow(output, progress)
    # What a builder says is not what counts: an image without our label is not ours.
    if not _is(client.images.get(image), build):
        raise SandboxError("the builder made another image than it was asked for; update the engine", Cause.IMAGE)
    return image


def _follow(output: Iterator[dict[str, Any]], progress: Progress) -> str:
    """Read a build's output to its end, telling its steps; the image's id."""
    tail: list[str] = []
    image, error = "", ""
    for record in output:
        error = str(record.get("error", error))
        image = record.get("aux", {}).get("ID", image)
        for line in str(record.get("stream", "")).splitlines():
            if text := line.strip():
                tail = [*tail[1 - _TAIL :], text]
                if text.startswith("Step "):
                    progress(f"{text[:90]}...")
    if error:
        for line in tail:
            progress(line)
        raise _failure(error)
    return image


def _failure(error: str) -> SandboxError:
    if "no space left" in error:
        return SandboxError("no room for the agent image: free some (`docker system prune` shows what)", Cause.DISK)
    return SandboxError(f"the agent image could not be built: {_sentence(error)}; the lines above say why", Cause.IMAGE)


def _sentence(e: object) -> str:
    return " ".join(str(e).split())[:300]


# --- what it is built on -----------------------------------------------------------------------


def _base(client: docker.DockerClient, base: str, progress: Progress) -> str:
    """The name of a base image that the engine has when this returns."""
    wanted, own = base or DEFAULT_BASE, own_base()
    for name in (wanted,) if base else (wanted, own):
        if name and _tagged(client, name):
            return name
    try:
        progress(f"Fetching {wanted}.")
        client.images.pull(wanted)
        return wanted
    except APIError as e:
        if base or not own:
            raise SandboxError(
                f"{wanted} cannot be fetched ({_sentence(e)}): check the network, "
                "or name an image that the engine has as `base_image` in nanoclaw.toml",
                Cause.IMAGE,
            ) from None
    progress(f"No image registry answers: making a base from this system's packages ({own}).")
    make_base(client, own)
    return own
