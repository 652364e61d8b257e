"""What is ours goes from the engine, and nothing else."""

import os
import uuid

from docker import DockerClient

from nanoclaw.sandbox.engine import address_of
from nanoclaw.sandbox.image import find_image
from nanoclaw.sandbox.removal import remove_containers, remove_images
from nanoclaw.sandbox.spec import LABEL_INSTALL


def test_only_what_is_ours_goes(engine: DockerClient, agent_image: str, install_id: str) -> None:
    """Containers by the install's label, the image by its name; twice is no fault."""
    address = address_of(os.environ)
    other = f"{install_id}-other"
    made = {
        label: engine.containers.create(agent_image, labels={LABEL_INSTALL: label}) for label in (install_id, other)
    }
    name = f"nanoclaw-test-{uuid.uuid4().hex[:8]}"
    try:
        engine.images.get(agent_image).tag(name)
        assert remove_containers(engine, address, install_id) == 1
        assert [
            c.labels[LABEL_INSTALL]
            for c in engine.containers.list(all=True, filters={"label": LABEL_INSTALL})
            if c.id in {m.id for m in made.values()}
        ] == [other]
        made[other].remove(force=True)
        assert remove_images(engine, address, name, leftovers=False) == [name]
        assert remove_containers(engine, address, install_id) == 0
        assert remove_images(engine, address, name, leftovers=False) == []
        assert find_image(engine, agent_image, engine.images.get(agent_image).labels["nanoclaw.build"]) == agent_image
    finally:
        remove_containers(engine, address, other)
