"""What WhatsApp's protobufs become, by the library's own classes: where, who, when, what, and everything forged."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# The library's classes come from ours: whoever imports it first decides how it is loaded.
from nanoclaw.channels.whatsapp.content import Message, ProtocolMessage
from nanoclaw.channels.whatsapp.inbound import JID, Dropped, MessageEv, We, jid_text, read
from nanoclaw.models import Incoming

NOW = 1_790_000_000_000
US = ("900@lid", "1555@s.whatsapp.net")
OWN, SHARED = We(US, True), We(US, False)
ANN, ANN_PN = "777@lid", "1222@s.whatsapp.net"
GROUP = "1203-99@g.us"


def jid(text: str = "", device: int = 0) -> JID:
    user, _, server = text.partition("@")
    return JID(User=user, Server=server, Device=device, RawAgent=0, Integrator=0, IsEmpty=not text)


def event(message: Message | None = None, **over: Any) -> MessageEv:
    """As the library hands it over: a direct message of Ann's, unless told otherwise."""
    told = {"chat": ANN, "sender": ANN, "sender_alt": ANN_PN, "recipient_alt": "", "from_me": False, "id": "M1"}
    told |= {"at": NOW - 5, "name": "Ann", "device": 3} | over
    ev = MessageEv()
    ev.Message.CopyFrom(Message(conversation="hi") if message is None else message)
    ev.Info.ID, ev.Info.Timestamp, ev.Info.Pushname = told["id"], told["at"], told["name"]
    source = ev.Info.MessageSource
    source.Chat.CopyFrom(jid(told["chat"]))
    source.Sender.CopyFrom(jid(told["sender"], told["device"]))
    source.SenderAlt.CopyFrom(jid(told["sender_alt"], told["device"]))
    source.RecipientAlt.CopyFrom(jid(told["recipient_alt"]))
    source.BroadcastListOwner.CopyFrom(jid())
    source.IsFromMe, source.IsGroup = told["from_me"], told["chat"].endswith(("g.us", "broadcast"))
    return ev


def said(we: We = OWN, /, **fields: Any) -> Incoming:
    """What a direct message with these fields becomes."""
    return read(event(Message(**fields)), we, NOW)


def quoting(**context: Any) -> Message:
    message = Message()
    message.extendedTextMessage.text = "yes"
    for key, value in context.items():
        setattr(message.extendedTextMessage.contextInfo, key, value)
    return message


def dropped(ev: MessageEv, we: We = OWN) -> str:
    with pytest.raises(Dropped) as caught:
        read(ev, we, NOW)
    return caught.value.reason


# --- where and who ------------------------------------------------------------------------------


def test_a_direct_message_names_chat_and_sender_by_both_jids() -> None:
    """LID first, the phone number beside it, never the device."""
    heard = read(event(), OWN, NOW)
    assert (heard.channel, heard.chat, heard.sender.jids) == ("whatsapp", (ANN, ANN_PN), (ANN, ANN_PN))
    assert (heard.wa_id, heard.text, heard.kind, heard.at) == ("M1", "hi", "text", NOW - 5)
    assert (heard.sender.name, heard.chat_name, heard.is_group, heard.from_me) == ("Ann", "Ann", False, False)


