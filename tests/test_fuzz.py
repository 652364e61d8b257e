"""Anything at all, into every parser that reads what others write: it is understood or refused, and nothing else.

The same examples each time, 100 a test. For a long hunt with new ones (which are kept and tried first the next time):
`NANOCLAW_FUZZ=20000 ./nanoclaw.sh test tests/test_fuzz.py`.
"""

import contextlib
import copy
import json
import os
import re
import ssl
import tempfile
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nanoclaw import prompts, schedule
from nanoclaw.channels.control_sock import _unpack
from nanoclaw.channels.markup import for_whatsapp
from nanoclaw.channels.whatsapp.content import Dropped, Message
from nanoclaw.channels.whatsapp.content import read as read_content
from nanoclaw.config.reading import decoded, faults, parsed
from nanoclaw.config.schema import KEYS, Config
from nanoclaw.errors import ConfigError, NanoClawError, Refused
from nanoclaw.gateway.addresses import refusal
from nanoclaw.gateway.connect import Denied, target
from nanoclaw.gateway.hello import NotAllowed, asks_again, behind_hello, check_first, check_second
from nanoclaw.gateway.hosts import check_pattern, host_name, matches
from nanoclaw.gateway.request import rebuild
from nanoclaw.mailbox import TO_AGENT, TO_HOST, LetterError, decode_to_agent, decode_to_host, encode
from nanoclaw.mounts import Allowlist, allowlist, check_target

EXAMPLES = int(os.environ.get("NANOCLAW_FUZZ", "0"))
fuzz = settings(
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)

TEXT = st.text(max_size=30) | st.sampled_from(
    ["", "\0", "\ud800", "\u202e", "..", "../x", "/", "x" * 5000, "NaN", "\r\n", "{}", "é", "0", "-1", "🏳️‍🌈"]
)
NUMBER = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, -1, 2**31, 2**53, 2**63, 1e308, 10**400])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda x: st.lists(x, max_size=5) | st.dictionaries(TEXT, x, max_size=5),
    max_leaves=8,
)


@st.composite
def bent(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with a few of them changed, taken out, put in or cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "remove", "insert", "cut", "repeat"])):
            case "change" if data:
                data[at] = draw(st.integers(0, 255))
            case "remove":
                del data[at : at + draw(st.integers(1, 20))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=20))
            case "cut":
                del data[at:]
            case "repeat":
                data[at:at] = data[max(0, at - 40) : at]
    return bytes(data)


# --- letters -------------------------------------------------------------------------------------

KINDS = {**TO_HOST, **TO_AGENT}
NAMES = sorted({name for kind in KINDS.values() for name in kind.__dataclass_fields__})
LETTER = st.fixed_dictionaries(
    {"v": st.just(2) | JSON, "type": st.sampled_from(sorted(KINDS)) | JSON},
    optional={name: JSON | st.sampled_from([["t"], "t", 1, 0.5, {}]) for name in NAMES},
)
HONEST = b'{"v": 2, "type": "done", "turns": ["t"], "outcome": "ok", "session": "s", "cost": 0.5, "status": 200}'


@fuzz
@given(st.binary(max_size=200) | LETTER.map(lambda x: json.dumps(x).encode()) | bent(HONEST))
def test_a_line_is_a_letter_or_refused(line: bytes) -> None:
    """Of the right types, so that it can be written again and is the same; the fault says nothing of its text."""
    for decode in (decode_to_host, decode_to_agent):
        told = ""
        try:
            letter = decode(line)
        except LetterError as no:
            told = str(no)
            continue
        finally:
            assert len(told) < 200
        if not any("\ud800" <= c <= "\udfff" for c in repr(letter)) and "\\ud" not in repr(letter):
            assert decode(encode(letter)) == letter


@fuzz
@given(st.binary(max_size=100) | JSON.map(lambda x: json.dumps(x).encode()))
def test_a_frame_of_the_command_line_is_one_or_refused(line: bytes) -> None:
    """An object, or the error that closes that one connection."""
    with contextlib.suppress(NanoClawError):
        assert isinstance(_unpack(line), dict)


# --- files of the owner's ------------------------------------------------------------------------

