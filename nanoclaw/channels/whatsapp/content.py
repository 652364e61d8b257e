"""What a message says: WhatsApp's many kinds as one kind, one text, its files, and the message that it is about.

Everything here was written by somebody else: it is capped, and nothing in it may raise.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neonize.proto.waE2E.WAWebProtobufsE2E_pb2 import ContextInfo, Message, ProtocolMessage

from nanoclaw.channels.whatsapp import files
from nanoclaw.models import Media

LONGEST = 100_000  # characters of a text; WhatsApp's own limit is 65,536
_MANY = 20  # contacts, options of a poll
_DEEP = 6  # wrappers around wrappers
_SIZE = 2**50  # bytes, as a sender says; more does not fit into a row
_ID = 128  # characters of a message's id: more is nobody's

_NUMBER = re.compile(r"(?:[\w-]+\.)?TEL\b[^:]*:([+\d() ./-]{3,40})", re.IGNORECASE)  # a line of a contact's card

# What travels beside a message.
_BESIDE = {"messageContextInfo", "senderKeyDistributionMessage", "fastRatchetKeySenderKeyDistributionMessage"}
_WRAPPERS = {
    "associatedChildMessage",
    "botForwardedMessage",
    "botInvokeMessage",
    "deviceSentMessage",
    "documentWithCaptionMessage",
    "editedMessage",
    "ephemeralMessage",
    "groupMentionedMessage",
    "lottieStickerMessage",
    "pollCreationMessageV4",
    "questionMessage",
    "questionReplyMessage",
    "spoilerMessage",
    "viewOnceMessage",
    "viewOnceMessageV2",
    "viewOnceMessageV2Extension",
}
# What is no message of its own: votes that only their poll can read, pins, the cover of an album.
_DROPPED = {
    "albumMessage": "album",
    "encEventResponseMessage": "vote",
    "encReactionMessage": "vote",
    "keepInChatMessage": "pin",
    "messageHistoryBundle": "history",
    "messageHistoryNotice": "history",
    "pinInChatMessage": "pin",
    "pollUpdateMessage": "vote",
}


class Dropped(Exception):
    """Nothing that is kept. `reason` is one word, to be counted.

    A changed timer for vanishing messages is no message either: then `chat` and `expires` (seconds) say it.
    """

    def __init__(self, reason: str, chat: tuple[str, ...] = (), expires: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.chat, self.expires = reason, chat, expires


@dataclass(frozen=True)
class Content:
    """A message without its envelope. Kinds as in Incoming, and "timer"."""

    kind: str
    text: str = ""
    media: tuple[Media, ...] = ()
    target: str = ""
    of_another: bool = False  # of a delete: its sender says that somebody else wrote the target
    expires: int | None = None  # of a timer
    context: ContextInfo | None = None


def read(message: Message) -> Content:
    """What it says, taken out of its wrappers. Raises Dropped."""
    for _ in range(_DEEP):
        name, part = _part(message)
        if name not in _WRAPPERS:
            break
        message = part.message
    if name in _DROPPED:
        raise Dropped(_DROPPED[name])
    reader = _READERS.get(name)
    if reader is None:
        return Content("unsupported", f"[unsupported: {name}]")
    found = reader(part)
    if found.kind == "text" and not found.text:
        raise Dropped("empty")
    return found


def _part(message: Message) -> tuple[str, Any]:
    """The field that is the message: the first that we can read, else the first."""
    fields = [(field.name, part) for field, part in message.ListFields()]
    parts = [(name, part) for name, part in fields if name not in _BESIDE]
    if not parts and fields:
        raise Dropped("keys")
    if not parts and message.ByteSize():
        return "a newer kind", None
    if not parts:
        raise Dropped("empty")
    return next((p for p in parts if p[0] in _READERS or p[0] in _WRAPPERS), parts[0])


# --- strings of others ---


def text(value: str | bytes, limit: int = LONGEST) -> str:
    """As it was written; what is no text is replaced (bytes are a string that is not UTF-8)."""
    said = value if isinstance(value, str) else value.decode("utf-8", "replace")
    return said[:limit].replace("\0", "\ufffd")


def line(value: str | bytes, limit: int = 100) -> str:
    """In one line, shortened."""
    return " ".join(text(value, 4 * limit).split())[:limit]


def message_id(value: str | bytes) -> str:
    """An id that somebody refers to; "" for one that no message has."""
    said = text(value, _ID + 1)
    return said if len(said) <= _ID else ""


# --- kinds ---


def _plain(part: str | bytes) -> Content:
    return Content("text", text(part))


def _extended(part: Any) -> Content:
    return Content("text", text(part.text), context=part.contextInfo)


def _media(kind: str) -> Callable[[Any], Content]:
    def read_media(part: Any) -> Content:
        is_voice = kind == "audio" and part.PTT
        return _file("voice" if is_voice else kind, part)

    return read_media


def _file(kind: str, part: Any) -> Content:
    name = line(getattr(part, "fileName", "") or getattr(part, "title", ""), 120)
    media = Media(
        kind=kind,
        mime=line(part.mimetype),
        name=re.sub(r"[/\\]", "_", name),
        size=min(part.fileLength, _SIZE),
        ref=files.ref_of(kind, part),
    )
    return Content(kind, text(getattr(part, "caption", "")), (media,), context=part.contextInfo)


def _location(part: Any) -> Content:
    name = line(getattr(part, "name", "") or getattr(part, "address", "") or getattr(part, "caption", ""))
    where = [name] * bool(name) + [f"{part.degreesLatitude:.6f}", f"{part.degreesLongitude:.6f}"]
    return Content("location", f"[location: {', '.join(where)}]", context=part.contextInfo)


def _contact(part: Any) -> Content:
    return Content("contact", _card(part), context=part.contextInfo)


def _contacts(part: Any) -> Content:
    return Content("contact", "\n".join(map(_card, part.contacts[:_MANY])), context=part.contextInfo)


def _card(part: Any) -> str:
    found = (_NUMBER.fullmatch(written[:200].rstrip()) for written in text(part.vcard, 4000).splitlines())
    numbers = [line(number[1]) for number in found if number]
    return f"[contact: {', '.join([line(part.displayName), *numbers[:3]])}]"


def _poll(part: Any) -> Content:
    options = (line(option.optionName) for option in part.options[:_MANY])
    return Content("poll", f"[poll: {' / '.join([line(part.name, 300), *options])}]", context=part.contextInfo)


def _reaction(part: Any) -> Content:
    return Content("reaction", line(part.text, 16), target=_target(part.key))


def _protocol(part: Any) -> Content:
    if part.type == ProtocolMessage.REVOKE and part.HasField("key"):
        return Content("delete", target=_target(part.key), of_another=not part.key.fromMe)
    if part.type == ProtocolMessage.MESSAGE_EDIT:
        found = read(part.editedMessage)
        return Content("edit", found.text, target=_target(part.key), context=found.context)
    if part.type == ProtocolMessage.EPHEMERAL_SETTING:
        return Content("timer", expires=part.ephemeralExpiration)
    raise Dropped("protocol")


def _target(key: Any) -> str:
    if found := message_id(key.ID):
        return found
    raise Dropped("no target")


_READERS: dict[str, Callable[[Any], Content]] = {
    "conversation": _plain,
    "extendedTextMessage": _extended,
    "imageMessage": _media("image"),
    "videoMessage": _media("video"),
    "ptvMessage": _media("video"),
    "audioMessage": _media("audio"),
    "documentMessage": _media("document"),
    "stickerMessage": _media("sticker"),
    "locationMessage": _location,
    "liveLocationMessage": _location,
    "contactMessage": _contact,
    "contactsArrayMessage": _contacts,
    "pollCreationMessage": _poll,
    "pollCreationMessageV2": _poll,
    "pollCreationMessageV3": _poll,
    "pollCreationMessageV5": _poll,
    "pollCreationMessageV6": _poll,
    "reactionMessage": _reaction,
    "protocolMessage": _protocol,
}
