"""The turns of one run: prompts in, results matched to them, one loop over all that the CLI says."""

import asyncio
import json
import uuid
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from mailbox import Event, Open, OutboxWriter, Prompt, Reply, ToHost, TurnDone, Woken, prompt_of
from pathlib import Path
from typing import Any, cast

from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    McpSdkServerConfig,
    Message,
    ProcessError,
    ResultError,
    ResultMessage,
    SystemMessage,
    Transport,
)
from claude_agent_sdk._cli_version import __cli_version__

from agent import cli, gate
from agent.events import Teller
from agent.leftovers import end_leftovers
from agent.places import Places
from agent.tools import Desk

_PART = 150_000  # characters of one Reply: below 1 MiB whatever they are
_ASKED_WITHIN = 1.0  # seconds from a prompt to its first request, even on a busy machine
_ABORTED = ("aborted_streaming", "aborted_tools")
_FORGOTTEN = "[The earlier conversation could not be resumed; this is a new one. Say so if it matters.]\n\n"


def options(places: Places, opened: Open, prompt: str, server: McpSdkServerConfig) -> ClaudeAgentOptions:
    """The SDK's view of the command that cli.py builds, and what goes by the control protocol."""
    return ClaudeAgentOptions(
        cli_path=places.cli,
        cwd=places.group,
        # Without snapshot=False a resumed session would keep the memory of its first day.
        system_prompt={"type": "preset", "preset": "claude_code", "append": prompt, "snapshot": False},
        tools=list(cli.TOOLS),
        max_turns=opened.max_turns or None,
        model=opened.model,
        fallback_model=opened.fallback_model or None,
        permission_mode="bypassPermissions",
        resume=opened.session or None,
        settings=str(places.settings),
        mcp_servers={"nanoclaw": server},
        include_partial_messages=True,
        strict_mcp_config=True,
        setting_sources=[],
        plugins=[{"type": "local", "path": str(path)} for path in places.plugins],
        verbatim_prompts=True,  # "@file" and "/command" in a message are text
    )


class Pipes(Transport):
    """The SDK's line to a CLI that runs already."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._stdin = cast(asyncio.StreamWriter, process.stdin)
        self._stdout = cast(asyncio.StreamReader, process.stdout)

    async def connect(self) -> None:
        """Nothing to do: it was started before."""

    async def write(self, data: str) -> None:
        """One line of JSON, whole."""
        self._stdin.write(data.encode())
        await self._stdin.drain()

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        """Every line of JSON until the CLI ends, which it never does by itself."""
        while line := await self._stdout.readline():
            if line.startswith(b"{"):
                yield json.loads(line)
        raise ProcessError("Claude Code has ended", exit_code=await self._process.wait())

    async def close(self) -> None:
        """Kill it: the transcript was written before the result was told."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def is_ready(self) -> bool:
        """Always, until the CLI has ended."""
        return self._process.returncode is None

    async def end_input(self) -> None:
        """Let the CLI read its end of file."""
        self._stdin.close()


class SessionUnknown(Exception):
    """The session to resume is not there."""


