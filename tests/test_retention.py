"""What is kept and for how long, what a person has forgotten, and the file that goes when the disk is full."""

import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nanoclaw import app, commands, groups
from nanoclaw.commands import Asked
from nanoclaw.config import Config, Current
from nanoclaw.models import Authority, Group, Media, Role, RunRow, RunState, Turn, TurnState
from nanoclaw.ops import ballast, files
from nanoclaw.ops.ballast import Ballast
from nanoclaw.ops.retention import DAY_MS, Retention, forget_sessions
from nanoclaw.router import hear
from nanoclaw.schedule import Every
from nanoclaw.store import Store, Tx, chats, messages, pending, retention, runs, tasks, turns
from nanoclaw.store.pending import Change
from tests.fakes import eventually, family, hosting, said

NOW = 1_700_000_000_000
EVER = 10**15  # that a message may be late
SESSION = "11111111-aaaa"


@dataclass
class House:
    """A store and a home with one group, looked after by hand."""

    store: Store
    home: groups.Home
    group: Group
    now: int = NOW

    async def tick(self, **settings: int) -> None:
        """One daily round; the clock was looked at a day ago, so that it is believed."""
        await self.store.write(retention.noted, self.now - DAY_MS)
        config = Config(home=self.home.root, **settings)  # type: ignore[arg-type]
        await Retention(self.store, self.home, lambda: config, lambda: self.now).tick()

    async def rows(self, sql: str) -> list[Any]:
        return await self.store.read(lambda tx: [row[0] for row in tx.execute(sql)])

    async def run(self, sql: str, *args: object) -> None:
        await self.store.write(lambda tx: tx.execute(sql, args) and None)

    def file(self, path: str, days: float, text: str = "x") -> Path:
        """A file in the home that was written so many days ago."""
        where = self.home.root / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text)
        at = self.now / 1000 - days * 86_400
        os.utime(where, (at, at))
        return where


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with family(tmp_path) as (store, home, group):
        yield House(store, home, group)


# --- rows ----------------------------------------------------------------------------------------


def a_turn(tx: Tx, group: Group, number: int, at: int) -> None:
    """A message with its turn, run, tool call and answer, all over at that time."""
    hear(tx, said(f"text {number}", "Ann", wa_id=f"m{number}"), at)
    chat = tx.execute("SELECT id FROM chats WHERE channel = 'test'").fetchone()[0]
    tx.execute(
        "INSERT INTO turns(id, lane, group_id, chat_id, origin, authority, state, prompt, created_at, ended_at)"
        " VALUES(?, 'family', ?, ?, 'message', 'guest', 'done', 'p', ?, ?)",
        (f"t{number}", group.id, chat, at, at),
    )
    tx.execute("UPDATE messages SET state = 'handled', turn_id = ? WHERE wa_id = ?", (f"t{number}", f"m{number}"))
    runs.insert(tx, RunRow(f"r{number}", "family", group.id, RunState.STARTING, "f", started_at=at), "model")
    runs.add_request(tx, f"r{number}", 1, f"t{number}", "send_message", {"text": "hello"})
    runs.end(tx, f"r{number}", "over", at)
    tx.execute(
        "INSERT INTO outgoing(chat_id, kind, payload, state, wa_id, created_at) VALUES(?, 'reply', 'a', 'sent', ?, ?)",
        (chat, f"o{number}", at),
    )


async def test_old_rows_go_and_others_stay(house: House) -> None:
    """With all that hangs on them; over more rows than one slice takes."""
    for n in range(450):
        await house.store.write(a_turn, house.group, n, house.now - (181 if n < 449 else 179) * DAY_MS)
    await house.tick()
    for sql, left in (
        ("SELECT wa_id FROM messages", ["m449"]),
        ("SELECT id FROM turns", ["t449"]),
        ("SELECT id FROM runs", ["r449"]),
        ("SELECT run_id FROM requests", ["r449"]),
        ("SELECT wa_id FROM outgoing", ["o449"]),
    ):
        assert await house.rows(sql) == left
    assert await house.rows("PRAGMA foreign_key_check") == []


async def test_what_is_not_over_stays_however_old(house: House) -> None:
    """A message that waits in a parked lane is answered one day; so is what could not be sent yet."""
    await house.store.write(hear, said("please", "Ann", wa_id="A"), 1000)
    await house.run(
        "INSERT INTO outgoing(chat_id, kind, payload, state, created_at)"
        " SELECT id, 'reply', 'a', 'queued', 1 FROM chats WHERE channel = 'test'"
    )
    await house.tick()
    assert await house.rows("SELECT wa_id FROM messages") == ["A"]
    assert await house.rows("SELECT payload FROM outgoing") == ["a"]


