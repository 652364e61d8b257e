"""A message of WhatsApp's, as the host hears it: where, by whom, when, and about what."""

import re
from dataclasses import dataclass, replace
from itertools import islice

from neonize.proto.Neonize_pb2 import JID, MessageSource
from neonize.proto.Neonize_pb2 import Message as MessageEv
from neonize.proto.waE2E.WAWebProtobufsE2E_pb2 import ContextInfo

from nanoclaw.channels.whatsapp import content
from nanoclaw.channels.whatsapp.content import Content, Dropped
from nanoclaw.models import Incoming, Media, Sender

__all__ = ["Dropped", "We", "jid_text", "read"]

_EXCERPT = 1000  # characters of a quoted text: it only counts where we do not have the message
_MENTIONS = 2000  # a group has 1,024 members
_FIRST = 1_420_070_400_000  # 2015 in milliseconds: before linked devices nothing was sent to one
_DAY = 86_400_000
_YEAR = 366 * 86_400  # seconds; the longest timer that WhatsApp offers is 90 days

_LID, _PN, _GROUP = "lid", "s.whatsapp.net", "g.us"
# The same people under another server's name.
_ALIASES = {"hosted": _PN, "c.us": _PN, "hosted.lid": _LID}
_WRITTEN = re.compile(r"([0-9]{1,32})(?:\.[0-9]+)?(?::[0-9]+)?@([a-z.]{1,20})")
_USER = re.compile(r"[0-9A-Za-z._-]{1,64}")


@dataclass(frozen=True)
class We:
    """Our account: its jids, LID first, and whether the number is the assistant's own."""

    jids: tuple[str, ...]
    own_number: bool


def read(event: MessageEv, we: We, now: int) -> Incoming:
    """`now` in milliseconds. `by_admin` is only what the sender says. Raises Dropped."""
    info = event.Info
    source = info.MessageSource
    is_group = _server(source.Chat) == _GROUP
    from_me = source.IsFromMe and _is_ours(source, we)
    chat = _chat(source, from_me, we)
    found = content.read(event.Message)
    if found.kind == "timer":  # a group's is a matter of its settings, not of what somebody sends
        raise Dropped("timer", chat, None if is_group else _timer(found.expires or 0))
    if not (wa_id := content.message_id(info.ID)):
        raise Dropped("no id")
    name = content.line(info.Pushname)
    heard = Incoming(
        channel="whatsapp",
        chat=chat,
        wa_id=wa_id,
        text=found.text,
        sender=Sender(we.jids if from_me and we.jids else _people(source.Sender, source.SenderAlt), name),
        at=info.Timestamp if _FIRST <= info.Timestamp <= now + _DAY else now,
        chat_name="" if is_group or from_me else name,
        is_group=is_group,
        from_me=from_me,
        kind=found.kind,
        media=found.media,
        target=found.target,
        by_admin=is_group and found.of_another,
    )
    return _in_context(heard, found, we)


def _in_context(heard: Incoming, found: Content, we: We) -> Incoming:
    """With what stands around the message: mentions, quote, timer, whether it was forwarded."""
    context = found.context
    if context is None:
        return heard
    mentioned = (_bare(jid) for jid in islice(context.mentionedJID, _MENTIONS))
    heard = replace(heard, mentions_us=we.own_number and any(jid in we.jids for jid in mentioned if jid))
    if heard.kind == "edit":  # all else is as in the message that it edits
        return heard
    if quoted := content.message_id(context.stanzaID):
        text, media = _quoted(context)
        heard = replace(heard, quoted=quoted, quoted_text=text, media=(*heard.media, *media))
    if context.expiration and not heard.is_group:
        heard = replace(heard, expires=_timer(context.expiration))
    return replace(heard, forwarded=context.isForwarded or context.forwardingScore > 0)


def _quoted(context: ContextInfo) -> tuple[str, tuple[Media, ...]]:
    try:
        found = content.read(context.quotedMessage)
    except Dropped:
        return "", ()
    return found.text[:_EXCERPT], tuple(replace(media, quoted=True) for media in found.media)


def _timer(seconds: int) -> int | None:
    return seconds if seconds <= _YEAR else None


# --- who and where ---


def _chat(source: MessageSource, from_me: bool, we: We) -> tuple[str, ...]:
    """Every jid of the chat. A direct one is the other person: its other jid stands beside whoever is not us."""
    server, chat = _server(source.Chat), jid_text(source.Chat)
    if server in ("broadcast", "newsletter"):
        raise Dropped("status" if source.Chat.User == "status" else server)
    if not chat or server not in (_LID, _PN, _GROUP):
        raise Dropped("foreign")
    if server == _GROUP:
        return (chat,)
    if chat in we.jids:
        return we.jids
    if from_me:
        return _people(source.Chat, source.RecipientAlt)
    # A bot of WhatsApp's may speak in somebody else's chat: then the other jid is the bot's.
    same = chat == jid_text(source.Sender)
    return _people(source.Chat, source.SenderAlt) if same else (chat,)


def _is_ours(source: MessageSource, we: We) -> bool:
    """The library compares the number alone; somebody's LID could read like our phone number."""
    return not we.jids or jid_text(source.Sender) in we.jids


def _people(jid: JID, other: JID) -> tuple[str, ...]:
    """The jids of one person, LID first; none when nobody can be made out."""
    known: dict[str, str] = {}
    for one in (jid, other):
        if (text := jid_text(one)) and (server := _server(one)) in (_LID, _PN):
            known.setdefault(server, text)
    return tuple(known[server] for server in (_LID, _PN) if server in known)


def jid_text(jid: JID) -> str:
    """user@server without the device; "" when there is none."""
    user = content.text(jid.User, 65)
    return f"{user}@{_server(jid)}" if _USER.fullmatch(user) else ""


def _server(jid: JID) -> str:
    server = content.text(jid.Server, 40)
    return _ALIASES.get(server, server)


def _bare(written: str | bytes) -> str:
    """A jid that somebody wrote, without agent and device; "" for what is none."""
    if (parts := _WRITTEN.fullmatch(content.text(written, 80))) is None:
        return ""
    return f"{parts[1]}@{_ALIASES.get(parts[2], parts[2])}"