class Turns:
    """One CLI and the turns that it was given."""

    cli_version = __cli_version__  # the SDK's own CLI is the one in the image

    def __init__(
        self,
        places: Places,
        opened: Open,
        outbox: OutboxWriter,
        env: Mapping[str, str],
        *,
        forgotten: bool = False,
    ) -> None:
        """`env` is the one that scripts get."""
        self._env = env
        self.desk = Desk(outbox, lambda: self.running)
        self.ended = asyncio.Event()  # set when the last turn after `close` has ended
        self._places = places
        self._opened = opened
        self._outbox = outbox
        self._asking = asyncio.Event()  # set from a turn's first request to its result
        self._given: dict[str, str] = {}  # turns that have not ended, by the uuid of their message, in order
        self._session = opened.session
        self._cost = 0.0  # the CLI's sum so far
        self._teller = Teller()
        self._skills = _skills(places)
        self._preface = _FORGOTTEN if forgotten else ""
        self._cli = 0  # its process id
        self._closing = False

    @property
    def running(self) -> str:
        """The turn that the CLI works on, or ""."""
        return next(iter(self._given.values()), "")

    @property
    def patience(self) -> int:
        """Seconds that a tool which runs may take without a sign, as far as it was said."""
        return self._teller.patience

    async def connect(self, process: Process, prompt: str) -> None:
        """Take over the CLI that was started with this prompt. Raises SessionUnknown, ProcessError."""
        self._cli = process.pid
        self._client = ClaudeSDKClient(
            options(self._places, self._opened, prompt, self.desk.server()), transport=Pipes(process)
        )
        try:
            await self._client.connect()
        except ResultError as e:
            if self._opened.session and "No conversation found" in str(e):
                raise SessionUnknown(str(e)) from None
            raise

    async def disconnect(self) -> None:
        """End the CLI."""
        await self._client.disconnect()

    # -- letters

    async def prompt(self, letter: Prompt) -> None:
        """Give it to the CLI at once: one that comes while a turn runs is merged by the CLI, or waits there."""
        if not self._given:
            end_leftovers(self._cli)
        if letter.script and (letter := await self._gated(letter)) is None:
            return
        await self._reload_skills()
        content: str | list[dict[str, Any]] = self._preface + letter.text
        if letter.images:
            shown = await asyncio.to_thread(_pictures, self._places.media, letter.images)
            content = [*shown, {"type": "text", "text": content}]
        self._preface = ""
        # Always a new uuid: the CLI skips a message whose uuid its transcript knows, and a turn that is
        # tried again, here or in a resumed session, has the same id.
        key = str(uuid.uuid4())
        self._given[key] = letter.turn
        await self._client.query(_one({"type": "user", "message": {"role": "user", "content": content}, "uuid": key}))

    async def _gated(self, letter: Prompt) -> Prompt | None:
        """The letter for the model, if its script wants that. No letter is read meanwhile: no other turn is here."""
        try:
            verdict = await gate.judge(letter.script, self._env, self._places.group)
        except gate.ScriptError as e:
            self._done(TurnDone((letter.turn,), "script", error=str(e)))
            return None
        finally:
            end_leftovers(self._cli)  # also what has left the script's process group
        if not verdict.wake:
            self._done(TurnDone((letter.turn,), "asleep"))
            return None
        self._outbox.put(Woken(letter.turn, verdict.data))
        return replace(letter, text=prompt_of(letter.text, verdict.data))

    async def stop(self, turn: str) -> None:
        """Interrupt it if it runs, withdraw it if it waits, do nothing if it has ended."""
        key = next((k for k, t in self._given.items() if t == turn), None)
        if key is None or (turn != self.running and await self._withdraw(key)):
            return
        # Before the model is asked the CLI forgets a stopped turn without a result: wait until it was.
        with suppress(TimeoutError):
            async with asyncio.timeout(_ASKED_WITHIN):
                await self._asking.wait()
        if key in self._given:
            await self._client.interrupt()

    async def _withdraw(self, key: str) -> bool:
        reply = await self._control("cancel_async_message", message_uuid=key)
        if reply.get("cancelled") and (turn := self._given.pop(key, "")):
            self._done(TurnDone((turn,), "stopped", self._session))
        return key not in self._given

    def close(self) -> None:
        """End the run after what was given."""
        self._closing = True
        self._end_if_idle()

    # -- what the CLI says

    async def listen(self) -> None:
        """One loop for the CLI's whole life. Raises ProcessError when it ends."""
        async for message in self._client.receive_messages():
            if isinstance(message, ResultMessage):
                self._asking.clear()
                self._result(message)
                continue
            if isinstance(message, SystemMessage) and message.data.get("status") == "requesting":
                self._asking.set()
            self._tell(message)

    def _tell(self, message: Message) -> None:
        events = [Event(self.running, what, text) for what, text in self._teller.tell(message)]
        if events:
            self._outbox.put(*events)

    def _result(self, result: ResultMessage) -> None:
        turns = self._turns_of(result)
        self._session = result.session_id
        total = result.total_cost_usd or 0.0
        cost, self._cost = max(0.0, total - self._cost), total
        text = self._teller.answer(result.result or "")
        self._teller = Teller()
        if result.terminal_reason in _ABORTED:
            self._done(TurnDone(turns, "stopped", self._session, cost=cost))
        elif result.is_error:
            error = (result.result or "; ".join(result.errors or ()) or result.subtype)[:500]
            self._done(TurnDone(turns, "error", self._session, result.api_error_status or 0, error, cost))
        else:
            replies = [Reply(turns, text[i : i + _PART]) for i in range(0, len(text), _PART)]
            self._done(*replies, TurnDone(turns, "ok", self._session, cost=cost))

    def _turns_of(self, result: ResultMessage) -> tuple[str, ...]:
        named = result.user_message_uuids or [result.user_message_uuid or ""]
        turns = tuple(self._given.pop(key) for key in named if key in self._given)
        asked = result.origin is None or result.origin.get("kind") == "human"
        if not turns and self._given and asked:  # an interrupted or failed one may name none
            turns = (self._given.pop(next(iter(self._given))),)
        return turns

    def _done(self, *letters: ToHost) -> None:
        self._outbox.put(*letters)
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._closing and not self._given:
            self.ended.set()

    # -- skills

    async def _reload_skills(self) -> None:
        """Plugin folders are not watched by the CLI: it is told when a skill was added, changed or removed."""
        now = _skills(self._places)
        if now != self._skills:
            self._skills = now
            await self._control("reload_plugins")

    async def _control(self, subtype: str, **fields: str) -> dict[str, Any]:
        # The SDK has no public way to send these two; a test on the pinned version holds them.
        reply: dict[str, Any] = await self._client._query._send_control_request({"subtype": subtype, **fields})  # type: ignore[union-attr]
        return reply


def _pictures(folder: Path, names: tuple[str, ...]) -> list[dict[str, Any]]:
    from agent import pictures  # here, so that only who is sent a picture waits for Pillow

    return pictures.blocks(folder, names)


def _skills(places: Places) -> frozenset[tuple[str, int, int]]:
    """Which skills there are, and when each was written."""
    return frozenset(state for plugin in places.plugins for state in _skill_states(plugin / "skills"))


def _skill_states(folder: Path) -> list[tuple[str, int, int]]:
    states = []
    for skill in folder.glob("*/SKILL.md"):
        try:
            stat = skill.stat()
        except OSError:  # removed meanwhile, or a link to nowhere
            continue
        states.append((str(skill), stat.st_mtime_ns, stat.st_size))
    return states


async def _one(message: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield message
