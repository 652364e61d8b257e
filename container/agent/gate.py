"""The script that may stand before a turn: it says whether the model is needed at all."""

import asyncio
import json
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LIMIT = 30.0  # seconds that a script may take
MAX_OUTPUT = 1 << 20  # bytes of what it prints
MAX_DATA = 32_000  # characters of what goes into the prompt
_SHOWN = 300  # characters of what it printed, in an error
_LAST = 'print {"wake": true or false, "data": …} as the last line'


class ScriptError(Exception):
    """It did not end as it should: the message says how, for the task's log."""


@dataclass(frozen=True)
class Verdict:
    """What it said; `data` is JSON."""

    wake: bool
    data: str = "null"


async def judge(script: str, env: Mapping[str, str], folder: Path, limit: float = LIMIT) -> Verdict:
    """Run it with bash in this folder. Raises ScriptError."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", script), stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=env, cwd=folder, start_new_session=True
    )
    try:
        async with asyncio.timeout(limit):
            out, err = await asyncio.gather(_read(process.stdout), _read(process.stderr))
            code = await process.wait()
    except TimeoutError:
        raise ScriptError(f"it took longer than {limit:g} s") from None
    finally:
        await _end(process)
    if code:
        said = (err or out).decode("utf-8", "replace").strip()[-_SHOWN:]
        raise ScriptError(f"it ended with code {code}{': ' + said if said else ''}")
    return _verdict(out)


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None  # noqa: S101 - it was asked for
    data = bytearray()
    while chunk := await stream.read(1 << 16):
        data += chunk
        if len(data) > MAX_OUTPUT:
            raise ScriptError(f"it printed more than {MAX_OUTPUT >> 20} MiB")
    return bytes(data)


async def _end(process: Process) -> None:
    """Whatever it started goes with it, also when it ended by itself."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):  # what has left its group may hold its pipes: the caller ends that, too
        async with asyncio.timeout(1):
            await process.wait()


def _verdict(out: bytes) -> Verdict:
    lines = out.decode("utf-8", "replace").strip().splitlines()
    try:
        said = json.loads(lines[-1] if lines else "")
    except (ValueError, RecursionError):
        raise ScriptError(f"its last line is no JSON: {_LAST}") from None
    if not isinstance(said, dict) or not isinstance(said.get("wake"), bool):
        raise ScriptError(f"its last line does not say whether to wake: {_LAST}")
    data = json.dumps(said.get("data"), ensure_ascii=False)
    if len(data) > MAX_DATA:
        raise ScriptError(f"its data are longer than {MAX_DATA} characters: put them into a file, and its name there")
    return Verdict(said["wake"], data)
