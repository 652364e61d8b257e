"""What the host says, as the bytes that WhatsApp's library is given."""

from typing import Any

import pytest

from nanoclaw.channels.whatsapp import outbound
from nanoclaw.channels.whatsapp.outbound import Message, ProtocolMessage
from nanoclaw.errors import SendRefused
from nanoclaw.models import Chat, Key, Outgoing, OutKind

GROUP, ANN, US = "1203@g.us", "777@lid", "900@lid"
QUESTION = Key("Q1", ANN, text="what? " * 200)


def row(quote: Key | None = None, jid: str = ANN, expires: int = 0) -> Outgoing:
    chat = Chat(1, "whatsapp", jid, "", jid == GROUP, None, expires)
    return Outgoing(1, chat, "t", OutKind.REPLY, "not this one", quote)


def sent(out: Outgoing, text: str = "answer", us: str = US) -> Any:
    """The text as its reader parses it; nothing else is in the message."""
    message = Message.FromString(outbound.text_message(out, text, us).SerializeToString())
    assert [field.name for field, _ in message.ListFields()] == ["extendedTextMessage"]
    return message.extendedTextMessage


TEXTS = ["hello", "", "*bold* ~no~", "see https://example.org @15551234567", "x" * 65_536, "a\0b", "👨‍👩‍👧 שלום"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_only_its_text(text: str) -> None:
    """No preview, no mention, no context where none is needed."""
    parsed = sent(row(), text)
    assert parsed.text == text
    assert [field.name for field, _ in parsed.ListFields()] == ["text"]


@pytest.mark.parametrize(
    ("quote", "jid", "us", "quoted", "author"),
    [
        (QUESTION, GROUP, US, "Q1", ANN),
        (QUESTION, ANN, US, "", ""),  # in a direct chat it is clear who is answered
        (None, GROUP, US, "", ""),
        (Key("Q2", "", True, "mine"), GROUP, US, "Q2", US),
        (Key("Q2", "", True, "mine"), GROUP, "", "", ""),  # a quote needs its author
        (Key("Q3"), GROUP, US, "", ""),
    ],
)
def test_a_reply_in_a_group_quotes_what_it_answers(quote: Key, jid: str, us: str, quoted: str, author: str) -> None:
    """With its author and an excerpt."""
    context = sent(row(quote, jid), us=us).contextInfo
    assert (context.stanzaID, context.participant) == (quoted, author)
    assert context.quotedMessage.conversation == (quote.text[:300] if quoted else "")
    assert not context.mentionedJID


def test_messages_vanish_with_the_others_of_their_chat() -> None:
    """The timer stands beside a quote, and alone."""
    both = sent(row(QUESTION, GROUP, expires=86400)).contextInfo
    assert (both.expiration, both.stanzaID) == (86400, "Q1")
    assert sent(row(expires=604800)).contextInfo.expiration == 604800


@pytest.mark.parametrize(
    ("key", "chat", "participant", "from_me"),
    [
        (QUESTION, GROUP, ANN, False),
        (QUESTION, ANN, "", False),
        (Key("Q1", US, True), GROUP, "", True),
    ],
)
@pytest.mark.parametrize("sign", ["👀", ""])
def test_a_reaction_names_its_message(key: Key, chat: str, participant: str, from_me: bool, sign: str) -> None:
    """In a group with its author; no sign takes the last one back."""
    message = Message.FromString(outbound.reaction(key, chat, sign, 1_700_000_000_123).SerializeToString())
    assert [field.name for field, _ in message.ListFields()] == ["reactionMessage"]
    part = message.reactionMessage
    assert (part.text, part.HasField("text"), part.senderTimestampMS) == (sign, True, 1_700_000_000_123)
    assert (part.key.remoteJID, part.key.ID, part.key.fromMe) == (chat, "Q1", from_me)
    assert part.key.participant == participant


def test_an_edit_names_our_message() -> None:
    """The library marks the stanza by what is in this wrapper."""
    message = Message.FromString(outbound.edit(Key("O1"), GROUP, "better", 5).SerializeToString())
    change = message.editedMessage.message.protocolMessage
    assert (change.type, change.timestampMS) == (ProtocolMessage.MESSAGE_EDIT, 5)
    assert (change.key.remoteJID, change.key.ID, change.key.fromMe) == (GROUP, "O1", True)
    assert change.editedMessage.extendedTextMessage.text == "better"


def test_an_address() -> None:
    """Every required field, no device."""
    jid = outbound.to_jid("49-123@g.us")
    assert (jid.User, jid.Server, jid.Device, jid.IsEmpty) == ("49-123", "g.us", 0, False)
    assert jid.IsInitialized()


@pytest.mark.parametrize("text", ["", "x", "@lid", "1@", "1:2@lid", "a b@lid", "1@lid\n", "terminal"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """With the devices of others nothing is to be sent to."""
    with pytest.raises(SendRefused, match="write to the assistant"):
        outbound.to_jid(text)
