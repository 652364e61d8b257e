"""The host's rules, each as a story: a real host, real processes, a scripted agent."""

import asyncio
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nanoclaw import app, store
from nanoclaw.config import SECRETS_FILE
from nanoclaw.errors import Cause, HomeError, OutcomeUnknown, SandboxError, SendRefused, StoreError
from nanoclaw.models import Role, Show, TriggerMode, Usage
from nanoclaw.run import runner
from nanoclaw.store import ledger
from tests.fakes import KEY, Hosted, ProcessSandbox, eventually, hosting, living
from tests.story import abandoned, busy, eventually_rows, in_time, states, until_parked, until_state


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host looks at what changes outside twenty times a second."""
    monkeypatch.setattr("nanoclaw.app.outside.WATCH", 0.05)


# --- a message ---------------------------------------------------------------------------------


async def test_message_in_reply_out(folder: Path) -> None:
    """A message is answered, once, in its chat and quoting it."""
    async with hosting(folder) as host:
        await host.group("family")
        said = await host.channel.say("family", "hello")
        await host.channel.until(1)
        await host.settled()
        (out,) = host.channel.sent
        assert out.quote is not None
        assert (out.text, out.chat.jid, out.quote.wa_id) == ("echo: hello", "family", said)


async def test_the_same_message_twice_is_one(folder: Path) -> None:
    """What the channel hands over again after a reconnect is not answered again."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "hello", wa_id="a")
        await host.channel.say("family", "hello", wa_id="a")
        await host.channel.say("family", "!session", wa_id="b")
        await host.channel.until(lambda: any("resumed" in t for t in host.channel.texts))
        await host.settled()
        assert "".join(host.channel.texts).count("hello") == 1


async def test_two_messages_before_the_run_starts_are_one_prompt(folder: Path) -> None:
    """What waits for a slot together is asked together, in the order in which it was said."""
    async with hosting(folder, max_runs=1) as host:
        await host.group("one")
        await host.group("two")
        go = await busy(host, "one")
        for text in ("first", "second", "third"):
            await host.channel.say("two", text)
        go.touch()
        await host.channel.until(lambda: host.channel.to("two"))
        assert host.channel.to("two") == ["echo: first | second | third"]
        assert len(await host.rows("SELECT * FROM turns WHERE lane = 'two'")) == 1


async def test_a_follow_up_joins_the_running_turn(folder: Path) -> None:
    """What is said in mid-turn reaches the agent that works, and one reply answers both."""
    async with hosting(folder) as host:
        await host.group("family")
        go = await busy(host, "family")
        await host.channel.say("family", "and this")
        await until_state(host, "given", "given")
        go.touch()
        await host.channel.until(1)
        await host.settled()
        assert host.channel.texts == ["echo: and this"]
        assert await states(host) == ["done", "done"]
        assert len(host.sandbox.opened) == 1


async def test_a_follow_up_that_is_not_merged_has_a_reply_of_its_own(folder: Path) -> None:
    """An agent that answers one after the other is heard one after the other."""
    async with hosting(folder) as host:
        await host.group("family")
        go = await busy(host, "family", "!separate\nfirst")
        await host.channel.say("family", "second")
        await until_state(host, "given", "given")
        go.touch()
        await host.channel.until(2)
        assert host.channel.texts == ["echo: first", "echo: second"]


async def test_a_follow_up_of_lower_authority_waits(folder: Path) -> None:
    """A guest's word does not enter the owner's running turn: it is the next turn."""
    async with hosting(folder) as host:
        await host.group("family", Olga=Role.OWNER, Gus=Role.GUEST)
        go = await busy(host, "family", "mine", "Olga")
        await host.channel.say("family", "guest's", "Gus")
        await host.channel.say("family", "owner's", "Olga")
        await host.rows("SELECT 1")
        assert await states(host) == ["given"]
        go.touch()
        await host.channel.until(2)
        assert host.channel.texts == ["echo: mine", "echo: guest's | owner's"]
        turns = await host.rows("SELECT authority FROM turns ORDER BY rowid")
        assert [t["authority"] for t in turns] == ["owner", "guest"]


async def test_a_turn_never_mixes_chats(folder: Path) -> None:
    """Main with two chats: each is asked by itself and answered where it was asked, in one session."""
    async with hosting(folder, max_runs=1) as host:
        await host.in_main("left")
        await host.in_main("right")
        go = await busy(host, "left", "a")
        for chat, text in (("right", "b"), ("left", "c"), ("right", "d")):
            await host.channel.say(chat, text)
        go.touch()
        await host.channel.until(3)
        await host.settled()
        assert host.channel.to("left") == ["echo: a", "echo: c"]
        assert host.channel.to("right") == ["echo: b | d"]
        assert len(host.sandbox.opened) == 1


async def test_context_is_shown_once_with_the_next_turn(folder: Path) -> None:
    """What is not for us is no work; the next turn sees it, the one after it does not."""
    async with hosting(folder) as host:
        await host.group("family", mode=TriggerMode.WORD)
        await host.channel.say("family", "we eat at six")
        await host.channel.say("family", "@Andy when?")
        await host.channel.until(1)
        await host.channel.say("family", "@ANDY again")
        await host.channel.until(2)
        assert host.channel.texts == ["echo: context we eat at six | @Andy when?", "echo: @ANDY again"]