WHO = [
    ("addressed by number", {"chat": ANN_PN, "sender": ANN_PN, "sender_alt": ANN}, (ANN, ANN_PN), (ANN, ANN_PN)),
    ("lid only", {"sender_alt": ""}, (ANN,), (ANN,)),
    ("number only", {"chat": ANN_PN, "sender": ANN_PN, "sender_alt": ""}, (ANN_PN,), (ANN_PN,)),
    ("group", {"chat": GROUP}, (GROUP,), (ANN, ANN_PN)),
    ("group, unresolved", {"chat": GROUP, "sender": "", "sender_alt": ""}, (GROUP,), ()),
    ("hosted", {"chat": "777@hosted.lid", "sender": "777@hosted.lid"}, (ANN, ANN_PN), (ANN, ANN_PN)),
    ("a bot in Ann's chat", {"sender": "8@bot", "sender_alt": "7@s.whatsapp.net"}, (ANN,), ("7@s.whatsapp.net",)),
    ("self, by number", {"chat": US[1], "sender": US[1], "sender_alt": "", "from_me": True}, US, US),
    ("self, by lid", {"chat": US[0], "sender": US[0], "sender_alt": "", "from_me": True}, US, US),
    (
        "typed on our phone",
        {"sender": US[0], "sender_alt": "", "recipient_alt": ANN_PN, "from_me": True},
        (ANN, ANN_PN),
        US,
    ),
    ("ours in a group", {"chat": GROUP, "sender": US[0], "sender_alt": "", "from_me": True}, (GROUP,), US),
]


@pytest.mark.parametrize(("over", "chat", "sender"), [row[1:] for row in WHO], ids=[row[0] for row in WHO])
def test_chat_and_sender(over: dict[str, Any], chat: tuple[str, ...], sender: tuple[str, ...]) -> None:
    """Incoming, device-sent and self chats, by number and by LID."""
    heard = read(event(**over), OWN, NOW)
    assert (heard.chat, heard.sender.jids) == (chat, sender)
    assert heard.from_me == over.get("from_me", False)
    assert heard.is_group == (chat == (GROUP,))
    assert heard.chat_name == ("" if heard.is_group or heard.from_me else "Ann")


def test_our_own_are_known_by_number_and_server() -> None:
    """The library compares the number alone: a LID that reads like our phone number is not us."""
    heard = read(event(sender="1555@lid", sender_alt="", from_me=True), SHARED, NOW)
    assert (heard.from_me, heard.sender.jids) == (False, ("1555@lid",))


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        ("status@broadcast", "status"),
        ("123@broadcast", "broadcast"),
        ("9@newsletter", "newsletter"),
        ("9@bot", "foreign"),
        ("", "foreign"),
        ("@lid", "foreign"),
    ],
)
def test_what_is_no_chat_of_people_is_dropped(chat: str, reason: str) -> None:
    """Stories, lists, channels, and whatever else may come."""
    assert dropped(event(chat=chat)) == reason


def test_jids_as_text() -> None:
    """No device, and nothing where there is nobody."""
    assert jid_text(jid(ANN, device=9)) == ANN
    assert jid_text(jid("1@c.us")) == "1@s.whatsapp.net"
    assert jid_text(jid()) == ""


@pytest.mark.parametrize("at", [0, 1, 1_400_000_000_000, NOW + 86_400_001, 2**63 - 1, -5])
def test_an_impossible_stamp_becomes_now(at: int) -> None:
    """Neither 1970 nor tomorrow."""
    assert read(event(at=at), OWN, NOW).at == NOW
    assert read(event(at=NOW + 86_000_000), OWN, NOW).at == NOW + 86_000_000


# --- kinds --------------------------------------------------------------------------------------

