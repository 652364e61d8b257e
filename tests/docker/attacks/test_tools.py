"""The agent's tools with arguments of a liar, on real rows and real files: its own chat is all that it gets."""

import asyncio
import os
import random
import socket
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nanoclaw import safefs
from nanoclaw.models import Authority
from tests.docker.attacks.conftest import Once
from tests.test_tools import PNG, Bench, benched

pytestmark = pytest.mark.timeout(300)

SECRET = b"THE-SECRET-OF-SOMEBODY-ELSE"
Plant = Callable[[Path, Path], object]  # (the agent's own folder, the home)


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))


def deep(own: Path, home: Path) -> None:
    (own / "/".join("d" * 70)).mkdir(parents=True)
    (own / "/".join("d" * 70) / "x").write_bytes(PNG)


def linked(target: str) -> Plant:
    return lambda own, home: (own / "x").symlink_to(target.replace("HOME", str(home)))


def nothing(own: Path, home: Path) -> None: ...


# What the agent lays there, and the path that it has sent.
FILES: dict[str, tuple[Plant, object]] = {
    "up": (nothing, "../friends/secret"),
    "up from its own place": (nothing, "/workspace/group/../friends/secret"),
    "up and up": (nothing, "../" * 40 + "etc/passwd"),
    "up in the middle": (lambda own, home: (own / "d").mkdir(), "d/../../friends/secret"),
    "the host's credential": (nothing, "/workspace/group/../../.env"),
    "the database": (nothing, "../../nanoclaw.db"),
    "an absolute path": (nothing, "/etc/passwd"),
    "another group by the host's path": (nothing, "/proc/self/root/etc/passwd"),
    "a descriptor of the host's": (nothing, "/proc/self/fd/3"),
    "the letters": (nothing, "/run/nanoclaw/out.ndjson"),
    "the memory of all": (nothing, "/workspace/global/CLAUDE.md"),
    "from the media up": (nothing, "/workspace/media/../../friends/media/secret"),
    "from the media to what is sent": (nothing, "/workspace/media/../outgoing/secret"),
    "two slashes": (nothing, "/workspace/group//etc/passwd"),
    "nothing": (nothing, ""),
    "the folder itself": (nothing, "/workspace/group/"),
    "here": (nothing, "."),
    "a null": (nothing, "x\0y"),
    "half a character": (nothing, "\ud800"),
    "a hundred thousand letters": (nothing, "x" * 100_000),
    "fifty thousand folders": (nothing, "x/" * 50_000 + "x"),
    "a number": (nothing, 5),
    "a list": (nothing, ["x"]),
    "an object": (nothing, {"path": "x"}),
    "a link to a file": (linked("HOME/groups/friends/secret"), "x"),
    "a link to the credential": (linked("HOME/.env"), "x"),
    "a link of the container's": (linked("/workspace/group/../../etc/passwd"), "x"),
    "a link to nothing": (linked("/nowhere"), "x"),
    "a link to itself": (linked("x"), "x"),
    "a link to a device": (linked("/dev/zero"), "x"),
    "a link to a descriptor": (linked("/proc/self/fd/0"), "x"),
    "a linked folder": (linked("HOME/groups/friends"), "x/secret"),
    "a linked folder that leads here again": (linked("."), "x/x/x/secret"),
    "a pipe": (lambda own, home: os.mkfifo(own / "x"), "x"),
    "a socket": (lambda own, home: socket_at(own / "x"), "x"),
    "a device": (lambda own, home: os.mknod(own / "x", stat.S_IFCHR | 0o666, os.makedev(1, 5)), "x"),
    "a folder": (lambda own, home: (own / "x").mkdir(), "x"),
    "an empty file": (lambda own, home: (own / "x").touch(), "x"),
    "a terabyte of nothing": (lambda own, home: ((own / "x").touch(), os.truncate(own / "x", 1 << 40)), "x"),
    "a file in seventy folders": (deep, "/".join("d" * 70) + "/x"),
    "a file that is not there": (nothing, "x"),
}
# Odd, but a plain file of its own: it is sent, under a name that can do no harm.
ODD = {
    "a line end": "a\nb.png",
    "a tab and a bell": "a\t\x07b.png",
    "255 bytes": "x" * 251 + ".png",
    "a turn of the writing": "a\u202egnp.b.png",
    "a leading dash": "-rf.png",
    "dots": "...png",
}

