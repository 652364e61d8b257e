"""What the demo stands on: a temporary home, `nanoclaw run`, and the two stand-ins that it talks to."""

import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nanoclaw import app, control
from nanoclaw.channels.control_sock import connect
from nanoclaw.models import Group, TriggerMode
from nanoclaw.store import Store, Tx, chats
from tests.model_server import ModelServer, Seen, Step, Text
from tests.whatsapp.server import FakeWhatsApp, Message, Person, Sent

GROUP = "120363000000000001"
PATIENCE = 90.0  # seconds: a first container on a busy machine
_LATE = 5.0  # seconds that a reaction may come after the answer
# Of the caller's settings only what says where the engine and the image are.
_KEPT = {"NANOCLAW_ENGINE", "NANOCLAW_IMAGE", "NANOCLAW_BASE_IMAGE", "NANOCLAW_AGENT_UID"}
_FOREIGN = ("NANOCLAW_", "ANTHROPIC_", "CLAUDE_")
_SAID = re.compile(r'<message-(\w+) [^>]*from="([^"]*)"[^>]*>\n(.*?)\n</message-\1>', re.DOTALL)
_QUOTED = re.compile(r"<quoted-(\w+) .*?</quoted-\1>\n?", re.DOTALL)
_ABILITIES = """**Hello!** I am the *stand-in model*, behind:

- the real Claude Code, in a container **without a network**
- the real host and the real WhatsApp library

Markdown becomes WhatsApp's marks: ~~old~~ **new**, and `code` stays code."""


class Failed(Exception):
    """The demo could not go on; why."""


@dataclass
class Exchange:
    """One message, what came back, and how long each hop took, in milliseconds."""

    reply: Sent
    id: str
    eyes: float | None = None  # until the reaction was seen
    asked: float | None = None  # until the model was asked; None: it was not
    model: float = 0.0  # from there to its last byte
    back: float = 0.0  # from there to the text on the phone
    total: float = 0.0


@dataclass
class Stage:
    """Everybody who takes part."""

    home: Path
    whatsapp: FakeWhatsApp
    model: ModelServer
    mia: Person
    ben: Person
    zoe: Person

    async def link(self) -> None:
        """The assistant's phone scans the QR that the host offers."""
        async with await connect(self.home / "control.sock") as client:
            await client.send({"verb": "pair", "args": {"watch": True}})
            scanned = False
            async for frame in client:
                if frame["state"] == "connected":
                    return
                if frame["qr"] and not scanned:
                    scanned = True
                    self.whatsapp.scan(frame["qr"])
        raise Failed("the host ended while it was being linked")

    async def claim(self) -> str:
        """A one-time code for the owner."""
        async with await connect(self.home / "control.sock") as client:
            return str((await client.call("claim"))["code"])

    async def serve_group(self) -> None:
        """Add the group, as its owner would."""
        async with app.opened(Store(self.home / "nanoclaw.db")) as store:
            await store.write(_add_group, app.now_ms())

    def stored(self, text: str) -> bool:
        """Whether it stands anywhere in the database's files."""
        return any(text.encode() in path.read_bytes() for path in self.home.glob("nanoclaw.db*"))

    async def exchange(self, person: Person, said: Message | str, group: str = "") -> Exchange:
        """Say it, and wait for what comes back."""
        number, begun = len(self.model.requests), time.perf_counter()
        id = self.whatsapp.say(person, said, group)
        try:
            reply = await self.whatsapp.next_sent(PATIENCE)
        except TimeoutError:
            raise Failed(f"no answer within {PATIENCE:.0f} s") from None
        found = Exchange(reply, id, total=_ms(begun, reply.at))
        if asked := self.model.requests[number:]:
            found.asked = _ms(begun, asked[0].arrived)
            found.model = _ms(asked[0].arrived, asked[-1].last_byte)
            found.back = _ms(asked[-1].last_byte, reply.at)
            found.eyes = await self._eyes(id, begun)
        return found

    async def _eyes(self, id: str, begun: float) -> float | None:
        """On a busy machine the reaction may come after the answer."""
        with suppress(TimeoutError):
            while sign := await self.whatsapp.next_reaction(_LATE):
                if id == sign.message.reactionMessage.key.ID:
                    return _ms(begun, sign.at)
        return None


def _ms(start: float, end: float) -> float:
    """Of one clock: the servers' monotonic() and our perf_counter() are the same on Linux."""
    return (end - start) * 1000


def _add_group(tx: Tx, now: int) -> None:
    chat = chats.learn_chat(tx, "whatsapp", (f"{GROUP}@g.us",), "Family", True, now)
    control.add_group(tx, chat.id, Group(0, "family", "Andy", mode=TriggerMode.WORD), now)


def answer(seen: Seen) -> Step:
    """The model's part: all that it knows stands in the prompt."""
    lines = [(who, _QUOTED.sub("", text).strip()) for _, who, text in _SAID.findall(seen.said)]
    text = lines[-1][1] if lines else seen.said
    if "what can you do" in text.lower():
        return Text(_ABILITIES)
    if "what did ben ask" in text.lower():
        bens = [said for who, said in lines if who == "Ben"]
        return Text(f"Ben asked: **{bens[-1] if bens else 'nothing'}**")
    return Text(f"You said: {text}")


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    """All of it; afterwards nothing is left."""
    with tempfile.TemporaryDirectory(prefix="nc-demo-", dir="/tmp") as folder:
        async with FakeWhatsApp("15550001111", "99900011122", "Andy") as whatsapp, ModelServer() as model:
            model.answer(answer)
            mia = whatsapp.person("70000000000001", "15552220001", "Mia")
            ben = whatsapp.person("70000000000002", "15552220002", "Ben")
            zoe = whatsapp.person("70000000000003", "15552220003", "Zoe")
            whatsapp.group(GROUP, "Family", mia, ben)
            home = Path(folder) / "home"
            async with _host(whatsapp.env(_environ(home, model.url))):
                yield Stage(home, whatsapp, model, mia, ben, zoe)


def _environ(home: Path, url: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if k in _KEPT or not k.startswith(_FOREIGN)}
    env |= {"NANOCLAW_HOME": str(home), "NANOCLAW_WHATSAPP": "own", "NANOCLAW_LOG_LEVEL": "WARNING"}
    return env | {"ANTHROPIC_API_KEY": "a-key-of-nobody", "ANTHROPIC_BASE_URL": url, "NEONIZE_BOT_TAG": "off"}


@asynccontextmanager
async def _host(env: dict[str, str]) -> AsyncIterator[None]:
    """`nanoclaw run` from when it is ready until it has ended; in a session of its own, so that Ctrl-C is ours."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nanoclaw", "run", env=env, start_new_session=True,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr
    said: list[str] = []
    draining = None
    try:
        while "ready" not in (line := (await process.stderr.readline()).decode()):
            if not line:
                raise Failed("the host did not start:\n" + "".join(said).strip())
            said.append(line)
        draining = asyncio.create_task(_drain(process.stderr, said))
        yield
    except TimeoutError:
        raise Failed("something took too long; the host said last:\n" + "".join(said[-10:]).strip()) from None
    finally:
        await _end(process)
        if draining:
            await draining


async def _drain(stream: asyncio.StreamReader, said: list[str]) -> None:
    async for line in stream:
        said.append(line.decode("utf-8", "replace"))
        del said[:-50]


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(30):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
