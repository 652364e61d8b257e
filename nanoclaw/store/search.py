"""What one group can look up: its notes, what people said in its chats, and what it was answered. Ranked."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from sqlite3 import Row
from unicodedata import normalize

from nanoclaw.models import MessageState, Verdict
from nanoclaw.store import Tx, new_id, storable

_LOOKED_AT = 200  # rows of one kind that are ranked
_WORDS = 12  # of one query
_PIECES = 40  # of these
_READ = 20_000  # characters of a text that are shown from
_PAGES = 64  # that are written anew in one step: 5 ms
_LONGEST = 100  # characters of one of them
_GRAM = 3  # characters that the index needs; shorter words are looked for row by row
_MONTH = 2_592_000_000  # ms
_WORD = re.compile(r'"([^"]+)"|(\S+)')
# Signs that stand for words, or pictures: no space parts them.
_SIGNS = r"\u2190-\u2bff\u2e80-\ud7ff\uf900-\ufaff\uff66-\uff9f\U0001f000-\U0003ffff"
_DENSE = re.compile(f"[{_SIGNS}]")
_RUNS = re.compile(f"([{_SIGNS}]+)|([^{_SIGNS}]+)")
_PART = 500  # characters that are normalized at once
_MARKS = re.compile(r"[\u0300-\u036f\ufe0e\ufe0f]")
_VARIANTS = re.compile(r"[\ufe0e\ufe0f]")  # of an emoji: in colour or not
_EDGE = re.compile(rf"^(?:[^\w{_SIGNS}]|[_\u3000-\u3020])+|(?:[^\w{_SIGNS}]|[_\u3000-\u3020])+$")
_OUTSIDE = "[^A-Za-z0-9\u00c0-\u024f\u0370-\u052f]"  # of a word


@dataclass(frozen=True)
class Hit:
    """Something that was found. `path` and `line` are those of a note, `id` that of a message."""

    at: int
    text: str
    score: float
    path: str = ""
    line: int = 0
    id: int = 0
    who: str = ""  # the sender's name
    role: str = ""  # the sender's; "you" for the agent's own words
    chat: str = ""


@dataclass(frozen=True)
class _Source:
    """One kind of row: how it is found, in the order of Hit's fields."""

    index: str
    table: str
    text: str
    at: str
    rest: str  # path, line, id, who, role, chat
    joined: str
    only: str


_SOURCES = (
    _Source(
        "search_messages", "messages", "x.text", "x.saved_at",
        "'' AS path, 0 AS line, x.id, p.name AS who, p.role AS role, c.name AS chat",
        "JOIN chats c ON c.id = x.chat_id JOIN people p ON p.id = x.person_id",
        # What a turn works at, or what waits for one, is shown by that turn; a reaction repeats what it is about.
        f"c.group_id = :group AND x.verdict <> '{Verdict.COMMAND}' AND x.kind <> 'reaction'"
        f" AND (x.state = '{MessageState.HANDLED}'"
        f" OR (x.state = '{MessageState.OPEN}' AND x.verdict = '{Verdict.CONTEXT}'))",
    ),
    _Source(
        "search_outgoing", "outgoing", "x.payload", "x.created_at",
        "'' AS path, 0 AS line, 0 AS id, '' AS who, 'you' AS role, c.name AS chat",
        "JOIN chats c ON c.id = x.chat_id",
        "c.group_id = :group AND x.state = 'sent' AND x.kind IN ('reply', 'edit')",
    ),
    _Source(
        "search_passages", "passages", "x.text", "x.at",
        "x.path AS path, x.line AS line, 0 AS id, '' AS who, '' AS role, '' AS chat",
        "",
        "x.group_id = :group",
    ),
)  # fmt: skip


def folded(text: str) -> str:
    """The text as it is compared: without case, accents, and the other ways of writing the same sign."""
    if text.isascii():
        return text.lower()
    # In parts: the time to normalize a row of marks grows with its square, and whoever writes a message can send one.
    parts = (text[at : at + _PART] for at in range(0, len(text), _PART))
    return "".join(normalize("NFKC", _MARKS.sub("", normalize("NFKD", part).casefold())) for part in parts)


