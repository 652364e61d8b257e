"""Who is there: people, groups, and what the program was seen to say to them."""

from dataclasses import dataclass, field
from typing import Any

from tests.whatsapp.peer import Phone
from tests.whatsapp.wire import Jid, Node


@dataclass(eq=False)
class Person:
    """Somebody with a phone. Without `number` only the LID is known, as of people with a user name."""

    lid: str
    number: str = ""
    name: str = "Ann"
    phone: Phone = field(default_factory=Phone, repr=False)

    @property
    def jid(self) -> Jid:
        """The LID."""
        return Jid(f"{self.lid}@lid")

    @property
    def number_jid(self) -> Jid:
        """The phone number's."""
        return Jid(f"{self.number}@s.whatsapp.net")


@dataclass
class Group:
    """A group as the server knows it. The account itself is always in it."""

    id: str
    subject: str
    members: list[Person]
    admins: list[Person] = field(default_factory=list)
    expires: int = 0  # seconds of its disappearing timer

    @property
    def jid(self) -> Jid:
        """Its address."""
        return Jid(f"{self.id}@g.us")


@dataclass(frozen=True)
class Sent:
    """A message of the program's, as its readers decrypted it."""

    chat: str
    message: Any
    id: str
    node: Node
    at: float  # time.perf_counter() when it was read

    @property
    def text(self) -> str:
        """What it says."""
        return str(self.message.conversation or self.message.extendedTextMessage.text)