KEY = {"ID": "T1", "remoteJID": ANN, "fromMe": True}
CARD = "BEGIN:VCARD\nFN:Bob\nitem1.TEL;type=CELL;waid=49151:+49 151 1\nTEL:0800\nEND:VCARD"
POLL = {"name": "When?", "options": [{"optionName": "Mon"}, {"optionName": "Tue\n"}]}
KINDS: list[tuple[dict[str, Any], str, str]] = [
    ({"conversation": "a\nb"}, "text", "a\nb"),
    ({"extendedTextMessage": {"text": "a"}}, "text", "a"),
    ({"imageMessage": {"caption": "c", "mimetype": "image/png"}}, "image", "c"),
    ({"videoMessage": {"mimetype": "video/mp4"}}, "video", ""),
    ({"ptvMessage": {"mimetype": "video/mp4"}}, "video", ""),
    ({"audioMessage": {"PTT": True}}, "voice", ""),
    ({"audioMessage": {}}, "audio", ""),
    ({"documentMessage": {"caption": "d", "fileName": "f.pdf"}}, "document", "d"),
    ({"stickerMessage": {}}, "sticker", ""),
    ({"lottieStickerMessage": {"message": {"stickerMessage": {}}}}, "sticker", ""),
    (
        {"locationMessage": {"name": "Café\nX", "degreesLatitude": 52.5, "degreesLongitude": -1}},
        "location",
        "[location: Café X, 52.500000, -1.000000]",
    ),
    ({"liveLocationMessage": {"degreesLatitude": 1}}, "location", "[location: 1.000000, 0.000000]"),
    ({"contactMessage": {"displayName": "Bob", "vcard": CARD}}, "contact", "[contact: Bob, +49 151 1, 0800]"),
    (
        {"contactMessage": {"displayName": "Bob", "vcard": "tel;x=a.b-c:0800 \r\nxTEL:1234"}},
        "contact",
        "[contact: Bob, 0800]",
    ),
    ({"contactMessage": {"displayName": "Bob", "vcard": "TEL:evil<b>"}}, "contact", "[contact: Bob]"),
    (
        {"contactsArrayMessage": {"contacts": [{"displayName": "A"}, {"displayName": "B"}]}},
        "contact",
        "[contact: A]\n[contact: B]",
    ),
    ({"pollCreationMessage": POLL}, "poll", "[poll: When? / Mon / Tue]"),
    ({"pollCreationMessageV3": POLL}, "poll", "[poll: When? / Mon / Tue]"),
    ({"pollCreationMessageV4": {"message": {"pollCreationMessage": POLL}}}, "poll", "[poll: When? / Mon / Tue]"),
    ({"reactionMessage": {"key": KEY, "text": "👍"}}, "reaction", "👍"),
    ({"reactionMessage": {"key": KEY}}, "reaction", ""),
    ({"protocolMessage": {"type": "REVOKE", "key": KEY}}, "delete", ""),
    (
        {"protocolMessage": {"type": "MESSAGE_EDIT", "key": KEY, "editedMessage": {"conversation": "new"}}},
        "edit",
        "new",
    ),
    ({"orderMessage": {}}, "unsupported", "[unsupported: orderMessage]"),
    ({"ephemeralMessage": {"message": {"conversation": "in"}}}, "text", "in"),
    ({"viewOnceMessageV2": {"message": {"imageMessage": {"caption": "once"}}}}, "image", "once"),
    ({"documentWithCaptionMessage": {"message": {"documentMessage": {"caption": "d"}}}}, "document", "d"),
    ({"deviceSentMessage": {"destinationJID": "1@lid", "message": {"conversation": "sent"}}}, "text", "sent"),
    ({"messageContextInfo": {}, "senderKeyDistributionMessage": {}, "conversation": "with keys"}, "text", "with keys"),
]


@pytest.mark.parametrize(("fields", "kind", "text"), KINDS)
def test_kinds(fields: dict[str, Any], kind: str, text: str) -> None:
    """Every kind as one word and one text; wrappers do not show."""
    heard = said(OWN, **fields)
    assert (heard.kind, heard.text) == (kind, text)
    assert heard.target == ("T1" if kind in ("reaction", "edit", "delete") else "")
    assert len(heard.media) == (kind in ("image", "video", "voice", "audio", "document", "sticker"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "empty"),
        ({"conversation": ""}, "empty"),
        ({"ephemeralMessage": {}}, "empty"),
        ({"senderKeyDistributionMessage": {"groupID": "x"}}, "keys"),
        ({"messageContextInfo": {}}, "keys"),
        ({"protocolMessage": {"type": "HISTORY_SYNC_NOTIFICATION"}}, "protocol"),
        ({"protocolMessage": {}}, "protocol"),  # its default type is REVOKE
        ({"protocolMessage": {"type": "MESSAGE_EDIT", "editedMessage": {"conversation": "x"}}}, "no target"),
        ({"protocolMessage": {"type": "REVOKE", "key": {"ID": "x" * 10_000}}}, "no target"),
        ({"reactionMessage": {"text": "x"}}, "no target"),
        ({"pollUpdateMessage": {}}, "vote"),
        ({"pinInChatMessage": {}}, "pin"),
        ({"albumMessage": {}}, "album"),
    ],
)
def test_what_says_nothing_is_dropped(fields: dict[str, Any], reason: str) -> None:
    """Counted by a word, and never a row."""
    assert dropped(event(Message(**fields))) == reason


