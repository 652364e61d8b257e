"""What main was told of troubles of the house itself: a row each, so that a restart does not tell it twice."""

from nanoclaw.models import OutKind
from nanoclaw.store import Tx, chats, outgoing

_OPEN, _PAST = "watch:", "watched:"  # told and not over; over, and not to be told again so soon


def tell(tx: Tx, word: str, parks: str, text: str, now: int) -> bool:
    """Tell main that it has begun; False when it knows already, also by a lane that it parked (cause `parks`)."""
    main = chats.main_chat(tx)
    if main is None or _is_told(tx, _OPEN + word) or (parks and _is_parked(tx, parks)):
        return False
    outgoing.forget_notices(tx, _PAST + word)
    tx.execute("INSERT INTO notices(cause, chat_id, at) VALUES(?, ?, ?)", (_OPEN + word, main.id, now))
    outgoing.queue(tx, main.id, text, OutKind.NOTICE, now)
    return True


def over(tx: Tx, word: str, text: str, now: int) -> bool:
    """Tell main that it has passed; False when main was not told that it had begun."""
    main = chats.main_chat(tx)
    if main is None or not _is_told(tx, _OPEN + word):
        return False
    tx.execute("UPDATE notices SET cause = ? WHERE cause = ?", (_PAST + word, _OPEN + word))
    outgoing.queue(tx, main.id, text, OutKind.NOTICE, now)
    return True


def told(tx: Tx) -> dict[str, tuple[int, bool]]:
    """By word: when main was told, in milliseconds, and whether it was not yet told that it is over."""
    rows = tx.execute(
        "SELECT cause, max(at) AS at FROM notices WHERE cause LIKE 'watch:%' OR cause LIKE 'watched:%' GROUP BY cause"
        " ORDER BY cause DESC"  # what is open comes last, and stands
    )
    return {r["cause"].partition(":")[2]: (int(r["at"]), r["cause"].startswith(_OPEN)) for r in rows}


def _is_told(tx: Tx, cause: str) -> bool:
    return tx.execute("SELECT 1 FROM notices WHERE cause = ?", (cause,)).fetchone() is not None


def _is_parked(tx: Tx, cause: str) -> bool:
    return tx.execute("SELECT 1 FROM lanes WHERE parked = ?", (cause,)).fetchone() is not None


def probe(tx: Tx, now: int) -> None:
    """Whether this comes back says whether rows can be stored again: one that wrote nothing would always."""
    tx.execute(
        "INSERT INTO meta(key, value) VALUES('watched', ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
        (str(now),),
    )