@pytest.mark.parametrize(("table", "days"), [("usage", 400), ("audit", 90)])
async def test_counts_and_records_go_by_terms_of_their_own(house: House, table: str, days: int) -> None:
    """Tokens after 400 days, the owner's changes after 90."""
    for age in (days + 1, days - 1):
        values = {
            "usage": "(at, group_id, run_id, model, input, output, cache_read, cache_write)"
            f" VALUES(?, {house.group.id}, 'r', 'm', 1, 1, 1, 1)",
            "audit": "(at, who, verb, detail) VALUES(?, 'w', 'v', 'd')",
        }
        await house.run(f"INSERT INTO {table} {values[table]}", house.now - age * DAY_MS)
    await house.tick()
    assert await house.rows(f"SELECT at FROM {table}") == [house.now - (days - 1) * DAY_MS]


async def test_strangers_are_forgotten(house: House) -> None:
    """Of a chat that nobody serves not even the row is kept for ever; groups that we only know by name are no such."""
    for name, days in (("old", 181), ("new", 179)):
        await house.store.write(hear, said("hi", "Eve", chat=name), house.now - days * DAY_MS)
    await house.store.write(chats.know_chat, "test", ("named",), "Named", True, 0)
    await house.tick()
    assert sorted(await house.rows("SELECT jid FROM chat_jids WHERE channel = 'test'")) == ["family", "named", "new"]


async def test_a_clock_that_jumps_removes_nothing(house: House) -> None:
    """A date far ahead is believed when it is still so a day later."""
    await house.store.write(a_turn, house.group, 1, house.now - DAY_MS)
    keep = Retention(house.store, house.home, Current(Config(home=house.home.root)), lambda: house.now)
    await keep.tick()
    house.now += 1000 * DAY_MS
    await keep.tick()
    assert await house.rows("SELECT wa_id FROM messages") == ["m1"]
    house.now += DAY_MS
    await keep.tick()
    assert await house.rows("SELECT wa_id FROM messages") == []


async def test_the_database_shrinks(house: House) -> None:
    """What was freed goes back to the disk."""
    await house.run("INSERT INTO audit(at, who, verb, detail) VALUES(1, 'w', 'v', ?)", "x" * 4_000_000)
    before = (await house.rows("PRAGMA page_count"))[0]
    await house.tick()
    assert (await house.rows("PRAGMA page_count"))[0] < before / 2
    assert await house.rows("PRAGMA integrity_check") == ["ok"]


# --- files ---------------------------------------------------------------------------------------


def with_file(tx: Tx, path: str, wa_id: str) -> int:
    file = Media("image", "", path=path, ref="" if path else "to be fetched")
    hear(tx, said("see", "Ann", wa_id=wa_id, kind="image", media=(file,)), NOW, EVER)
    return int(tx.execute("SELECT max(id) FROM messages").fetchone()[0])


async def test_media_go_after_a_month(house: House) -> None:
    """Their rows say why they are not there; what no row names goes too, what is being fetched does not."""
    media = "kept/family/media/"
    number = await house.store.write(with_file, "2023-10-01-1-old.png", "A")
    newer = await house.store.write(with_file, "2023-11-01-2-new.png", "B")
    assert (number, newer, await house.store.write(with_file, "", "C")) == (1, 2, 3)
    house.file(media + "2023-10-01-1-old.png", 31)
    house.file(media + ".abc.part", 0.1)
    house.file(media + "2023-11-13-77-of-a-row-that-is-gone.png", 1)
    keep = [
        house.file(media + "2023-11-01-2-new.png", 29),
        house.file(media + "2023-11-13-3-being-fetched.png", 0),
        house.file(media + ".def.part", 0),
    ]
    await house.tick()
    assert sorted(keep[0].parent.iterdir()) == sorted(keep)
    found = await house.store.read(messages.open_work, "family")
    assert [(m.media[0].path, m.media[0].fault) for m in found] == [
        ("", "files are kept for 30 days"),
        ("2023-11-01-2-new.png", ""),
        ("", ""),
    ]


async def test_conversations_go_by_the_day_in_their_name(house: House) -> None:
    """And never later than the messages that they are made of."""
    for day in ("2023-05-01", "2023-10-01", "2023-11-14"):
        house.file(f"kept/family/conversations/{day}.md", 0)
    await house.tick()
    there = house.home.kept_dir("family") / "conversations"
    assert sorted(p.name for p in there.iterdir()) == ["2023-10-01.md", "2023-11-14.md"]
    await house.tick(keep_messages=10)
    assert [p.name for p in there.iterdir()] == ["2023-11-14.md"]


