"""Letters cross the wall whole, in order and once; whatever is no letter is set aside by name."""

import asyncio
import os
from pathlib import Path

import pytest

from nanoclaw import mailbox
from nanoclaw.mailbox import (
    MAX_LETTER,
    Alive,
    Answer,
    Close,
    Event,
    Hello,
    Letter,
    LetterError,
    Open,
    OutboxAbuse,
    OutboxReader,
    OutboxWriter,
    Prompt,
    ProtocolMismatch,
    Reply,
    Request,
    Stop,
    TurnDone,
    Watch,
    decode_to_agent,
    decode_to_host,
    encode,
    put_letter,
    take_letter,
)
from tests.fakes import LIMIT

TO_AGENT = [Open("r", "m", "s", 3), Prompt("t", 'text\n"é'), Answer(1, True, "Sent."), Stop("t"), Close("why")]
TO_HOST = [
    *(Hello("b", "c"), Alive("t"), Event("t", "text", "x"), Request(1, "t", "send_message", {"text": "x"})),
    *(Reply(("t", "u"), "x"), Reply((), "x"), TurnDone(("t",), "error", "s", 529, "e", 0.25)),
]


@pytest.mark.parametrize("letter", TO_AGENT, ids=lambda x: x.kind)
def test_letters_to_the_agent_come_back_as_they_were(letter: Letter) -> None:
    """Encode and decode are each other's inverse."""
    assert decode_to_agent(encode(letter)) == letter


@pytest.mark.parametrize("letter", TO_HOST, ids=lambda x: x.kind)
def test_letters_to_the_host_come_back_as_they_were(letter: Letter) -> None:
    """Encode and decode are each other's inverse."""
    assert decode_to_host(encode(letter)) == letter


HOSTILE = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"v": 2}',
    b'{"v": 2, "type": "open", "run": "r", "model": "m"}',  # the other direction
    b'{"v": 2, "type": ["hello"]}',
    b'{"v": 2, "type": "hello", "build": "b"}',
    b'{"v": 2, "type": "hello", "build": 1, "cli": ""}',
    b'{"v": 2, "type": "alive", "turn": "a", "turn": "b"}',
    b'{"v": 2, "type": "reply", "turns": "abc", "text": "x"}',
    b'{"v": 2, "type": "reply", "turns": [1], "text": "x"}',
    b'{"v": 2, "type": "reply", "turns": [' + b'"t",' * 1000 + b'"t"], "text": "x"}',
    b'{"v": 2, "type": "request", "n": true, "turn": "t", "tool": "x"}',
    b'{"v": 2, "type": "request", "n": 1.5, "turn": "t", "tool": "x"}',
    b'{"v": 2, "type": "request", "n": -1, "turn": "t", "tool": "x"}',
    b'{"v": 2, "type": "request", "n": ' + b"9" * 30 + b', "turn": "t", "tool": "x"}',
    b'{"v": 2, "type": "request", "n": ' + b"9" * 5000 + b', "turn": "t", "tool": "x"}',
    b'{"v": 2, "type": "request", "n": 1, "turn": "t", "tool": "x", "args": []}',
    b'{"v": 2, "type": "done", "turns": [], "outcome": "ok", "cost": NaN}',
    b'{"v": 2, "type": "done", "turns": [], "outcome": "ok", "cost": Infinity}',
    b'{"v": 2, "type": "done", "turns": [], "outcome": "ok", "cost": 1e999}',
    b'{"v": 2, "type": "done", "turns": [], "outcome": "ok", "cost": -1}',
    b'{"v": 2, "type": "done", "turns": [], "outcome": "ok", "cost": ' + b"9" * 400 + b"}",
    b'{"v": 2, "type": "alive", "turn": "' + b"x" * MAX_LETTER + b'"}',
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_line_is_refused_without_its_text(line: bytes) -> None:
    """LetterError and nothing else, with a message that is safe to log."""
    with pytest.raises(LetterError) as e:
        decode_to_host(line)
    assert len(str(e.value)) < 200


@pytest.mark.parametrize("line", [b"{}", b'{"v": 3, "type": "hello"}', b'{"v": "2", "type": "hello"}'])
def test_another_protocol_is_named(line: bytes) -> None:
    """Host and image of different versions tell it apart from a broken letter."""
    with pytest.raises(ProtocolMismatch):
        decode_to_host(line)


def test_unknown_keys_are_ignored_and_missing_ones_have_their_default() -> None:
    """A letter may grow without a new protocol."""
    assert decode_to_host(b'{"v": 2, "type": "alive", "mood": "fine"}') == Alive("")


