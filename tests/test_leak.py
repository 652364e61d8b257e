"""The credential in a text: removed however it is written, and nothing else is touched."""

import base64
import time
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw import safefs
from nanoclaw.config import known_secrets
from nanoclaw.config.leak import OVERLAP, REMOVED, Leaks, inside, removed

KEY = "sk-ant-api03-visibly0Fake-no7key2At4all-Just3Letters-here9So_it8Be-AA"  # of the real ones' form
OTHER = "visibly-fake-words-of-a-proxy"  # of no form
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
    "its beginning": KEY[:44],
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
        ("sk-ant-api03-visibly", KEY),  # as much as everybody knows of one
        ("sk-ant-oat01-visibly", KEY.replace("api03", "oat01")),
        ("sk-ant-api03-", KEY),
        (b"sk-ant-api03-".hex(), KEY),
        (b"sk-ant-api03-".hex(" "), KEY),
        (B64(b"sk-ant-api03-your-key-here").decode(), KEY),
        (B64(b"export ANTHROPIC_API_KEY=sk-ant-api03-...").decode(), KEY),
        (B64(b" export ANTHROPIC_API_KEY=sk-ant-api03-...").decode(), KEY),
        (B64(b"  export ANTHROPIC_API_KEY=sk-ant-api03-...").decode(), KEY),
        ("sk-ant-api03-"[::-1], KEY),
        ("visibly fake words of a proxy", OTHER),
        ("key", "key"),  # too short for a secret
        ("a placeholder", "placeholder"),  # a word
        ("anything", ""),
        ("\ud800 a lone surrogate", KEY),
    ],
)
def test_what_is_no_credential_stays_the_same(text: str, secret: str) -> None:
    """The very same object, so that nobody is told of nothing."""
    assert removed(text, secret) is text


def test_a_credential_that_is_our_own_words_ends_nothing() -> None:
    """Looking for it comes to an end."""
    assert removed("the [credential removed] here", "credential removed") == REMOVED


@pytest.mark.parametrize("secret", ["f4ke-key", "visibly-f4ke", "sk-ant-api03-visibly-fake"])
def test_a_short_one_is_removed_as_it_stands(secret: str) -> None:
    """With what stands between its letters; written otherwise it passes."""
    assert removed(f"the {secret}, you know", secret) == f"the {REMOVED}, you know"


@pytest.mark.parametrize("written", [OTHER, OTHER[::-1], OTHER.encode().hex(), B64(OTHER.encode()).decode()])
def test_one_that_is_made_of_words_is_removed_with_what_stands_between_them(written: str) -> None:
    """Ordinary talk of the same words is not."""
    assert removed(f"the {written}, you know", OTHER).startswith(f"the {REMOVED}")


@pytest.mark.parametrize("written", [KEY, "".join(f"%{ord(c):02x}" for c in KEY), KEY.encode().hex()])
def test_the_rest_stays_as_it_was(written: str) -> None:
    """Escapes, wide letters and marks too."""
    text = "see https://example.org/a%20b%C3%A4 \x41 ①½ｶＡ à {} %41"
    assert removed(text.format(written), KEY) == text.format(REMOVED)


@given(st.text(max_size=200), st.text(max_size=200))
def test_nothing_else_is_touched(before: str, behind: str) -> None:
    """Any text around it."""
    assert removed(before, KEY) is before
    assert removed(f"{before}-{KEY}-{behind}", KEY) == f"{before}-{REMOVED}-{behind}"


def test_it_is_found_in_a_file() -> None:
    """Whatever else the file holds."""
    assert inside(b"\x00\xff" + KEY.encode() + b"\n", KEY)
    assert inside("\0".join(KEY).encode(), KEY)  # as Windows writes text
    assert inside("".join(f"%{ord(c):02x}" for c in KEY).encode(), KEY)
    assert not inside(bytes(range(256)) * 100, KEY)


def test_it_is_found_in_all_of_a_large_file(tmp_path: Path) -> None:
    """Also far behind its beginning, and where two pieces of it meet."""
    leaks = Leaks(lambda: [KEY, OTHER])
    for place, key in ((5 << 20, KEY), ((1 << 20) - 40, KEY), ((1 << 20) - 8, OTHER)):
        (tmp_path / "large").write_bytes(b"\0" * place + key.encode() + b"\0" * 100)
        assert leaks.inside(safefs.read_pieces(tmp_path, "large", 1 << 20, OVERLAP))
    (tmp_path / "large").write_bytes(b"\0" * (5 << 20))
    assert not leaks.inside(safefs.read_pieces(tmp_path, "large", 1 << 20, OVERLAP))


_HOSTILE = [
    "a", "sk-ant-visibly-fak", "%61", "\uff21", KEY[:15], KEY[:16], KEY[13:28], KEY[13:29], KEY, f"{KEY} ",
    "\u0300\u0316", "\u0300", "\U0001d400",
]  # fmt: skip


@pytest.mark.parametrize("piece", _HOSTILE)
def test_a_hostile_text_costs_no_time(piece: str) -> None:
    """A letter's megabyte, in any case."""
    begin = time.thread_time()
    removed("a" + piece * ((1 << 20) // len(piece.encode())), KEY)
    assert time.thread_time() - begin < 2.0


def test_every_credential_that_is_there_is_looked_for(tmp_path: Path) -> None:
    """Also the one that is not used: of the file, where the environment has another."""
    token = "sk-ant-another-fake-oat-5Qm2Zr8Tb1Lc"
    (tmp_path / ".env").write_text(f"ANTHROPIC_API_KEY={KEY}\nCLAUDE_CODE_OAUTH_TOKEN='{token}'\n")
    assert known_secrets(tmp_path, {"ANTHROPIC_API_KEY": "mine"}) == ("mine", KEY, token)
    found: list[str] = []
    leaks = Leaks(partial(known_secrets, tmp_path, {}))
    leaks.found = lambda: found.append("once")
    assert leaks.removed(f"a {token} b") == f"a {REMOVED} b"
    assert leaks.inside([KEY.encode()])
    assert leaks.removed("nothing") == "nothing"
    assert found == ["once", "once"]
