"""The one-time code of a number of its own: who sends it in a direct chat is the owner; all else is silence."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw.channels.control_sock import connect
from nanoclaw.errors import NanoClawError
from nanoclaw.models import Account, Group, Incoming, Sender, Verdict
from nanoclaw.router import hear
from nanoclaw.store import Tx, ledger, owners
from tests.fakes import hosting, rows_of_one_group, said

CODE = "04711815"
US = ("1@lid", "100@s.whatsapp.net")
THEM = ("7@lid", "49151@s.whatsapp.net")
NOW = 10_000_000


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[tuple[Tx, Group]]:
    with rows_of_one_group(tmp_path / "db") as (tx, group):
        owners.meet_account(tx, Account("test", US, False), 1)
        owners.new_claim(tx, CODE, NOW)
        yield tx, group


def sent(text: str, **more: object) -> Incoming:
    return replace(said(text), chat=THEM, sender=Sender(THEM, "Ann"), at=NOW, **more)  # type: ignore[arg-type]


def verdict(tx: Tx, msg: Incoming, now: int = NOW) -> Verdict | None:
    heard = hear(tx, msg, now)
    return None if heard is None else heard.verdict


def queued(tx: Tx) -> list[str]:
    return [r["payload"] for r in tx.execute("SELECT payload FROM outgoing")]


@pytest.mark.parametrize("text", [CODE, "0471 1815", " 04-71-18-15\n"])
def test_the_code_makes_the_owner(rows: tuple[Tx, Group], text: str) -> None:
    """The chat is main's, is greeted once, and the code is neither kept nor work."""
    tx, _ = rows
    msg = sent(text)
    heard = hear(tx, msg, NOW + 599_000)
    assert heard is not None
    assert (heard.verdict, heard.lane, heard.told) == (Verdict.COMMAND, "main", True)
    assert len(queued(tx)) == 1
    assert "you are my owner now" in queued(tx)[0]
    assert [r["text"] for r in tx.execute("SELECT text FROM messages")] == ["[code]"]
    assert hear(tx, msg, NOW) is None
    assert verdict(tx, sent("hello")) is Verdict.WORK
    (row,) = tx.execute("SELECT p.role FROM people p JOIN person_jids j ON j.person_id = p.id WHERE jid = ?", THEM[:1])
    assert row["role"] == "owner"


def test_it_counts_once(rows: tuple[Tx, Group]) -> None:
    """The next one who sends it is a stranger."""
    tx, _ = rows
    verdict(tx, sent(CODE))
    other = ("9@lid",)
    assert verdict(tx, replace(sent(CODE), chat=other, sender=Sender(other, "Bob"))) is Verdict.DROPPED


SILENT = [
    ("wrong", sent("12345678"), NOW),
    ("late", sent(CODE), NOW + 600_000),
    ("in a group", sent(CODE, is_group=True), NOW),
    ("typed on our own phone", sent(CODE, from_me=True), NOW),
    ("of nobody", replace(sent(CODE), sender=Sender(())), NOW),
    ("within a text", sent(f"my code is {CODE}"), NOW),
    ("too long", sent(CODE + "1"), NOW),
    ("other digits", sent("٠٤٧١١٨١٥"), NOW),
]


@pytest.mark.parametrize(("what", "msg", "now"), SILENT)
def test_all_else_is_silence(rows: tuple[Tx, Group], what: str, msg: Incoming, now: int) -> None:
    """Nothing is said, nobody becomes anything, nothing of the text is kept."""
    tx, _ = rows
    assert verdict(tx, msg, now) is Verdict.DROPPED
    assert queued(tx) == []
    assert tx.execute("SELECT count(*) FROM messages").fetchone()[0] == 0
    assert tx.execute("SELECT count(*) FROM people WHERE name IN ('Ann', 'Bob')").fetchone()[0] == 0


def of(sender: str, text: str, wa_id: str = "") -> Incoming:
    """A direct message of somebody else's."""
    msg = replace(sent(text), chat=(sender,), sender=Sender((sender,), "Eve"))
    return replace(msg, wa_id=wa_id) if wa_id else msg


def test_who_sent_five_wrong_ones_is_out(rows: tuple[Tx, Group]) -> None:
    """Nobody else is; what has not the shape of a code costs nothing, what comes again counts once."""
    tx, _ = rows
    for n in range(4):
        for _ in range(2):
            verdict(tx, of("6@lid", f"1234567{n}", wa_id=f"w{n}"))
        verdict(tx, of("6@lid", "hello?"))
    verdict(tx, of("5@lid", "12345678"))
    before = ledger.claim(tx)
    verdict(tx, of("6@lid", "12345679"))
    assert ledger.claim(tx) != before
    for text in ("12345670", CODE):
        assert verdict(tx, of("6@lid", text)) is Verdict.DROPPED
    assert verdict(tx, of("5@lid", CODE)) is Verdict.COMMAND


def test_after_thirty_wrong_ones_it_is_void(rows: tuple[Tx, Group]) -> None:
    """However many people sent them."""
    tx, _ = rows
    for n in range(29):
        verdict(tx, of(f"{n % 7}@lid", "12345678"))
    assert ledger.claim(tx) is not None
    verdict(tx, of("8@lid", "12345678"))
    assert ledger.claim(tx) is None
    assert verdict(tx, sent(CODE)) is Verdict.DROPPED


def test_a_code_that_was_heard_before_is_no_news(rows: tuple[Tx, Group]) -> None:
    """WhatsApp may bring the same message again when its sender is an owner no more."""
    tx, _ = rows
    msg = sent(CODE)
    assert verdict(tx, msg) is Verdict.COMMAND
    owners.new_claim(tx, CODE, NOW)
    tx.execute("UPDATE chats SET group_id = NULL")
    tx.execute("UPDATE people SET role = 'guest'")
    assert verdict(tx, msg) is None
    assert verdict(tx, sent(CODE)) is Verdict.COMMAND


def test_on_a_shared_number_no_code_counts(rows: tuple[Tx, Group]) -> None:
    """The account is the owner there."""
    tx, _ = rows
    owners.meet_account(tx, Account("test", US, True), 1)
    assert verdict(tx, sent(CODE)) is Verdict.DROPPED


def test_a_new_code_replaces_the_old_one_and_is_kept_as_a_hash(rows: tuple[Tx, Group]) -> None:
    """One at a time."""
    tx, _ = rows
    assert owners.new_claim(tx, "99999999", NOW) == NOW + 600_000
    assert not any("99999999" in r["value"] for r in tx.execute("SELECT value FROM meta"))
    assert verdict(tx, sent(CODE)) is Verdict.DROPPED
    assert verdict(tx, sent("9999 9999")) is Verdict.COMMAND


async def test_without_a_number_of_its_own_there_is_no_code(folder: Path) -> None:
    """The verb says why."""
    async with hosting(folder) as host, await connect(host.config.home / "control.sock") as client:
        with pytest.raises(NanoClawError, match="number of its own"):
            await client.call("claim")


async def test_the_verb_makes_a_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight digits and until when they count; what it says is what counts."""
    monkeypatch.setattr("nanoclaw.app.host._whatsapp", lambda *_: ())
    async with hosting(folder, whatsapp="own") as host, await connect(host.config.home / "control.sock") as client:
        answer = await client.call("claim")
        assert re.fullmatch(r"[0-9]{8}", str(answer["code"]))
        assert 590_000 < int(answer["until"]) - host.clock() <= 600_000
        assert await host.store.write(owners.claims, str(answer["code"]), "7@lid", "w", host.clock())
