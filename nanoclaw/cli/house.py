"""How a command changes the house: a verb of `control` on the store, then a hint to the host that lives there."""

import asyncio
import os
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from loguru import logger

from nanoclaw.channels.control_sock import connect
from nanoclaw.config import home_of
from nanoclaw.errors import NotRunning
from nanoclaw.groups import open_home
from nanoclaw.models import By
from nanoclaw.store import Store, Tx

TERMINAL = By("terminal")
P = ParamSpec("P")
T = TypeVar("T")


def look(fn: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `fn` reads of the store, whether a host lives or not."""
    return asyncio.run(_done(fn, False, *args, **kwargs))


def do(fn: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `fn` does to the store, in one transaction; a living host acts on it at once."""
    return asyncio.run(_done(fn, True, *args, **kwargs))


async def _done(fn: Callable[Concatenate[Tx, P], T], changes: bool, *args: P.args, **kwargs: P.kwargs) -> T:
    logger.disable("nanoclaw")  # a command says what it did by itself
    home = open_home(home_of(os.environ))
    store = Store(home.db)
    await store.open()
    try:
        value = await (store.write if changes else store.read)(fn, *args, **kwargs)
    finally:
        await store.close()
    if changes:
        await hint("changed")
    return value


async def hint(verb: str, args: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Tell the living host; what it answers, None where none lives: the rows are the truth, so nothing is lost."""
    try:
        async with await connect(home_of(os.environ) / "control.sock") as client:
            return await client.call(verb, **(args or {}))
    except NotRunning:
        return None
