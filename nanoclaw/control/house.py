"""What is about the whole house: begin the host anew."""

from nanoclaw.errors import Refused
from nanoclaw.models import By, OutKind
from nanoclaw.store import Tx, audit, ledger, outgoing


def restart(tx: Tx, chat_id: int, by: By, now: int, *, lives_on: bool) -> None:
    """The host begins anew, and then says so in this chat. Raises Refused where nobody would start it again."""
    if not lives_on:
        raise Refused("I live only as long as `nanoclaw chat` here: leave it and start it again")
    ledger.set_restart(tx, chat_id)
    audit.note(tx, by, "restart", "", now)


def restarted(tx: Tx, now: int) -> None:
    """At a start: tell the chat that asked for it, once."""
    if (chat_id := ledger.take_restart(tx)) is not None:
        outgoing.queue(tx, chat_id, "I am back.", OutKind.NOTICE, now)