def test_a_kind_that_the_library_does_not_know_is_kept() -> None:
    """A field of the future leaves a trace."""
    heard = read(event(Message.FromString(b"\xfa\x7f\x02hi")), OWN, NOW)
    assert (heard.kind, heard.text) == ("unsupported", "[unsupported: a newer kind]")


def test_a_changed_timer_is_no_message_but_says_so() -> None:
    """In a direct chat; a group's timer comes with its settings, and not from whoever sends this."""
    change = Message(protocolMessage={"type": "EPHEMERAL_SETTING", "ephemeralExpiration": 86400})
    with pytest.raises(Dropped) as caught:
        read(event(change), OWN, NOW)
    assert (caught.value.reason, caught.value.chat, caught.value.expires) == ("timer", (ANN, ANN_PN), 86400)
    with pytest.raises(Dropped) as caught:
        read(event(change, chat=GROUP), OWN, NOW)
    assert caught.value.expires is None


def test_the_timer_of_a_direct_chat_is_read_from_its_messages() -> None:
    """Not from a group's, where anybody could set it; and nothing impossible."""
    assert read(event(quoting(expiration=604800)), OWN, NOW).expires == 604800
    assert read(event(quoting(expiration=604800), chat=GROUP), OWN, NOW).expires is None
    assert read(event(quoting(expiration=2**32 - 1)), OWN, NOW).expires is None
    assert read(event(), OWN, NOW).expires is None


# --- about others -------------------------------------------------------------------------------


def test_a_quote_brings_its_id_its_text_and_its_file() -> None:
    """Quoted files are marked."""
    message = quoting(stanzaID="Q1", participant=ANN)
    message.extendedTextMessage.contextInfo.quotedMessage.documentMessage.fileName = "plan.pdf"
    message.extendedTextMessage.contextInfo.quotedMessage.documentMessage.caption = "see"
    heard = read(event(message), OWN, NOW)
    assert (heard.quoted, heard.quoted_text, heard.text) == ("Q1", "see", "yes")
    assert [(m.kind, m.name, m.quoted) for m in heard.media] == [("document", "plan.pdf", True)]


def test_a_quote_may_lack_everything() -> None:
    """No author, no message; and an id that no message has is no quote."""
    assert read(event(quoting(stanzaID="Q1")), OWN, NOW).quoted == "Q1"
    assert read(event(quoting(stanzaID="Q" * 10_000)), OWN, NOW).quoted == ""


@pytest.mark.parametrize(
    ("mentioned", "we", "ours"),
    [
        (["900@lid"], OWN, True),
        (["900:12@lid"], OWN, True),
        (["1555@c.us"], OWN, True),
        (["1555@lid"], OWN, False),
        (["900@lid"], SHARED, False),
        (["777@lid"], OWN, False),
        (["x@lid", "", "900"], OWN, False),
        (["777@lid"] * 1000 + ["900@lid"], OWN, True),
    ],
)
def test_a_mention_of_us(mentioned: list[str], we: We, ours: bool) -> None:
    """Only a number of our own can be mentioned: with a shared one it is the human."""
    message = quoting()
    message.extendedTextMessage.contextInfo.mentionedJID.extend(mentioned)
    assert read(event(message, chat=GROUP), we, NOW).mentions_us is ours
    edit = Message(protocolMessage={"type": "MESSAGE_EDIT", "key": KEY, "editedMessage": message})
    assert read(event(edit, chat=GROUP), we, NOW).mentions_us is ours


