"""The key or token of the model's API in a text, also written otherwise: a second line, since no sandbox ever holds it.

Seen: the credential itself or a piece of its secret part of 31 letters and digits, also backwards, in hex, base64 or
percent signs; one of the API's own form also with blanks, marks or invisible characters between its letters, and in
letters of another width. One whose secret part has less than 16 letters and digits is looked for as it stands; if it is
shorter than 8 characters, or one word of letters alone, it stays. Not seen: whatever else an agent could think of.
(Pure but for `Leaks`; the time that it takes grows with the text's length alone.)
"""

import re
import unicodedata
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import NamedTuple

REMOVED = "[credential removed]"
LEAST = 8  # characters of a credential below which nothing is looked for
OVERLAP = 4096  # bytes of a file that belong to two of its pieces: more than a credential takes, however written
_READ = 4 << 20  # bytes of a file in which escapes are read too: that takes a second
_PIECE = 16  # letters and digits that are looked for at once
_ROUNDS = 4  # in which a text is looked through: one may be written within another
_MANY = 200  # places in one text; where there are more, all of it goes
_OTHER = bytes(c for c in range(256) if not chr(c).isalnum() or c > 127)
_FORM = re.compile(r"sk-ant-(?:[a-z]+\d+-)?")  # with which all of the API's begin: everybody knows it
_ESCAPED = re.compile(r"(?:%|\\x|\\u00|&#x|U\+00)([0-9a-fA-F]{2});?", re.IGNORECASE)
_FORMS = ("\xaa-\xba", "\u1d2c-\u1d6a", "\u2070-\u209c", "\u2100-\u2188", "\u2460-\u24ff", "\uff10-\uff5a")
_FORMS_FAR = ("\U0001d400-\U0001d7ff", "\U0001f110-\U0001f169", "\U0001fbf0-\U0001fbf9")
_WIDE = re.compile(f"[{''.join(_FORMS + _FORMS_FAR)}]")


class Leaks:
    """Looks for the credentials that the host has now. Never raises; for any thread."""

    def __init__(self, secrets: Callable[[], Iterable[str]] = tuple) -> None:
        self._secrets = secrets
        self.found: Callable[[], None] = lambda: None  # told of each; in whatever thread it was

    def removed(self, text: str) -> str:
        """The text without them."""
        clean = text
        for secret in self._secrets():
            clean = removed(clean, secret)
        if clean is not text:
            self.found()
        return clean

    def inside(self, pieces: Iterable[bytes]) -> bool:
        """Whether a file's bytes hold one; each piece begins with the last OVERLAP bytes of the one before it."""
        secrets, seen = tuple(self._secrets()), 0
        for piece in pieces:
            if any(inside(piece, secret, read=seen < _READ) for secret in secrets):
                self.found()
                return True
            seen += len(piece)
        return False


