"""Where the container engine is, and its failures in words that a person can act on."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nanoclaw.errors import Cause, SandboxError

if TYPE_CHECKING:
    from docker import DockerClient

TIMEOUT = 30  # seconds for one answer; builds and pulls stream without one
_DEFAULT = "/var/run/docker.sock"
_GUARD = "unix:///guard/"  # where the engine-guard's socket is, in the host's own container
_USER = re.compile(r"(?<=://)[^/\s]*@")  # in an address: a name and a password


def shown(words: str) -> str:
    """An address, or a sentence with one, without the password that may stand in it."""
    return _USER.sub("", words)


def address_of(environ: Mapping[str, str], setting: str = "") -> str:
    """The engine's address: the setting, DOCKER_HOST, or the first usual socket that exists."""
    if given := setting or environ.get("DOCKER_HOST", ""):
        return given
    usual = [_DEFAULT]
    if own := environ.get("XDG_RUNTIME_DIR"):
        usual += [f"{own}/docker.sock", f"{own}/podman/podman.sock"]
    return "unix://" + next((path for path in usual if Path(path).exists()), _DEFAULT)


def connect(address: str) -> "DockerClient":
    """A client of the engine there; blocks. Raises SandboxError(ENGINE)."""
    import docker  # 20 MB and 0.3 s that a host only pays when it needs a container

    environ = {**os.environ, "DOCKER_HOST": address}
    with explained(address):
        knock(address)
        return docker.from_env(environment=environ, timeout=TIMEOUT, version="auto")


def knock(address: str) -> None:
    """Fail with the system's own word (OSError); the client would bury it, and leave its socket to the collector."""
    if not address.startswith("unix://"):
        return
    path = address.removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(TIMEOUT)
        s.connect(path)


@contextlib.contextmanager
def explained(address: str) -> Iterator[None]:
    """Turn whatever the engine's client raises into SandboxError with a cause and one sentence."""
    from docker.errors import APIError, DockerException, ImageNotFound
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ImageNotFound:
        raise SandboxError("the agent image is gone: run `nanoclaw image build`", Cause.IMAGE) from None
    except APIError as e:
        if e.status_code == 502:  # an engine-guard answers for one that does not
            raise SandboxError(_line(e.explanation or e), Cause.ENGINE) from None
        raise _refusal(_line(e.explanation or e)) from None
    except (DockerException, RequestException, HTTPError, OSError) as e:
        raise SandboxError(_advice(e, address), Cause.ENGINE) from None


def _line(words: object) -> str:
    return shown(" ".join(str(words).split()))[:300]


def _refusal(sentence: str) -> SandboxError:
    if "no space left" in sentence:
        return SandboxError(f"the engine's disk is full: free some room ({sentence})", Cause.DISK)
    return SandboxError(f"the engine refused: {sentence}")


def _advice(e: Exception, address: str) -> str:
    causes, address = list(_chain(e)), shown(address)
    if address.startswith(_GUARD):
        return f"the engine-guard does not answer ({type(causes[-1]).__name__}): `docker compose up -d` starts it"
    if any(isinstance(c, PermissionError) for c in causes):
        return f"no permission to use {address}: `sudo usermod -aG docker $USER`, then log in again"
    if any(isinstance(c, TimeoutError) or "timed out" in str(c) for c in causes):
        return f"the container engine at {address} does not answer: restart it (`sudo systemctl restart docker`)"
    return f"no container engine at {address}: start it (`sudo systemctl start docker`) or set DOCKER_HOST"


def _chain(e: BaseException | None) -> Iterator[BaseException]:
    """The exception and all that it wraps; the client hides the system's own in arguments as well."""
    while e is not None:
        yield e
        for inner in e.args:
            if isinstance(inner, BaseException):
                yield from _chain(inner)
        e = e.__cause__ or e.__context__
