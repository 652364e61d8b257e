"""nanoclaw pair: links the WhatsApp number and makes its owner known; nanoclaw logout: unlinks it."""

import asyncio
import json
import os
import re
import signal
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanoclaw.channels.control_sock import connect
from nanoclaw.cli.environment import complete
from nanoclaw.cli.run import Reached, cancel_on, reach
from nanoclaw.cli.setup import ask_number
from nanoclaw.config import Config, load
from nanoclaw.config.writing import set_settings
from nanoclaw.errors import NanoClawError
from nanoclaw.prompts import plain

if TYPE_CHECKING:  # segno and rich are for when there is a code to show
    from nanoclaw.cli.pair_screen import Pairing, View

CHANNEL = "whatsapp"
# The states of nanoclaw.channels.whatsapp that count here; its import would load the library.
CONNECTED = "connected"
LINKING = "linking"
WAITING = ("unlinked", "logged_out")  # for somebody who asks for a code
UNSETTLED = ("stopped", "connecting")
_TICK = 0.5  # seconds between two looks at the clock
_LOOK = 0.2  # seconds between two looks at the host
_PATIENCE = 5.0  # seconds that a chat waits to see whether the number is linked
_SETTLE = 20.0  # seconds to be connected, before the number can be unlinked
_WHAT_TO_DO = {
    "unlinked": "not linked: the code ran out; ask for a new one: nanoclaw pair",
    "logged_out": "WhatsApp has unlinked this device; link it again: nanoclaw pair",
    "replaced": "another program uses this linked device; end it, then: nanoclaw pair",
    "outdated": "WhatsApp refuses this version of the library; upgrade NanoClaw",
    "banned_until": "WhatsApp has banned this number for a time; wait, or use another one",
}


def pair(
    phone: Annotated[str, typer.Option(metavar="+49...", help="Link by a code to type on this number's phone.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs: each state as a line of JSON.")] = False,
    new_owner: Annotated[
        bool, typer.Option("--new-owner", help="Own number: one more owner, though there is one.")
    ] = False,
) -> None:
    """Link WhatsApp by a QR or a code to type, and make the owner known where the number is its own."""
    from nanoclaw.cli.pair_screen import Json, Lines, Screen

    number = _checked(phone)
    asking = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    config = _with_a_number(asking)
    complete()
    view: View = Lines(where_the_code_is(config.home))
    if as_json:
        view = Json()
    elif asking:
        view = Screen(whose_phone(config))
    asyncio.run(_pair(config, view, number, asking=asking, as_json=as_json, new_owner=new_owner))


def logout(yes: Annotated[bool, typer.Option("--yes", "-y", help="Without a question.")] = False) -> None:
    """Unlink WhatsApp: this device vanishes from the phone's list, and its session is deleted here.

    Chats, memory and settings stay; texts that are not sent yet wait for the next `nanoclaw pair`.
    """
    complete()
    if not yes:
        if not sys.stdin.isatty():
            raise NanoClawError("this unlinks WhatsApp; say so with: nanoclaw logout --yes")
        typer.confirm("Unlink WhatsApp? Chats and memory stay, unsent texts wait. Unlink", abort=True)
    asyncio.run(_logout())
    typer.echo("logged out; link again with: nanoclaw pair")


def _checked(phone: str) -> str:
    digits = re.sub(r"[ ().-]", "", phone)
    if phone and not re.fullmatch(r"\+[1-9][0-9]{6,14}", digits):
        raise NanoClawError("that is no phone number; write it with the country's code, as in +4915112345678")
    return digits


def _with_a_number(asking: bool) -> Config:
    """The settings, once they say whose number it is."""
    config = load(os.environ)
    if config.whatsapp == "off" and asking and (choice := ask_number()) != "off":
        set_settings(config.home, {"whatsapp": choice})
        config = load(os.environ)
    if config.whatsapp == "off":
        raise NanoClawError("no WhatsApp number is chosen: nanoclaw setup --whatsapp own (or shared)")
    return config


def whose_phone(config: Config) -> str:
    """Which phone is to be taken."""
    return "your phone" if config.whatsapp == "shared" else "the phone of the assistant's own number"


def where_the_code_is(home: Path) -> str:
    """Advice for whoever sees no QR."""
    file = home / "whatsapp" / "pairing.json"
    return f"WhatsApp waits to be linked: nanoclaw pair (in a terminal) shows the code; {file} holds it"


# --- linking -----------------------------------------------------------------------------------


async def _pair(config: Config, view: "View", phone: str, *, asking: bool, as_json: bool, new_owner: bool) -> None:
    cancel_on(signal.SIGINT)
    async with reach(_dim) as host:
        if await channel(host.path) is None:
            raise NanoClawError("the assistant was started without WhatsApp: nanoclaw stop, then nanoclaw run")
        linked = await _link(host.path, view, phone, asking=asking)
        if not as_json:
            typer.echo(linked)
        if config.whatsapp == "own":
            await _own(host.path, as_json=as_json, new_owner=new_owner)


async def _link(path: Path, view: "View", phone: str = "", *, asking: bool) -> str:
    """Link it, with as many codes as somebody asks for; how it ended. Raises NanoClawError when it is not linked."""
    while True:
        now, offered = await follow(path, view, {"phone": phone} if phone else {}, _link_is_over)
        if now.state == CONNECTED:
            return f"{'linked' if offered else 'already linked'}{f' as {now.detail}' if now.detail else ''}"
        why = now.detail or _WHAT_TO_DO.get(now.state, "the assistant ended before WhatsApp was linked")
        if not (asking and now.state in WAITING):
            raise NanoClawError(why)
        await _enter(f"{why}\nPress Enter for a new code, Ctrl-C to leave.")


