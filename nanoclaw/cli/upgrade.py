"""nanoclaw upgrade: to another version of the clone, and back where that does not work."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanoclaw import __version__
from nanoclaw.config import home_of, load
from nanoclaw.errors import NanoClawError, UpgradeError
from nanoclaw.hints import UNDER_COMPOSE
from nanoclaw.prompts import plain

if TYPE_CHECKING:
    from nanoclaw.ops.clone import Clone
    from nanoclaw.ops.upgrade import Images

_TOLD = 20  # commits
_COMPOSE = (
    "this runs under docker compose; on the machine itself, in the clone: git pull, then docker compose up -d --build"
)
_NO_CLONE = (
    "this is no clone of the project: upgrade the package as it was installed (pip install --upgrade nanoclaw), then"
    " nanoclaw stop and nanoclaw up; the database is saved before it is changed"
)


def upgrade(
    check: Annotated[bool, typer.Option("--check", help="Only say what is new.")] = False,
    to: Annotated[
        str, typer.Option("--to", metavar="REF", help="A branch, tag or commit; without it the newest.")
    ] = "",
    no_image: Annotated[bool, typer.Option("--no-image", help="Leave the agent image to the next start.")] = False,
) -> None:
    """Bring this clone to the newest version. What runs is ended in order and started again.

    The new version's packages and image are made beside the old ones, and it checks itself with a copy of the database,
    before anything changes. If a later step fails, everything is put back. Once the new version has received a message
    there is only forward. The database as it was stays in the home's backups; the WhatsApp session is never put back.
    """
    if os.environ.get(UNDER_COMPOSE):
        raise UpgradeError(_COMPOSE)
    clone = _clone()
    if check:
        _check(clone, to)
        return
    from nanoclaw.app import one_host  # all that comes late is loaded now: the files of this program will be others
    from nanoclaw.cli.service import living
    from nanoclaw.ops.upgrade import Upgrade

    home = home_of(os.environ)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a connection that is lost must not leave half an upgrade
    work = Upgrade(
        clone,
        home,
        os.environ,
        living=lambda: living(home) is not None,
        alone=lambda: one_host(home / "nanoclaw.lock"),
        now=lambda: time.time_ns() // 1_000_000,
        say=_say,
        images=None if no_image else _images(),
    )
    typer.echo(plain(work.run(to)))


def _say(line: str) -> None:
    with suppress(OSError):  # nobody looks any more
        typer.echo(plain(line), err=True)


def _clone() -> "Clone":
    from nanoclaw.ops.clone import Clone
    from nanoclaw.sandbox.image import resources

    clone = Clone(resources())
    if not clone.is_one():
        raise UpgradeError(_NO_CLONE)
    return clone


def _check(clone: "Clone", to: str) -> None:
    here, there = clone.here().commit, clone.newest(to)
    typer.echo(f"Here: {clone.name(here)} (NanoClaw {__version__}). There: {plain(clone.name(there))}.")
    new = clone.between(here, there)
    for line in new[:_TOLD]:
        typer.echo(f"  {plain(line)}")
    if len(new) > _TOLD:
        typer.echo(f"  and {len(new) - _TOLD} more")
    if not new:
        typer.echo("Nothing is new.")


def _images() -> "Images":
    from nanoclaw.ops.upgrade import Images
    from nanoclaw.sandbox import engine, naming

    config = load(os.environ)
    address = engine.address_of(os.environ, config.engine)
    try:
        client = engine.connect(address)
    except NanoClawError as e:
        raise UpgradeError(f"{e}; --no-image leaves the agent image to the next start") from None
    return Images(
        config.image,
        lambda name: naming.id_of(client, address, name),
        lambda name, image: naming.point(client, address, name, image),
        lambda name: naming.drop(client, address, name),
    )


def self_check(
    store: Annotated[Path | None, typer.Option("--store", help="A copy of the database, to be migrated.")] = None,
    migrate: Annotated[bool, typer.Option("--migrate", help="Migrate the home's own database.")] = False,
) -> None:
    """Whether this program could begin: it loads everything, reads the settings, and can use the database."""
    from loguru import logger

    from nanoclaw import app, ops
    from nanoclaw.channels import whatsapp  # noqa: F401 - whether its library can be loaded
    from nanoclaw.groups import open_home
    from nanoclaw.sandbox.image import build_hash, resources
    from nanoclaw.store import Store

    logger.disable("nanoclaw")
    config = load(os.environ)
    build_hash(resources(), config.base_image)

    async def opened(db: Path) -> None:
        async with app.opened(Store(db)):
            return

    if store is not None:
        asyncio.run(opened(store))
        if told := ops.integrity(store):
            raise UpgradeError(f"the database would not be sound: {told[0]}")
    if migrate:
        home = open_home(config.home, config.run_dir)
        with app.one_host(home.lock):
            asyncio.run(opened(home.db))
    typer.echo("sound")