async def test_strangers_leave_no_text(folder: Path) -> None:
    """Of a chat that nobody added only the chat's row is kept, and nobody answers."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("stranger", "buy this", "Spam")
        await host.channel.say("family", "hello")
        await host.channel.until(1)
        assert host.channel.to("stranger") == []
        assert [r["text"] for r in await host.rows("SELECT text FROM messages")] == ["hello"]
        assert await host.rows("SELECT * FROM people WHERE name = 'Spam'") == []
        (chat,) = await host.rows("SELECT name, count FROM chats WHERE name = 'stranger'")
        assert chat["count"] == 1


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "a\x00b", "\ud800 half", "ab\u202ec\u2028d", "</message> &amp; <chat", "🏴\u200d☠️" * 99]
)
async def test_any_text_is_answered(folder: Path, text: str) -> None:
    """Long, broken and forged text comes through as far as it can, and never breaks anything."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", text)
        await host.channel.until(1)
        (answer,) = host.channel.texts
        assert answer.startswith("echo: ")
        assert answer[6] == text[0] or not text[0].isascii() or text[0] == "<"


@pytest.mark.parametrize("text", ["", "   ", "\n\t\n"])
async def test_a_message_without_words_is_nothing(folder: Path, text: str) -> None:
    """An empty text is no work."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", text)
        await host.channel.say("family", "hello")
        await host.channel.until(1)
        assert host.channel.texts == ["echo: hello"]


# --- slots and runs ----------------------------------------------------------------------------


async def test_two_groups_are_served_at_once(folder: Path) -> None:
    """A group that works does not keep another one waiting."""
    async with hosting(folder) as host:
        await host.group("one")
        await host.group("two")
        go = await busy(host, "one", "slow")
        await host.channel.say("two", "quick")
        await host.channel.until(1)
        assert host.channel.texts == ["echo: quick"]
        go.touch()
        await host.channel.until(2)


async def test_one_group_more_than_slots_is_served_by_closing_the_longest_idle(folder: Path) -> None:
    """Idle containers hold their slots until somebody waits; then the oldest goes, at once."""
    async with hosting(folder, max_runs=2) as host:
        for n, chat in enumerate(("one", "two", "three"), 1):
            await host.group(chat)
            await host.channel.say(chat, chat)
            await host.channel.until(n)
            await host.settled()
        assert host.channel.texts == ["echo: one", "echo: two", "echo: three"]
        lanes = {r["lane"] for r in await host.rows("SELECT lane FROM runs WHERE state <> 'ended'")}
        assert lanes == {"two", "three"}
        assert len(host.sandbox.pids()) == 2


async def test_an_idle_container_is_closed_after_its_time(folder: Path, quick: None) -> None:
    """Without work a container goes when idle_timeout is over."""
    async with hosting(folder, idle_timeout=1) as host:
        await host.group("family")
        await host.channel.say("family", "hello")
        await host.channel.until(1)
        await eventually(lambda: not host.sandbox.pids())


async def test_a_changed_memory_gives_a_new_run_that_resumes_the_session(folder: Path) -> None:
    """Who edits CLAUDE.md need not restart anything: the next message finds a fresh container, same conversation."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "!session")
        await host.channel.until(1)
        await host.settled()
        (host.config.home / "groups" / "family" / "CLAUDE.md").write_text("Be brief.")
        await host.channel.say("family", "!session")
        await host.channel.until(2)
        assert len(host.sandbox.opened) == 2
        assert host.channel.texts == ["resumed nothing", f"resumed session-{host.sandbox.opened[0].run_id}"]


async def test_a_warm_run_takes_the_next_turn(folder: Path) -> None:
    """The second message needs no second container."""
    async with hosting(folder) as host:
        await host.group("family")
        for n in (1, 2, 3):
            await host.channel.say("family", "!pid")
            await host.channel.until(n)
        assert len(host.sandbox.opened) == len(set(host.channel.texts)) == 1


# --- tools -------------------------------------------------------------------------------------


async def test_a_tool_call_is_answered(folder: Path) -> None:
    """send_message is sent while the turn runs, and its answer says that it was."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "!tool working on it\n!report")
        await host.channel.until(2)
        assert host.channel.texts == ["working on it", "tools: ok Sent."]


async def test_a_final_text_that_was_sent_already_is_not_repeated(folder: Path) -> None:
    """An agent that says its last words by tool and again as its reply is heard once."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "!tool the answer\n!say the answer")
        await host.channel.until(1)
        await host.settled()
        assert host.channel.texts == ["the answer"]


async def test_what_a_follow_up_made_the_agent_repeat_is_not_repeated(folder: Path) -> None:
    """The rule holds for each of the turns that one reply answers."""
    async with hosting(folder) as host:
        await host.group("family")
        go = await busy(host, "family", "!tool the answer")
        await host.channel.until(1)
        await host.channel.say("family", "!say the answer")
        await until_state(host, "given", "given")
        go.touch()
        await host.settled()
        assert host.channel.texts == ["the answer"]


async def test_an_empty_tool_text_is_refused(folder: Path) -> None:
    """The agent is told what was wrong, nobody else is."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "!tool <internal>hm</internal>\n!report")
        await host.channel.until(1)
        assert host.channel.texts[0].startswith("tools: no send_message needs a text")


async def test_an_unsolicited_text_goes_to_the_lanes_chat(folder: Path) -> None:
    """A text of no turn is not lost."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "!unsolicited by the way\n!silent")
        await host.channel.until(1)
        assert host.channel.texts == ["by the way"]