class _Needle(NamedTuple):
    """One way of writing a credential."""

    letters: bytes
    first: int = 0  # from here on it is secret
    behind: int = 0  # up to so many before its end
    small: bool = False  # in small letters
    exact: bool = False  # with whatever stands between its letters
    piece: int = _PIECE

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Where in it each one begins, and the piece."""
        for at in range(self.first, len(self.letters) - self.behind - self.piece + 1, self.piece):
            yield at, self.letters[at : at + self.piece]


class _Wanted(NamedTuple):
    """All that is looked for of one credential."""

    needles: tuple[_Needle, ...]
    pieces: tuple[tuple[bytes, ...], ...]  # in letters and digits, in small ones, in everything

    def found(self, bare: bytes, whole: bytes) -> bool:
        """Whether one of the pieces stands there; most texts are done with this."""
        in_bare, in_small, in_whole = self.pieces
        return (
            any(map(bare.__contains__, in_bare))
            or any(map(bare.lower().__contains__, in_small))
            or any(map(whole.__contains__, in_whole))
        )


class _Reading(NamedTuple):
    """A text as somebody would read it."""

    text: str
    begins: Callable[[], Sequence[int]]  # where each of its characters stands in the text as it is, and where that ends


def removed(text: str, secret: str) -> str:
    """The text, the same object where nothing had to be removed; else all the rest as it was."""
    if not text or (wanted := _wanted(secret)) is None:
        return text
    for _ in range(_ROUNDS):
        seen = next((seen for seen in _readings(text) if wanted.found(*_hays(seen.text))), None)
        if seen is None:
            return text
        text = _without(text, seen, wanted.needles)
    return REMOVED  # what is left of such a text is worth nothing


def inside(data: bytes, secret: str, *, read: bool = True) -> bool:
    """Whether these bytes hold it, as text of any kind; `read`: also escapes and wide letters, if it can be UTF-8."""
    wanted = _wanted(secret)
    if wanted is None:
        return False
    if wanted.found(data.translate(None, _OTHER), data):
        return True
    if not read or b"\0" in data:
        return False
    return any(wanted.found(*_hays(seen.text)) for seen in _readings(data.decode("utf-8", "ignore")))


def _readings(text: str) -> Iterator[_Reading]:
    """Escapes read as the characters that they stand for, and the text as it stands; wide letters as plain ones."""
    if not text.isascii():
        text = _WIDE.sub(lambda found: _plain(found[0]), text)
    if any(mark in text for mark in ("%", "\\", "&#", "+00")) and _ESCAPED.search(text):
        yield _Reading(_ESCAPED.sub(lambda found: chr(int(found[1], 16)), text), partial(_begins, text))
    yield _Reading(text, lambda: range(len(text) + 1))


def _begins(text: str) -> list[int]:
    begins, at = list[int](), 0
    for found in _ESCAPED.finditer(text):
        begins += range(at, found.start() + 1)
        at = found.end()
    return [*begins, *range(at, len(text) + 1)]


@lru_cache(maxsize=1024)
def _plain(wide: str) -> str:
    """The one letter or digit of ASCII that it is a form of, else itself. Only single ones are ever asked: to
    normalize a whole text takes a time that grows with the square of its marks."""
    letters = [c for c in unicodedata.normalize("NFKC", wide) if c.isascii() and c.isalnum()]
    return letters[0] if len(letters) == 1 else wide


@lru_cache(maxsize=4)
def _wanted(secret: str) -> _Wanted | None:
    """What to look for; None for what is a word."""
    if not (needles := tuple(dict.fromkeys(_needles(secret)))):
        return None
    kinds: tuple[list[bytes], ...] = ([], [], [])
    for needle in needles:
        kinds[2 if needle.exact else int(needle.small)].extend(piece for _, piece in needle.pieces())
    return _Wanted(needles, tuple(tuple(dict.fromkeys(kind)) for kind in kinds))


def _needles(secret: str) -> Sequence[_Needle]:
    raw = secret.encode("utf-8", "ignore")
    if len(raw) < LEAST or (secret.isalpha() and len(raw) < _PIECE):
        return ()
    form = _FORM.match(secret)
    known = form.end() if form else 0  # characters that are no secret
    before = len(raw[:known].translate(None, _OTHER))
    plain = raw.translate(None, _OTHER)
    if len(plain) - before < _PIECE:
        return (_Needle(raw, exact=True, piece=len(raw)),)
    if form:
        found = [_Needle(plain, first=before), _Needle(plain[::-1], behind=before)]
    else:  # it may be made of words
        found = [_Needle(raw, exact=True), _Needle(raw[::-1], exact=True)]
    found.append(_Needle(raw.hex().encode(), first=2 * known, small=True))
    for shift in range(3):  # where it begins decides how base64 writes it; what its neighbours share is left out
        begin = (shift * 8 + 5) // 6
        coded = b64encode(b"\0" * shift + raw)[begin : (shift + len(raw)) * 8 // 6]
        first = ((shift + known) * 8 + 5) // 6 - begin
        for form_of in (coded, coded.replace(b"+", b"-").replace(b"/", b"_")):
            letters = form_of.translate(None, _OTHER)
            found.append(_Needle(letters, first=len(form_of[:first].translate(None, _OTHER))))
    return found


def _hays(text: str) -> tuple[bytes, bytes]:
    """Its letters and digits of ASCII alone, and all of it, with as many bytes as characters."""
    whole = text.encode("ascii", "replace")
    return (whole if text.isascii() else text.encode("ascii", "ignore")).translate(None, _OTHER), whole


def _spans(text: str, needles: tuple[_Needle, ...]) -> Iterator[tuple[int, int, bool]]:
    """Where whole pieces of a needle stand, with what goes on before and behind them: in the letters and digits
    alone, or (the third is true) in everything."""
    bare, whole = _hays(text)
    small = bare.lower()
    for needle in needles:
        hay, letters = whole if needle.exact else small if needle.small else bare, needle.letters
        for at, piece in needle.pieces():
            begin = -1
            while (begin := hay.find(piece, begin + 1)) >= 0:
                low, left = begin, at
                while low and left and hay[low - 1] == letters[left - 1]:
                    low, left = low - 1, left - 1
                high, right = begin + needle.piece, at + needle.piece
                while high < len(hay) and right < len(letters) and hay[high] == letters[right]:
                    high, right = high + 1, right + 1
                yield low, high, needle.exact
                begin = high - 1


def _without(text: str, seen: _Reading, needles: tuple[_Needle, ...]) -> str:
    """The text as it stands, cut where the reading of it shows one."""
    found = set(islice(_spans(seen.text, needles), _MANY))
    if len(found) == _MANY:
        return REMOVED
    letters = [n for n, c in enumerate(seen.text) if c.isascii() and c.isalnum()]
    begins, cuts = seen.begins(), []
    for low, high, exact in found:
        first, last = (low, high - 1) if exact else (letters[low], letters[high - 1])
        cuts.append((begins[first], begins[last + 1]))
    kept, at = [], 0
    for begin, end in sorted(cuts):
        if end > at:
            kept += [text[at:begin], REMOVED] if begin >= at else []
            at = end
    return "".join([*kept, text[at:]])


__all__ = ["LEAST", "OVERLAP", "REMOVED", "Leaks", "inside", "removed"]