def words(query: str) -> list[str]:
    """What a query looks for: words, phrases in quotation marks, pieces of what is written without spaces.

    Whatever it is, it is no syntax.
    """
    plain = _VARIANTS.sub("", normalize("NFC", storable(query)))
    found = [quoted or word for quoted, word in _WORD.findall(plain)]
    bare = [_EDGE.sub("", word)[:_LONGEST] for word in found]
    pieces = [piece for word in list(dict.fromkeys(filter(None, bare)))[:_WORDS] for piece in _pieces(word)]
    return list(dict.fromkeys(piece for piece in pieces if piece))[:_PIECES]


def _pieces(word: str) -> list[str]:
    """A word as it is; of signs that stand for words two and three beside each other."""
    found: list[str] = []
    for dense, other in _RUNS.findall(word):
        if other or len(dense) == 1:
            found.append(dense or other.strip())
        else:
            found += [dense[n : n + size] for size in (_GRAM, 2) for n in range(len(dense) - size + 1)]
    return found


def find(tx: Tx, group_id: int, looked_for: Sequence[str], now: int, limit: int) -> list[Hit]:
    """The best hits for any of these words in what belongs to the group, best first; in no other group.

    Ranked here, by the group's own rows: the index counts words over all groups, and its ranks would tell of them.
    """
    long = [w for w in looked_for if len(w) >= _GRAM]
    # "is", "at" and "my" stand everywhere: beside a longer word they say nothing.
    short = [w for w in looked_for if len(w) < _GRAM and (not long or _DENSE.search(w))]
    hits: dict[tuple[str, int], Hit] = {}
    for source in _SOURCES:
        for word in long:
            query = " OR ".join('"' + form.replace('"', '""') + '"' for form in _forms(word))
            wanted = (
                f"s.{source.index} MATCH :word0",
                f"{source.index} s CROSS JOIN {source.table} x ON x.id = s.rowid",
            )
            hits |= _rows(tx, source, group_id, *wanted, [query], max(_LOOKED_AT // len(long), 20))
        if short:
            likely = "(instr(lower({0}), :word{1}) OR instr(lower({0}), :word{2})) AND ' ' || {0} || ' ' GLOB :word{3}"
            each = " OR ".join(likely.format(source.text, 3 * n, 3 * n + 1, 3 * n + 2) for n in range(len(short)))
            sought = [form for word in short for form in (*_cases(word), _glob(word))]
            hits |= _rows(tx, source, group_id, each, f"{source.table} x", sought, _LOOKED_AT)
    return sorted(_ranked(list(hits.values()), [*long, *short], now), key=lambda hit: (-hit.score, -hit.at))[:limit]


def _rows(
    tx: Tx, source: _Source, group_id: int, where: str, tables: str, sought: Sequence[str], limit: int
) -> dict[tuple[str, int], Hit]:
    """The newest."""
    sql = (
        f"SELECT x.id AS n, {source.at} AS at, substr({source.text}, 1, {_READ}) AS text, {source.rest}"  # noqa: S608
        f" FROM {tables} {source.joined} WHERE ({where}) AND {source.only}"
        f" ORDER BY {'s.rowid' if ' s ' in tables else 'x.id'} DESC LIMIT :limit"
    )
    by_name = {f"word{n}": word for n, word in enumerate(sought)}
    rows = tx.execute(sql, {**by_name, "group": group_id, "limit": limit})
    return {(source.table, row["n"]): _hit(row) for row in rows}


def _forms(word: str) -> list[str]:
    """The ways of writing a word that the index takes for different ones."""
    forms = (word, word.lower(), normalize("NFD", word), folded(word))
    return list(dict.fromkeys(form for form in forms if len(form) >= _GRAM)) or [word]


def _cases(word: str) -> tuple[str, str]:
    """As SQLite's lower() leaves it, which knows A-Z alone: this is looked for first, because patterns are slow."""
    return _lower(word.lower()), _lower(word.upper())


def _lower(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


def _glob(word: str) -> str:
    """A pattern for a short word in either case: as a word, or wherever it is where words have no spaces."""
    sides = ("*", "*") if _DENSE.search(word) else ("*" + _OUTSIDE, _OUTSIDE + "*")
    return "".join((sides[0], *(_either(c) for c in word), sides[1]))


def _either(c: str) -> str:
    cases = dict.fromkeys((c, *(other for other in (c.lower(), c.upper()) if len(other) == 1)))
    return c if c == "^" else f"[{''.join(cases)}]"


def _ranked(hits: Sequence[Hit], looked_for: Sequence[str], now: int) -> Iterator[Hit]:
    """A word counts the more the fewer of these hits have it, and the more where it begins a word."""
    texts = [folded(hit.text) for hit in hits]
    scores = [0.0] * len(hits)
    for word in map(folded, looked_for):
        begun = re.compile(rf"(?<!\w){re.escape(word)}")
        having = [n for n, text in enumerate(texts) if word in text]
        rarity = math.log(1 + (len(hits) - len(having) + 0.5) / (len(having) + 0.5))
        for n in having:
            scores[n] += rarity if _DENSE.search(word) or begun.search(texts[n]) else rarity / 2
    for hit, score in zip(hits, scores, strict=True):
        # New things count up to twice as much as very old ones, and half of that is lost in a month.
        yield replace(hit, score=score * (1 + 1 / (1 + max(now - hit.at, 0) / _MONTH)))


def _hit(row: Row) -> Hit:
    return Hit(row["at"], row["text"], 0.0, row["path"], row["line"], row["id"], row["who"], row["role"], row["chat"])


def tidy(tx: Tx, *, begin: bool) -> bool:
    """A short step of writing the index anew without what was removed (until then it is only crossed out).

    Whether there is more to do.
    """
    more = False
    for source in _SOURCES:
        before = tx.total_changes
        sql = f"INSERT INTO {source.index}({source.index}, rank) VALUES('merge', ?)"
        tx.execute(sql, (-_PAGES if begin else _PAGES,))
        more |= tx.total_changes - before >= 2  # SQLite's own sign that it has done something
    return more


# --- notes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Passage:
    """A piece of a note; `id` 0 for one that is not stored."""

    line: int
    text: str
    id: int = 0


def stamps(tx: Tx, group_id: int) -> dict[str, str]:
    """The group's notes by path, each as it was found last."""
    return {r["path"]: r["stamp"] for r in tx.execute("SELECT path, stamp FROM notes WHERE group_id = ?", (group_id,))}


def passages(tx: Tx, group_id: int, path: str) -> list[Passage]:
    """What is stored of one note, in its order."""
    rows = tx.execute("SELECT * FROM passages WHERE group_id = ? AND path = ? ORDER BY line, id", (group_id, path))
    return [Passage(r["line"], r["text"], r["id"]) for r in rows]


def put(tx: Tx, group_id: int, path: str, found: Sequence[Passage], at: int) -> None:
    """Pieces that are new, or (those with an id) stand at another line."""
    for p in found:
        if p.id:
            tx.execute("UPDATE passages SET line = ? WHERE id = ?", (p.line, p.id))
        else:
            row = (group_id, path, p.line, at, storable(p.text))
            new_id(tx.execute("INSERT INTO passages(group_id, path, line, at, text) VALUES(?, ?, ?, ?, ?)", row))


def remove(tx: Tx, ids: Sequence[int]) -> None:
    """Pieces that are no more."""
    tx.executemany("DELETE FROM passages WHERE id = ?", [(i,) for i in ids])


def noted(tx: Tx, group_id: int, path: str, stamp: str) -> None:
    """All pieces of this note are stored."""
    tx.execute(
        "INSERT INTO notes(group_id, path, stamp) VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET stamp = excluded.stamp",
        (group_id, path, stamp),
    )


def gone(tx: Tx, group_id: int, path: str) -> None:
    """There is no such note any more."""
    tx.execute("DELETE FROM notes WHERE group_id = ? AND path = ?", (group_id, path))