VALUE = st.sampled_from(["true", "1", "-1", "1e999", "nan", "''", '"a"', "[]", "[[]]", "{}", "1979-05-27", '"""', "["])
LINE = st.tuples(st.sampled_from([*KEYS, "home", "x.y", '"\u202e"', "[name]", "[[a]]"]), VALUE | TEXT).map(" = ".join)


@fuzz
@given(st.lists(LINE | TEXT, max_size=6).map("\n".join), st.dictionaries(st.sampled_from(KEYS), TEXT, max_size=3))
@example("a = " + "[" * 5000, {})
@example("a" + ".a" * 5000 + " = 1", {})
def test_any_text_is_settings_or_refused(text: str, environment: dict[str, str]) -> None:
    """With a word on where the fault is; and all faults are found without an error of the finder."""
    environ = {f"NANOCLAW_{key.upper()}": value for key, value in environment.items()}
    path = Path("/nowhere/nanoclaw.toml")
    try:
        assert isinstance(parsed(path, text, path.parent, environ).config, Config)
        assert faults(path, text, path.parent, environ) == []
    except ConfigError:
        assert faults(path, text, path.parent, environ)


@fuzz
@given(st.binary(max_size=100))
def test_any_bytes_are_a_text_or_refused(data: bytes) -> None:
    """Whatever an editor leaves there."""
    with contextlib.suppress(ConfigError):
        decoded(Path("/nowhere"), data)


ROOT = st.tuples(st.sampled_from(["path", "read_write", "description", "x"]), VALUE | TEXT.map(json.dumps))
ROOTS = st.lists(ROOT.map(" = ".join), max_size=4).map(lambda x: "\n".join(["[[allowed_roots]]", *x]))
ALLOWED = st.lists(
    ROOTS | st.tuples(st.sampled_from(["blocked_names", "non_main_read_only"]), VALUE).map(" = ".join), max_size=4
)


@fuzz
@given(ALLOWED.map("\n".join).map(lambda x: x.encode("utf-8", "replace")) | st.binary(max_size=60))
@example(b"blocked_names = " + b"[" * 5000)
def test_any_file_is_an_allowlist_or_denies(data: bytes) -> None:
    """A broken one opens nothing; what it opens is an absolute path without a way up."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / allowlist.FILE).write_bytes(data)
        found = allowlist.read(Path(folder))
    if isinstance(found, Allowlist):
        assert all(Path(root.path).is_absolute() and ".." not in Path(root.path).parts for root in found.roots)
    else:
        assert "can be granted" in found


@fuzz
@given(TEXT)
def test_a_place_inside_is_plain_or_refused(text: str) -> None:
    """Where a folder of the owner's shall stand in the container."""
    with contextlib.suppress(Refused):
        assert not set(check_target(text).split("/")) & {"..", "."}


# --- what a phone sends --------------------------------------------------------------------------


@st.composite
def nested(draw: st.DrawFn) -> Message:
    """A message in a message in a message, deeper than any phone wraps them, with more text than anybody reads."""
    message = inner = Message()
    for _ in range(draw(st.integers(0, 40))):
        match draw(st.sampled_from(["ephemeral", "once", "edited", "quoted", "device", "caption"])):
            case "ephemeral":
                inner = inner.ephemeralMessage.message
            case "once":
                inner = inner.viewOnceMessageV2.message
            case "edited":
                inner = inner.protocolMessage.editedMessage
            case "quoted":
                inner.extendedTextMessage.text = draw(TEXT.map(_sound))
                inner = inner.extendedTextMessage.contextInfo.quotedMessage
            case "device":
                inner = inner.deviceSentMessage.message
            case "caption":
                inner = inner.documentWithCaptionMessage.message
    inner.conversation = draw(TEXT.map(_sound)) * draw(st.sampled_from([1, 1, 1, 1000]))
    return message