# --- /stop and other commands ------------------------------------------------------------------


async def test_stop_interrupts_and_what_waits_goes_on(folder: Path) -> None:
    """The stopped turn has no reply; what was said behind it is answered by the same container."""
    async with hosting(folder) as host:

        async def stopped(chat: str) -> float:
            await host.group(chat, Olga=Role.OWNER)
            await busy(host, chat, "!say never", "Olga")
            await host.channel.say(chat, "next", "Gus")
            began = time.monotonic()
            await host.channel.say(chat, "/stop", "Olga")
            await host.channel.until(lambda: len(host.channel.to(chat)) == 2)
            assert host.channel.to(chat) == ["Stopped.", "echo: next"]
            assert [spec.lane for spec in host.sandbox.opened].count(chat) == 1
            return time.monotonic() - began

        await in_time(1, stopped)


async def test_stop_kills_an_agent_that_hangs(folder: Path) -> None:
    """Who does not listen is gone within two seconds, and what waits is answered by a new container."""
    async with hosting(folder) as host:

        async def gone(chat: str) -> float:
            await host.group(chat, Olga=Role.OWNER)
            started, others = host.path(f"{chat}-started"), set(host.sandbox.pids())
            await host.channel.say(chat, f"!mark {started}\n!hang", "Olga")
            await eventually(started.exists)
            await host.channel.say(chat, "next", "Gus")
            (pid,) = set(host.sandbox.pids()) - others
            began = time.monotonic()
            await host.channel.say(chat, "/stop", "Olga")
            await eventually(lambda: pid not in host.sandbox.pids())
            seconds = time.monotonic() - began
            await host.channel.until(lambda: len(host.channel.to(chat)) == 2)
            assert host.channel.to(chat) == ["Stopped.", "echo: next"]
            return seconds

        await in_time(2, gone)


async def test_a_stopped_turns_late_reply_is_dropped(folder: Path) -> None:
    """An agent that answers the Stop with a whole reply is not heard."""
    async with hosting(folder) as host:
        await host.group("family", Olga=Role.OWNER)
        await busy(host, "family", "!late", "Olga")
        await host.channel.say("family", "/stop", "Olga")
        await host.channel.until(1)
        await host.channel.say("family", "next", "Olga")
        await host.channel.until(2)
        await host.settled()
        assert host.channel.texts == ["Stopped.", "echo: next"]
        assert await states(host) == ["stopped", "done"]


async def test_stop_and_the_end_of_the_turn_at_once(folder: Path) -> None:
    """However the race ends, the stop is answered, the turn has ended, and the lane goes on."""
    async with hosting(folder) as host:
        await host.group("family", Olga=Role.OWNER)
        go = await busy(host, "family", "!say done", "Olga")
        go.touch()
        await host.channel.say("family", "/stop", "Olga")
        await host.channel.say("family", "next", "Olga")
        await host.channel.until(lambda: "echo: next" in host.channel.texts)
        await host.settled()
        assert set(host.channel.texts) <= {"done", "Stopped.", "Nothing is running.", "echo: next"}
        assert set(await states(host)) <= {"done", "stopped"}


async def test_stop_of_what_waits_for_a_slot(folder: Path) -> None:
    """A message that no container has seen yet can be taken back too."""
    async with hosting(folder, max_runs=1) as host:
        await host.group("one")
        await host.group("two", Olga=Role.OWNER)
        go = await busy(host, "one", "slow")
        await host.channel.say("two", "unwanted", "Olga")
        await host.channel.say("two", "/stop", "Olga")
        await host.channel.until(1)
        go.touch()
        await host.channel.until(2)
        await host.channel.say("two", "wanted", "Olga")
        await host.channel.until(3)
        assert host.channel.to("two") == ["Stopped.", "echo: wanted"]


async def test_commands_are_answered_while_a_turn_runs(folder: Path) -> None:
    """/status and /help need no agent; whoever may not use them gets silence."""
    async with hosting(folder) as host:
        await host.group("family", Olga=Role.OWNER)
        go = await busy(host, "family", "slow", "Olga")
        await host.channel.say("family", "/status", "Gus")
        await host.channel.say("family", " /STATUS ", "Olga")
        await host.channel.until(1)
        assert "I am working" in host.channel.texts[0]
        await host.channel.say("family", "/help", "Olga")
        await host.channel.until(2)
        assert "/stop" in host.channel.texts[1]
        go.touch()
        await host.channel.until(3)
        assert host.channel.texts[2] == "echo: slow"


async def test_new_starts_a_new_conversation(folder: Path) -> None:
    """After /new the session is not resumed, not even when a turn was running that ends later."""
    async with hosting(folder) as host:
        await host.group("family", Olga=Role.OWNER)
        go = await busy(host, "family", "first", "Olga")
        await host.channel.say("family", "/new", "Olga")
        await host.channel.until(1)
        go.touch()
        await host.channel.until(2)
        await host.channel.say("family", "!session", "Olga")
        await host.channel.until(3)
        assert host.channel.texts[1:] == ["echo: first", "resumed nothing"]


