"""Which image a name means: an upgrade lets it mean another one, and back."""

import contextlib
from typing import TYPE_CHECKING

from nanoclaw.sandbox.engine import explained

if TYPE_CHECKING:
    from docker import DockerClient


def id_of(client: "DockerClient", address: str, name: str) -> str:
    """The id of the image of this name; "" for none. Raises SandboxError."""
    from docker.errors import ImageNotFound

    with explained(address):
        try:
            return str(client.images.get(name).id)
        except ImageNotFound:
            return ""


def point(client: "DockerClient", address: str, name: str, image: str) -> None:
    """From now on the name means this image. Raises SandboxError."""
    with explained(address):
        client.images.get(image).tag(name)


def drop(client: "DockerClient", address: str, name: str) -> None:
    """Remove a name, or an image by its id when nothing needs it; one that is not there is no error."""
    from docker.errors import APIError

    with explained(address), contextlib.suppress(APIError):
        client.images.remove(name)
