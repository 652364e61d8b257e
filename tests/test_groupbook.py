"""Who may delete what others wrote: asked of WhatsApp as seldom as may be, for all messages wait for the answer."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

# The library's classes come from ours: whoever imports it first decides how it is loaded.
from nanoclaw.channels.whatsapp.groupbook import GroupBook, GroupInfo, GroupInfoEvent
from nanoclaw.channels.whatsapp.inbound import JID
from nanoclaw.channels.whatsapp.session import Session
from nanoclaw.errors import NotConnected
from nanoclaw.models import Members

GROUP, ADMIN = "1203@g.us", "777@lid"


class Asked:
    """A session that counts what it is asked, and answers when it is told to."""

    def __init__(self) -> None:
        self.times = 0
        self.away = True
        self.now = 0

    async def call(self, work: Callable[[Any], Awaitable[Any]]) -> GroupInfo:
        self.times += 1
        if self.away:
            raise NotConnected("away")
        group = GroupInfo(JID=JID(User="1203", Server="g.us"))
        group.Participants.add(LID=JID(User="777", Server="lid"), IsAdmin=True)
        return group

    def book(self) -> GroupBook:
        return GroupBook(cast(Session, self), lambda: self.now)


async def test_who_got_no_answer_is_not_asked_again_at_once() -> None:
    """For a minute nobody there is an admin; then it is asked anew, and known from then on."""
    asked = Asked()
    book = asked.book()
    assert not await book.is_admin(GROUP, [ADMIN])
    asked.away, asked.now = False, 59_999
    assert not await book.is_admin(GROUP, [ADMIN])
    assert asked.times == 1
    asked.now = 60_000
    assert await book.is_admin(GROUP, [ADMIN])
    assert await book.is_admin(GROUP, [ADMIN])
    assert asked.times == 2


async def test_another_group_is_asked_all_the_same() -> None:
    """One that does not answer says nothing of the others."""
    asked = Asked()
    book = asked.book()
    assert not await book.is_admin("1204@g.us", [ADMIN])
    asked.away = False
    assert await book.is_admin(GROUP, [ADMIN])


def person(lid: str = "", number: str = "", *, by_number: bool = False) -> dict[str, JID]:
    jids = {"LID": JID(User=lid, Server="lid"), "PhoneNumber": JID(User=number, Server="s.whatsapp.net")}
    known = {key: jid for key, jid in jids.items() if jid.User}
    return {**known, "JID": jids["PhoneNumber" if by_number else "LID"]}


def test_who_is_in_a_group_is_told_with_all_their_jids() -> None:
    """LID first, each once; what is no jid is nobody, and a list that is not there is no empty one."""
    group = GroupInfo(JID=JID(User="1203", Server="g.us"))
    book = Asked().book()
    assert book.learn(group).members is None
    for who in (person("1", "491"), person("2"), person("", "493", by_number=True), person("", "")):
        group.Participants.add(**who)
    found = book.learn(group).members
    assert found is not None
    assert found.everybody == (("1@lid", "491@s.whatsapp.net"), ("2@lid",), ("493@s.whatsapp.net",))


def test_who_comes_and_goes_is_told_as_it_happens() -> None:
    """An event about something else tells nothing of it."""
    book = Asked().book()
    event = GroupInfoEvent(JID=JID(User="1203", Server="g.us"))
    assert book.change(event).members is None
    event.Join.add(User="5", Server="lid")
    event.Leave.add(User="6", Server="lid")
    assert book.change(event).members == Members(came=("5@lid",), went=("6@lid",))


async def test_who_cannot_be_asked_says_nothing() -> None:
    """Then the next connect tells."""
    asked = Asked()
    book = asked.book()
    assert await book.members(GROUP) is None
    asked.away = False
    found = await book.members(GROUP)
    assert found is not None
    assert found.everybody == ((ADMIN,),)
