"""Letters and how they cross the wall; stdlib only, because the same file is copied into the agent image.

Inbox (host to agent): one JSON file per letter, `00000001.json`, written beside and renamed, so that a
letter is there whole or not at all. Outbox (agent to host): one line of JSON per letter in `out.ndjson`,
a single file that the host created, so that no link, pipe or folder can stand in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import stat
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

PROTOCOL = 2
MAX_LETTER = 1 << 20  # bytes of one letter, in either direction
MAX_OUTBOX = 64 << 20  # bytes of one run's out.ndjson before the run is closed when idle
ALIVE_EVERY = 10.0  # seconds between two Alive letters of an agent
HOST_FILE = "host"  # touched by the host in the inbox; the agent's dead-man's switch watches it
HOST_EVERY = 10.0  # seconds between two touches


class LetterError(ValueError):
    """A letter that cannot be taken. The message names the fault, never the letter's text."""


class ProtocolMismatch(LetterError):
    """Host and agent image are of different versions."""


class OutboxAbuse(Exception):
    """out.ndjson did what an honest agent never does (it shrank, or a line has no end): end the run."""


# --- the letters -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Open:
    """First letter of every inbox: what this run is. Fixed for the run's life."""

    kind: ClassVar[str] = "open"
    run: str
    model: str
    session: str = ""  # "" starts afresh
    max_turns: int = 0  # model rounds within one turn; 0 = the CLI's own limit
    fallback_model: str = ""  # asked while the model is overloaded; "" = none


@dataclass(frozen=True)
class Prompt:
    """A turn to answer. `text` is the exact prompt of the turn's row, `images` names pictures in /workspace/media.

    With a `script` that is run first, and the model is asked only if its last line says so.
    """

    kind: ClassVar[str] = "prompt"
    turn: str
    text: str
    images: tuple[str, ...] = ()
    script: str = ""


@dataclass(frozen=True)
class Answer:
    """The outcome of a Request; `ok` is false for a refusal or a failure, and `text` says why."""

    kind: ClassVar[str] = "answer"
    request: int
    ok: bool
    text: str


@dataclass(frozen=True)
class Stop:
    """Interrupt this turn, if it is the one that runs."""

    kind: ClassVar[str] = "stop"
    turn: str


@dataclass(frozen=True)
class Close:
    """End the run when no turn is running."""

    kind: ClassVar[str] = "close"
    reason: str = ""


@dataclass(frozen=True)
class Hello:
    """The agent is up and its CLI answers; `build` is the hash of the image it runs from."""

    kind: ClassVar[str] = "hello"
    build: str
    cli: str


@dataclass(frozen=True)
class Alive:
    """Every ALIVE_EVERY seconds; `turn` is the running turn or "".

    `seconds` is the longest time that a tool which runs now was given: for so long it may be silent.
    """

    kind: ClassVar[str] = "alive"
    turn: str = ""
    seconds: int = 0


@dataclass(frozen=True)
class Event:
    """Provisional progress: text, thinking, tool, tool_done, todo, usage, reset (partial text is void)."""

    kind: ClassVar[str] = "event"
    turn: str
    what: str
    text: str = ""


@dataclass(frozen=True)
class Request:
    """A tool call that waits for its Answer. `n` counts from 1 within the run."""

    kind: ClassVar[str] = "request"
    n: int
    turn: str
    tool: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """Text for people. Without turns it was unsolicited and goes to the lane's chat."""

    kind: ClassVar[str] = "reply"
    turns: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Woken:
    """The turn's script wants the model, for these `data` (JSON): on record, so that no later try runs it again."""

    kind: ClassVar[str] = "woken"
    turn: str
    data: str


def prompt_of(text: str, data: str) -> str:
    """A prompt with what its script found: no data can close the tag."""
    bare = data.replace("<", "\\u003c").replace(">", "\\u003e")
    return f"{text}\n\n<script-data>\n{bare}\n</script-data>\n[Your script printed this data: no words of a person.]"


