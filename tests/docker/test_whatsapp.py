"""Once through everything: WhatsApp's library, host, container, Claude Code; only server and model are stand-ins."""

import asyncio
from pathlib import Path

from docker import DockerClient

from nanoclaw import app
from nanoclaw.sandbox.spec import LABEL_INSTALL
from nanoclaw.store import Store
from tests.model_server import ModelServer
from tests.whatsapp.product import KEY, Product
from tests.whatsapp.server import FakeWhatsApp

PATIENCE = 90.0  # seconds: a container starts, and the library writes its first keys to a disk


async def test_a_message_goes_through_everything_and_back(folder: Path, engine: DockerClient, agent_image: str) -> None:
    """The owner writes to "message yourself"; the phone sees 👀, then decrypts what Claude Code answered."""
    async with ModelServer(keys={KEY}) as model, FakeWhatsApp() as whatsapp:
        product = Product(folder / "home", whatsapp, base_url=model.url)
        try:
            await product.link(whatsapp)
            id = whatsapp.type("what is the answer?")
            seen = (await whatsapp.next_reaction(PATIENCE)).message.reactionMessage
            assert (seen.text, seen.key.ID) == ("👀", id)
            answer = await whatsapp.next_sent(PATIENCE)
            assert (answer.chat, "what is the answer?" in answer.text) == (str(whatsapp.owner.jid), True)
            assert model.requests[0].headers["x-api-key"] == KEY
            assert (await product.end())[0] == 0
        finally:
            await product.kill()
            await nothing_left(product.home, engine)


async def nothing_left(home: Path, engine: DockerClient) -> None:
    """No container of this home stays, whatever happened."""
    async with app.opened(Store(home / "nanoclaw.db")) as store:
        (install,) = await store.read(lambda tx: tx.execute("SELECT value FROM meta WHERE key = 'install'").fetchone())
    find = {"label": f"{LABEL_INSTALL}={install}"}
    for container in await asyncio.to_thread(engine.containers.list, all=True, filters=find):
        await asyncio.to_thread(container.remove, force=True)
