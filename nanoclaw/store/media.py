"""Files that came with messages: what is known of each, and how much a group fetched today."""

import json
from dataclasses import asdict, replace

from nanoclaw.models import Media
from nanoclaw.store import Tx


def dump(media: tuple[Media, ...]) -> str:
    """As the message's row keeps it; "" for none. Lone surrogates are escaped, so that they can be stored."""
    return json.dumps([asdict(m) for m in media]) if media else ""


def load(text: str) -> tuple[Media, ...]:
    """What `dump` wrote."""
    return tuple(Media(**m) for m in json.loads(text)) if text else ()


def of_quoted(tx: Tx, message_id: int, quote: Media) -> Media:
    """The quoted file as the quoted message's own row has it: what the quote says of it counts for nothing."""
    row = tx.execute("SELECT media FROM messages WHERE id = ?", (message_id,)).fetchone()
    own = [m for m in load(row["media"]) if not m.quoted] if row else []
    if not own:
        return replace(quote, fault="the quoted message has no file", ref="")
    # What could not be fetched then, and may be there yet, still has its ref.
    return replace(own[0], quoted=True, fault="" if own[0].ref else own[0].fault)


def settle(tx: Tx, message_id: int, media: tuple[Media, ...], group_id: int, day: str, fetched: int) -> None:
    """Each of the message's files is here, or will not come; `fetched` bytes count for the group's day."""
    tx.execute("UPDATE messages SET media = ? WHERE id = ? AND media <> ''", (dump(media), message_id))
    tx.execute(
        "INSERT INTO downloads(group_id, day, bytes) VALUES(?, ?, ?) ON CONFLICT(group_id) DO UPDATE SET"
        " bytes = excluded.bytes + CASE WHEN day = excluded.day THEN bytes ELSE 0 END, day = excluded.day",
        (group_id, day, fetched),
    )


def used(tx: Tx, group_id: int, day: str) -> int:
    """Bytes that the group fetched on this day."""
    row = tx.execute("SELECT bytes FROM downloads WHERE group_id = ? AND day = ?", (group_id, day)).fetchone()
    return 0 if row is None else int(row["bytes"])