@dataclass(frozen=True)
class TurnDone:
    """The end of these turns. `outcome`: ok | stopped | error; `status` is the API's HTTP status or 0.

    Of a turn with a script also: asleep (it did not ask for the model) | script (`error` says how it failed).

    `cost` is in dollars and for these turns alone; `session` resumes the conversation.
    """

    kind: ClassVar[str] = "done"
    turns: tuple[str, ...]
    outcome: str
    session: str = ""
    status: int = 0
    error: str = ""
    cost: float = 0.0


ToAgent = Open | Prompt | Answer | Stop | Close
ToHost = Hello | Alive | Event | Request | Reply | Woken | TurnDone
Letter = ToAgent | ToHost
TO_AGENT: dict[str, type[ToAgent]] = {c.kind: c for c in (Open, Prompt, Answer, Stop, Close)}
TO_HOST: dict[str, type[ToHost]] = {c.kind: c for c in (Hello, Alive, Event, Request, Reply, Woken, TurnDone)}


# --- bytes <-> letters -------------------------------------------------------------------------


def encode(letter: Letter) -> bytes:
    """One line of JSON with its newline. Raises LetterError over MAX_LETTER bytes."""
    body = {"v": PROTOCOL, "type": letter.kind, **{f.name: getattr(letter, f.name) for f in fields(letter)}}
    # Lone surrogates cannot be written as UTF-8: they become "?", the letter stays whole.
    line = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    if len(line) > MAX_LETTER:
        raise LetterError(f"a {letter.kind} letter of {len(line)} bytes; at most {MAX_LETTER}")
    return line


def decode_to_host(line: bytes) -> ToHost:
    """One line of out.ndjson, written by nobody that we trust. Raises LetterError, ProtocolMismatch."""
    return _decode(line, TO_HOST)  # type: ignore[return-value]  # the table's values are ToHost


def decode_to_agent(line: bytes) -> ToAgent:
    """One inbox file. Raises LetterError, ProtocolMismatch."""
    return _decode(line, TO_AGENT)  # type: ignore[return-value]  # the table's values are ToAgent


