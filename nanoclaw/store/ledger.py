"""What was used, and what must be remembered of this install."""

import json
from dataclasses import asdict, dataclass

from nanoclaw.models import Account, Usage
from nanoclaw.store import Tx


def install_id(tx: Tx, new: str) -> str:
    """This home's id, `new` the first time: labels on containers carry it."""
    tx.execute("INSERT INTO meta(key, value) VALUES('install', ?) ON CONFLICT DO NOTHING", (new,))
    return str(tx.execute("SELECT value FROM meta WHERE key = 'install'").fetchone()[0])


def add_usage(
    tx: Tx, group_id: int, run_id: str, used: Usage, now: int, turn_id: str = "", cost: int | None = None
) -> None:
    """One model request; the cost in billionths of a dollar, None where nobody knows it."""
    tx.execute(
        "INSERT INTO usage(at, group_id, run_id, turn_id, model, input, output, cache_read, cache_write,"
        " cache_write_1h, searches, cost) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(now, group_id, run_id, turn_id, used.model, used.input, used.output, used.cache_read, used.cache_write),
            *(used.cache_write_1h, used.searches, cost),
        ),
    )


def tokens_since(tx: Tx, group_id: int, since: int) -> int:
    """What the group used since then, counted as `Usage.tokens` counts."""
    row = tx.execute(
        "SELECT coalesce(sum(input + output + cache_write + cache_read / 10), 0) FROM usage"
        " WHERE group_id = ? AND at >= ?",
        (group_id, since),
    ).fetchone()
    return int(row[0])


def account(tx: Tx, channel: str) -> Account | None:
    """Who we are on a channel, as far as it was ever heard."""
    row = tx.execute("SELECT value FROM meta WHERE key = ?", (f"account:{channel}",)).fetchone()
    if row is None:
        return None
    known = json.loads(row["value"])
    return Account(known["channel"], tuple(known["jids"]), known["shared"])


def set_account(tx: Tx, account: Account) -> None:
    """From now on we are this one there."""
    _remember(tx, f"account:{account.channel}", json.dumps(asdict(account)))


def forget_account(tx: Tx, channel: str) -> None:
    """Nobody knows who we are there, until we are told."""
    tx.execute("DELETE FROM meta WHERE key = ?", (f"account:{channel}",))


@dataclass(frozen=True)
class Claim:
    """The one-time code that makes an owner: only its hash is kept."""

    digest: str
    until: int
    tried: tuple[tuple[str, str], ...] = ()  # wrong ones: the sender's jid, the message's id


def claim(tx: Tx) -> Claim | None:
    """The code that waits for its person."""
    row = tx.execute("SELECT value FROM meta WHERE key = 'claim'").fetchone()
    if row is None:
        return None
    known = json.loads(row["value"])
    return Claim(known["digest"], known["until"], tuple((who, wa_id) for who, wa_id in known["tried"]))


def set_claim(tx: Tx, new: Claim | None) -> None:
    """One code at a time; None when it is of no more use."""
    if new is None:
        tx.execute("DELETE FROM meta WHERE key = 'claim'")
    else:
        _remember(tx, "claim", json.dumps(asdict(new)))


def set_restart(tx: Tx, chat_id: int) -> None:
    """This chat has asked for a restart."""
    _remember(tx, "restart", str(chat_id))


def take_restart(tx: Tx) -> int | None:
    """The chat that had asked for it; from now on none."""
    row = tx.execute("SELECT id FROM chats WHERE id = (SELECT value FROM meta WHERE key = 'restart')").fetchone()
    tx.execute("DELETE FROM meta WHERE key = 'restart'")
    return None if row is None else int(row["id"])


def _remember(tx: Tx, key: str, value: str) -> None:
    tx.execute(
        "INSERT INTO meta(key, value) VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value", (key, value)
    )
