"""Each verdict of the judge can fail: evidence in which all is well, and what each spoiled line makes of it."""

from dataclasses import replace
from typing import Any

import pytest

from nanoclaw import notices
from tests.chaos.evidence import Delivered, Evidence, Fired, Heard, Said, Spoken, Turned
from tests.chaos.judge import Verdict, judge

BEN, BENS = "7@lid", 4


def heard(n: int, text: str = "", **more: Any) -> Heard:
    row = Heard(n, BENS, f"A{n}", "ben", "text", text or f"say m{n}", "work", "handled", f"t{n}")
    return replace(row, **more)


def turned(n: int, **more: Any) -> Turned:
    return replace(Turned(f"t{n}", "ben", "done", 1, 0, 1, f"t{n}", ""), **more)


def spoken(n: int, text: str = "", **more: Any) -> Spoken:
    row = Spoken(n, BENS, f"t{n}", "reply", text or f"echo: say m{n}", "sent", 1, 0, f"O{n}", "")
    return replace(row, **more)


def read(n: int, text: str = "") -> Delivered:
    return Delivered(BEN, f"O{n}", text or f"echo: say m{n}")


def said(n: int, **more: Any) -> Said:
    return replace(Said(n, f"A{n}", BEN, f"say m{n}"), **more)


WELL = Evidence(
    (said(1), said(2)), (read(1), read(2)), (heard(1), heard(2)), (turned(1), turned(2)), (spoken(1), spoken(2)),
    {BEN: BENS},
)  # fmt: skip


def also(*texts: str) -> Evidence:
    """More was said, and read."""
    rows, seen = zip(*((spoken(n, text), read(n, text)) for n, text in enumerate(texts, 3)), strict=True)
    return replace(WELL, outgoing=(*WELL.outgoing, *rows), delivered=(*WELL.delivered, *seen))


def promises(found: Evidence) -> set[str]:
    return {fault.promise for fault in judge(found).faults}


def test_all_is_well() -> None:
    """Two messages, two answers: nothing to say, but the line at the end."""
    verdict = judge(WELL)
    assert verdict == Verdict(2, 0, 0, 0, ())
    assert verdict.line(7) == "2 messages, 7 kills: 0 lost, 0 unacknowledged window, 0 doubled after unknown outcome"


def command(text: str = "/stop", **more: Any) -> Heard:
    return heard(3, text, verdict="command", turn_id=None, **more)


LOST = {
    "never taken": replace(WELL, said=(*WELL.said, said(3, acknowledged=False))),
    "no turn": replace(WELL, messages=(heard(1), heard(2, turn_id=None))),
    "taken, and its host lived on": replace(WELL, said=(*WELL.said, said(3, died=False))),
    "a turn that stopped by itself": replace(WELL, turns=(turned(1), turned(2, state="stopped"))),
    "open": replace(WELL, messages=(heard(1), heard(2, state="open", turn_id=None))),
    "a turn that never ended": replace(WELL, turns=(turned(1), turned(2, state="given"))),
    "a parked turn": replace(WELL, turns=(turned(1), turned(2, state="parked"))),
    "a failure that was not told": replace(
        WELL, turns=(turned(1), turned(2, state="failed")), outgoing=(spoken(1),), delivered=(read(1),)
    ),
    "an answer without a row": replace(WELL, outgoing=(spoken(1),), delivered=(read(1),)),
    "an answer that is not sent": replace(WELL, outgoing=(spoken(1), spoken(2, state="queued")), delivered=(read(1),)),
    "an answer to something else": replace(
        WELL, outgoing=(spoken(1), spoken(2, "echo: say m9")), delivered=(read(1), read(2, "echo: say m9"))
    ),
    "a command without an answer": replace(WELL, messages=(heard(1), heard(2), command())),
}


@pytest.mark.parametrize("case", LOST)
def test_what_is_lost(case: str) -> None:
    """One message has not what it is due: it counts, and its story is told."""
    verdict = judge(LOST[case])
    assert verdict.lost == 1
    assert "lost" in {fault.promise for fault in verdict.faults}
    assert "Heard" in verdict.faults[0].story or "Said" in verdict.faults[0].story


