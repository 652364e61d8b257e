"""The life of one agent: read Open, start the CLI, then import the SDK and take it over."""

import asyncio
import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from mailbox import (
    ALIVE_EVERY,
    HOST_FILE,
    Alive,
    Answer,
    Close,
    Hello,
    LetterError,
    Open,
    OutboxWriter,
    Prompt,
    ProtocolMismatch,
    Stop,
    ToAgent,
    Watch,
    take_letter,
)
from pathlib import Path
from typing import TYPE_CHECKING

from agent import cli
from agent.forward import forward, listen
from agent.lifeline import HostGone, Lifeline
from agent.memory import system_prompt
from agent.places import Places

if TYPE_CHECKING:
    from agent.turns import Turns

_SET_DUMPABLE = 4  # of prctl


class Inbox:
    """The letters, strictly in number order."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number, self._watch = folder, 1, Watch(folder)

    async def take(self) -> ToAgent:
        """The next letter. Raises LetterError, ProtocolMismatch."""
        while (letter := take_letter(self._folder, self._number)) is None:
            await self._watch.wait()
        self._number += 1
        return letter

    def close(self) -> None:
        """No more letters are taken."""
        self._watch.close()


async def live(places: Places, clock: Callable[[], float]) -> None:
    """One run, from its first letter to its end. Raises LetterError, HostGone or the SDK's ProcessError."""
    with closing(OutboxWriter(places.outbox)) as outbox, closing(Inbox(places.inbox)) as inbox:
        try:
            opened = await inbox.take()
        except ProtocolMismatch:
            outbox.put(_hello())  # so that the host sees which protocol this image speaks
            raise
        if not isinstance(opened, Open):
            raise LetterError(f"the first letter is {opened.kind!r}, not 'open'")
        with listen(places.model_port) as model, listen(places.egress_port) as egress:
            async with asyncio.TaskGroup() as tasks:
                ways = (
                    tasks.create_task(forward(model, places.model_socket), name="model"),
                    tasks.create_task(forward(egress, places.egress_socket), name="egress"),
                )
                turns = await _connect(places, opened, outbox, model.getsockname()[1], egress.getsockname()[1])
                outbox.put(_hello(turns.cli_version))
                loops = (
                    tasks.create_task(turns.listen(), name="listen"),
                    tasks.create_task(_letters(inbox, turns), name="letters"),
                    tasks.create_task(_pulse(places, outbox, turns, clock), name="pulse"),
                )
                try:
                    await turns.ended.wait()
                finally:
                    for task in (*ways, *loops):
                        task.cancel()
                    await turns.disconnect()


async def _connect(places: Places, opened: Open, outbox: OutboxWriter, model: int, egress: int) -> "Turns":
    """The CLI boots while the SDK is imported: 0.3 s each, at the same time."""
    prompt = system_prompt(places, os.environ.get("ASSISTANT_NAME", ""))
    env = cli.environment(os.environ, places, model, egress) | cli.models(opened.model, opened.fallback_model)
    process = await cli.start(cli.command(places, opened, prompt), env, places)
    gc.disable()  # collecting among the many objects that the import makes would take a fifth of its time
    from agent import quick

    quick.prepare()
    from agent.turns import SessionUnknown, Turns

    gc.freeze()
    gc.enable()

    outside = cli.without_model(env)
    turns = Turns(places, opened, outbox, outside)
    try:
        await turns.connect(process, prompt)
    except SessionUnknown:
        opened = replace(opened, session="")
        turns = Turns(places, opened, outbox, outside, forgotten=True)
        await turns.connect(await cli.start(cli.command(places, opened, prompt), env, places), prompt)
    return turns


async def _letters(inbox: Inbox, turns: "Turns") -> None:
    while True:
        match await inbox.take():
            case Prompt() as letter:
                await turns.prompt(letter)
            case Stop(turn=turn):
                await turns.stop(turn)
            case Answer() as letter:
                turns.desk.take(letter)
            case Close():
                turns.close()
            case Open():
                raise LetterError("a second 'open' letter")


async def _pulse(places: Places, outbox: OutboxWriter, turns: "Turns", clock: Callable[[], float]) -> None:
    host = Lifeline(places.inbox / HOST_FILE, clock())
    while True:
        host.check(clock(), busy=bool(turns.running))
        outbox.put(Alive(turns.running, turns.patience))
        await asyncio.sleep(ALIVE_EVERY)


def _hello(cli_version: str = "") -> Hello:
    return Hello(os.environ.get("NANOCLAW_BUILD", ""), cli_version)


def main() -> int:
    """Exit code: 0 after Close, 3 for a letter that cannot be taken, 4 without a host, 1 for the rest."""
    if Places().probe.exists():
        from agent import probe

        return probe.main()
    code = 0
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)  # no shell of the agent's reads or writes our memory
    try:
        asyncio.run(live(Places(), time.monotonic))
    except* LetterError as e:
        code = _fault(e, 3)
    except* HostGone as e:
        code = _fault(e, 4)
    return code


def _fault(group: BaseExceptionGroup[Exception], code: int) -> int:
    for fault in group.exceptions:
        print(f"agent: {fault}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