def _sound(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@fuzz
@given(nested())
def test_a_message_of_any_depth_is_read_or_dropped(message: Message) -> None:
    """Bounded in length, whatever is in it."""
    with contextlib.suppress(Dropped):
        assert len(read_content(message).text) <= 100_000


# --- what an agent asks of the model's API -------------------------------------------------------

CLI = json.loads(Path(__file__).with_name("cli_requests.json").read_text("utf-8"))
BODIES = [case["body"] for case in CLI if isinstance(case.get("body"), dict)] if isinstance(CLI, list) else []
BODIES += [{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}]
TOP = {"model", "messages", "system", "tools", "tool_choice", "max_tokens", "stream", "temperature", "top_p", "top_k"}
TOP |= {"stop_sequences", "metadata", "thinking", "output_config", "context_management"}
LEADS_OUT = {"url", "file_id", "mcp_servers", "mcp_server_name", "container", "server_name", "allowed_callers"}
WAY_OUT = st.sampled_from(
    [
        {"type": "url", "url": "https://example.org"},
        {"type": "image", "source": {"type": "url", "url": "https://example.org"}},
        {"type": "file", "file_id": "f"},
        {"type": "mcp_toolset", "mcp_server_name": "x"},
        {"type": "web_fetch_20250910", "name": "web_fetch"},
        {"type": "code_execution_20250825", "name": "code_execution"},
        {"type": "container_upload", "file_id": "f"},
        {"type": "server_tool_use", "id": "x", "name": "x", "input": {}},
    ]
)


@st.composite
def asked(draw: st.DrawFn) -> Any:
    """An honest request, with a value or a key of it made anything."""
    body = copy.deepcopy(draw(st.sampled_from(BODIES)))
    for _ in range(draw(st.integers(0, 3))):
        at = body
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = draw(st.sampled_from(keys)) if keys else None
            if key is not None and isinstance(at[key], dict | list) and draw(st.integers(0, 3)):
                at = at[key]
                continue
            value = copy.deepcopy(draw(JSON | WAY_OUT))
            if isinstance(at, dict):
                at[draw(TEXT | st.sampled_from(sorted(LEADS_OUT)) | st.just(key or "x"))] = value
            else:
                at.append(value)
            break
    return body


def _blocks(value: Any) -> Any:
    """Every object that the provider reads; a client's tool's arguments and schemas are shown to the model alone."""
    if isinstance(value, dict):
        yield value
        for key, inner in value.items():
            if key not in ("input", "input_schema", "keep"):
                yield from _blocks(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _blocks(inner)


@fuzz
@given(asked())
def test_a_request_is_on_the_allowlist_or_refused(body: Any) -> None:
    """By a look of its own at what would go out, beside the table that it was built by."""
    try:
        out = json.loads(rebuild(json.dumps(body).encode("utf-8", "replace"), search=False))
    except Refused:
        return
    assert set(out) <= TOP
    for block in _blocks(out):
        assert not LEADS_OUT & set(block)
        assert not re.match(
            "web_|code_|mcp_|server_|container|memory_|computer|bash_|url$|file$", str(block.get("type"))
        )


# --- the way out ---------------------------------------------------------------------------------


def _hello(name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


GOOD = "files.example.org"
# As the library makes them each time, but for chance: that would be other examples each time.
HELLO = re.sub(rb"(?s)^(.{11}).{32}", lambda m: m[1] + bytes(32), _hello(GOOD))[:-80] + bytes(80)


@fuzz
@given(bent(HELLO) | st.binary(max_size=80) | st.binary(max_size=80).map(lambda x: b"\x16\x03\x01" + x), st.booleans())
def test_first_words_name_the_host_or_do_not_pass(words: bytes, tls: bool) -> None:
    """Whatever passes by TLS has the one allowed name in it."""
    for check in (lambda: check_first(words, GOOD, tls=tls), lambda: check_second(words, GOOD)):
        try:
            passes = check()
        except NotAllowed:
            continue
        if passes and words[:1] == b"\x16":
            assert GOOD.encode() in words.lower()
            behind_hello(words)
    asks_again(words)


@fuzz
@given(TEXT | st.from_regex(r"[a-z0-9.*:\[\]-]{1,40}", fullmatch=True), st.integers(-1, 70_000))
def test_a_host_an_address_and_a_port_are_or_are_not(text: str, port: int) -> None:
    """A kept pattern covers itself; no address is a name; whatever is written gets an answer."""
    with contextlib.suppress(Refused):
        kept = check_pattern(text)
        assert check_pattern(kept) == kept
        name, _, at = kept.partition(":")
        assert matches(kept, name.replace("*", "a"), int(at or 443))
    with contextlib.suppress(Refused):
        assert refusal(host_name(text)) == "is no address"
    refusal(text)
    with contextlib.suppress(Denied):
        host, _ = target(f"CONNECT {text}:{port} HTTP/1.1\r\n\r\n".encode("utf-8", "replace"))
        assert host_name(host) == host


# --- words ---------------------------------------------------------------------------------------

MARKS = st.text(st.sampled_from("*_~`#>-+[]()!|<>&\\\n\r\t 1.)ab\u2060\ufdd0\0é🏳️‍🌈:/"), max_size=200)


@fuzz
@given(MARKS | st.text(max_size=200), st.sampled_from([1, 1, 50]), st.integers(64, 4000))
@example("> " * 2000, 1, 4000)
@example("[" * 5000, 1, 4000)
@example("- " * 3000, 1, 4000)
@example("*" * 5000, 1, 4000)
@example("`" * 5000, 1, 4000)
@example("| a " * 2000 + "\n" + "|-" * 2000, 1, 4000)
def test_any_text_becomes_bounded_parts(text: str, times: int, limit: int) -> None:
    """Never an error, no part over the limit, and not much more than was written."""
    parts = for_whatsapp(text * times, limit)
    assert all(0 < len(part) <= limit for part in parts)
    assert sum(map(len, parts)) <= 8 * len(text * times) + 100


@fuzz
@given(TEXT | MARKS, st.integers(1, 100))
def test_words_of_others_are_made_harmless(text: str, cap: int) -> None:
    """Names, excerpts and frames: no line end in a name, nothing longer than its cap, nothing that closes a frame."""
    assert "\n" not in prompts.clean_name(text)
    assert len(prompts.excerpt(text, cap)) <= cap + 1
    prompts.for_people(text)
    assert "".join(prompts.split(text, max(cap, 10))).replace(" ", "") is not None
    assert "\0" not in prompts.plain(text)


# --- times ---------------------------------------------------------------------------------------

BERLIN = ZoneInfo("Europe/Berlin")
FIELD = st.from_regex(r"[0-9*/,\-#lLW?a-z]{1,8}", fullmatch=True)
CRON = st.lists(FIELD, min_size=4, max_size=6).map(" ".join) | TEXT
GIVEN = st.dictionaries(st.sampled_from(schedule.KEYS), CRON | JSON, max_size=2)


@fuzz
@given(GIVEN, st.integers(0, 2**42))
@example({"cron": "0 0 31 2 *"}, 0)
@example({"once": "9999-12-31 23:59"}, 0)
@example({"once": "0001-01-01 00:00"}, 0)
@example({"every": 10**400}, 0)
def test_a_time_is_understood_or_refused(given_: dict[str, object], now: int) -> None:
    """It comes out of the store as it went in, and fires later than now or never."""
    try:
        found = schedule.parse(given_, BERLIN, now)
    except Refused:
        return
    assert schedule.load(schedule.dump(found)) == found
    due = schedule.next_fire(found, now, BERLIN)
    assert due is None or due > now
    schedule.describe(found, BERLIN)


@fuzz
@given(JSON.map(json.dumps) | st.text(max_size=50))
def test_a_damaged_row_is_damaged_and_no_error(text: str) -> None:
    """Somebody edited the database."""
    with contextlib.suppress(ValueError):  # which the store takes for a damaged one
        found = schedule.load(text)
        schedule.next_fire(found, 0, BERLIN)
        schedule.describe(found, BERLIN)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 100_000, b'"' + b"\\" * 100_001, b"1" * 100_000, b"\xff" * 9]
)
def test_a_bomb_of_json_is_refused(body: bytes) -> None:
    """Depth, digits and halves of characters."""
    with pytest.raises(Refused):
        rebuild(body, search=False)
    with pytest.raises(LetterError):
        decode_to_host(body)