MAIN, MAINS = "9@lid", 9
WORDS = "A text for the chat «Ben» on whatsapp could not be delivered and is given up: «no»."
GIVEN_UP = spoken(3, WORDS, kind="notice", chat_id=MAINS, turn_id="")
TOLD = Delivered(MAIN, "O3", WORDS)
FAILED = notices.task_failed(1, spoke=False)

FINE = {
    "context": replace(WELL, messages=(heard(1), heard(2), heard(3, verdict="context", state="open", turn_id=None))),
    "withdrawn": replace(WELL, messages=(heard(1), heard(2), heard(3, state="withdrawn", turn_id=None))),
    "stopped": replace(
        WELL, messages=(*WELL.messages, heard(3), command(id=4)), turns=(*WELL.turns, turned(3, state="stopped")),
        outgoing=(*WELL.outgoing, spoken(3, turn_id="message:4")), delivered=(*WELL.delivered, read(3)),
    ),
    "given up, and main knows": replace(
        WELL, outgoing=(spoken(1), spoken(2, state="dead"), GIVEN_UP), delivered=(read(1), TOLD),
        names={BENS: "Ben"}, main=frozenset({MAINS}), chats={BEN: BENS, MAIN: MAINS},
    ),
    "given up in main": replace(
        WELL, outgoing=(spoken(1), spoken(2, state="dead")), delivered=(read(1),), main=frozenset({BENS})
    ),
    "deleted": replace(
        WELL, said=(said(1), said(2), said(3, kind="delete", target="A2")),
        messages=(heard(1), heard(2, state="withdrawn"), heard(3, verdict="context", turn_id=None)),
    ),
    "a firing and its result": replace(
        WELL, tasks=frozenset({1}), firings=(Fired(1, 5, "done", "t1"), Fired(1, 6, "skipped: overlap", None))
    ),
    "failed firings, told once": replace(
        WELL, turns=(*WELL.turns, turned(3, state="failed"), turned(4, state="failed")),
        firings=(Fired(1, 5, "failed", "t3"), Fired(1, 6, "failed", "t4")),
        outgoing=(*WELL.outgoing, spoken(3, FAILED, turn_id="", kind="notice")),
        delivered=(*WELL.delivered, read(3, FAILED)),
    ),
    "given up by /stop": replace(
        WELL, messages=(heard(1), heard(2, turn_id=None), command()),
        outgoing=(spoken(1), spoken(3, turn_id="message:3")), delivered=(read(1), read(3)),
    ),
    "answered together": replace(
        WELL, turns=(turned(1, answered_by="t2"), turned(2)), outgoing=(spoken(2, "echo: say m1 | say m2"),),
        delivered=(read(2, "echo: say m1 | say m2"),),
    ),
    "failed and told": replace(
        WELL, turns=(turned(1), turned(2, state="failed")), outgoing=(spoken(1), spoken(2, "Sorry", kind="notice")),
        delivered=(read(1), read(2, "Sorry")),
    ),
    "a quote in an echo": replace(
        WELL, outgoing=(spoken(1), spoken(2, 'echo: <quoted-ab id="1">say m1</quoted-ab> say m2')),
        delivered=(read(1), read(2, 'echo: <quoted-ab id="1">say m1</quoted-ab> say m2')),
    ),
    "a command's answer overtakes": replace(
        WELL, outgoing=(spoken(1), spoken(2), spoken(3, "help", kind="command")),
        delivered=(read(3, "help"), read(1), read(2)),
    ),
    "overtaken while it was sent again": replace(
        WELL, said=(said(1, retried=True), said(2)), messages=(heard(1, wa_id="A2"), heard(2, wa_id="A1")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FINE)
def test_what_is_no_fault(case: str) -> None:
    """What looks odd, and is as it should be."""
    assert judge(FINE[case]).faults == ()


def test_the_window_is_a_column_of_its_own() -> None:
    """Acknowledged, and never stored: counted, but no fault."""
    verdict = judge(replace(WELL, said=(*WELL.said, said(3))))
    assert (verdict.window, verdict.lost, verdict.faults) == (1, 0, ())


def test_doubles() -> None:
    """Read twice is allowed where an outcome was unknown, and counted; else it is a fault."""
    twice = replace(WELL, delivered=(*WELL.delivered, read(2)))
    assert promises(twice) == {"doubled"}
    known = judge(replace(twice, outgoing=(spoken(1), spoken(2, unknowns=1))))
    assert (known.doubled, known.faults) == (1, ())


def test_an_answer_that_nobody_read() -> None:
    """A row that says sent must have been read."""
    assert promises(replace(WELL, delivered=(read(1),))) == {"doubled"}


CROSSED = replace(
    WELL, messages=(heard(1, "say m2", wa_id="A2", turn_id="t2"), heard(2, "say m1", wa_id="A1", turn_id="t1"))
)  # fmt: skip


AGAIN = replace(
    WELL,
    outgoing=(*WELL.outgoing, spoken(3, "once more", turn_id="t1")),
    delivered=(*WELL.delivered, read(3, "once more")),
)


def dead(row: Spoken, state: str = "done") -> Evidence:
    """What ben is due is given up; main is another chat, and hears nothing of it."""
    return replace(
        WELL, outgoing=(spoken(1), row), delivered=(read(1),), turns=(turned(1), turned(2, state=state)),
        names={BENS: "Ben"}, main=frozenset({MAINS}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("promise", "found"),
    [
        ("order in", CROSSED),
        ("order out", replace(WELL, delivered=(read(2), read(1)))),
        ("answered twice", also("echo: m2 again")),
        ("acted twice", also("acted m2", "acted m2")),
        ("misjudged", replace(WELL, messages=(heard(1), heard(2, verdict="context", state="open", turn_id=None)))),
        ("misjudged", replace(WELL, messages=(heard(1), heard(2, state="withdrawn")))),
        ("given up in silence", dead(spoken(2, state="dead"))),
        ("given up in silence", dead(spoken(2, "Sorry", kind="notice", state="dead"), "failed")),
        ("fired twice", replace(WELL, firings=(Fired(1, 5, "done", "t1"), Fired(1, 5, "done", "t2")))),
        ("fired twice", replace(AGAIN, firings=(Fired(1, 5, "done", "t1"),))),
        ("lost", replace(WELL, firings=(Fired(1, 5, "open", None),))),
        ("lost", replace(WELL, turns=(*WELL.turns, turned(3, state="failed")), firings=(Fired(1, 5, "failed", "t3"),))),
        ("woken in vain", replace(WELL, firings=(Fired(1, 5, "done", "t1", prompt="!say slept m1"),))),
        ("lost", replace(WELL, tasks=frozenset({1}), firings=(Fired(1, 5, "skipped: overlap", None),))),
        ("fired twice", also("fired m2", "fired m2")),
        ("lost", replace(WELL, firings=(Fired(1, 5, "failed", "t9"),))),
        ("integrity", replace(WELL, integrity="row 7 missing from index")),
        ("orphan", replace(WELL, orphans=("process 7",))),
        ("orphan", replace(WELL, living_runs=1)),
        ("leftover", replace(WELL, leftovers=("runs/0a",))),
        ("unsent", replace(WELL, outgoing=(*WELL.outgoing, spoken(3, "x", state="unknown")))),
        ("descriptors", replace(WELL, sizes=((50, 9000),) * 8 + ((80, 9000),) * 4)),
        ("memory", replace(WELL, sizes=((50, 9000),) * 8 + ((50, 12000),) * 4)),
    ],
)  # fmt: skip
def test_every_promise_can_be_broken(promise: str, found: Evidence) -> None:
    """One line is spoiled, and that promise and no other is named."""
    assert promises(found) == {promise}


def test_what_a_phone_could_not_decrypt() -> None:
    """WhatsApp has taken it: what the library sealed wrongly is not the host's to know."""
    assert judge(replace(WELL, delivered=(read(1),), unreadable=frozenset({"O2"}))).faults == ()


def test_few_lives_say_nothing_of_growth() -> None:
    """Chance alone would make one of three hosts the largest."""
    assert judge(replace(WELL, sizes=((50, 9000), (90, 9000), (90, 20000)))).faults == ()
