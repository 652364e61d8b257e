"""What follows when a credential of the host's was found in a text, or a file, that was on its way."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from loguru import logger

from nanoclaw.config.leak import Leaks
from nanoclaw.meter import Spawn
from nanoclaw.models import OutKind
from nanoclaw.store import Store, Tx, chats, outgoing

EVERY_MS = 86_400_000  # main is told once in so many
WORDS = (
    "The key or token of the model's API stood in a message, or in what an agent said or wanted to send. I removed it "
    "there, but somebody beside me knows it: make a new one, give it with `nanoclaw setup --replace-key`, and revoke "
    "the old one. The log says when and in which chat's run."
)


def tell_of(leaks: Leaks, store: Store, clock: Callable[[], int], spawn: Spawn, wake: Callable[[], None]) -> None:
    """From now on each is logged, and main is told."""
    loop = asyncio.get_running_loop()

    async def told() -> None:
        if await store.write(_tell, clock()):
            wake()

    def found() -> None:
        logger.warning("A credential of the host's stood in a text, and was removed")
        with suppress(RuntimeError):  # the loop is closed: the next life will find the next one
            loop.call_soon_threadsafe(lambda: spawn(told(), "credential"))

    leaks.found = found


def _tell(tx: Tx, now: int) -> bool:
    main = chats.main_chat(tx)
    if main is None or not outgoing.may_tell(tx, "credential in a text", main.id, now, EVERY_MS):
        return False
    outgoing.queue(tx, main.id, WORDS, OutKind.NOTICE, now)
    return True