# The tool, and arguments that reach for what is not the agent's. In its own chat, with the owner's authority.
REACHING: dict[str, tuple[str, dict[str, Any]]] = {
    "a message to another chat by its name": ("send_message", {"text": "x", "chat": "friends"}),
    "a message to another chat by its number": ("send_message", {"text": "x", "chat": "FRIENDS"}),
    "a message to main": ("send_message", {"text": "x", "chat": "main"}),
    "a message to a phone": ("send_message", {"text": "x", "chat": "+4915112345678"}),
    "a chat of another kind": ("send_message", {"text": "x", "chat": {"id": 1}}),
    "a task for another group": ("schedule_task", {"prompt": "x", "cron": "0 9 * * *", "group": "friends"}),
    "a task for main": ("schedule_task", {"prompt": "x", "cron": "0 9 * * *", "group": "main"}),
    "a task by a path": ("schedule_task", {"prompt": "x", "cron": "0 9 * * *", "group": "../main"}),
    "another's task": ("update_task", {"id": "OTHERS", "prompt": "x"}),
    "another's task cancelled": ("cancel_task", {"id": "OTHERS"}),
    "another's task run": ("run_task_now", {"id": "OTHERS"}),
    "all chats": ("list_chats", {}),
    "a group": ("add_group", {"chat": "CLUB", "folder": "club"}),
    "a group by a path": ("add_group", {"chat": "CLUB", "folder": "../../x"}),
    "settings": ("update_group", {"group": "family", "settings": {"network": "public"}}),
    "settings of main": ("update_group", {"group": "main", "settings": {"who": "everyone"}}),
    "another group's end": ("remove_group", {"group": "friends"}),
    "a host": ("allow_host", {"group": "family", "host": "evil.example"}),
    "a person": ("allow_person", {"group": "family", "person": "Mallory"}),
    "the memory of all": ("remember", {"text": "forged", "scope": "global"}),
    "an unknown memory": ("remember", {"text": "forged", "scope": "../main"}),
    "another's memory": ("memory_get", {"path": "../friends/secret"}),
    "a file as memory": ("memory_get", {"path": "/etc/passwd"}),
    "a descriptor as memory": ("memory_get", {"path": "/proc/self/environ"}),
    "another's message": ("react", {"emoji": "x", "id": "HEARD"}),
    "a message before all": ("read_chat", {"before_id": -1}),
    "a million messages": ("read_chat", {"limit": 1_000_000}),
    "a tool that is none": ("__init__", {}),
    "a tool by a path": ("../cli/people", {}),
    "a question without an end": ("ask_user", {"question": "x" * 1_000_000, "minutes": 10**9}),
}
TOOLS = ("send_message", "send_file", "react", "edit_message", "read_chat", "remember", "memory_search", "memory_get")
TOOLS += ("schedule_task", "update_task", "cancel_task", "list_tasks", "list_chats", "add_group", "update_group")
TOOLS += ("remove_group", "allow_host", "allow_person", "pause_task", "resume_task", "run_task_now")
KEYS = ("text", "path", "caption", "name", "as_document", "emoji", "id", "old", "before_id", "limit", "scope", "query")
KEYS += ("from_line", "lines", "prompt", "cron", "every", "once", "in_seconds", "zone", "mode", "silent", "missed")
KEYS += ("group", "chat", "folder", "settings", "host", "person", "script", "state", "trigger", "options")
ODDITIES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**53, 2**63, 10**30, 1.5, 1e308, "", "x", "\0", "\ud800", "..", "../x",
    "/etc/passwd", "main", "family", "friends", "5", "* * * * *", "x" * 5000, "\u202e", [], ["x"], {}, {"a": {"b": []}},
    [[[[]]]], "NaN", "1d",
)  # fmt: skip