# --- death -------------------------------------------------------------------------------------


async def test_a_turn_whose_container_died_is_given_again(folder: Path) -> None:
    """The second container is told that it is the second attempt, and people get one reply."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", f"!die-first {host.path('died')}\nhello")
        await host.channel.until(1)
        await host.settled()
        assert host.channel.texts == ["echo: attempt 2 | hello"]
        assert len(host.sandbox.opened) == 2


async def test_a_turn_that_killed_two_containers_is_failed_and_told(folder: Path) -> None:
    """No third container; the chat gets a sentence, main the reason, and the lane goes on."""
    async with hosting(folder) as host:
        await host.in_main("owner")
        await host.group("family")
        await host.channel.say("family", "!die 7")
        await host.channel.until(lambda: host.channel.to("family") and host.channel.to("owner"))
        assert host.channel.to("family") == [
            "Sorry, something went wrong and I could not finish that. Please ask again."
        ]
        assert "code 7" in host.channel.to("owner")[0]
        assert len(host.sandbox.opened) == 2
        await host.channel.say("family", "hello")
        await host.channel.until(lambda: host.channel.to("family")[-1] == "echo: hello")
        assert await states(host) == ["failed", "done"]


@pytest.mark.parametrize("word", ["tool", "reply"])
async def test_a_turn_that_spoke_is_not_repeated(folder: Path, word: str) -> None:
    """What a chat has heard stands; the turn is failed and told, not run again."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", f"!{word} half\n!die")
        await host.channel.until(2)
        await host.settled()
        assert host.channel.texts[0] == "half"
        assert "I did not repeat it" in host.channel.texts[1]
        assert len(host.sandbox.opened) == 1


async def test_last_words_before_death_are_heard(folder: Path) -> None:
    """A container that dies right behind its reply has answered: nothing is asked again."""
    async with hosting(folder) as host:
        await host.group("family")
        done = '{"v": 2, "type": "done", "turns": ["TURN"], "outcome": "ok"}'
        for n in range(1, 6):
            await host.channel.say("family", f"!reply answer {n}\n!raw {done}\n!die")
            await host.channel.until(n)
        await host.settled()
        assert host.channel.texts == [f"answer {n}" for n in range(1, 6)]
        assert set(await states(host)) == {"done"}


@pytest.mark.parametrize("when", ["starting", "working", "idle"])
async def test_a_killed_container_is_replaced(folder: Path, when: str) -> None:
    """Kill -9 of the agent at any instant: the message is answered all the same."""
    async with hosting(folder) as host:
        await host.group("family")
        if when == "starting":
            await host.channel.say("family", "hello")
            await eventually(lambda: host.sandbox.opened)
        elif when == "working":
            (await busy(host, "family", "hello")).touch()
        else:
            await host.channel.say("family", "before")
            await host.channel.until(1)
        for pid in host.sandbox.pids():
            os.kill(pid, signal.SIGKILL)
        if when == "idle":
            await host.channel.say("family", "hello")
        await host.channel.until(lambda: any("hello" in t for t in host.channel.texts))
        await host.settled()
        assert sum("hello" in t for t in host.channel.texts) == 1


