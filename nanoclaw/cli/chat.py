"""nanoclaw chat: talks to the living host, or to one in this process where none lives."""

import asyncio
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from nanoclaw import notices
from nanoclaw.channels.control_sock import MAX_LINE, Client, connect
from nanoclaw.cli.environment import complete
from nanoclaw.cli.run import Reached, cancel_on, reach
from nanoclaw.errors import Cause, NanoClawError
from nanoclaw.models import OutKind, Show, TurnState
from nanoclaw.prompts import plain

if TYPE_CHECKING:
    from nanoclaw.cli.screen import Screen

SECOND_CTRL_C = 2.0  # seconds within which a second Ctrl-C leaves
_WHAT_TO_DO = {
    TurnState.FAILED: "the turn failed; home/logs/nanoclaw.log says why",
    TurnState.PARKED: "the assistant waits for something to be mended; this names it: nanoclaw status",
    TurnState.STOPPED: "the turn was stopped; ask again",
}


def chat(
    message: Annotated[
        str | None,
        typer.Option("--message", "-m", metavar="TEXT", help="Say this, print the reply, end. - reads standard input."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With -m: print reply, state and turn as JSON.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0.1, help="With -m: seconds to wait for the reply.")] = None,
) -> None:
    """Talk to the assistant here. Ctrl-C stops its turn, twice leaves; Ctrl-D leaves.

    Standard input that is no terminal is taken as one message, as with -m -.
    """
    complete()
    if message is None and not as_json and sys.stdin.isatty():
        asyncio.run(_talk())
        return
    text = _checked(message)
    outcome = asyncio.run(_say(text, timeout))
    if as_json:
        typer.echo(
            json.dumps({"reply": outcome.text, "state": outcome.state, "turn": outcome.turn}, ensure_ascii=False)
        )
    elif outcome.text:
        typer.echo(plain(outcome.text))
    if outcome.fault:
        raise NanoClawError(outcome.fault)


def _checked(message: str | None) -> str:
    """The message of -m or of standard input. Ends with code 2 when it cannot be one."""
    data = sys.stdin.buffer.read(MAX_LINE) if message in (None, "-") else os.fsencode(message or "")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        _misused(f"the message is not UTF-8 (byte {e.start}); convert it first, as with iconv")
    if not text.strip():
        _misused('the message is empty; write it as in: nanoclaw chat -m "What is new?"')
    return text


def _misused(told: str) -> NoReturn:
    typer.echo(f"nanoclaw: {told}", err=True)
    raise typer.Exit(2)


@dataclass(frozen=True)
class Said:
    """A message of the host's."""

    id: int
    text: str
    kind: str = OutKind.REPLY


@dataclass(frozen=True)
class Outcome:
    """How a message was answered."""

    state: str
    turn: str
    text: str
    fault: str  # "" when it went well, else one line that says what to do
    ids: tuple[int, ...]  # of the messages that answer it


class Conversation:
    """One attached client: says messages, and takes what the host shows."""

    def __init__(
        self,
        path: Path,
        client: Client,
        on_message: Callable[[Said], None],
        on_progress: Callable[[Show, str], None],
    ) -> None:
        self._path = path
        self._client = client
        self._on_message = on_message
        self._on_progress = on_progress
        self._heard: set[str] = set()
        self._got: dict[int, Said] = {}
        self._news = asyncio.Condition()

    async def listen(self) -> None:
        """Take frames until cancelled. Raises NanoClawError when the host ends."""
        async for frame in self._client:
            match frame:
                case {"type": "message", "id": int(out_id), "text": str(text), "kind": str(kind)}:
                    if out_id not in self._got:  # one that was on its way twice is shown once
                        self._on_message(Said(out_id, text, kind))
                    self._got[out_id] = Said(out_id, text, kind)
                    await self._client.send({"type": "ack", "id": out_id})
                case {"type": "heard", "id": str(wa_id)}:
                    self._heard.add(wa_id)
                case {"type": "progress", "show": str(show), "text": str(text)}:
                    self._on_progress(Show(show), text)
            async with self._news:
                self._news.notify_all()
        raise NanoClawError("the assistant ended; start it again with: nanoclaw run")

    async def say(self, text: str) -> str:
        """Say it, and return its id once the host has stored it."""
        wa_id = uuid.uuid4().hex
        await self._client.send({"type": "say", "id": wa_id, "text": text})
        async with self._news:
            await self._news.wait_for(lambda: wa_id in self._heard)
        return wa_id

    async def exchange(self, text: str) -> Outcome:
        """Say it, and wait until it was answered and the answer is here."""
        wa_id = await self.say(text)
        async with await connect(self._path) as other:
            told = await other.call("outcome", wa_id=wa_id)
        ids = tuple(told.get("outgoing", ()))
        async with self._news:
            await self._news.wait_for(lambda: all(out_id in self._got for out_id in ids))
        said = [self._got[out_id] for out_id in ids]
        state = str(told.get("state", ""))
        # A notice tells a chat of the fault; here the fault itself is told.
        reply = "\n\n".join(s.text for s in said if s.kind not in (OutKind.NOTICE, OutKind.REACTION))
        return Outcome(state, str(told.get("turn", "")), reply, _fault(state, str(told.get("error", ""))), ids)


