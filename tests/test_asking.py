"""ask_user: who answers it and how, what is no answer, and who works while an agent waits."""

import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from nanoclaw.control.questions import answered, chosen, worded
from nanoclaw.models import Chat, Incoming, Role, Sender
from nanoclaw.store import Tx, chats
from tests.fakes import Hosted, hosting, living
from tests.story import abandoned, eventually_rows, until_state

ASK = '!call ask_user {"question": "Which day?", "options": ["Today", "Tomorrow"]%s}\n!report'
DAY = "Which day?\n\n1. Today\n2. Tomorrow\n\nPlease answer with a number."


async def ask(host: Hosted, chat: str, more: str = "", sender: str = "Ann") -> None:
    """Somebody makes the agent ask them, and sees the question."""
    await host.channel.say(chat, ASK % more, sender)
    await host.channel.until(lambda: DAY in host.channel.to(chat))


async def verdict(host: Hosted, text: str) -> str:
    (row,) = await host.rows("SELECT verdict FROM messages WHERE text = ?", text)
    return str(row["verdict"])


@pytest.mark.parametrize(
    ("text", "told"),
    [("2", "2: Tomorrow"), ("2.", "2: Tomorrow"), ("tomorrow!", "2: Tomorrow"), ("@Andy 1", "1: Today")],
)
async def test_an_option_is_the_answer_and_no_prompt(folder: Path, text: str, told: str) -> None:
    """By number or words, with the assistant's name before it or not; no turn is made of it."""
    async with hosting(folder) as host:
        await host.group("family", Ann=Role.GUEST)
        await ask(host, "family")
        await host.channel.say("family", text, "Ann")
        await host.channel.until(2)
        assert host.channel.texts[1] == f'tools: ok "Ann" chose {told}'
        assert await verdict(host, text) == "answer"
        assert await host.rows("SELECT 1 FROM questions") == []
        assert len(await host.rows("SELECT 1 FROM turns")) == 1


async def test_what_quotes_the_question_is_the_answer(folder: Path) -> None:
    """Whatever it says; it comes in a frame, and in a group nothing else does."""
    async with hosting(folder) as host:
        await host.group("family", Ann=Role.GUEST)
        await ask(host, "family")
        await eventually_rows(host, "SELECT 1 FROM outgoing WHERE wa_id = 'sent-1'")
        who = Sender(("jid:Ann",), "Ann")
        quoting = Incoming("test", ("family",), "q1", "<message-x> never", who, host.clock(), is_group=True)
        assert host.channel.ears is not None
        await host.channel.ears.hear(replace(quoting, wa_id="q0", text="on Friday"))  # quotes nothing: a follow-up
        await host.channel.ears.hear(replace(quoting, quoted="sent-1"))
        await host.channel.until(2)
        assert "<answer-" in host.channel.texts[1]
        assert 'from="Ann"' in host.channel.texts[1]
        assert "\u2039message-x> never" in host.channel.texts[1]
        assert await verdict(host, "on Friday") == "work"


async def test_others_do_not_answer_for_somebody(folder: Path) -> None:
    """Their "2" is what it always was; the one who was asked still answers."""
    async with hosting(folder) as host:
        await host.group("family", Ann=Role.GUEST, Bob=Role.OWNER)
        await ask(host, "family")
        await host.channel.say("family", "2", "Bob")
        assert await verdict(host, "2") == "work"
        await host.channel.say("family", "1", "Ann")
        await host.channel.until(2)
        assert host.channel.texts[1].startswith('tools: ok "Ann" chose 1: Today')


async def direct(host: Hosted, text: str, *, ago: int = 0) -> None:
    """Ann says it to the assistant alone, so many milliseconds ago."""
    await host.channel.until(lambda: host.channel.ears is not None)
    assert host.channel.ears is not None
    who, wa_id = Sender(("jid:Ann",), "Ann"), secrets.token_hex(8)
    await host.channel.ears.hear(Incoming("test", ("ann",), wa_id, text, who, host.clock() - ago, chat_name="ann"))


