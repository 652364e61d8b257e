"""Takes what is ours away from the engine: an install's containers, and the agent image."""

import contextlib
from typing import TYPE_CHECKING

from nanoclaw.sandbox.base import own_base
from nanoclaw.sandbox.engine import explained
from nanoclaw.sandbox.image import BUILD_LABEL, STAGE_LABEL
from nanoclaw.sandbox.spec import LABEL_INSTALL

if TYPE_CHECKING:
    from docker import DockerClient


def remove_containers(client: "DockerClient", address: str, install_id: str) -> int:
    """Kill and remove every container of this install; how many. Raises SandboxError."""
    from docker.errors import NotFound

    with explained(address):
        found = client.api.containers(all=True, filters={"label": f"{LABEL_INSTALL}={install_id}"})
        for container in found:
            with contextlib.suppress(NotFound):
                client.api.remove_container(container["Id"], force=True, v=True)
        return len(found)


def remove_images(client: "DockerClient", address: str, name: str, *, leftovers: bool) -> list[str]:
    """Remove the image of this name; which names are gone. One that a container needs stays. Raises SandboxError.

    `leftovers`: also what building it has left, and the base that was made where no registry answered.
    """
    from docker.errors import APIError

    gone = []
    with explained(address):
        names = [name]
        if leftovers:
            old = [
                str(image.id)
                for label in (BUILD_LABEL, STAGE_LABEL)
                for image in client.images.list(filters={"label": label, "dangling": True})
            ]
            names += [*filter(None, [own_base()]), *old]
        for each in names:
            with contextlib.suppress(APIError):  # not there, or in use
                client.images.remove(each)
                gone.append(each)
    return gone