def _fault(state: str, error: str) -> str:
    if state not in _WHAT_TO_DO:
        return ""
    cause, _, detail = error.partition(": ")
    if cause in set(Cause):
        error = notices.detail(Cause(cause), state, detail)
    return plain(error) or _WHAT_TO_DO[TurnState(state)]


# --- one message, one reply --------------------------------------------------------------------


async def _say(text: str, timeout: float | None) -> Outcome:  # noqa: ASYNC109 - the user's own limit
    heard: list[Said] = []
    try:
        async with asyncio.timeout(timeout), reach(_dim) as host, await connect(host.path) as client:
            await client.attach()
            conversation = Conversation(host.path, client, heard.append, _dim_progress)
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(conversation.listen(), name="listen")
                outcome = await conversation.exchange(text)
                listening.cancel()
    except TimeoutError:
        raise NanoClawError(f"no reply within {timeout:g} s; the next `nanoclaw chat` shows what came of it") from None
    for said in heard:
        if said.id not in outcome.ids and not (outcome.fault and said.kind == OutKind.NOTICE):
            typer.echo(plain(said.text), err=True)
    return outcome


def _dim(line: str) -> None:
    if sys.stderr.isatty():
        typer.secho(plain(line), err=True, dim=True)


def _dim_progress(show: Show, text: str) -> None:
    if show in (Show.TOOL, Show.RETRY, Show.LATER):
        _dim(text)


# --- interactive -------------------------------------------------------------------------------


async def _talk() -> None:
    async with reach(_dim) as host:
        await _link_first(host)
        await _open(host.path)


async def _open(path: Path) -> None:
    from nanoclaw.cli.screen import Screen

    async with await connect(path) as client:
        await client.attach()
        screen = Screen(path.parent / "chat_history")
        conversation = Conversation(path, client, lambda said: screen.message(said.text), screen.progress)
        try:
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(conversation.listen(), name="listen")
                talking = tasks.create_task(_exchanges(conversation, screen), name="talk")
                _on_signals(tasks, talking, conversation, screen)
                await asyncio.wait({talking})
                listening.cancel()
        finally:
            screen.close()
            cancel_on(signal.SIGINT, signal.SIGTERM)  # a host in this process may take its time to end


async def _link_first(host: Reached) -> None:
    """Where this process has just become the host of a WhatsApp number that nobody linked: its code. Ctrl-C skips."""
    from nanoclaw.cli import pair

    async with asyncio.TaskGroup() as tasks:
        linking = tasks.create_task(pair.offer(host), name="link")
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, linking.cancel)
    cancel_on(signal.SIGINT)


async def _exchanges(conversation: Conversation, screen: "Screen") -> None:
    screen.hint("/help lists the commands. Ctrl-C stops a turn, twice leaves; Ctrl-D leaves.")
    while (line := await screen.ask()) is not None:
        if line.strip():
            await conversation.exchange(line)


def _on_signals(
    tasks: asyncio.TaskGroup, talking: asyncio.Task[None], conversation: Conversation, screen: "Screen"
) -> None:
    pressed = float("-inf")

    def interrupt() -> None:
        nonlocal pressed
        before, pressed = pressed, time.monotonic()
        if pressed - before < SECOND_CTRL_C:
            talking.cancel()
        elif screen.asking:
            screen.hint("Ctrl-C again or Ctrl-D leaves")
        else:
            tasks.create_task(conversation.say("/stop"), name="stop")

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGTERM, talking.cancel)
