"""The heartbeat: off by default, free while there is nothing to look after, silent when there is nothing new."""

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from nanoclaw import commands
from nanoclaw.control import heartbeat
from nanoclaw.control import tasks as verbs
from nanoclaw.errors import Refused
from nanoclaw.groups import open_home
from nanoclaw.models import By, Group, Role
from nanoclaw.store import Tx, chats, tasks
from tests.commands import nanoclaw
from tests.fakes import Hosted, hosting, rows_of_one_group
from tests.story import eventually_rows
from tests.test_scheduler import BERLIN, HOUR, MINUTE, NOW, Clockwork

TERMINAL = By("terminal")


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[tuple[Tx, Group]]:
    with rows_of_one_group(tmp_path / "db") as found:
        yield found


def beating(work: Clockwork, *, words: bool) -> Clockwork:
    """With, or without, a word in every HEARTBEAT.md."""
    work.ids = type(work.ids)(work.ids.new_turn, work.ids.new_nonce, lambda folder: words)
    return work


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", False),
        ("\n \n", False),
        ("# Heartbeat\n\n## Mornings\n###\n", False),
        ("# To do\n- \n* [ ]\n---\n", False),
        ("<!-- write here\nwhat to watch -->\n", False),
        ("# To do\n- water the plants\n", True),
        ("#hashtag\n", True),
        ("watch the oven", True),
        (None, False),
    ],
)
def test_headings_alone_call_no_model(tmp_path: Path, text: str | None, words: bool) -> None:
    """What wants looking after is a word that is no heading."""
    home = open_home(tmp_path / "h", tmp_path / "r")
    home.group_dir("family").mkdir(parents=True)
    if text is not None:
        (home.group_dir("family") / "HEARTBEAT.md").write_text(text)
    assert heartbeat.has_words(home, "family") is words


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """The file is the agent's: the host looks at nothing that it points to."""
    home = open_home(tmp_path / "h", tmp_path / "r")
    home.group_dir("family").mkdir(parents=True)
    (tmp_path / "secret").write_text("words")
    (home.group_dir("family") / "HEARTBEAT.md").symlink_to(tmp_path / "secret")
    assert not heartbeat.has_words(home, "family")
    (home.group_dir("family") / "HEARTBEAT.md").unlink()
    os.mkfifo(home.group_dir("family") / "HEARTBEAT.md")
    assert not heartbeat.has_words(home, "family")


@pytest.mark.parametrize(
    ("quiet", "at", "rests"),
    [
        ("", "03:00", False),
        ("22:00-07:00", "21:59", False),
        ("22:00-07:00", "22:00", True),
        ("22:00-07:00", "06:59", True),
        ("22:00-07:00", "07:00", False),
        ("9:30-17:00", "09:29", False),
        ("9:30-17:00", "12:00", True),
    ],
)
def test_quiet_hours(quiet: str, at: str, rests: bool) -> None:
    """In local time, also over midnight."""
    now = int(datetime.fromisoformat(f"2026-07-01 {at}").replace(tzinfo=BERLIN).timestamp() * 1000)
    assert heartbeat.in_quiet(quiet, now, BERLIN) is rests


@pytest.mark.parametrize("quiet", ["night", "22-7", "24:00-07:00", "22:00-22:00", "22:00"])
def test_nonsense_is_no_quiet(rows: tuple[Tx, Group], quiet: str) -> None:
    """It is refused, and nothing is on."""
    tx, group = rows
    with pytest.raises(Refused, match="quiet hours"):
        heartbeat.turn_on(tx, group, "30m", quiet, "UTC", TERMINAL, NOW)
    assert heartbeat.find(tx, group) is None


def test_a_group_has_one_heartbeat(rows: tuple[Tx, Group]) -> None:
    """Switched on again it is another one; switched off there is none, and none is there by default."""
    tx, group = rows
    with pytest.raises(Refused, match="has no heartbeat"):
        heartbeat.turn_off(tx, group, TERMINAL, NOW)
    heartbeat.turn_on(tx, group, "30m", "", "UTC", TERMINAL, NOW)
    new = heartbeat.turn_on(tx, group, "1h", "22:00-07:00", "UTC", TERMINAL, NOW)
    assert tasks.alive(tx, group.id) == [new]
    assert heartbeat.line(new, group, NOW).startswith("family: every 1h, quiet 22:00-07:00, next ")
    heartbeat.turn_off(tx, group, TERMINAL, NOW)
    assert tasks.alive(tx, group.id) == []
    verbs_noted = [r["verb"] for r in tx.execute("SELECT verb FROM audit ORDER BY rowid")]
    assert verbs_noted.count("heartbeat on") == 2


def test_what_is_not_said_again_stays(rows: tuple[Tx, Group]) -> None:
    """Its length and its quiet hours each; none at all are said by an empty word."""
    tx, group = rows
    heartbeat.turn_on(tx, group, "1h", "22:00-07:00", "UTC", TERMINAL, NOW)
    said = (("2h", None, "2h, quiet 22:00-07:00"), ("", "23:00-07:00", "2h, quiet 23:00-07:00"), ("", "", "2h"))
    for every, quiet, told in said:
        task = heartbeat.turn_on(tx, group, every, quiet, "UTC", TERMINAL, NOW)
        assert heartbeat.line(task, group, NOW).startswith(f"family: every {told}, next ")