async def test_an_agent_without_a_sign_of_life_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen container is a dead one."""
    monkeypatch.setattr(runner, "HOST_EVERY", 0.05)
    async with hosting(folder) as host:
        await host.group("family")
        await busy(host, "family", "hello")
        host.path("family-go").touch()
        for pid in host.sandbox.pids():
            os.kill(pid, signal.SIGSTOP)
        if not host.channel.texts:  # else it was quicker than the signal
            monkeypatch.setattr(runner, "ALIVE_LIMIT", 0.2)
            await eventually(lambda: len(host.sandbox.opened) == 2)
            monkeypatch.setattr(runner, "ALIVE_LIMIT", 35.0)
        await host.channel.until(1)


# --- trouble at the provider ---------------------------------------------------------------------


async def test_a_refused_key_parks_and_a_new_key_releases(folder: Path, quick: None) -> None:
    """401: the chat is told once, nothing is lost, and a new key in .env is enough to go on."""
    async with hosting(folder, environ={}) as host:
        await host.group("family")
        mended = host.path("mended")
        await host.channel.say("family", f"!unless {mended} !status 401 invalid key\nhello")
        await host.channel.until(1)
        await until_state(host, "parked")
        await host.channel.say("family", "still there?")
        assert (await host.status())["parked"] == [{"lane": "family", "cause": "credential"}]
        mended.touch()
        (host.config.home / SECRETS_FILE).write_text("ANTHROPIC_API_KEY=new\n")
        await host.channel.until(lambda: "still there?" in host.channel.texts[-1])
        assert host.channel.texts[0].startswith("I cannot work at the moment. Your message is kept")
        assert host.channel.texts[1:] in (
            ["echo: hello", "echo: still there?"],
            ["echo: attempt 2 | hello", "echo: still there?"],
            ["echo: attempt 2 | hello | still there?"],
        )


async def test_the_same_trouble_is_told_once_until_it_is_over(folder: Path, quick: None) -> None:
    """Every failed probe is silent; after an answer the next trouble is news again."""
    async with hosting(folder) as host:
        await host.group("family")
        mended = host.path("mended")
        broken = f"!unless {mended} !status 402 pay\nhello"
        await host.channel.say("family", broken)
        await until_state(host, "parked")
        for _ in range(2):
            (before,) = await host.rows("SELECT sum(attempts) AS n FROM turns")
            host.clock.advance(61)
            await host.channel.say("family", broken)
            await eventually_rows(host, "SELECT 1 FROM (SELECT sum(attempts) AS n FROM turns) WHERE n > ?", before["n"])
            await host.settled()  # whatever was given is parked again
        mended.touch()
        host.clock.advance(61)
        await host.channel.say("family", "anybody?")
        await host.channel.until(lambda: "anybody?" in host.channel.texts[-1])
        await host.settled()
        assert sum("cannot work" in t for t in host.channel.texts) == 1
        mended.unlink()
        await host.channel.say("family", broken)
        await host.channel.until(lambda: "cannot work" in host.channel.texts[-1])


@pytest.mark.parametrize(("status", "pauses"), [(529, [5, 10, 20]), (429, [5, 10]), (503, [5])])
async def test_overload_is_waited_for(folder: Path, status: int, pauses: list[int]) -> None:
    """Overload and quota are tried again with growing pauses, in silence, and answered in the end."""
    async with hosting(folder) as host:
        await host.group("family")
        mended = host.path("mended")
        await host.channel.say("family", f"!unless {mended} !status {status} busy\nhello")
        for n, pause in enumerate(pauses, 1):
            await eventually_rows(host, "SELECT 1 FROM turns WHERE retries = ? AND state = 'open'", n)
            (row,) = await host.rows("SELECT not_before FROM turns")
            assert pause - 1 < (row["not_before"] - host.clock()) / 1000 <= pause
            if n == len(pauses):
                mended.touch()
            host.clock.advance(pause)
            await host.poke("family")
        await host.channel.until(1)
        assert host.channel.texts == [f"echo: attempt {len(pauses) + 1} | hello"]


async def test_a_clock_that_was_set_back_keeps_no_retry_waiting(folder: Path) -> None:
    """A turn that waits for the model is tried again within its normal time."""
    async with hosting(folder) as host:
        await host.group("family")
        mended = host.path("mended")
        await host.channel.say("family", f"!unless {mended} !status 529 busy\nhello")
        await eventually_rows(host, "SELECT 1 FROM turns WHERE retries = 1 AND state = 'open'")
        mended.touch()
        host.clock.advance(-3600)
        await host.poke("family")
        await host.channel.until(1)
        assert host.channel.texts == ["echo: attempt 2 | hello"]


async def test_overload_that_does_not_end_is_told(folder: Path) -> None:
    """After five pauses the turn is failed and told."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "!status 529 busy")
        for n in range(1, 6):
            await eventually_rows(host, "SELECT 1 FROM turns WHERE retries = ? AND state = 'open'", n)
            host.clock.advance(200)
            await host.poke("family")
        await host.channel.until(1)
        assert "overloaded" in host.channel.texts[0]
        assert await states(host) == ["failed"]


async def test_a_refused_request_is_told(folder: Path) -> None:
    """400: no retry, the chat is told."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "!status 400 no such model")
        await host.channel.until(1)
        assert await states(host) == ["failed"]


async def test_a_used_up_budget_parks_until_midnight(folder: Path, quick: None) -> None:
    """The cap holds for this group alone, is told in its own words, and ends with the day."""
    async with hosting(folder, tokens_per_day=100) as host:
        await host.group("family")
        await host.group("other")
        (group,) = await host.rows("SELECT id FROM groups WHERE folder = 'family'")
        await host.store.write(ledger.add_usage, group["id"], "r", Usage("m", output=100), host.clock())
        mended = host.path("mended")
        await host.channel.say("family", f"!unless {mended} !status 403 no more\nhello")
        await host.channel.until(1)
        assert host.channel.texts[0].startswith("My limit for now is used up")
        for n in (2, 3):
            await host.channel.say("other", "hello")
            await host.channel.until(n)
        await host.settled()
        assert len(host.channel.to("family")) == 1  # another group's answer does not mend this
        mended.touch()
        host.clock.advance(24 * 3600)
        await host.channel.until(4)
        assert host.channel.to("family")[1].endswith("hello")


async def test_a_new_day_frees_only_whom_another_limit_lets(folder: Path, quick: None) -> None:
    """The month of the groups beside main is used up: at midnight main goes on, and no container starts for them."""
    async with hosting(folder, tokens_per_day=100, budget_month=1.0, late_after=10**8) as host:
        await host.group("family")
        await host.in_main("mine")
        now = datetime.fromtimestamp(host.clock() / 1000, UTC)
        middle = (now.replace(day=1) + timedelta(days=40)).replace(day=10, hour=12)  # far from a month's end
        host.clock.advance((middle - now).total_seconds())
        for folder_name, usage, cost in (("family", Usage("m"), 800_000_000), ("main", Usage("m", output=100), None)):
            (group,) = await host.rows("SELECT id FROM groups WHERE folder = ?", folder_name)
            await host.store.write(ledger.add_usage, group["id"], "r", usage, host.clock(), "", cost)
        mended = host.path("mended")
        for chat in ("family", "mine"):
            before = len(host.channel.to(chat))
            await host.channel.say(chat, f"!unless {mended} !status 403 no more\nhello")
            await host.channel.until(lambda chat=chat, before=before: len(host.channel.to(chat)) > before)
        await eventually_rows(host, "SELECT 1 FROM lanes WHERE lane = 'family' AND parked = 'budget'")
        await eventually_rows(host, "SELECT 1 FROM lanes WHERE lane = 'main' AND parked = 'budget'")
        mended.touch()
        host.clock.advance(24 * 3600)
        await host.channel.until(lambda: host.channel.to("mine")[-1].endswith("hello"))
        assert await host.rows("SELECT 1 FROM lanes WHERE lane = 'family' AND parked = 'budget'")
        assert len(await host.rows("SELECT 1 FROM runs WHERE lane = 'family'")) == 1


@pytest.mark.parametrize("cause", [Cause.ENGINE, Cause.IMAGE])
async def test_engine_or_image_gone_and_back(folder: Path, quick: None, cause: Cause) -> None:
    """Told once, named by status, and answered when it is back, without anybody's help."""
    async with hosting(folder) as host:
        await host.group("family")
        host.sandbox.fault = SandboxError("it is gone", cause)
        await host.channel.say("family", "hello")
        await host.channel.until(1)
        assert (await host.status())["parked"] == [{"lane": "family", "cause": cause}]
        host.sandbox.fault = None
        await host.channel.until(2)
        assert "cannot work" in host.channel.texts[0]
        assert host.channel.texts[1] == "echo: hello"