async def _enter(told: str) -> None:
    """Wait for the key; what was typed before this was told does not count."""
    pressed = asyncio.Event()
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    typer.echo(told)
    asyncio.get_running_loop().add_reader(sys.stdin, pressed.set)
    try:
        await pressed.wait()
    finally:
        asyncio.get_running_loop().remove_reader(sys.stdin)
    if not sys.stdin.readline():
        raise NanoClawError(_WHAT_TO_DO["unlinked"])


async def follow(
    path: Path, view: "View", args: dict[str, Any], over: Callable[["Pairing", bool], bool]
) -> tuple["Pairing", bool]:
    """Show what the host's `pair` verb tells until it is `over`; the last state, and whether there was a code."""
    from nanoclaw.cli.pair_screen import Pairing, pairing_of

    now, offered = Pairing(), False
    try:
        async with await connect(path) as client:
            await client.send({"verb": "pair", "args": args})
            while not over(now, offered):
                try:
                    async with asyncio.timeout(_TICK):
                        frame = await client.receive()
                except TimeoutError:
                    view.show(now, _ms())  # its seconds run
                    continue
                if frame is None:
                    break
                now = pairing_of(frame)
                offered = offered or now.offered
                view.show(now, _ms())
    finally:
        view.close()
    return now, offered


def _link_is_over(now: "Pairing", offered: bool) -> bool:
    return now.state == CONNECTED or (offered and now.state in WAITING)


def _ms() -> int:
    return time.time_ns() // 1_000_000


async def channel(path: Path) -> dict[str, Any] | None:
    """What the host says of its WhatsApp channel; None when it has none."""
    told = await _status(path)
    return next((c for c in told.get("channels", ()) if c.get("name") == CHANNEL), None)


async def _status(path: Path) -> dict[str, Any]:
    async with await connect(path) as client:
        return await client.call("status")


async def offer(host: Reached) -> None:
    """Before a chat: the code of a number that waits to be linked, where the host begins to live here."""
    from nanoclaw.cli.pair_screen import Screen

    there = await channel(host.path)
    if there is None:
        return
    if not host.ours:
        if there.get("state") in WAITING:
            typer.echo("WhatsApp is not linked: nanoclaw pair")
        return
    config = load(os.environ)
    try:
        # A number that is linked is connected in a moment, or cannot be: the chat does not wait for it.
        await _wait(host.path, _is_settled, _PATIENCE)
        if ((await channel(host.path)) or {}).get("state") == LINKING:
            typer.echo(await _link(host.path, Screen(whose_phone(config)), asking=True))
            if config.whatsapp == "own":
                await _own(host.path)
    except NanoClawError as e:  # the chat goes on without
        typer.echo(f"nanoclaw: {e}", err=True)


def _dim(line: str) -> None:
    if sys.stderr.isatty():
        typer.secho(plain(line), err=True, dim=True)


# --- whose assistant it is ---------------------------------------------------------------------


async def _own(path: Path, *, as_json: bool = False, new_owner: bool = False) -> None:
    """Where the number is the assistant's own: the owner proves with a code who they are on WhatsApp."""
    before = _owners(await _status(path))
    if before and not new_owner:
        return
    async with await connect(path) as client:
        claim = await client.call("claim")
    code, until = str(claim.get("code", "")), int(claim.get("until", 0))
    if as_json:
        typer.echo(json.dumps({"state": "claim", "code": code, "expires_at": until}))
    else:
        typer.echo(
            f"\nNow say who you are. Send this from your own WhatsApp to the assistant's number,"
            f" within {max(until - _ms(), 0) // 60_000 + 1} minutes:\n\n    {code}\n\nWaiting for it; Ctrl-C leaves."
        )
    told = await _wait(path, lambda told: _ms() > int(told.get("claim", 0)), float("inf"))
    if _owners(told) <= before:
        raise NanoClawError(
            "the code was not used in time, or wrong ones were sent; a new one: nanoclaw pair --new-owner"
        )
    typer.echo(json.dumps({"state": "claimed"}) if as_json else "You are the owner now: just write to it.")


def _owners(told: dict[str, Any]) -> int:
    return int(told.get("owners", {}).get(CHANNEL, 0))


# --- unlinking ---------------------------------------------------------------------------------


async def _logout() -> None:
    cancel_on(signal.SIGINT)
    async with reach(_dim) as host:
        if await channel(host.path) is None:
            raise NanoClawError("no WhatsApp number is in use here")
        if host.ours:  # the phone is told only over a connection
            await _wait(host.path, _is_settled, _SETTLE)
        async with await connect(host.path) as client:
            await client.call("logout")


def _is_settled(told: dict[str, Any]) -> bool:
    return all(c.get("state") not in UNSETTLED for c in told.get("channels", ()))


async def _wait(path: Path, over: Callable[[dict[str, Any]], bool], limit: float) -> dict[str, Any]:
    """Look at the host's status until it is as asked for, or `limit` seconds have passed."""
    until = time.monotonic() + limit
    while not over(told := await _status(path)) and time.monotonic() < until:  # noqa: ASYNC110 - nobody is told of it
        await asyncio.sleep(_LOOK)
    return told