async def test_closed_sessions_go_and_the_current_one_stays(house: House) -> None:
    """Whatever a link in the agent's folder points to stays as it is."""
    await house.store.write(turns.set_session, "family", SESSION)
    outside = house.file("precious.jsonl", 400)
    below = "state/family/projects/-workspace-group/"
    for name in ("22222222.jsonl", "33333333.refused", "22222222/subagents/a.jsonl"):
        house.file(below + name, 31)
    for name in (f"{SESSION}.jsonl", f"{SESSION}/subagents/a.jsonl"):
        house.file(below + name, 31)
    house.file(below + "44444444.jsonl", 29)
    house.file("state/gone.task-1/projects/x/5.jsonl", 31)
    projects = house.home.root / below
    (projects / "linked").symlink_to(house.home.root)
    (projects / "link.jsonl").symlink_to(outside)
    await house.tick()
    state = house.home.root / "state"
    left = sorted(p.relative_to(projects).as_posix() for p in projects.rglob("*.jsonl") if not p.is_symlink())
    assert left == [f"{SESSION}.jsonl", f"{SESSION}/subagents/a.jsonl", "44444444.jsonl"]
    assert not list((state / "gone.task-1").rglob("*.jsonl"))
    assert outside.is_file()


async def test_folders_of_runs_that_are_over_go(house: House) -> None:
    """What a crash left behind; a run that lives keeps its folder, and so does one that is being made."""
    await house.store.write(
        lambda tx: runs.insert(tx, RunRow("alive", "family", house.group.id, RunState.ALIVE, "f"), "model")
    )
    for name, days in (("alive", 5), ("lost", 5), ("fresh", 0)):
        folder = house.file(f"runs/{name}/inbox/1.json", days).parent.parent
        os.utime(folder, (house.now / 1000 - days * 86_400,) * 2)
    await house.tick()
    assert sorted(p.name for p in (house.home.root / "runs").iterdir()) == ["alive", "fresh"]


# --- /forget -------------------------------------------------------------------------------------


def ask(tx: Tx, word: str, role: Role, now: int) -> commands.Answered:
    group = chats.group_by_folder(tx, "family")
    chat = tx.execute("SELECT id FROM chats WHERE channel = 'test'").fetchone()[0]
    assert group is not None
    answered = commands.run(tx, commands.Found(word), Asked(group, role, now, chats.chat(tx, chat)))
    assert answered is not None
    return answered


TEXTS = "SELECT text FROM messages WHERE text <> '' UNION ALL SELECT payload FROM outgoing WHERE payload <> ''"


async def test_forget_says_what_it_would_do_and_does_nothing(house: House) -> None:
    """And that what the assistant noted down stays."""
    await house.store.write(a_turn, house.group, 1, NOW - 10)
    told = (await house.store.write(ask, "forget", Role.OWNER, NOW)).text
    assert "1 message(s), 0 of them with files, 1 text(s) of mine" in told
    for word in ("/forget today", "/forget all", "CLAUDE.md"):
        assert word in told
    assert await house.rows(TEXTS) == ["text 1", "a"]


@pytest.mark.parametrize(("word", "left"), [("forget all", []), ("forget today", ["text 1", "a"])])
async def test_forget_removes_this_chats_words(house: House, word: str, left: list[str]) -> None:
    """Messages, our texts, tool calls and prompts; of no other chat; a message that comes again is known still."""
    await house.store.write(a_turn, house.group, 1, NOW - 2 * DAY_MS)
    await house.store.write(a_turn, house.group, 2, NOW - 10)
    await house.store.write(turns.set_session, "family", SESSION)
    answered = await house.store.write(ask, word, Role.OWNER, NOW)
    assert answered.text.startswith("Forgotten.")
    assert answered.forget
    assert sorted(await house.rows(TEXTS)) == sorted(left)
    assert "hello" not in (await house.rows("SELECT args FROM requests ORDER BY run_id DESC"))[0]
    assert (await house.rows("SELECT prompt FROM turns ORDER BY id DESC"))[0] == ""
    assert await house.store.read(turns.session, "family") == ""
    assert await house.store.write(hear, said("text 2", "Ann", wa_id="m2"), NOW) is None