async def test_a_container_that_cannot_start_twice_is_told(folder: Path) -> None:
    """One failed start is tried again, the second one is told."""
    async with hosting(folder) as host:
        await host.group("family")
        host.sandbox.open_faults.extend([SandboxError("no room")])
        await host.channel.say("family", "first")
        await host.channel.until(1)
        host.sandbox.open_faults.extend([SandboxError("no room")] * 2)
        await host.group("other")
        await host.channel.say("other", "second")
        await host.channel.until(2)
        assert host.channel.to("family") == ["echo: attempt 2 | first"]
        assert host.channel.to("other")[0].startswith("Sorry, something went wrong")


async def test_an_image_of_another_protocol_parks(folder: Path, quick: None) -> None:
    """It is not tried again and again: only another image is."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "hello")
        await host.channel.until(1)
        host.sandbox.agent = [sys.executable, "-S", "-c", OTHER_PROTOCOL]
        await host.group("other")
        await host.channel.say("other", "hello")
        await host.channel.until(2)
        opened = len(host.sandbox.opened)
        await host.channel.say("family", "again")
        await host.channel.until(3)
        await until_parked(host)
        for _ in range(3):
            host.channel.shown.clear()
            await asyncio.sleep(0.1)  # two looks of the host: there is no event for what must not happen
        assert len(host.sandbox.opened) == opened
        assert len(host.channel.to("other")) == 1
        host.sandbox.agent = None
        host.sandbox.image_id = "image-2"
        await host.channel.until(lambda: len(host.channel.to("other")) == 2)


OTHER_PROTOCOL = """
import sys, time
with open(sys.argv[2], "a") as out:
    out.write('{"v": 999, "type": "hello", "build": "", "cli": ""}\\n')
time.sleep(60)
"""


async def test_silence_and_long_turns_are_ended_and_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn without progress is stopped; it is not run again."""
    monkeypatch.setattr(runner, "HOST_EVERY", 0.05)
    async with hosting(folder, turn_silence=0.5) as host:
        await host.group("family")
        await host.channel.say("family", "!hang")
        await host.channel.until(1)
        assert host.channel.texts[0].startswith("Sorry, that took too long")
        assert len(host.sandbox.opened) == 1


# --- the outbox --------------------------------------------------------------------------------


async def test_order_is_kept_while_the_channel_is_away(folder: Path) -> None:
    """What could not be sent is sent in order when it can be, and cost no attempt."""
    async with hosting(folder) as host:
        await host.group("family")
        host.channel.connected = False
        for n, text in enumerate(("one", "two", "three"), 1):
            await host.channel.say("family", f"!say {text}")
            await eventually_rows(host, f"SELECT count(*) FROM outgoing HAVING count(*) = {n}")
        await eventually_rows(host, "SELECT 1 FROM outgoing WHERE state = 'queued' AND id = 1")
        host.channel.connected = True
        await host.poke("family")
        await host.channel.until(3)
        assert host.channel.texts == ["one", "two", "three"]
        assert {r["attempts"] for r in await host.rows("SELECT attempts FROM outgoing WHERE id > 1")} <= {1}


async def test_a_refused_text_is_tried_again_and_nothing_overtakes_it(folder: Path) -> None:
    """Two refusals, then it goes; the text behind it has waited."""
    async with hosting(folder) as host:
        await host.group("family")
        host.channel.faults.extend([SendRefused("no"), SendRefused("no")])
        await host.channel.say("family", "!say one")
        await eventually_rows(host, "SELECT 1 FROM outgoing")
        await host.channel.say("family", "!say two")
        for n in (1, 2):
            await host.channel.until(lambda n=n: host.channel.tries == n)
            await eventually_rows(host, "SELECT 1 FROM outgoing WHERE attempts = ? AND state = 'queued'", n)
            host.clock.advance(21)
            await host.poke("family")
        await host.channel.until(2)
        assert host.channel.texts == ["one", "two"]


