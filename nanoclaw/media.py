"""Files that came with messages: fetched before a turn takes them up, kept where the group's agent can read them."""

import asyncio
import codecs
import re
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from loguru import logger

from nanoclaw import failpoints, safefs
from nanoclaw.config import Config
from nanoclaw.errors import MediaRefused, NotConnected
from nanoclaw.groups import Home, make_kept
from nanoclaw.models import Group, Media, Message
from nanoclaw.store import Store, chats
from nanoclaw.store import media as rows

MAX_FILES = 10  # that are fetched for one turn
MAX_FILE = 50 << 20  # bytes
MAX_DAY = 200 << 20  # bytes that a group fetches in one day of its zone
_PATIENCE = 60.0  # seconds that one message's files may take
_PATIENCE_IN_ALL = 120.0  # and a turn's: it goes on without the rest
_PICTURES = (".jpg", ".png", ".webp", ".gif")  # what the model can look at

# What the first bytes say: the sender's word for it counts for nothing.
_MAGIC = re.compile(
    rb"(?P<jpg>\xff\xd8\xff)|(?P<png>\x89PNG\r\n\x1a\n)|(?P<gif>GIF8[79]a)|(?P<webp>RIFF....WEBP)|(?P<wav>RIFF....WAVE)"
    rb"|(?P<heic>....ftyp(?:hei|mif1|msf1))|(?P<m4a>....ftypM4A)|(?P<mp4>....ftyp)|(?P<ogg>OggS)|(?P<webm>\x1aE\xdf\xa3)"
    rb"|(?P<mp3>ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb])|(?P<aac>\xff[\xf0\xf1\xf8\xf9])|(?P<amr>#!AMR)|(?P<pdf>%PDF-)"
    rb"|(?P<zip>PK\x03\x04)|(?P<ole>\xd0\xcf\x11\xe0)",
    re.DOTALL,
)
# Endings of the sender's that say more than the bytes do, and are no lie by them.
_FINER = {
    "mp4": "mov 3gp",
    "ogg": "opus oga",
    "webm": "mkv",
    "zip": "docx xlsx pptx odt ods odp epub",
    "ole": "doc xls ppt msg",
    "txt": "csv tsv md json html xml ics vcf log py js sql yaml toml",
}


class Wanting(Exception):
    """No turn can be made yet: files of these messages come first."""

    def __init__(self, messages: Sequence[Message]) -> None:
        super().__init__(f"files of {len(messages)} messages")
        self.messages = messages