def test_a_letter_too_long_is_not_written() -> None:
    """The limit holds at both ends."""
    with pytest.raises(LetterError):
        encode(Reply((), "x" * MAX_LETTER))


def test_a_lone_surrogate_does_not_break_a_letter() -> None:
    """It becomes a question mark."""
    assert decode_to_host(encode(Reply((), "a\ud800b"))) == Reply((), "a?b")


def test_an_inbox_letter_is_written_once(tmp_path: Path) -> None:
    """Writing it again changes nothing; one that is not there yet is None."""
    put_letter(tmp_path, 1, Prompt("t", "first"))
    put_letter(tmp_path, 1, Prompt("t", "second"))
    assert take_letter(tmp_path, 1) == Prompt("t", "first")
    assert take_letter(tmp_path, 2) is None
    assert [p.name for p in tmp_path.iterdir()] == ["00000001.json"]


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    path = tmp_path / "out.ndjson"
    path.touch()
    return path


def test_lines_are_read_in_order_and_once(outbox: Path) -> None:
    """The offset moves behind what was handed out, and a reader that starts there gets the rest."""
    writer, reader = OutboxWriter(outbox), OutboxReader(outbox)
    writer.put(Alive("1"), Alive("2"))
    assert [decode_to_host(x) for x in reader.read()] == [Alive("1"), Alive("2")]
    assert reader.read() == []
    writer.put(Alive("3"))
    later = OutboxReader(outbox, reader.offset)
    assert [decode_to_host(x) for x in later.read()] == [Alive("3")]
    for x in (writer, reader, later):
        x.close()


def test_half_a_line_waits_for_its_end(outbox: Path) -> None:
    """What has no newline yet is no letter."""
    reader = OutboxReader(outbox)
    line = encode(Alive("1"))
    with outbox.open("ab", buffering=0) as f:
        f.write(line[:10])
        assert reader.read() == []
        f.write(line[10:])
    assert reader.read() == [line[:-1]]
    reader.close()


def test_more_than_one_batch_is_read_in_turns(outbox: Path) -> None:
    """A flood comes in pieces of whole lines, and nothing is lost between them."""
    line = encode(Event("t", "text", "x" * 900_000))
    outbox.write_bytes(line * 9)
    reader = OutboxReader(outbox)
    counts = []
    while lines := reader.read():
        counts.append(len(lines))
    assert sum(counts) == 9
    assert len(counts) > 1
    reader.close()


@pytest.mark.parametrize("size", [MAX_LETTER + 1, OutboxReader.BATCH, OutboxReader.BATCH * 2])
def test_a_line_without_end_is_abuse(outbox: Path, size: int) -> None:
    """The host never keeps more of a line than a letter may have."""
    outbox.write_bytes(b"x" * size)
    reader = OutboxReader(outbox)
    with pytest.raises(OutboxAbuse):
        reader.read()
    reader.close()


def test_a_file_that_shrinks_is_abuse(outbox: Path) -> None:
    """What was read cannot be taken back."""
    outbox.write_bytes(encode(Alive("1")) * 2)
    reader = OutboxReader(outbox)
    reader.read()
    os.truncate(outbox, 5)
    with pytest.raises(OutboxAbuse):
        reader.read()
    reader.close()


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_only_a_regular_file_is_an_outbox(tmp_path: Path, kind: str) -> None:
    """Whatever else stands there is refused, at once."""
    path = tmp_path / "out.ndjson"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/etc/passwd")
    with pytest.raises((OutboxAbuse, OSError)):
        OutboxReader(path)


async def test_a_watch_wakes_at_a_change_at_a_ring_and_after_its_poll(outbox: Path) -> None:
    """Three ways to wake; none is missed that came before the wait."""
    watch = Watch(outbox, poll=60)
    with outbox.open("ab") as f:
        f.write(b"x")
    async with asyncio.timeout(LIMIT):
        await watch.wait()
        watch.ring()
        await watch.wait()
    watch.close()
    slow = Watch(outbox, poll=0.01)
    async with asyncio.timeout(LIMIT):
        await slow.wait()
    slow.close()


async def test_a_watch_without_inotify_polls(outbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel's events do not reach, the poll goes on alone."""
    monkeypatch.setattr(mailbox.ctypes, "CDLL", lambda *a, **k: object())
    watch = Watch(outbox, poll=0.01)
    async with asyncio.timeout(LIMIT):
        await watch.wait()
    watch.close()