async def test_a_text_that_is_refused_for_good_lets_the_next_one_pass(folder: Path) -> None:
    """Three refusals make a row dead; the chat is not blocked by it."""
    async with hosting(folder) as host:
        await host.group("family")
        host.channel.faults.extend([SendRefused("no")] * 3)
        await host.channel.say("family", "first")
        for n in (1, 2):
            await eventually_rows(host, "SELECT 1 FROM outgoing WHERE attempts = ? AND state = 'queued'", n)
            host.clock.advance(21)
            await host.poke("family")
        await eventually_rows(host, "SELECT 1 FROM outgoing WHERE state = 'dead'")
        await host.channel.say("family", "second")
        await host.channel.until(1)
        assert host.channel.texts == ["echo: second"]


async def test_an_unknown_outcome_is_sent_again_and_counted(folder: Path) -> None:
    """Better twice than never, and the number of such cases is known."""
    async with hosting(folder) as host:
        await host.group("family")
        host.channel.faults.append(OutcomeUnknown("the line broke"))
        await host.channel.say("family", "hello")
        await host.channel.until(1)
        await host.settled()
        (row,) = await host.rows("SELECT unknowns, attempts FROM outgoing")
        assert (row["unknowns"], row["attempts"]) == (1, 2)


async def test_a_channel_that_never_knows_does_not_flood(folder: Path) -> None:
    """The second unknown outcome in a row waits before it is tried again."""
    async with hosting(folder) as host:
        await host.group("family")
        host.channel.faults.extend([OutcomeUnknown("?")] * 50)
        await host.channel.say("family", "hello")
        await eventually_rows(host, "SELECT 1 FROM outgoing WHERE unknowns = 2 AND next_try > 0")
        assert host.channel.tries == 2


async def test_a_broken_channel_is_contained(folder: Path) -> None:
    """An error that no channel should raise costs an attempt, not the host."""
    async with hosting(folder) as host:
        await host.group("family")
        host.channel.faults.append(ZeroDivisionError("a bug"))
        await host.channel.say("family", "hello")
        await eventually_rows(host, "SELECT 1 FROM outgoing WHERE error = 'ZeroDivisionError'")
        host.clock.advance(21)
        await host.poke("family")
        await host.channel.until(1)


async def test_progress_is_shown(folder: Path) -> None:
    """The chat sees that its turn was taken, and that it ended."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", "hello")
        await host.channel.until(lambda: host.channel.shown and host.channel.shown[-1].show is Show.ENDED)
        assert host.channel.shown[0].show is Show.TAKEN


# --- hostile agents ----------------------------------------------------------------------------

FOREIGN_DONE = '{"v": 2, "type": "done", "turns": ["other"], "outcome": "ok"}'
SET_ASIDE = [
    "!garbage 50",
    "!raw null",
    "!raw [1]",
    "!raw {}",
    '!raw {"v": 999, "type": "hello", "build": "", "cli": ""}',
    '!raw {"v": 2, "type": "open", "run": "x", "model": "y"}',
    '!raw {"v": 2, "type": "reply", "turns": ["other"], "text": "stolen"}',
    '!raw {"v": 2, "type": "reply", "turns": "TURN", "text": "wrong type"}',
    '!raw {"v": 2, "type": "request", "n": 1, "turn": "other", "tool": "send_message", "args": {"text": "x"}}',
    '!raw {"v": 2, "type": "request", "n": -1, "turn": "TURN", "tool": "send_message", "args": {}}',
    '!raw {"v": 2, "type": "request", "n": 10000000000000000000000, "turn": "TURN", "tool": "t", "args": {}}',
    '!raw {"v": 2, "type": "done", "turns": ["TURN"], "outcome": "error", "cost": NaN}',
    f"!raw {FOREIGN_DONE}",
    "!raw " + "[" * 5_000,
    "!twice",
]


@pytest.mark.parametrize("directive", SET_ASIDE)
async def test_a_hostile_letter_is_set_aside(folder: Path, directive: str) -> None:
    """What is no letter, or not this run's, changes nothing: the turn is answered once."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.channel.say("family", f"{directive}\nhello")
        await host.channel.until(1)
        await host.settled()
        assert host.channel.texts == ["echo: hello"]
        assert len(host.sandbox.opened) == 1


ENDED = [
    "!garbage 101",
    "!big",
    "!tool it has read this\n!truncate",
    '!raw {"v": 2, "type": "done", "turns": ["\\ud800"], "outcome": "ok"}',
]


@pytest.mark.parametrize("directive", ENDED)
async def test_a_hostile_agent_is_ended_and_no_other_suffers(folder: Path, directive: str) -> None:
    """Abuse ends the run; its turn is failed and told, while another group is answered."""
    async with hosting(folder) as host:
        await host.group("family")
        await host.group("other")
        go = await busy(host, "other", "fine")
        await host.channel.say("family", f"{directive}\n!hang")
        await host.channel.until(lambda: host.channel.texts and host.channel.texts[-1].startswith("Sorry"))
        go.touch()
        await host.channel.until(lambda: host.channel.to("other"))
        await host.settled()
        assert host.channel.to("other") == ["echo: fine"]