@dataclass
class Outcome:
    """All that came of it."""

    files: dict[str, tuple[bool, str]] = field(default_factory=dict)
    odd: dict[str, tuple[bool, str]] = field(default_factory=dict)
    reaching: dict[str, tuple[bool, str]] = field(default_factory=dict)
    any_args: list[tuple[str, str]] = field(default_factory=list)
    huge: list[tuple[str, str]] = field(default_factory=list)
    raced: list[tuple[bool, str]] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)  # what other chats were told
    names: list[str] = field(default_factory=list)  # of files that were sent
    leaked: list[str] = field(default_factory=list)  # names of what we would send with the secret in it
    changed: list[dict[str, Any]] = field(default_factory=list)  # rows that grant something
    neighbour: tuple[bool, str] = (False, "")


def clear(own: Path) -> None:
    for path in own.iterdir():
        if path.name not in ("CLAUDE.md", "memory"):
            safefs.remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


async def attack(folder: Path) -> Outcome:
    out, chance = Outcome(), random.Random(1)
    async with benched(folder) as bench:
        own, home = bench.home.group_dir("family"), bench.home.root
        for secret in (bench.home.group_dir("friends") / "secret", home / ".env"):
            secret.write_bytes(SECRET)
        for place in ("media", "outgoing"):
            bench.home.kept_dir("friends").joinpath(place).mkdir(parents=True, exist_ok=True)
            (bench.home.kept_dir("friends") / place / "secret").write_bytes(SECRET)
        for name, (plant, path) in FILES.items():
            plant(own, home)
            out.files[name] = await bench.call(await bench.turn("family"), "send_file", path=path)
            clear(own)
        for name, file in ODD.items():
            (own / file).write_bytes(PNG)
            out.odd[name] = await bench.call(await bench.turn("family"), "send_file", path=file)
            clear(own)
        out.raced = await race(bench, own, home)
        friends = await bench.turn("friends")
        await bench.call(friends, "schedule_task", prompt="theirs", cron="0 9 * * *")
        (task,) = await bench.rows("SELECT id FROM tasks")
        known = {"FRIENDS": await bench.number("friends"), "CLUB": await bench.number("club"), "OTHERS": task["id"]}
        known["HEARD"] = await bench.heard("friends")
        for name, (tool, args) in REACHING.items():
            given = {key: known.get(value, value) if isinstance(value, str) else value for key, value in args.items()}
            out.reaching[name] = await bench.call(await bench.turn("family"), tool, **given)
        for n in range(400):
            tool = TOOLS[n % len(TOOLS)]
            args = {key: chance.choice(ODDITIES) for key in chance.sample(KEYS, 12)}
            turn = await bench.turn("family", chance.choice(list(Authority)))
            out.any_args.append((tool, (await bench.call(turn, tool, **args))[1]))
        for tool in TOOLS:
            turn = await bench.turn("family")
            for key in (
                "text",
                "path",
                "emoji",
                "old",
                "query",
                "scope",
                "prompt",
                "group",
                "folder",
                "host",
                "question",
            ):
                out.huge.append((f"{tool}.{key}", (await bench.call(turn, tool, **{key: "y" * 200_000}))[1]))
        out.neighbour = await bench.call(friends, "send_message", text="all is well")
        out.elsewhere = bench.channel.to("friends") + bench.channel.to("club") + bench.channel.to("main")
        out.names = [sent.file.name for sent in bench.channel.sent if sent.file]
        kept = bench.home.kept_dir("family") / "outgoing"
        out.leaked = [path.name for path in kept.iterdir() if SECRET in path.read_bytes()]
        out.changed = await bench.rows(
            "SELECT folder, network, hosts, who, mounts, state FROM groups WHERE network <> 'none' AND folder <> 'main'"
            " OR hosts <> '[]' AND folder <> 'main' OR mounts <> '[]' OR state <> 'active' OR folder NOT IN"
            " ('main', 'family', 'friends')"
        )
    return out


