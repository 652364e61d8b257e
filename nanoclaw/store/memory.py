"""Versions of CLAUDE.md, and what is still to be written into it."""

from dataclasses import dataclass

from nanoclaw.store import Tx

KEPT = 30  # versions of one folder


@dataclass(frozen=True)
class Version:
    """What CLAUDE.md was at one time."""

    n: int
    at: int
    who: str  # who asked for it; "" where the file was simply found so
    of: int  # the version that it brought back; 0 = a new one
    text: bytes

    @property
    def origin(self) -> int:
        """The version that it is, or brought back."""
        return self.of or self.n


def versions(tx: Tx, folder: str) -> list[Version]:
    """All that are kept of a folder, newest first."""
    rows = tx.execute("SELECT * FROM memories WHERE folder = ? ORDER BY n DESC", (folder,))
    return [Version(r["n"], r["at"], r["who"], r["of"], bytes(r["text"])) for r in rows]


def newest(tx: Tx, folder: str) -> bytes | None:
    """What the file was when it was last looked at; None for never."""
    row = tx.execute("SELECT text FROM memories WHERE folder = ? ORDER BY n DESC LIMIT 1", (folder,)).fetchone()
    return None if row is None else bytes(row["text"])


def keep(tx: Tx, folder: str, text: bytes, now: int, *, who: str = "", of: int = 0) -> int:
    """One more version; the oldest go. Its number."""
    n = tx.execute("SELECT coalesce(max(n), 0) + 1 FROM memories WHERE folder = ?", (folder,)).fetchone()[0]
    tx.execute(
        "INSERT INTO memories(folder, n, at, who, of, text) VALUES(?, ?, ?, ?, ?, ?)", (folder, n, now, who, of, text)
    )
    oldest = "SELECT n FROM memories WHERE folder = ? ORDER BY n DESC LIMIT -1 OFFSET ?"
    tx.execute(f"DELETE FROM memories WHERE folder = ? AND n IN ({oldest})", (folder, folder, KEPT))  # noqa: S608
    return int(n)


def found(tx: Tx, folder: str, text: bytes, now: int) -> None:
    """Keep what somebody wrote, if that is another version than the last.

    Of what stands there since a turn began only the newest is kept, while its agent lives: one turn could else write
    until nothing of before is left.
    """
    if text == newest(tx, folder):
        return
    n = keep(tx, folder, text, now)
    tx.execute(
        "DELETE FROM memories WHERE folder = ? AND n = ? - 1 AND who = '' AND at >="
        " (SELECT max(t.given_at) FROM turns t JOIN groups g ON g.id = t.group_id JOIN runs r ON r.group_id = g.id"
        " WHERE g.folder = ? AND r.state <> 'ended' AND t.given_at > 0)",
        (folder, n, folder),
    )


def purge(tx: Tx, folder: str) -> int:
    """No version is kept; how many there were."""
    return tx.execute("DELETE FROM memories WHERE folder = ?", (folder,)).rowcount


@dataclass(frozen=True)
class Unwritten:
    """A change of CLAUDE.md whose file is behind."""

    id: int
    folder: str
    who: str
    of: int
    whole: bool  # whether `text` replaces all that stands there; else it is added
    text: bytes


def to_write(tx: Tx, folder: str, text: bytes, *, who: str, of: int = 0, whole: bool = True) -> None:
    """The file follows."""
    tx.execute(
        "INSERT INTO unwritten(folder, who, of, whole, text) VALUES(?, ?, ?, ?, ?)", (folder, who, of, whole, text)
    )


def unwritten(tx: Tx) -> list[Unwritten]:
    """Every such change, oldest first."""
    rows = tx.execute("SELECT * FROM unwritten ORDER BY id")
    return [Unwritten(r["id"], r["folder"], r["who"], r["of"], bool(r["whole"]), bytes(r["text"])) for r in rows]


def written(tx: Tx, change_id: int) -> None:
    """It is in the file."""
    tx.execute("DELETE FROM unwritten WHERE id = ?", (change_id,))