async def test_of_tasks_the_orders_stay_and_the_talk_goes(house: House) -> None:
    """What is to come is told, with how to end it; what is over keeps no words, nor does its record."""
    chat = (await house.rows("SELECT id FROM chats WHERE channel = 'test'"))[0]

    def done(tx: Tx) -> None:
        for prompt in ("stays", "is over"):
            task = tasks.Task(0, house.group.id, chat, f"it {prompt}", Every(60, 0), "UTC",
                              tasks.Options(script="echo it"), created_at=NOW - 20)  # fmt: skip
            number = tasks.insert(tx, task)
            firing = tasks.add_firing(tx, number, 5, tasks.FiringState.OPEN, NOW - 20, f"t{number}")
            turn = Turn(f"t{number}", "family", house.group.id, chat, Authority.TASK, TurnState.OPEN, f"it {prompt}",
                        firing=firing, script="echo it")  # fmt: skip
            turns.insert(tx, turn, NOW - 20)
            turns.end(tx, turn.id, TurnState.FAILED, NOW - 10, error="script: it said: a secret")
        tasks.put(tx, number, tasks.TaskState.CANCELLED, None, NOW - 5)

    await house.store.write(done)
    told = (await house.store.write(ask, "forget", Role.OWNER, NOW)).text
    assert "1 task(s) of this chat stay, with their words: /tasks lists them, /tasks cancel NUMBER ends one." in told
    answered = await house.store.write(ask, "forget all", Role.OWNER, NOW)
    assert "1 task(s) of this chat stay" in answered.text
    assert await house.rows("SELECT prompt FROM tasks ORDER BY id") == ["it stays", ""]
    assert [bool(json.loads(o)["script"]) for o in await house.rows("SELECT options FROM tasks ORDER BY id")] == [
        True, False,
    ]  # fmt: skip
    for table in ("turns", "firings"):
        assert await house.rows(f"SELECT error FROM {table}") == ["script", "script"]
    assert await house.rows("SELECT script || prompt FROM turns") == ["", ""]


async def test_of_a_task_that_runs_the_talk_goes_with_its_end(house: House) -> None:
    """Its script and what was said of its error, in the log too; and what was only proposed was never asked for."""
    chat = (await house.rows("SELECT id FROM chats WHERE channel = 'test'"))[0]

    def begun(tx: Tx) -> None:
        task = tasks.Task(0, house.group.id, chat, "look", Every(60, 0), "UTC", created_at=NOW - 20)
        firing = tasks.add_firing(tx, tasks.insert(tx, task), 5, tasks.FiringState.OPEN, NOW - 20, "t1")
        turn = Turn("t1", "family", house.group.id, chat, Authority.TASK, TurnState.OPEN, "look", firing=firing,
                    script="echo a secret")  # fmt: skip
        turns.insert(tx, turn, NOW - 20)
        for code, where in (("AAAAA", chat), ("BBBBB", chat + 1)):
            args = {"chat": where, "prompt": "a secret"}
            pending.insert(tx, Change(code, "schedule_task", args, code, "family", NOW + 600_000), NOW - 10)

    await house.store.write(begun)
    await house.store.write(ask, "forget all", Role.OWNER, NOW)
    assert await house.rows("SELECT script FROM turns") == ["echo a secret"], "it still runs"
    await house.store.write(lambda tx: turns.end(tx, "t1", TurnState.FAILED, NOW + 5, error="model: a secret"))
    for table in ("turns", "firings"):
        assert await house.rows(f"SELECT error FROM {table}") == ["model"]
    assert await house.rows("SELECT script || prompt FROM turns") == [""]
    waiting = await house.store.read(pending.waiting, NOW)
    assert [change.code for change in waiting] == ["BBBBB"]
    assert [("secret" in change) for change in await house.rows("SELECT change FROM pending")] == [False, True]


async def test_what_is_not_answered_yet_is_not_forgotten(house: House) -> None:
    """Nor is it lost; what nobody asked for is."""
    await house.store.write(hear, said("please", "Ann"), NOW - 10, EVER)
    await house.run("UPDATE groups SET state = 'paused'")
    await house.store.write(hear, said("by the way", "Ann"), NOW - 9)
    await house.store.write(ask, "forget all", Role.OWNER, NOW)
    assert await house.rows(TEXTS) == ["please"]
    assert await house.rows("SELECT state FROM messages ORDER BY id") == ["open", "withdrawn"]


@pytest.mark.parametrize(
    ("role", "is_group", "may"),
    [(Role.OWNER, True, True), (Role.ALLOWED, True, False), (Role.ALLOWED, False, True)],
)
async def test_who_may_forget(house: House, role: Role, is_group: bool, may: bool) -> None:
    """In a group only the owner; a direct chat belongs to its person."""
    await house.store.write(a_turn, house.group, 1, NOW - 10)
    await house.run("UPDATE chats SET is_group = ? WHERE channel = 'test'", is_group)
    told = await house.store.write(ask, "forget all", role, NOW)
    assert (await house.rows(TEXTS) == []) is may
    assert ("Only my owner" in told.text) is not may