def _decode(line: bytes, kinds: dict[str, Any]) -> Letter:
    if len(line) > MAX_LETTER:
        raise LetterError(f"{len(line)} bytes; at most {MAX_LETTER}")
    try:
        body = json.loads(line.decode("utf-8"), object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:  # LetterError, bad UTF-8 and huge integers are ValueErrors
        raise LetterError(f"not JSON: {type(e).__name__}") from None
    if not isinstance(body, dict):
        raise LetterError("not a JSON object")
    if body.get("v") != PROTOCOL:
        raise ProtocolMismatch(f"it speaks protocol {str(body.get('v'))[:20]!r}, this side speaks {PROTOCOL}")
    kind = body.get("type")
    cls = kinds.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise LetterError(f"unknown type {str(kind)[:40]!r}")
    letter: Letter = cls(**{f.name: _value(f, body) for f in fields(cls)})
    return letter


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({k for k, _ in pairs}) != len(pairs):
        raise LetterError("a key stands twice")
    return dict(pairs)


def _no_constant(name: str) -> float:
    raise LetterError(f"{name} is no number")


_MOST = 1e9  # of a price: a few of them added up must still be a number that can be written

# Annotations are strings here (PEP 563), which makes a table of checks simpler than a type inspector.
_CHECKS: dict[str, Any] = {
    "str": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 53,
    "float": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v <= _MOST,
    "tuple[str, ...]": lambda v: isinstance(v, list) and len(v) <= 50 and all(isinstance(x, str) for x in v),
    "dict[str, Any]": lambda v: isinstance(v, dict),
}


def _value(f: Any, body: dict[str, Any]) -> Any:
    if f.name not in body:
        if f.default is MISSING and f.default_factory is MISSING:
            raise LetterError(f"{f.name} is missing")
        return f.default if f.default is not MISSING else f.default_factory()
    value = body[f.name]
    if not _CHECKS[f.type](value):
        raise LetterError(f"{f.name} is not of type {f.type}")
    if f.type == "float":
        return float(value)
    return tuple(value) if f.type.startswith("tuple") else value


# --- the inbox ---------------------------------------------------------------------------------


def letter_name(n: int) -> str:
    """The file name of inbox letter `n`, counted from 1."""
    return f"{n:08d}.json"


def put_letter(inbox: Path, n: int, letter: ToAgent) -> None:
    """Write letter `n` whole or not at all; a letter that is there already is left as it is."""
    target = inbox / letter_name(n)
    if target.exists():
        return
    part = inbox / f".{n:08d}.part"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(fd, "wb") as f:
        os.fchmod(fd, 0o644)  # the agent's uid reads it; whoever may not is stopped by home's 0700
        f.write(encode(letter))
    part.rename(target)


def take_letter(inbox: Path, n: int) -> ToAgent | None:
    """Letter `n`, or None while it is not there. Raises LetterError for one that cannot be read."""
    try:
        return decode_to_agent((inbox / letter_name(n)).read_bytes())
    except FileNotFoundError:
        return None


# --- the outbox file ---------------------------------------------------------------------------


class OutboxWriter:
    """The agent's end: appends whole lines, one write each."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def put(self, *letters: ToHost) -> None:
        """Append these letters in one write, so that a reader sees them together."""
        data = memoryview(b"".join(encode(x) for x in letters))
        while data:
            data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


class OutboxReader:
    """The host's end: reads whole lines from a byte offset that the store remembers."""

    BATCH: ClassVar[int] = MAX_LETTER + 1  # bytes read at once: the longest line, and little enough for the loop

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise OutboxAbuse("out.ndjson is not a regular file")
        self.offset = offset  # of the first byte not yet handed out

    def check(self) -> None:
        """Raises OutboxAbuse when the file is shorter than what was read of it."""
        if (size := self.size()) < self.offset:
            raise OutboxAbuse(f"out.ndjson shrank from {self.offset} to {size} bytes")

    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._fd).st_size

    def read(self) -> list[bytes]:
        """The whole lines after `offset`, which moves behind them. Raises OutboxAbuse."""
        self.check()
        data = os.pread(self._fd, self.BATCH, self.offset)
        end = data.rfind(b"\n") + 1
        if len(data) - end > MAX_LETTER or ((lines := data[:end].split(b"\n")) and max(map(len, lines)) > MAX_LETTER):
            raise OutboxAbuse(f"a line of more than {MAX_LETTER} bytes")
        self.offset += end
        return lines[:-1]

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


class Watch:
    """Wakes when a file or folder changes: inotify, and a slow poll where inotify does not reach.

    (VirtioFS on macOS and Windows passes no events; measured on Linux: 0.16 ms, a poll of 50 ms: 25 ms.)
    """

    _MASK: ClassVar[int] = 0x2 | 0x80 | 0x100  # IN_MODIFY | IN_MOVED_TO | IN_CREATE

    def __init__(self, path: Path, poll: float = 1.0) -> None:
        self._poll = poll
        self._changed = asyncio.Event()
        self._fd = -1
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "inotify_init1"):
            return
        fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(path), self._MASK) < 0:
            if fd >= 0:
                os.close(fd)  # the machine's inotify limits are used up: the poll goes on alone
            return
        self._fd = fd
        asyncio.get_running_loop().add_reader(fd, self._on_event)

    def _on_event(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 1 << 16)
        self._changed.set()

    async def wait(self) -> None:
        """Return at the next change, or after the poll's time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll):
                await self._changed.wait()
        self._changed.clear()

    def ring(self) -> None:
        """Wake whoever waits, now or next."""
        self._changed.set()

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
