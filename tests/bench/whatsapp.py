"""`./nanoclaw.sh bench --whatsapp`: the host's memory when it is connected, and after thousands of messages.

The real library and an unmodified `nanoclaw run` against the loopback server; the messages are said in a group
that is served, without a word to the assistant: each becomes a row.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from rich.console import Console

from nanoclaw import app, control
from nanoclaw.models import Group, TriggerMode
from nanoclaw.store import Store, Tx, chats
from tests.whatsapp.product import Product
from tests.whatsapp.server import FakeWhatsApp

GROUP = "120363000000000099"
AT_ONCE = 25  # messages between two looks at what is stored
PATIENCE = 120.0  # seconds for one such portion
_MEMORY = Path("/dev/shm")


async def run(messages: int, console: Console) -> None:
    """Print what the host takes, beside the targets."""
    with tempfile.TemporaryDirectory(prefix="nc-bench-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        async with FakeWhatsApp() as whatsapp:
            product = Product(Path(folder), whatsapp)
            try:
                await product.link(whatsapp)
                await _measure(product, whatsapp, messages, console)
            finally:
                await product.kill()


async def _measure(product: Product, whatsapp: FakeWhatsApp, messages: int, console: Console) -> None:
    ann = whatsapp.person("777888999000", "15550002222", "Ann")
    whatsapp.group(GROUP, "Family", ann)
    async with app.opened(Store(product.home / "nanoclaw.db")) as store:
        await store.write(_add_group, app.now_ms())
        await asyncio.sleep(5)  # what a start leaves behind is collected
        connected = _resident(product)
        console.print(f"connected: {connected:.1f} MB (target <= 130)")
        begun = time.monotonic()
        for sent in range(0, messages, AT_ONCE):
            for n in range(sent, sent + AT_ONCE):
                whatsapp.say(ann, f"Number {n}, nothing for anybody in particular.", GROUP)
            await _stored(store, sent + AT_ONCE)
            if sent == 1000 - AT_ONCE:
                console.print(f"after 1,000 messages: {_resident(product) - connected:+.1f} MB")
        rate = messages / (time.monotonic() - begun)
        grown = _resident(product) - connected
        console.print(f"after {messages:,} messages: {grown:+.1f} MB (target <= +5), {rate:.0f} messages a second")


def _add_group(tx: Tx, now: int) -> None:
    chat = chats.learn_chat(tx, "whatsapp", (f"{GROUP}@g.us",), "Family", True, now)
    control.add_group(tx, chat.id, Group(0, "family", "Andy", mode=TriggerMode.MENTION), now)


async def _stored(store: Store, wanted: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while await store.read(lambda tx: int(tx.execute("SELECT count(*) FROM messages").fetchone()[0])) < wanted:
            await asyncio.sleep(0.01)


def _resident(product: Product) -> float:
    assert product.process
    status = Path(f"/proc/{product.process.pid}/status").read_text("utf-8")
    return int(next(x for x in status.splitlines() if x.startswith("VmRSS")).split()[1]) / 1000
