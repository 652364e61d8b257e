"""The key or token of the model's API in a text, also written otherwise: a second line, since no sandbox ever holds it.

Seen: the credential itself or a piece of it of 31 letters and digits, also backwards, in hex, base64 or percent signs,
with blanks, marks or invisible characters between its letters, in letters of another width. Not seen: whatever else an
agent could think of. (Pure but for `Leaks`.)
"""

import re
import unicodedata
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice

REMOVED = "[credential removed]"
LEAST = 16  # letters and digits below which a credential is no secret, but a word that people use
_PIECE = 16  # of them that are looked for at once
_ROUNDS = 4  # in which a text is looked through: one may be written within another
_MANY = 200  # places in one text; where there are more, all of it goes
_OTHER = bytes(c for c in range(256) if not chr(c).isalnum() or c > 127)
_ESCAPED = re.compile(r"(?:%|\\x|\\u00|&#x|U\+00)([0-9a-fA-F]{2});?", re.IGNORECASE)


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

    def inside(self, data: bytes) -> bool:
        """Whether a file's bytes hold one."""
        held = any(inside(data, secret) for secret in self._secrets())
        if held:
            self.found()
        return held


def removed(text: str, secret: str) -> str:
    """The text, the same object where nothing had to be removed."""
    needles = _needles(secret)
    for _ in range(_ROUNDS if needles and text else 0):
        seen = next((seen for seen in _readings(text) if any(_spans(_bare(seen), needles))), None)
        if seen is None:
            return text
        text = _without(seen, needles)
    return REMOVED if needles and text else text  # what is left of such a text is worth nothing


def inside(data: bytes, secret: str) -> bool:
    """Whether these bytes hold it, as text of any kind."""
    needles = _needles(secret)
    return bool(needles) and any(_spans(data.translate(None, _OTHER), needles))


def _readings(text: str) -> Iterator[str]:
    """The text as somebody would read it, and as it stands."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if any(mark in text for mark in ("%", "\\", "&#", "+00")) and _ESCAPED.search(text):
        yield _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    yield text


def _bare(text: str) -> bytes:
    """Its letters and digits of ASCII alone."""
    return text.encode("ascii", "ignore").translate(None, _OTHER)


@lru_cache(maxsize=4)
def _needles(secret: str) -> tuple[tuple[bytes, bool], ...]:
    """What to look for, and whether in small letters."""
    raw = secret.encode("utf-8", "ignore")
    plain = raw.translate(None, _OTHER)
    if len(plain) < LEAST:
        return ()
    hexed = raw.hex().encode()
    found = [(plain, False), (plain[::-1], False), (hexed, True)]
    for shift in range(3):  # where it begins decides how base64 writes it; what its neighbours share is left out
        coded = b64encode(b"\0" * shift + raw)[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]
        for form in (coded, coded.replace(b"+", b"-").replace(b"/", b"_")):
            found.append((form.translate(None, _OTHER), False))
    return tuple(dict.fromkeys(found))


def _spans(bare: bytes, needles: tuple[tuple[bytes, bool], ...]) -> Iterator[tuple[int, int]]:
    """Where in it whole pieces of a needle stand, with what goes on before and behind them."""
    small = bare.lower()
    for needle, in_small in needles:
        hay = small if in_small else bare
        for at in range(0, len(needle) - _PIECE + 1, _PIECE):
            begin = -1
            while (begin := hay.find(needle[at : at + _PIECE], begin + 1)) >= 0:
                low, left = begin, at
                while low and left and hay[low - 1] == needle[left - 1]:
                    low, left = low - 1, left - 1
                high, right = begin + _PIECE, at + _PIECE
                while high < len(hay) and right < len(needle) and hay[high] == needle[right]:
                    high, right = high + 1, right + 1
                yield low, high
                begin = high - 1


def _without(text: str, needles: tuple[tuple[bytes, bool], ...]) -> str:
    found = set(islice(_spans(_bare(text), needles), _MANY))
    if len(found) == _MANY:
        return REMOVED
    places = [n for n, c in enumerate(text) if c.isascii() and c.isalnum()]
    kept, at = [], 0
    for low, high in sorted(found):
        if places[high - 1] >= at:
            kept += [text[at : places[low]], REMOVED] if places[low] >= at else []
            at = places[high - 1] + 1
    return "".join([*kept, text[at:]])


__all__ = ["LEAST", "REMOVED", "Leaks", "inside", "removed"]
