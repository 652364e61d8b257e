"""Who may delete what others wrote: asked of WhatsApp as seldom as may be, for all messages wait for the answer."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

# The library's classes come from ours: whoever imports it first decides how it is loaded.
from nanoclaw.channels.whatsapp.groupbook import GroupBook, GroupInfo
from nanoclaw.channels.whatsapp.inbound import JID
from nanoclaw.channels.whatsapp.session import Session
from nanoclaw.errors import NotConnected

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
