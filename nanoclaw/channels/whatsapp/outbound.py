"""What the host says, as WhatsApp's protobufs; our own, because the library's helpers fetch links and add mentions."""

import re
from typing import Any

from neonize.proto.Neonize_pb2 import JID
from neonize.proto.waE2E.WAWebProtobufsE2E_pb2 import Message, ProtocolMessage

from nanoclaw.errors import SendRefused
from nanoclaw.models import Key, OutFile, Outgoing

_EXCERPT = 300  # characters of the quoted text: phones show their own copy where they have it
_PARTS = {
    "image": "imageMessage",
    "sticker": "stickerMessage",
    "video": "videoMessage",
    "audio": "audioMessage",
    "voice": "audioMessage",
    "document": "documentMessage",
}
_CAPTIONED = frozenset({"image", "video", "document"})
_JID = re.compile(r"([0-9A-Za-z._-]{1,64})@([a-z.]{1,20})")


def text_message(out: Outgoing, text: str, us: str = "") -> Message:
    """The row's text, in a group with the message that it answers. `us`: our jid, for quoting our own."""
    message = Message()
    message.extendedTextMessage.text = text
    context = message.extendedTextMessage.contextInfo
    if out.chat.expires:
        context.expiration = out.chat.expires
    author = "" if out.quote is None else out.quote.sender or (us if out.quote.from_me else "")
    if out.quote is not None and out.chat.is_group and author:
        context.stanzaID, context.participant = out.quote.wa_id, author
        context.quotedMessage.conversation = out.quote.text[:_EXCERPT]
    return message


def reaction(key: Key, chat: str, sign: str, now: int) -> Message:
    """A sign on a message; "" takes ours back. `now` in milliseconds."""
    message = Message()
    message.reactionMessage.text = sign
    message.reactionMessage.senderTimestampMS = now
    of = message.reactionMessage.key
    of.remoteJID, of.fromMe, of.ID = chat, key.from_me, key.wa_id
    if key.sender and not key.from_me and chat.endswith("@g.us"):
        of.participant = key.sender
    return message


def edit(key: Key, chat: str, text: str, now: int) -> Message:
    """A new text for a message of ours. WhatsApp takes it for about 15 minutes."""
    message = Message()
    change = message.editedMessage.message.protocolMessage
    change.type = ProtocolMessage.MESSAGE_EDIT
    change.key.remoteJID, change.key.fromMe, change.key.ID = chat, True, key.wa_id
    change.editedMessage.extendedTextMessage.text = text
    change.timestampMS = now
    return message


def file_message(out: Outgoing, file: OutFile, up: Any, caption: str) -> Message:
    """The row's file, which was taken `up` already. Without a thumbnail: the host decodes no media."""
    message = Message()
    part = getattr(message, _PARTS[file.kind])
    part.URL, part.directPath, part.mediaKey = up.url, up.DirectPath, up.MediaKey
    part.fileSHA256, part.fileEncSHA256, part.fileLength = up.FileSHA256, up.FileEncSHA256, up.FileLength
    part.mimetype = file.mime
    if file.kind == "document":
        part.fileName = part.title = file.name
    if file.kind == "voice":
        part.PTT = True
    if caption and file.kind in _CAPTIONED:
        part.caption = caption
    if out.chat.expires:
        part.contextInfo.expiration = out.chat.expires
    return message


def to_jid(text: str) -> JID:
    """Where to send. Raises SendRefused for what is no jid."""
    if (parts := _JID.fullmatch(text)) is None:
        raise SendRefused("this chat has no address at WhatsApp; write to the assistant from it once")
    return JID(User=parts[1], Server=parts[2], RawAgent=0, Device=0, Integrator=0, IsEmpty=False)