def test_of_an_edits_surroundings_only_its_mentions_count() -> None:
    """What it quotes, and whether it was forwarded, the message that it edits says."""
    message = quoting(stanzaID="Q1", isForwarded=True, expiration=60)
    edit = Message(protocolMessage={"type": "MESSAGE_EDIT", "key": KEY, "editedMessage": message})
    heard = read(event(edit), OWN, NOW)
    assert (heard.kind, heard.text, heard.target) == ("edit", "yes", "T1")
    assert (heard.quoted, heard.forwarded, heard.expires, heard.media) == ("", False, None, ())


@pytest.mark.parametrize(
    ("context", "forwarded"),
    [({}, False), ({"isForwarded": True}, True), ({"forwardingScore": 3}, True), ({"forwardingScore": 0}, False)],
)
def test_a_forwarded_text_is_marked(context: dict[str, Any], forwarded: bool) -> None:
    """By either of the two fields that phones set."""
    assert read(event(quoting(**context)), OWN, NOW).forwarded is forwarded


# --- bad input ----------------------------------------------------------------------------------


def test_long_texts_pass() -> None:
    """65k characters of anything; far more is cut."""
    assert len(said(OWN, conversation="💥" * 65_536).text) == 65_536
    assert len(said(OWN, conversation="x" * 300_000).text) == 100_000


@pytest.mark.parametrize(
    ("wire", "text"), [(b"a\0b", "a�b"), (b"a\xed\xa0\x80b", "a���b"), (b"\xff", "�"), ("א‏".encode(), "א‏")]
)
def test_what_is_no_text_is_replaced(wire: bytes, text: str) -> None:
    """NUL, lone surrogates, broken UTF-8: what the store gets can be stored."""
    heard = read(event(Message.FromString(b"\x0a" + bytes([len(wire)]) + wire)), OWN, NOW)
    assert heard.text == text
    heard.text.encode()


def test_files_may_lie_in_every_field() -> None:
    """Strings that are no UTF-8 come as bytes: then there is a file that nobody can fetch."""
    part = Message(documentMessage=dict.fromkeys(("directPath", "mimetype", "fileName", "title", "caption"), "ab"))
    broken = Message.FromString(part.SerializeToString().replace(b"ab", b"\xff\xfe"))
    heard = read(event(broken), OWN, NOW)
    assert (heard.kind, heard.text, heard.media[0].ref) == ("document", "\ufffd\ufffd", "")


def test_forged_files_are_capped() -> None:
    """A name with slashes and lines, a type of 5 kB, a length that no row holds."""
    part = {"fileName": "../../etc\n/pass\\wd" + "x" * 9000, "mimetype": "a" * 5000, "fileLength": 2**63}
    (media,) = said(OWN, documentMessage=part).media
    assert media.name.startswith(".._.._etc _pass_wd")
    assert len(media.name) <= 120
    assert len(media.mime) <= 100
    assert media.size == 2**50


def test_names_are_one_line_and_short() -> None:
    """Nobody's name is a page."""
    assert read(event(name="A\n\n(owner)\r\nB"), OWN, NOW).sender.name == "A (owner) B"
    assert len(read(event(name="x" * 5000), OWN, NOW).sender.name) == 100


def test_wrappers_around_wrappers_end() -> None:
    """At some depth it is no message any more."""
    message = Message(conversation="deep")
    for _ in range(40):
        message = Message(ephemeralMessage={"message": message})
    assert read(event(message), OWN, NOW).kind == "unsupported"