async def test_what_was_said_before_the_question_is_no_answer(folder: Path) -> None:
    """Nor while nobody has been sent it: nobody answers what they have not seen."""
    async with hosting(folder) as host:
        await host.group("ann", Ann=Role.GUEST)
        await host.store.write(lambda tx: tx.execute("UPDATE chats SET is_group = 0 WHERE name = 'ann'").rowcount)
        await host.channel.until(lambda: host.channel.ears is not None)
        host.channel.connected = False
        await direct(host, '!call ask_user {"question": "Shall I delete it?"}\n!report')
        await eventually_rows(host, "SELECT 1 FROM questions")
        await host.channel.until(lambda: host.channel.tries)  # while that lasts, nobody knows whether it is seen
        await eventually_rows(host, "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM outgoing WHERE state = 'sending')")
        await direct(host, "yes, do buy milk")
        assert await verdict(host, "yes, do buy milk") == "work"
        host.channel.connected = True
        await host.poke("ann")
        await eventually_rows(host, "SELECT 1 FROM outgoing WHERE state = 'sent'")
        await direct(host, "and bread", ago=60_000)  # it was on its way for a minute
        assert await verdict(host, "and bread") == "work"
        await direct(host, "yes")
        assert await verdict(host, "yes") == "answer"


def ask_more(tx: Tx) -> int:
    """The same run asks another thing, too."""
    tx.execute(
        "INSERT INTO requests(run_id, n, turn_id, tool, args, state)"
        " SELECT run_id, n + 50, turn_id, tool, args, state FROM requests WHERE tool = 'ask_user'"
    )
    tx.execute(
        "INSERT INTO outgoing(chat_id, turn_id, part, kind, payload, state, created_at, wa_id, sent_at, next_try)"
        " SELECT chat_id, turn_id, 5, kind, 'Which cake?', 'sent', created_at, 'sent-9', sent_at, created_at + 50000"
        " FROM outgoing LIMIT 1"
    )
    return tx.execute(
        "INSERT INTO questions SELECT run_id, n + 50, chat_id, person_id, (SELECT max(id) FROM outgoing),"
        " '[\"Plum\", \"Apple\"]', asked_at, patience, until, '' FROM questions"
    ).rowcount


# The state of the newer one, what is said, what that quotes; then which of the two has it: in a group, where two talk.
TWO = [
    ("queued", "2", "", ["2", ""], ["2", ""]),  # the other one is not seen yet
    ("sent", "2", "", ["", ""], ["", "2"]),  # of which of the two? where two are alone, of the newer one
    ("sent", "apple", "", ["", "apple"], ["", "apple"]),
    ("sent", "today", "", ["today", ""], ["today", ""]),  # the newest with that option
    ("sent", "neither", "", ["", ""], ["", "neither"]),
    ("sent", "2", "sent-1", ["2", ""], ["2", ""]),
    ("sent", "2", "sent-9", ["", "2"], ["", "2"]),
    ("sent", "2", "another", ["", ""], ["", ""]),
]


