"""The folders that groups were granted, and what main was told of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nanoclaw.models import Mount, OutKind
from nanoclaw.store import Tx, chats, outgoing

_DAY_MS = 86_400_000


def put(tx: Tx, group_id: int, mounts: Sequence[Mount]) -> None:
    """From now on the group has these."""
    found = json.dumps([asdict(mount) for mount in mounts])
    tx.execute("UPDATE groups SET mounts = ? WHERE id = ?", (found, group_id))


def home(tx: Tx) -> Path:
    """The home that these rows belong to: they lie in it."""
    return Path(tx.execute("PRAGMA database_list").fetchone()["file"]).resolve().parent


def around(tx: Tx) -> tuple[Path | None, str]:
    """Beside the home: the folder of the sockets and the engine's address, as of the host's last start."""
    row = tx.execute("SELECT value FROM meta WHERE key = 'around'").fetchone()
    run_dir, engine = json.loads(row["value"]) if row else ("", "")
    return (Path(run_dir) if run_dir else None), engine


def set_around(tx: Tx, run_dir: Path, engine: str) -> None:
    """The host starts with these."""
    value = json.dumps([str(run_dir), engine])
    tx.execute("INSERT INTO meta VALUES('around', ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value", (value,))


def people(tx: Tx, group_id: int) -> tuple[int, bool]:
    """How many people are in the group's chats, and whether that is known or only those who were heard."""
    count, known = 0, True
    for row in tx.execute("SELECT * FROM chats WHERE group_id = ?", (group_id,)).fetchall():
        if row["members"] or not row["is_group"]:
            count += row["members"] or 1
            continue
        heard = "SELECT count(DISTINCT person_id) FROM messages WHERE chat_id = ?"
        count, known = count + tx.execute(heard, (row["id"],)).fetchone()[0], False
    return count, known


def tell(tx: Tx, about: str, text: str, now: int) -> bool:
    """Tell main, unless it heard just this last, or anything about it within a day: an agent may change it often."""
    cause, chat = f"mount:{about}:{text}", chats.main_chat(tx)
    known = tx.execute(
        "SELECT cause, at FROM notices WHERE substr(cause, 1, ?) = ?", (len(f"mount:{about}:"), f"mount:{about}:")
    ).fetchall()
    if chat is None or any(row["cause"] == cause or row["at"] > now - _DAY_MS for row in known):
        return False
    forget(tx, about)
    tx.execute("INSERT INTO notices(cause, chat_id, at) VALUES(?, ?, ?)", (cause, chat.id, now))
    outgoing.queue(tx, chat.id, text, OutKind.NOTICE, now)
    return True


def over(tx: Tx, about: str) -> None:
    """It is as it should be again; when it was told last stays known: what comes and goes is told once a day."""
    prefix = f"mount:{about}:"
    tx.execute("UPDATE notices SET cause = ? WHERE substr(cause, 1, ?) = ?", (prefix, len(prefix), prefix))


def forget(tx: Tx, about: str) -> None:
    """The owner has seen to it: the next time is told again."""
    prefix = f"mount:{about}:"
    tx.execute("DELETE FROM notices WHERE substr(cause, 1, ?) = ?", (len(prefix), prefix))