async def test_a_run_cannot_speak_or_act_for_another(folder: Path) -> None:
    """The real id of another run's turn is of no use."""
    async with hosting(folder) as host:
        await host.group("victim")
        await host.group("thief")
        go = await busy(host, "victim", "mine")
        (turn,) = await host.rows("SELECT id FROM turns")
        stolen = turn["id"]
        await host.channel.say(
            "thief",
            "\n".join(
                "!raw " + json.dumps({"v": 2, **letter})
                for letter in (
                    {"type": "reply", "turns": [stolen], "text": "stolen"},
                    {"type": "request", "n": 9, "turn": stolen, "tool": "send_message", "args": {"text": "stolen"}},
                    {"type": "done", "turns": [stolen], "outcome": "error", "error": "stolen"},
                )
            )
            + "\nhello",
        )
        await host.channel.until(1)
        assert await states(host) == ["given", "done"]
        go.touch()
        await host.channel.until(2)
        assert host.channel.to("victim") == ["echo: mine"]
        assert host.channel.to("thief") == ["echo: hello"]


# --- the machine -------------------------------------------------------------------------------


async def test_a_full_disk_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No message is acknowledged, no reply is dropped, the host lives; room is enough to go on."""
    monkeypatch.setattr(store, "_RETRY", 0.05)
    async with hosting(folder) as host:
        await host.group("family")
        go = await busy(host, "family", "hello")
        with disk_full(host):
            with pytest.raises(StoreError):
                await host.channel.say("family", "not kept", wa_id="a")
            go.touch()
            with pytest.raises(StoreError):
                await host.channel.say("family", "not kept", wa_id="a")
            assert (await host.status())["state"] == "running"
            assert host.channel.texts == []
        await host.channel.say("family", "kept", wa_id="a")
        await host.channel.until(lambda: any("kept" in t for t in host.channel.texts))
        await host.settled()
        assert host.channel.texts in (["echo: hello", "echo: kept"], ["echo: hello | kept"])


@contextmanager
def disk_full(host: Hosted) -> Iterator[None]:
    """No file of this process may grow over what the database's log has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = host.config.home.joinpath("nanoclaw.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_stop_lets_a_running_turn_end(folder: Path) -> None:
    """Whoever stops the host waits some seconds for the reply that is being made."""
    async with hosting(folder) as host:
        await host.group("family")
        go = await busy(host, "family", "hello")
        asyncio.get_running_loop().call_later(0.2, go.touch)
    sandbox = ProcessSandbox(folder / "registry")
    assert sandbox.pids() == []
    async with hosting(folder) as host:
        await host.settled()
        assert await states(host) == ["done"]


async def test_a_stop_takes_the_containers_and_the_turn_is_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that does not end in time is open at the next start, which is no fault of its own."""
    monkeypatch.setattr("nanoclaw.app.host.STOP_GRACE", 0.1)
    async with hosting(folder) as host:
        await host.group("family")
        go = await busy(host, "family", "hello")
    assert host.sandbox.pids() == []
    assert not any((folder / "home" / "runs").iterdir())
    go.touch()
    async with hosting(folder) as host:
        await host.channel.until(1)
        assert host.channel.texts == ["echo: attempt 2 | hello"]
        assert await host.rows("SELECT 1 FROM turns WHERE kills > 0") == []


async def test_no_lane_starts_anything_during_a_stop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane that waits for a slot does not get the one that the stop has freed."""
    monkeypatch.setattr("nanoclaw.app.host.STOP_GRACE", 0.1)
    async with hosting(folder, max_runs=1) as host:
        await host.group("one")
        await host.group("two")
        await busy(host, "one")
        await host.channel.say("two", "hello")
    assert len(host.sandbox.opened) == 1
    assert host.sandbox.pids() == []


async def test_fewer_slots_than_adopted_runs(folder: Path) -> None:
    """A smaller max_runs is no trap: the host starts, and opens nothing until enough have ended."""
    sandbox = ProcessSandbox(folder / "registry")
    try:
        async with abandoned(folder, sandbox) as host:
            for n, chat in enumerate(("one", "two", "three"), 1):
                await host.group(chat)
                await host.channel.say(chat, chat)
                await host.channel.until(n)
                await host.settled()
        assert len(sandbox.pids()) == 3
        async with living(folder, sandbox, max_runs=1) as host:
            await host.group("four")
            await host.channel.say("four", "four")
            await host.channel.until(1)
            await host.settled()
            assert len(sandbox.pids()) == 1
    finally:
        sandbox.kill_all()


async def test_an_adopted_warm_run_is_used(folder: Path) -> None:
    """After a restart the next message goes to the container that lives."""
    sandbox = ProcessSandbox(folder / "registry")
    try:
        async with abandoned(folder, sandbox) as host:
            await host.group("family")
            await host.channel.say("family", "!pid")
            await host.channel.until(1)
            await host.settled()
            before = host.channel.texts
        async with living(folder, sandbox) as host:
            await host.channel.say("family", "!pid")
            await host.channel.until(1)
            assert host.channel.texts == before
    finally:
        sandbox.kill_all()


async def test_a_second_host_on_the_same_home_is_refused(folder: Path) -> None:
    """One home, one host; the first one does not notice."""
    async with hosting(folder) as host:
        await host.group("family")
        with pytest.raises(HomeError, match="another NanoClaw"):
            await app.serve(host.config, KEY, sandbox=lambda install: host.sandbox)
        await host.channel.say("family", "hello")
        await host.channel.until(1)