@dataclass(frozen=True)
class Fetcher:
    """Brings files to the groups' folders, one at a time over all groups."""

    store: Store
    home: Home
    fetch: Callable[[str, str, int], Awaitable[bytes]]  # a channel's name, a Media.ref, the most bytes
    config: Callable[[], Config]
    clock: Callable[[], int]
    pauses: tuple[float, ...] = (2.0, 10.0)  # seconds between the tries; the last one for all that follow
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def settle(self, group: Group, messages: Sequence[Message]) -> None:
        """Afterwards each file of these messages is here, or its fault is known. Raises StoreError."""
        left = _PATIENCE_IN_ALL
        for message in messages:
            async with self._one:
                began = asyncio.get_running_loop().time()
                await self._settle(group, message, began + min(left, _PATIENCE))
                left -= asyncio.get_running_loop().time() - began

    async def _settle(self, group: Group, message: Message, until: float) -> None:
        zone, now = ZoneInfo(group.zone or self.config().zone), self.clock()
        today, said = (str(datetime.fromtimestamp(at / 1000, zone).date()) for at in (now, min(message.at, now)))
        channel = (await self.store.read(chats.chat, message.chat_id)).channel
        used = before = await self.store.read(rows.used, group.id, today)
        files = []
        for number, file in enumerate(message.media):
            if missing(file) and file.quoted and message.quote and message.quote.known:
                file = await self.store.read(rows.of_quoted, message.quote.id, file)
            if missing(file):
                # Named by the row alone: what was fetched before a crash is put in the same place again.
                name = f"{said}-{message.id}" + f"-{number}" * bool(number)
                file = await self._file(group, channel, file, name, MAX_DAY - used, until)
                used += file.size if file.path else 0
            files.append(file)
        failpoints.hit("fetched")
        await self.store.write(rows.settle, message.id, tuple(files), group.id, today, used - before)

    async def _file(self, group: Group, channel: str, file: Media, name: str, room: int, until: float) -> Media:
        try:
            if until <= asyncio.get_running_loop().time():
                raise TimeoutError
            async with asyncio.timeout_at(until):
                data = await self._bytes(channel, file, room)
                name += _rest(file, data)
                await asyncio.to_thread(safefs.write_file, make_kept(self.home, group.folder), name, data)
            logger.info("Fetched a file of {} bytes", len(data))
            return replace(file, path=name, size=len(data), ref="")  # its keys are of no more use
        except MediaRefused as e:
            return replace(file, fault=str(e), ref="")
        except Exception as e:  # one file never stops its turn
            logger.warning("A file could not be fetched: {}", type(e).__name__)
            return replace(file, fault="no connection, or no answer in time")  # whoever quotes it may have it yet

    async def _bytes(self, channel: str, file: Media, room: int) -> bytes:
        if file.size > MAX_FILE:
            raise MediaRefused(f"larger than {MAX_FILE >> 20} MB")
        if room <= 0 or file.size > room:
            raise MediaRefused(f"the {MAX_DAY >> 20} MB of files that this chat may get a day are used up")
        tries = 0
        while True:
            try:
                if data := await self.fetch(channel, file.ref, min(room, MAX_FILE)):
                    return data
                raise MediaRefused("it is empty")
            except MediaRefused:
                raise
            except Exception as e:  # who is away may be back as long as there is time
                if tries >= len(self.pauses) and not isinstance(e, NotConnected):
                    raise
                await asyncio.sleep(self.pauses[min(tries, len(self.pauses) - 1)])
                tries += 1


# --- which files, and what they are called (pure) ------------------------------------------------


def missing(file: Media) -> bool:
    """Whether it is neither here nor known never to come."""
    return not (file.path or file.fault)


def counted(messages: Sequence[Message]) -> list[Message]:
    """The newest messages with files, as many as a turn takes, oldest first."""
    chosen: list[Message] = []
    room = MAX_FILES
    for message in sorted(messages, key=lambda m: m.id, reverse=True):
        if (room := room - len(message.media)) < 0:
            break
        if message.media:
            chosen.insert(0, message)
    return chosen


def wanted(messages: Sequence[Message]) -> list[Message]:
    """Those of them whose files are still to be fetched."""
    return [m for m in counted(messages) if any(map(missing, m.media))]


def pictures(messages: Sequence[Message], prompt: str) -> tuple[str, ...]:
    """The names of the pictures that the prompt names, each once."""
    names = [f.path for m in counted(messages) for f in m.media if f.path.endswith(_PICTURES) and f.path in prompt]
    return tuple(dict.fromkeys(names))


def _rest(file: Media, data: bytes) -> str:
    """The end of a file's name: what is left of the sender's, and an ending that its bytes earn."""
    stem, _, theirs = unicodedata.normalize("NFC", file.name).rpartition(".")
    if not theirs.isalnum():
        stem, theirs = file.name, ""
    found = _MAGIC.match(data)
    ending = (found and found.lastgroup) or _plain(data[:4096])
    if theirs.lower() in _FINER.get(ending, "").split():
        ending = theirs.lower()
    stem = re.sub(r"\W+", "-", stem or theirs)[:40].strip("-_")
    return f"-{stem or file.kind}.{ending}"


def _plain(head: bytes) -> str:
    try:  # incremental: a character may be cut at the end
        return "bin" if "\0" in codecs.getincrementaldecoder("utf-8")().decode(head) else "txt"
    except UnicodeDecodeError:
        return "bin"
