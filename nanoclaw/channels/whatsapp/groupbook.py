"""What we know of the groups that we are in: names, timers, and who may delete others' messages."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from neonize.exc import NeonizeError
from neonize.proto.Neonize_pb2 import GroupInfo, GroupInfoEvent

from nanoclaw.channels.whatsapp.inbound import jid_text
from nanoclaw.channels.whatsapp.outbound import to_jid
from nanoclaw.channels.whatsapp.session import Session
from nanoclaw.errors import NotConnected, SendRefused
from nanoclaw.models import Members

_ASK = 10.0  # seconds to learn who the admins are
_PAUSE = 60_000  # ms; all other messages wait for the answer
_LIST = 60.0
_MOST = 5000  # groups whose admins are kept in memory
_NAME = 100  # characters


@dataclass(frozen=True)
class News:
    """What was learned of a group. None, or an empty name: nothing was said of it."""

    jid: str
    name: str
    timer: int | None
    members: Members | None = None


class GroupBook:
    """Filled by the library's list after each connect, and by what changes."""

    def __init__(self, session: Session, clock: Callable[[], int]) -> None:
        self._session = session
        self._clock = clock
        self._asked: dict[str, int] = {}  # when nobody could say who the admins of a group are
        self._admins: dict[str, frozenset[str]] = {}

    async def everything(self) -> list[News]:
        """Ask for all groups; nothing when WhatsApp does not say."""
        try:
            async with asyncio.timeout(_LIST):
                groups = await self._session.call(lambda api: api.get_joined_groups())
        except (NeonizeError, NotConnected, TimeoutError):
            return []
        self._admins.clear()
        self._asked.clear()
        return [self.learn(group) for group in groups]

    def learn(self, group: GroupInfo) -> News:
        """Remember its admins; the rest is for the rows."""
        jid = jid_text(group.JID)
        admins = (p for p in group.Participants if p.IsAdmin or p.IsSuperAdmin)
        if len(self._admins) < _MOST:
            self._admins[jid] = frozenset(jid_text(j) for p in admins for j in (p.JID, p.LID, p.PhoneNumber)) - {""}
        name, timer = group.GroupName.Name[:_NAME], group.GroupEphemeral.DisappearingTimer
        return News(jid, name, timer, _everybody(group))

    def change(self, event: GroupInfoEvent) -> News:
        """What an event tells of one group."""
        jid = jid_text(event.JID)
        if event.Promote or event.Demote or event.Leave:
            self._admins.pop(jid, None)  # asked anew when it matters
        timer = event.Ephemeral.DisappearingTimer if event.HasField("Ephemeral") else None
        came, went = (tuple(filter(None, map(jid_text, jids))) for jids in (event.Join, event.Leave))
        name = event.Name.Name[:_NAME] if event.HasField("Name") else ""
        return News(jid, name, timer, Members(came=came, went=went) if came or went else None)

    async def members(self, group: str) -> Members | None:
        """Ask who is in a group; None when WhatsApp does not say."""
        try:
            async with asyncio.timeout(_ASK):
                return self.learn(await self._session.call(lambda api: api.get_group_info(to_jid(group)))).members
        except (NeonizeError, NotConnected, SendRefused, TimeoutError):
            return None

    async def is_admin(self, group: str, person: Iterable[str]) -> bool:
        """Whether the person is an admin there; no when nobody can say, and for a while nobody is asked again."""
        asked = self._asked.get(group)
        if group not in self._admins and (asked is None or self._clock() >= asked + _PAUSE):
            try:
                async with asyncio.timeout(_ASK):
                    self.learn(await self._session.call(lambda api: api.get_group_info(to_jid(group))))
            except (NeonizeError, NotConnected, SendRefused, TimeoutError):
                if len(self._asked) >= _MOST:
                    self._asked.clear()
                self._asked[group] = self._clock()
        return not self._admins.get(group, frozenset()).isdisjoint(person)


def _everybody(group: GroupInfo) -> Members | None:
    """Each with all their jids, LID first; None where WhatsApp does not list them."""
    people = [
        tuple(
            sorted(
                {jid_text(jid) for jid in (p.LID, p.PhoneNumber, p.JID)} - {""}, key=lambda j: not j.endswith("@lid")
            )
        )
        for p in group.Participants
    ]
    return Members(tuple(jids for jids in people if jids)) if people else None