async def race(bench: Bench, own: Path, home: Path) -> list[tuple[bool, str]]:
    """A folder and a file on the way are swapped with links, again and again, while they are sent."""
    over = threading.Event()
    (own / "honest").mkdir()
    (own / "honest/f.png").write_bytes(PNG)
    (own / "way").symlink_to("honest")
    for name, target in (("a", own / "honest"), ("b", home / "groups/friends")):
        (own / f"link-{name}").symlink_to(target)
    (home / "groups/friends/f.png").write_bytes(PNG + SECRET)

    def swap() -> None:
        while not over.is_set():
            for name in ("link-a", "link-b"):
                (own / "next").symlink_to((own / name).readlink())
                (own / "next").rename(own / "way")
            (own / "way").unlink()
            (own / "honest").rename(own / "way")
            (own / "way").rename(own / "honest")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        return [await bench.call(await bench.turn("family"), "send_file", path="way/f.png") for _ in range(40)]
    finally:
        over.set()
        thread.join()
        clear(own)


@pytest.fixture(scope="module")
def outcome(once: Once[Outcome]) -> Outcome:
    """All of it, once."""
    return once("tools", lambda folder: asyncio.run(attack(folder)))


@pytest.mark.parametrize("case", FILES)
def test_no_file_but_its_own_is_sent(outcome: Outcome, case: str) -> None:
    """Refused in words, which hold nothing of the host's."""
    ok, told = outcome.files[case]
    assert not ok
    assert "failed here" not in told
    assert "/nc-" not in told
    assert len(told) < 1000


@pytest.mark.parametrize("case", ODD)
def test_an_odd_name_is_made_harmless(outcome: Outcome, case: str) -> None:
    """The file is the agent's own, so it is sent."""
    assert outcome.odd[case] == (True, "Sent.")


def test_what_people_see_of_a_name_is_one_plain_line(outcome: Outcome) -> None:
    """No path, no control character, no turn of the writing, not too long."""
    assert len(outcome.names) >= len(ODD)
    for name in outcome.names:
        assert name.isprintable()
        assert "/" not in name
        assert "\u202e" not in name
        assert 0 < len(name) <= 100


def test_what_is_swapped_while_it_is_opened_is_the_agents_own_or_refused(outcome: Outcome) -> None:
    """Forty times, with the way there another one each time that it is looked at."""
    assert len(outcome.raced) == 40
    assert all(ok or "failed here" not in told for ok, told in outcome.raced)
    assert outcome.leaked == []


@pytest.mark.parametrize("case", REACHING)
def test_nothing_beyond_its_own_chat(outcome: Outcome, case: str) -> None:
    """Refused, though the owner's own words stand behind the turn: this is not main."""
    ok, told = outcome.reaching[case]
    assert not ok, told
    assert "failed here" not in told
    assert SECRET.decode() not in told


def test_any_arguments_get_an_answer_in_words(outcome: Outcome) -> None:
    """Four hundred calls with anything in them: none of them broke, whoever's authority it was."""
    assert [(tool, told) for tool, told in outcome.any_args if "failed here" in told or not told] == []


def test_a_huge_argument_gets_a_short_answer(outcome: Outcome) -> None:
    """An answer is a letter, which must fit: nothing of the argument comes back but a piece."""
    assert [name for name, told in outcome.huge if "failed here" in told or len(told) > 40_000] == []


def test_nobody_else_heard_of_it_and_nothing_was_granted(outcome: Outcome) -> None:
    """Other chats were told nothing, no row grants anything, and the neighbour goes on."""
    assert outcome.elsewhere == ["all is well"]
    assert outcome.changed == []
    assert outcome.neighbour == (True, "Sent.")