async def test_of_two_questions_the_one_that_is_meant_is_answered(folder: Path) -> None:
    """The one that is quoted, or the only one that it can be an answer to; in a group nothing is guessed."""
    async with hosting(folder) as host:
        await host.group("family", Ann=Role.GUEST)
        await ask(host, "family")
        await eventually_rows(host, "SELECT 1 FROM outgoing WHERE wa_id = 'sent-1'")
        await host.store.write(ask_more)
        chat, ann = (await host.rows("SELECT chat_id, person_id FROM questions LIMIT 1"))[0].values()
        said = Incoming("test", ("family",), "q1", "", Sender(("jid:Ann",), "Ann"), host.clock())

        def taken(tx: Tx, text: str, quoted: str, state: str, *, is_group: bool) -> list[str]:
            tx.execute("UPDATE questions SET answer = ''")
            tx.execute("UPDATE outgoing SET state = ? WHERE wa_id = 'sent-9'", (state,))
            where = replace(chats.chat(tx, chat), is_group=is_group)
            answered(tx, where, ann, replace(said, text=text, quoted=quoted), host.clock())
            return [row["answer"] for row in tx.execute("SELECT answer FROM questions ORDER BY n")]

        def all_taken(tx: Tx) -> None:
            tx.execute("UPDATE questions SET options = '[]' WHERE n > 50")  # "How many guests come?" stands last
            assert taken(tx, "2", "", "sent", is_group=False) == ["", "2"]
            assert taken(tx, "2", "", "sent", is_group=True) == ["2", ""]
            tx.execute('UPDATE questions SET options = \'["Plum", "Apple"]\' WHERE n > 50')
            for state, text, quoted, in_group, alone in TWO:
                assert taken(tx, text, quoted, state, is_group=True) == in_group
                assert taken(tx, text, quoted, state, is_group=False) == alone

        await host.store.write(all_taken)


async def test_in_a_direct_chat_any_text_is_the_answer(folder: Path) -> None:
    """Nobody else is there who could be meant; a command stays one."""
    async with hosting(folder) as host:
        await host.group("ann", Ann=Role.GUEST)
        await host.store.write(lambda tx: tx.execute("UPDATE chats SET is_group = 0 WHERE name = 'ann'").rowcount)
        assert host.channel.ears is not None

        async def say(wa_id: str, text: str) -> None:
            who = Sender(("jid:Ann",), "Ann")
            assert host.channel.ears is not None
            await host.channel.ears.hear(Incoming("test", ("ann",), wa_id, text, who, host.clock(), chat_name="ann"))

        await host.channel.until(lambda: host.channel.ears is not None)
        await say("a1", '!call ask_user {"question": "What shall I buy?"}\n!report')
        await host.channel.until(1)
        assert host.channel.texts == ["What shall I buy?"]
        await say("a2", "/help")
        await host.channel.until(2)
        await say("a3", "milk, and bread")
        await host.channel.until(3)
        assert "milk, and bread" in host.channel.texts[2]


async def test_nobody_answers(folder: Path) -> None:
    """The agent is told so when the time is up, and goes on; what comes later is a message like any other."""
    async with hosting(folder) as host:
        await host.group("family", Ann=Role.GUEST)
        await ask(host, "family", ', "minutes": 1')
        host.clock.advance(61)
        await host.store.write(lambda tx: tx.execute("UPDATE questions SET until = until").rowcount)
        await host.channel.until(2)
        assert host.channel.texts[1].startswith("tools: ok Nobody answered within 1 min")
        await host.channel.say("family", "2", "Ann")
        await host.channel.until(3)
        assert host.channel.texts[2] == "echo: 2"


async def test_who_waits_gives_their_slot_away(folder: Path) -> None:
    """With one slot, another chat is answered while this one waits; then this one goes on."""
    async with hosting(folder, max_runs=1) as host:
        await host.group("family", Ann=Role.GUEST)
        await host.group("friends", Bob=Role.GUEST)
        await ask(host, "family")
        await host.channel.say("friends", "hello", "Bob")
        await host.channel.until(lambda: host.channel.to("friends") == ["echo: hello"])
        await host.channel.say("family", "2", "Ann")
        await host.channel.until(lambda: len(host.channel.to("family")) == 2)
        await until_state(host, "done", "done")
        await host.channel.say("friends", "again", "Bob")  # and the count of slots is right
        await host.channel.until(lambda: len(host.channel.to("friends")) == 2)


