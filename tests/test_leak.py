"""The credential in a text: removed however it is written, and nothing else is touched."""

import base64
import time
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw.config import known_secrets
from nanoclaw.config.leak import REMOVED, Leaks, inside, removed

KEY = "sk-ant-visibly-fake-no7key2At4all-Just3Letters-here9So_it8Be"
B64 = base64.b64encode
WRITTEN = {
    "plain": KEY,
    "in quotes": f'"{KEY}"',
    "backwards": KEY[::-1],
    "hex": KEY.encode().hex(),
    "HEX": KEY.encode().hex().upper(),
    "hex with colons": KEY.encode().hex(":"),
    "a dump": KEY.encode().hex(" ", 2),
    "base64": B64(KEY.encode()).decode(),
    "base64 within more, 1": B64(f"x{KEY}yz".encode()).decode(),
    "base64 within more, 2": B64(f"xy{KEY}yz".encode()).decode(),
    "base64 for urls": base64.urlsafe_b64encode(f"??>{KEY}".encode()).decode(),
    "base64 in lines": base64.encodebytes(KEY.encode()).decode(),
    "url-encoded": quote(KEY, safe="").replace("-", "%2D"),
    "every letter url-encoded": "".join(f"%{ord(c):02x}" for c in KEY),
    "some letters url-encoded": KEY.replace("a", "%61").replace("9", "%39"),
    "as in JSON": "".join(f"\\u{ord(c):04x}" for c in KEY),
    "as in C": "".join(f"\\x{ord(c):02X}" for c in KEY),
    "as in HTML": "".join(f"&#x{ord(c):x};" for c in KEY),
    "with blanks": " ".join(KEY),
    "in lines": "\n".join(KEY[i : i + 7] for i in range(0, len(KEY), 7)),
    "with invisible ones": "\u200b".join(KEY),
    "with marks": "*".join(KEY),
    "wide": "".join(chr(ord(c) + 0xFEE0) for c in KEY),
    "its beginning": KEY[:36],
    "its end": KEY[-34:],
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_it_is_removed_however_it_is_written(written: str) -> None:
    """What stands around it stays, and no long piece of it."""
    clean = removed(f"Here: {written} !", KEY)
    assert REMOVED in clean
    assert clean.startswith("Here: ")
    assert clean.endswith(" !")
    assert removed(clean, KEY) is clean
    assert len(clean) < len(REMOVED) + 24


def test_it_is_removed_each_time() -> None:
    """Also where two stand beside each other."""
    assert removed(f"a {KEY}{KEY} b {KEY[::-1]} c", KEY).count(REMOVED) == 3


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("nothing here", KEY),
        ("", KEY),
        ("sk-ant-visibly", KEY),  # as much as everybody knows of one
        ("test-key", "test-key"),  # too short for a secret
        ("anything", ""),
        ("\ud800 a lone surrogate", KEY),
    ],
)
def test_what_is_no_credential_stays_the_same(text: str, secret: str) -> None:
    """The very same object, so that nobody is told of nothing."""
    assert removed(text, secret) is text


def test_a_credential_that_is_our_own_words_ends_nothing() -> None:
    """Looking for it comes to an end."""
    assert removed("the [credential removed] here", "credentialremoved") == REMOVED


@given(st.text(max_size=200), st.text(max_size=200))
def test_nothing_else_is_touched(before: str, behind: str) -> None:
    """Any text around it; letters of another width come out as plain ones."""
    assert removed(before, KEY) is before
    assert KEY not in removed(f"{before}{KEY}{behind}", KEY)


def test_it_is_found_in_a_file() -> None:
    """Whatever else the file holds."""
    assert inside(b"\x00\xff" + KEY.encode() + b"\n", KEY)
    assert inside("\0".join(KEY).encode(), KEY)  # as Windows writes text
    assert not inside(bytes(range(256)) * 100, KEY)


@pytest.mark.parametrize("piece", ["a", "sk-ant-visibly-fak", "%61", "\uff21", KEY[:15], KEY[:16], KEY, f"{KEY} "])
def test_a_hostile_text_costs_no_time(piece: str) -> None:
    """A letter's megabyte, in any case."""
    begin = time.process_time()
    removed(piece * ((1 << 20) // len(piece.encode())), KEY)
    assert time.process_time() - begin < 2.0


def test_every_credential_that_is_there_is_looked_for(tmp_path: Path) -> None:
    """Also the one that is not used: of the file, where the environment has another."""
    token = "sk-ant-another-fake-oat-5Qm2Zr8Tb1Lc"
    (tmp_path / ".env").write_text(f"ANTHROPIC_API_KEY={KEY}\nCLAUDE_CODE_OAUTH_TOKEN='{token}'\n")
    assert known_secrets(tmp_path, {"ANTHROPIC_API_KEY": "mine"}) == ("mine", KEY, token)
    found: list[str] = []
    leaks = Leaks(partial(known_secrets, tmp_path, {}))
    leaks.found = lambda: found.append("once")
    assert leaks.removed(f"a {token} b") == f"a {REMOVED} b"
    assert leaks.inside(KEY.encode())
    assert leaks.removed("nothing") == "nothing"
    assert found == ["once", "once"]