def test_it_rests_when_there_is_nothing_to_look_after(rows: tuple[Tx, Group]) -> None:
    """Without words, and in quiet hours, no turn is made; by hand it comes at any hour. The log says why."""
    tx, group = rows
    task = heartbeat.turn_on(tx, group, "1h", "13:30-14:30", "Europe/Berlin", TERMINAL, NOW)
    work = beating(Clockwork(tx), words=False)
    assert work.tick(NOW + HOUR) == []
    assert beating(work, words=True).tick(NOW + 2 * HOUR) == []
    verbs.run_now(tx, task, TERMINAL, NOW + 2 * HOUR + MINUTE)
    assert work.tick(NOW + 2 * HOUR + MINUTE) == [f"family#task-{task.id}"]
    work.end()
    assert work.tick(NOW + 3 * HOUR) == [f"family#task-{task.id}"]
    states = [state for _, state in work.log(task)]
    assert states == ["skipped: nothing to do", "skipped: quiet hours", "done", "open"]


SAID = [  # in which chat, what, and how it stands then
    ("main", "/heartbeat family", "family: off"),
    ("main", "/heartbeat on family 1h 22:00-07:00", "family: every 1h, quiet 22:00-07:00, next "),
    ("family", "/heartbeat on 2h", "family: every 2h, quiet 22:00-07:00, next "),
    ("family", "/heartbeat on 23:00-07:00", "family: every 2h, quiet 23:00-07:00, next "),
    ("main", "/heartbeat on", "main: every 30m, next "),
    ("family", "/heartbeat", "family: every 2h, quiet 23:00-07:00, next "),
    ("family", "/heartbeat on 5s", "Every cannot be '5s'"),
    ("family", "/heartbeat on 1h 22:00-25:00", "Quiet hours cannot be"),
    ("family", "/heartbeat on main 1h", "Write it as: /heartbeat on [EVERY] [HOURS]"),
    ("family", "/heartbeat", "family: every 2h, quiet 23:00-07:00, next "),  # what was refused changed nothing
    ("main", "/heartbeat off family", "family: off"),
    ("family", "/heartbeat off", "Family has no heartbeat."),
]


def test_by_chat(rows: tuple[Tx, Group], tmp_path: Path) -> None:
    """The owner switches it there; an empty file is said."""
    tx, _ = rows
    home = open_home(tmp_path / "h", tmp_path / "r")
    home.group_dir("family").mkdir(parents=True)
    (home.group_dir("family") / "HEARTBEAT.md").write_text("- the oven")
    for folder, text, begin in SAID:
        group, found = chats.group_by_folder(tx, folder), commands.find(text)
        assert group is not None
        assert found is not None
        chat = chats.chat(tx, tasks.chat_of(tx, group.id) or 0)
        answered = commands.run(tx, found, commands.Asked(group, Role.OWNER, NOW, chat, house=commands.House(home)))
        assert answered is not None
        assert answered.text.startswith(begin), text
        assert ("Nothing stands in HEARTBEAT.md yet" in answered.text) is (text == "/heartbeat on")


# --- in a living house ------------------------------------------------------------------------------


async def beat(host: Hosted, number: int) -> None:
    """Once, now, and to its end."""
    code, _, err = await nanoclaw(host.config.home, "tasks", "run", "1")
    assert (code, err) == (0, "")
    await eventually_rows(host, f"SELECT 1 FROM firings WHERE id = {number} AND state = 'done'")
    await host.settled()


async def test_nothing_new_is_said_to_nobody(folder: Path) -> None:
    """HEARTBEAT_OK in at most 64 characters disturbs nobody; news does, and so does a longer text."""
    async with hosting(folder) as host:
        home = host.config.home
        await host.group("family", Olga=Role.OWNER)
        assert "off" in (await nanoclaw(home, "heartbeat", "status"))[1]
        code, out, err = await nanoclaw(home, "heartbeat", "on", "family", "--every", "30m")
        assert (code, err) == (0, "")
        assert out.startswith("family: every 30m, next ")
        (home / "groups/family").mkdir(parents=True, exist_ok=True)
        (home / "groups/family/HEARTBEAT.md").write_text("- the oven")
        long = "HEARTBEAT_OK " + "x" * 52
        for n, said in enumerate(
            ("HEARTBEAT_OK", "**HEARTBEAT_OK** all is well", "HEARTBEAT_OKAY" * 9, long, "fire"), 1
        ):
            words = json.dumps({"id": 1, "prompt": f"!say {said}"})
            await host.channel.say("family", f"!call update_task {words}\n!silent", "Olga")
            await host.settled()
            await beat(host, n)
        assert host.channel.texts == ["HEARTBEAT_OKAY" * 9, long, "fire"]
        assert "family: off" in (await nanoclaw(home, "heartbeat", "off", "family"))[1]


async def test_an_empty_file_starts_no_container(folder: Path) -> None:
    """The host alone decides it."""
    async with hosting(folder) as host:
        await host.group("family")
        await nanoclaw(host.config.home, "heartbeat", "on", "family")
        (host.config.home / "groups/family").mkdir(parents=True)
        (host.config.home / "groups/family/HEARTBEAT.md").write_text("# Heartbeat\n")
        await nanoclaw(host.config.home, "tasks", "run", "1")
        await eventually_rows(host, "SELECT 1 FROM firings WHERE state = 'skipped: nothing to do'")
        assert host.sandbox.opened == []