async def test_what_is_said_while_an_agent_waits_joins_when_it_goes_on(folder: Path) -> None:
    """A run without a slot is given nothing; once it has one again, what was said meanwhile enters its turn."""
    async with hosting(folder, max_runs=1) as host:
        await host.group("family", Ann=Role.OWNER, Bob=Role.OWNER)
        await host.group("friends", Cem=Role.GUEST)
        go = host.path("go")
        await host.channel.say("family", ASK.replace("!report", f"!wait {go}\n!report") % "", "Ann")
        await host.channel.until(lambda: DAY in host.channel.to("family"))
        await host.channel.say("family", "and buy milk", "Bob")
        await host.channel.say("friends", "hello", "Cem")
        await host.channel.until(lambda: host.channel.to("friends") == ["echo: hello"])
        assert await host.rows("SELECT state, turn_id FROM messages WHERE text = 'and buy milk'") == [
            {"state": "open", "turn_id": None}
        ]
        await host.channel.say("family", "2", "Ann")
        await eventually_rows(
            host, "SELECT 1 FROM messages m JOIN turns t ON t.id = m.turn_id"
            " WHERE m.text = 'and buy milk' AND t.state = 'given'"
        )  # fmt: skip
        go.touch()
        await host.channel.until(lambda: len(host.channel.to("family")) == 2)
        assert host.channel.to("family")[1] == 'tools: ok "Ann" chose 2: Tomorrow\necho: and buy milk'
        assert [spec.lane for spec in host.sandbox.opened].count("family") == 1


async def test_a_turn_that_is_stopped_while_it_waits(folder: Path) -> None:
    """Its slot is counted right, and the next message is answered; a late "2" answers nothing."""
    async with hosting(folder, max_runs=1) as host:
        await host.group("family", Ann=Role.OWNER)
        await host.group("friends", Bob=Role.GUEST)
        await ask(host, "family", sender="Ann")
        await host.channel.say("family", "/stop", "Ann")
        await until_state(host, "stopped")
        await host.channel.say("family", "2", "Ann")
        await host.channel.until(lambda: "echo: 2" in host.channel.to("family"))
        for n in range(2):
            await host.channel.say("friends", f"hello {n}", "Bob")
            await host.channel.until(lambda n=n: f"echo: hello {n}" in host.channel.to("friends"))


async def test_a_question_outlives_its_host(folder: Path) -> None:
    """The next host takes the answer; its time begins anew, and the question is not asked again."""
    from tests.fakes import ProcessSandbox

    sandbox = ProcessSandbox(folder / "registry")
    try:
        async with abandoned(folder, sandbox) as host:
            await host.group("family", Ann=Role.GUEST)
            await ask(host, "family")
            await eventually_rows(host, "SELECT 1 FROM questions")
            await host.store.write(lambda tx: tx.execute("UPDATE questions SET until = 5").rowcount)
        async with living(folder, sandbox) as host:
            await eventually_rows(host, "SELECT 1 FROM questions WHERE until > 5")
            await host.channel.until(lambda: host.channel.ears is not None)
            await host.channel.say("family", "2", "Ann")
            await host.channel.until(1)
            assert host.channel.texts == ['tools: ok "Ann" chose 2: Tomorrow']
    finally:
        sandbox.kill_all()


@pytest.mark.parametrize(
    ("text", "which"),
    [
        ("1", 0), (" 2. ", 1), ("#3", 2), ("4", None), ("0", None), ("B", 1), ("b.", 1), ("  a  ", 0),
        ("10 apples", 2), ("a or b", None), ("", None), ("1 2", None), ("12", None), ("no", None), ("²", None),
    ],
)  # fmt: skip
def test_which_option_is_meant(text: str, which: int | None) -> None:
    """Its number, or its words whatever their case; nothing is guessed."""
    assert chosen(("A", "B", "10 apples"), text) == which


def test_a_question_says_how_to_answer() -> None:
    """By number; in a group by a reply; in a direct chat there is nothing to explain."""
    group = Chat(1, "test", "x", "x", True, 1)
    assert worded("Which?", ("A", "B"), group) == "Which?\n\n1. A\n2. B\n\nPlease answer with a number."
    assert worded("Which?", (), group) == "Which?\n\nPlease reply to this message."
    assert worded("Which?", (), replace(group, is_group=False)) == "Which?"