async def test_sessions_are_forgotten_when_no_container_has_them_open(house: House) -> None:
    """A run that began before keeps writing until it ends; one that began after has another."""
    old = house.file("state/family/projects/p/old.jsonl", 0)
    await house.store.write(
        lambda tx: runs.insert(tx, RunRow("r", "family", house.group.id, RunState.ALIVE, "f", started_at=1), "m")
    )
    await house.store.write(ask, "forget all", Role.OWNER, NOW)
    await forget_sessions(house.store, house.home)
    assert old.is_file()
    await house.store.write(runs.end, "r", "over", NOW)
    await house.store.write(turns.set_session, "family", SESSION)
    new = house.file(f"state/family/projects/p/{SESSION}.jsonl", 0)
    await house.store.write(
        lambda tx: runs.insert(tx, RunRow("s", "family", house.group.id, RunState.ALIVE, "f", started_at=NOW + 1), "m")
    )
    await forget_sessions(house.store, house.home)
    assert not old.exists()
    assert new.is_file()
    later = house.file("state/family/projects/p/later.jsonl", 0)
    await forget_sessions(house.store, house.home)
    assert later.is_file()


async def test_forget_by_chat(folder: Path) -> None:
    """The whole: said, answered, forgotten; the files are gone soon, and the next message starts afresh."""
    async with hosting(folder) as host:
        await host.group("family", Olga=Role.OWNER)
        await host.channel.say("family", "!say the secret", "Olga")
        await host.channel.until(1)
        talks = host.path("home/kept/family/conversations")
        await eventually(lambda: any("the secret" in p.read_text() for p in talks.glob("*.md")))
        await host.channel.say("family", "/forget all", "Olga")
        await host.channel.until(2)
        assert host.channel.texts[1] == "Forgotten. The next message starts a new conversation."
        await eventually(lambda: not any("the secret" in p.read_text() for p in talks.glob("*.md")))
        await host.channel.say("family", "!say again", "Olga")
        await host.channel.until(3)
        assert len(host.sandbox.opened) == 2


# --- the ballast ---------------------------------------------------------------------------------


def test_the_ballast_takes_its_room_for_true(tmp_path: Path) -> None:
    """Made once; not where there is not much more room than it takes."""
    held = Ballast(tmp_path)
    assert held.make()
    assert held.path.stat().st_blocks * 512 >= ballast.SIZE
    assert held.make()
    assert not held.drop(), "there is room enough"
    assert held.there


@pytest.fixture
def scarce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many bytes the disk says it has."""

    def have(free: int) -> None:
        monkeypatch.setattr(Ballast, "_free", lambda self: free)

    return have


async def test_a_full_disk_costs_the_ballast_and_no_row(tmp_path: Path, scarce: Callable[[int], None]) -> None:
    """The commit that fails is tried again behind it; without one it is told."""
    held = Ballast(tmp_path)
    scarce(1 << 30)
    held.make()
    scarce(0)
    async with app.opened(Store(tmp_path / "db", held.drop)) as store:
        # The database may not grow while the ballast is there.
        def fill(tx: Tx) -> None:
            pages = tx.execute("PRAGMA page_count").fetchone()[0]
            tx.execute(f"PRAGMA max_page_count = {pages + 1 if held.there else 1_000_000}")
            tx.execute("INSERT INTO audit(at, who, verb, detail) VALUES(1, 'w', 'v', ?)", ("x" * 50_000,))

        await store.write(fill)
        assert not held.there
        assert await store.read(lambda tx: tx.execute("SELECT count(*) FROM audit").fetchone()[0]) == 1
    assert not held.make(), "there is no room yet"
    scarce(1 << 30)
    assert held.make()


async def test_status_names_the_ballast(folder: Path) -> None:
    """Held, or gone and why."""
    async with hosting(folder) as host:
        await eventually(lambda: host.path("home/ballast").exists())
        assert (await host.status())["ballast"] == "held"
        host.path("home/ballast").unlink()
        assert "the disk is full" in (await host.status())["ballast"]


def test_an_odd_file_among_the_media_has_no_owner() -> None:
    """What somebody put there by hand is left to its age."""
    assert files.owner_of("2023-11-14-12-3-cat.png") == 12
    assert [files.owner_of(name) for name in ("cat.png", "2023-11-14-cat.png", ".x.part")] == [0, 0, 0]