STRINGS = st.text(max_size=20) | st.sampled_from(["", "900@lid", "1@g.us", "x" * 10_000, "\0\n", "TEL:+49 1"])
NUMBERS = {1: st.floats(), 2: st.floats(width=32), 3: st.integers(-(2**63), 2**63 - 1), 4: st.integers(0, 2**64 - 1)}
NUMBERS |= {5: st.integers(-(2**31), 2**31 - 1), 8: st.booleans(), 9: STRINGS, 12: st.binary(max_size=40)}
NUMBERS |= {13: st.integers(0, 2**32 - 1), 6: st.integers(0, 2**64 - 1), 7: st.integers(0, 2**32 - 1)}
NUMBERS |= {15: NUMBERS[5], 16: NUMBERS[3], 17: NUMBERS[5], 18: NUMBERS[3]}
READ = "conversation extendedTextMessage imageMessage audioMessage documentMessage stickerMessage locationMessage "
READ += "contactMessage contactsArrayMessage pollCreationMessage reactionMessage protocolMessage ephemeralMessage "
READ += "editedMessage deviceSentMessage contextInfo quotedMessage mentionedJID stanzaID key type message fileLength"


@st.composite
def filled(draw: st.DrawFn, kind: Any, depth: int = 0) -> Any:
    """Any protobuf of a kind, with a liking for the fields that are read."""
    message = kind._concrete_class()
    names = [f.name for f in kind.fields]
    liked = [n for n in names if n in READ.split()] or names
    for name in draw(st.lists(st.sampled_from(liked) | st.sampled_from(names), max_size=4, unique=True)):
        field = kind.fields_by_name[name]
        if field.type == 11:
            if depth < 5:
                part = draw(filled(field.message_type, depth + 1))
                (getattr(message, name).add() if field.is_repeated else getattr(message, name)).MergeFrom(part)
        elif field.type == 14:
            number = draw(st.sampled_from([v.number for v in field.enum_type.values]))
            getattr(message, name).append(number) if field.is_repeated else setattr(message, name, number)
        elif field.is_repeated:
            getattr(message, name).extend(draw(st.lists(NUMBERS[field.type], max_size=3)))
        else:
            setattr(message, name, draw(NUMBERS[field.type]))
    return message


@settings(max_examples=300, deadline=None)
@given(filled(Message.DESCRIPTOR), STRINGS, STRINGS, STRINGS, st.booleans(), st.integers(-(2**63), 2**63 - 1))
def test_nothing_raises(message: Message, chat: str, sender: str, id: str, from_me: bool, at: int) -> None:
    """Whatever comes is heard or dropped, and what is heard can be stored."""
    for we in (OWN, We((), False)):
        for where in (chat, GROUP, ANN):
            try:
                heard = read(event(message, chat=where, sender=sender, id=id, from_me=from_me, at=at), we, NOW)
            except Dropped:
                continue
            repr(heard).encode()
            assert heard.wa_id
            assert heard.chat
            assert len(heard.text) <= 100_000
            assert 0 <= heard.at <= NOW + 86_400_000


@pytest.mark.parametrize(
    ("key", "chat", "claim"),
    [
        ({"ID": "T1"}, GROUP, True),
        ({"ID": "T1", "fromMe": True}, GROUP, False),  # its sender's own: nobody has to be asked
        ({"ID": "T1"}, ANN, False),
    ],
)
def test_a_delete_of_what_another_wrote_says_so(key: dict[str, Any], chat: str, claim: bool) -> None:
    """Only then it matters who the group's admins are."""
    message = Message(protocolMessage={"type": "REVOKE", "key": key})
    assert read(event(message, chat=chat), OWN, NOW).by_admin == claim


def test_a_huge_card_takes_no_time() -> None:
    """Its lines are cut, and so is the card (a message of 20 of them took 0.3 s)."""
    cards = [{"displayName": "x", "vcard": "TEL-" * 5000}] * 20
    began = time.process_time()
    for _ in range(20):
        said(contactsArrayMessage={"contacts": cards})
    assert time.process_time() - began < 1


def test_revoke_is_the_default_type() -> None:
    """The protobuf's own trap: a protocol message that says nothing reads as a delete."""
    assert ProtocolMessage().type == ProtocolMessage.REVOKE
