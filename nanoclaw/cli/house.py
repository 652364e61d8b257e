"""How a command changes the house: a verb of `control` on the store, then a hint to the host that lives there."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import typer
from loguru import logger

from nanoclaw.channels.control_sock import connect
from nanoclaw.config import home_of
from nanoclaw.errors import NotRunning
from nanoclaw.groups import Home, open_home
from nanoclaw.models import By
from nanoclaw.store import Guard, Store, Tx

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
    store = Store(home.db, guard=_guard(home))
    await store.open()
    try:
        value = await (store.write if changes else store.read)(fn, *args, **kwargs)
    finally:
        await store.close()
    if changes:
        await hint("changed")
    return value


def _guard(home: Home) -> Guard:
    """A command of a newer program migrates like a host does, and not while an older one lives."""

    @contextmanager
    def around(have: int, known: int) -> Iterator[None]:
        from nanoclaw.app import now_ms, one_host
        from nanoclaw.ops import migrating

        say = migrating.guard(home.root, now_ms, lambda line: typer.echo(line, err=True))
        with migrating.alone(say, lambda: one_host(home.lock))(have, known):
            yield

    return around


async def hint(verb: str, args: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Tell the living host; what it answers, None where none lives: the rows are the truth, so nothing is lost."""
    try:
        async with await connect(home_of(os.environ) / "control.sock") as client:
            return await client.call(verb, **(args or {}))
    except NotRunning:
        return None
