"""Folders of the machine for a group: who grants them, what an agent's wish comes to, and what a run really gets."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.control import groups, mounts
from nanoclaw.control.pending import WIDENINGS
from nanoclaw.errors import Refused
from nanoclaw.models import By, Group, Mount
from nanoclaw.run import extras
from nanoclaw.sandbox import Bind
from nanoclaw.store import Tx, audit
from nanoclaw.store import mounts as rows
from tests.commands import nanoclaw
from tests.fakes import LIMIT, Hosted, hosting, rows_of_one_group
from tests.story import busy

OWNER, AGENT = By("owner"), By("agent of family", typed=False)


def allow(home: Path, *roots: Path, more: str = "") -> None:
    """Write mounts.toml: all of these may be written."""
    text = "".join(f'[[allowed_roots]]\npath = "{root}"\nread_write = true\n' for root in roots)
    (home / "mounts.toml").write_text(f"{more}\n{text}")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with something in it, and a home that allows it."""
    (tmp_path / "docs/inner").mkdir(parents=True)
    (tmp_path / "home").mkdir(mode=0o700)
    allow(tmp_path / "home", tmp_path / "docs")
    return tmp_path


@pytest.fixture
def tx(world: Path) -> Iterator[Tx]:
    with rows_of_one_group(world / "home/nanoclaw.db") as (tx, _):
        yield tx


def granted(tx: Tx, folder: str) -> tuple[Mount, ...]:
    return groups.find(tx, folder).mounts


def wish(world: Path, **more: Any) -> dict[str, Any]:
    return {"group": "family", "source": str(world / "docs"), **more}


# --- the verbs ---------------------------------------------------------------------------------


def test_a_wish_is_a_question_and_a_yes_is_a_mount(tx: Tx, world: Path) -> None:
    """The sentence says folder, way, place and how many people get it; only applying it changes anything."""
    tx.execute("UPDATE chats SET members = 12 WHERE group_id = ?", (groups.find(tx, "family").id,))
    said = WIDENINGS["mount"].sentence(tx, wish(world))
    assert f"«{world}/docs»" in said
    assert "read-only to the group family, as /workspace/extra/«docs»" in said
    assert "12 people: all of them can then get these files" in said
    assert granted(tx, "family") == ()
    told = WIDENINGS["mount"].apply(tx, wish(world), OWNER, 5)
    assert "/workspace/extra/docs" in told
    assert granted(tx, "family") == (Mount(f"{world}/docs", "docs"),)
    (entry,) = audit.newest(tx, 1)
    assert (entry.who, entry.verb) == ("owner", "mount")
    assert entry.detail == f"family: {world}/docs as docs, read-only"


def test_people_are_counted_as_well_as_they_are_known(tx: Tx) -> None:
    """By the channel's number, else by who wrote; a direct chat is one person; main needs no number."""
    family = groups.find(tx, "family")
    assert mounts.who(tx, family) == "0 people who wrote there, and everybody else in that chat"
    tx.execute("UPDATE chats SET is_group = 0 WHERE group_id = ?", (family.id,))
    assert mounts.who(tx, family) == "1 person"
    assert mounts.who(tx, groups.find(tx, "main")) == ""


def test_an_agent_s_hand_grants_nothing(tx: Tx, world: Path) -> None:
    """Also where somebody calls the verb itself."""
    with pytest.raises(Refused, match="only the owner"):
        WIDENINGS["mount"].apply(tx, wish(world), AGENT, 5)
    assert granted(tx, "family") == ()


def test_an_agent_does_not_learn_what_is_on_the_machine(tx: Tx, world: Path) -> None:
    """All is refused in the same words, whether it is there or not, also behind a link that the agent has laid."""
    (world / "private/.ssh").mkdir(parents=True)
    (world / "private/key").write_text("x")
    sources = ["home", "nothing", "docs/../home", "docs/../nothing", "docs/nothing"]
    for n, name in enumerate(("private", "private/key", "private/none", "private/.ssh", "home", "docs/inner")):
        (world / f"docs/probe{n}").symlink_to(world / name)
        sources.append(f"docs/probe{n}")
    told = set()
    for source in sources:
        with pytest.raises(Refused) as e:
            WIDENINGS["mount"].sentence(tx, wish(world, source=str(world / source)))
        told.add(str(e.value))
    assert len(told) == 1
    assert str(world) not in told.pop()


def test_a_yes_opens_what_was_shown_or_nothing(tx: Tx, world: Path) -> None:
    """An agent that may write there can put a link, or another one, in the folder's place at any moment."""
    (world / "docs/inner").rename(world / "docs/aside")
    (world / "docs/other").mkdir()
    (world / "docs/inner").symlink_to("aside")
    args = wish(world, source=f"{world}/docs/inner")
    with pytest.raises(Refused, match="leads elsewhere"):
        WIDENINGS["mount"].sentence(tx, args)
    (world / "docs/inner").unlink()
    (world / "docs/inner").symlink_to("other")
    with pytest.raises(Refused, match="leads elsewhere"):
        WIDENINGS["mount"].apply(tx, args, OWNER, 5)
    assert granted(tx, "family") == ()


def test_a_dead_disk_holds_up_the_rows_once(tx: Tx, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else in that folder an agent wishes for meanwhile is refused without a question to the disk."""
    answer, asked, really = threading.Event(), list[str](), mounts.judge

    def hangs(here: Any, source: str, **more: Any) -> Any:
        asked.append(source)
        answer.wait(2 * LIMIT)
        return really(here, source, **more)

    monkeypatch.setattr(mounts, "judge", hangs)
    monkeypatch.setattr(mounts, "_PATIENCE", 0.1)
    try:
        for name in ("docs", "docs/inner", "docs/nothing"):
            with pytest.raises(Refused, match="does not answer"):
                WIDENINGS["mount"].sentence(tx, wish(world, source=str(world / name)))
        assert len(asked) == 1
    finally:
        answer.set()


def test_a_wish_knows_what_a_start_knows(tx: Tx, world: Path) -> None:
    """The folder of the sockets and the engine's own socket, where the living host has them: a yes holds."""
    assert "open the folder" in WIDENINGS["mount"].sentence(tx, wish(world, source=f"{world}/docs/inner"))
    for around in ((world / "docs/inner", ""), (world / "elsewhere", f"unix://{world}/docs/inner/engine.sock")):
        rows.set_around(tx, *around)
        with pytest.raises(Refused):
            WIDENINGS["mount"].sentence(tx, wish(world, source=f"{world}/docs/inner"))
    rows.set_around(tx, world / "elsewhere", "unix:///elsewhere/engine.sock")
    assert "open the folder" in WIDENINGS["mount"].sentence(tx, wish(world, source=f"{world}/docs/inner"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "/etc"}, "no absolute path in a folder that"),
        ({"source": "/no-such-folder"}, "no absolute path in a folder that"),  # the same words: nobody learns of it
        ({"source": "docs"}, "no absolute path in a folder that"),
        ({"target": "../x"}, "cannot be a mount's name"),
        ({"target": "a:b"}, "cannot be a mount's name"),
        ({"group": "nobody"}, "no group"),
        ({"source": 7}, "needs group and source"),
        ({"read_write": "yes"}, "needs group and source"),
        ({"read_write": 1}, "needs group and source"),
        ({"force": True}, "needs group and source"),
    ],
)
def test_a_wish_that_makes_no_sense_is_not_asked(tx: Tx, world: Path, change: dict[str, Any], words: str) -> None:
    """Refused before the owner is bothered, with a reason that the agent can act on; and again at the yes."""
    with pytest.raises(Refused, match=words):
        WIDENINGS["mount"].sentence(tx, wish(world, **change))
    with pytest.raises(Refused, match=words):
        WIDENINGS["mount"].apply(tx, wish(world, **change), OWNER, 5)


def test_writing_is_said_and_for_others_than_main_refused(tx: Tx, world: Path) -> None:
    """The owner sees whether it is for writing; a group that may not write is told what it gets instead."""
    said = WIDENINGS["mount"].sentence(tx, wish(world, read_write=True))
    assert "read-only to the group family" in said
    assert "non_main_read_only" in said
    assert "code that you may run" not in said
    said = WIDENINGS["mount"].sentence(tx, wish(world, group="main", read_write=True))
    assert "for writing to the group main" in said
    assert "A folder for writing means code that you may run" in said
    WIDENINGS["mount"].apply(tx, wish(world, group="main", read_write=True), OWNER, 5)
    assert granted(tx, "main")[0].read_write


def test_a_name_in_the_question_cannot_speak_for_the_host(tx: Tx, world: Path) -> None:
    """A folder's name may have been chosen by an agent: it stays between its quotation marks."""
    (world / "docs/x» for nobody. Say yes to «").mkdir()
    said = WIDENINGS["mount"].sentence(tx, wish(world, source=f"{world}/docs/x» for nobody. Say yes to «"))
    assert said.count("«") == said.count("»") == 2
    assert "x' for nobody" in said


def test_a_broken_allowlist_is_said_to_who_asked(tx: Tx, world: Path) -> None:
    """Neither asked nor granted."""
    (world / "home/mounts.toml").write_text("nonsense")
    with pytest.raises(Refused, match=r"mounts\.toml cannot be read, so no folder can be granted"):
        WIDENINGS["mount"].sentence(tx, wish(world))


def test_no_two_mounts_meet_and_a_group_has_so_many(tx: Tx, world: Path) -> None:
    """The same folder or the same name twice is refused; taking one back makes room."""
    apply = WIDENINGS["mount"].apply
    apply(tx, wish(world), OWNER, 5)
    with pytest.raises(Refused, match="is there already as docs"):
        apply(tx, wish(world, target="other"), OWNER, 5)
    with pytest.raises(Refused, match="is taken by the mount"):
        apply(tx, wish(world, source=f"{world}/docs/inner", target="DOCS"), OWNER, 5)
    apply(tx, wish(world, source=f"{world}/docs/inner"), OWNER, 5)
    text = mounts.listed_text(tx, groups.find(tx, "family"))
    assert text.splitlines() == [
        f"/workspace/extra/docs: {world}/docs, read-only",
        f"/workspace/extra/inner: {world}/docs/inner, read-only",
    ]
    mounts.revoke(tx, "family", "docs", AGENT, 6)  # to narrow, nobody is asked
    with pytest.raises(Refused, match="it has inner"):
        mounts.revoke(tx, "family", "docs", OWNER, 6)
    assert "nanoclaw mounts add main PATH" in mounts.listed_text(tx, groups.find(tx, "main"))
    family = groups.find(tx, "family")
    rows.put(tx, family.id, [Mount(f"/srv/{n}", str(n)) for n in range(16)])
    with pytest.raises(Refused, match="has 16 mounts already"):
        apply(tx, wish(world), OWNER, 5)


def test_what_main_was_told_is_told_once_a_day(tx: Tx) -> None:
    """An agent that changes it at every start does not fill the owner's chat; what is over may come again."""
    day = 86_400_000
    told = [rows.tell(tx, "hidden:2:docs", text, at) for text, at in (("a", 1), ("a", 2), ("b", 3), ("b", day + 2))]
    told += [rows.tell(tx, "hidden:2:docs", "b", 3 * day), rows.tell(tx, "refused:2:docs", "c", 3 * day)]
    rows.forget(tx, "hidden:2:docs")
    told += [rows.tell(tx, "hidden:2:docs", "b", 3 * day), rows.tell(tx, "refused:2:docs", "c", 9 * day)]
    assert told == [True, False, False, True, False, True, True, False]


def test_what_comes_and_goes_is_told_once_a_day(tx: Tx) -> None:
    """A folder that another run has every now and then: main hears of it, not of every time."""
    family, mount, day = groups.find(tx, "family"), Mount("/srv/x", "x"), 86_400_000
    gone, there = {mount: extras.Given(refused="a run of the group main may write there")}, {mount: extras.Given()}
    told = [extras.say(tx, family, gone if n % 2 == 0 else there, n * 1000) for n in range(6)]
    assert told == [True, False, False, False, False, False]
    assert extras.say(tx, family, gone, day + 1)
    assert not extras.say(tx, family, gone, 3 * day)  # just this was the last that it heard


# --- the command line --------------------------------------------------------------------------


async def test_mounts_from_the_command_line(short: Path) -> None:
    """check explains, add grants, list shows, remove takes back; what is refused is one line and exit code 1."""
    home, docs = short / "home", short / "docs"
    (docs / ".ssh").mkdir(parents=True)
    code, out, err = await nanoclaw(home, "mounts", "list")
    assert (code, "there is no" in out) == (0, True), err
    code, out, err = await nanoclaw(home, "mounts", "check", str(docs))
    assert (code, out.splitlines()[-1]) == (1, "Refused.")
    allow(home, docs)
    with rows_of_one_group(home / "nanoclaw.db"):
        pass
    code, out, err = await nanoclaw(home, "mounts", "check", str(docs), "--group", "family", "--write", "--json")
    said = json.loads(out)
    assert (code, said["allowed"], said["read_write"]) == (0, True, False), err
    assert {r["name"] for r in said["rules"]} >= {"allowlist", "exists", "root", "name", "home", "engine", "access"}
    assert said["inside"] == [{"path": ".ssh", "why": "a blocked name"}]
    code, out, err = await nanoclaw(home, "mounts", "add", "family", str(docs), "--as", "papers")
    assert code == 0, err
    assert "family sees" in out
    assert "everybody else in that chat: all of them can get these files" in out
    assert "not seen: .ssh (a blocked name)" in out
    code, out, err = await nanoclaw(home, "mounts", "list", "--json")
    assert json.loads(out)["groups"] == {"family": [{"source": str(docs), "target": "papers", "read_write": False}]}
    code, out, err = await nanoclaw(home, "mounts", "add", "main", "/etc")
    assert (code, err.count("\n")) == (1, 1)
    assert "no allowed folder" in err
    code, out, err = await nanoclaw(home, "mounts", "remove", "family", "papers")
    assert code == 0, err
    code, out, err = await nanoclaw(home, "mounts", "list")
    assert out.splitlines() == [f"allowed: {docs}, read-write", "granted: nothing"]


# --- what a run gets ---------------------------------------------------------------------------


@pytest.fixture
def short(folder: Path) -> Path:
    return folder.resolve()


async def give(host: Hosted, folder: str, *found: Mount) -> Group:
    """As if it had been granted at some time."""
    group = await host.store.read(groups.find, folder)
    await host.store.write(rows.put, group.id, found)
    return group


def seen(host: Hosted, n: int = -1) -> dict[str, Bind]:
    """What the nth container was given of the machine, by name."""
    top = "/workspace/extra/"
    return {b.target.removeprefix(top): b for b in host.sandbox.opened[n].binds if b.target.startswith(top)}


async def heard(host: Hosted, words: str) -> list[str]:
    """What main was told with these words."""
    return [r["payload"] for r in await host.rows("SELECT payload FROM outgoing ORDER BY id") if words in r["payload"]]


async def test_a_granted_folder_is_mounted_with_its_shadows(short: Path) -> None:
    """Secrets in it are covered by something empty, git's own is read-only, and main hears of both, once."""
    docs = short / "docs"
    for name in (".git", "a/.ssh"):
        (docs / name).mkdir(parents=True)
    (docs / ".env").write_text("KEY=fake")
    async with hosting(short) as host:
        await host.group("family")
        allow(host.config.home, docs, more="non_main_read_only = false")
        await give(host, "family", Mount(str(docs), "papers", read_write=True))
        await host.channel.say("family", "one")
        await host.channel.until(1)
        home = host.config.home.resolve()
        assert {name: (b.source, b.read_write) for name, b in seen(host).items()} == {
            "papers": (docs, True),
            "papers/.git": (docs / ".git", False),
            "papers/.env": (home / "empty/file", False),
            "papers/a/.ssh": (home / "empty/folder", False),
        }
        assert seen(host)["papers"].inode == (docs.stat().st_dev, docs.stat().st_ino)
        await host.channel.say("family", "!die")
        await host.channel.until(2)
        await host.channel.say("family", "two")
        await host.channel.until(3)
        assert len(host.sandbox.opened) > 1
        (told,) = await heard(host, "hidden in it")
        assert "«.env» (a blocked name)" in told
        (told,) = await heard(host, "can only be read")
        assert "its .git can only be read. If you did not make it, run no git there" in told


async def test_a_repository_that_appears_inside_takes_the_writing(short: Path) -> None:
    """Whether people or an agent laid it: it is not writable from the next start on, and main is told why."""
    docs = short / "docs"
    docs.mkdir()
    async with hosting(short) as host:
        await host.group("family")
        allow(host.config.home, docs, more="non_main_read_only = false")
        await give(host, "family", Mount(str(docs), "docs", read_write=True))
        for n, writable in enumerate((True, False)):
            await host.channel.say("family", "go")
            await host.channel.until(lambda n=n: len(host.channel.to("family")) > 2 * n)
            assert seen(host)["docs"].read_write is writable
            assert set(seen(host)) == {"docs"}
            (docs / "app/.git").mkdir(parents=True, exist_ok=True)
            await host.channel.say("family", "!die")
            await host.channel.until(lambda n=n: len(host.channel.to("family")) > 2 * n + 1)
        (told,) = await heard(host, "it is read-only")
        assert "app/.git lies deeper than its top" in told


async def test_a_secret_that_is_replaced_is_hidden_again_before_the_next_turn(short: Path) -> None:
    """As editors save: another file takes its place, and nothing covers that one in a container that runs."""
    docs = short / "docs"
    docs.mkdir()
    (docs / ".env").write_text("KEY=fake")
    async with hosting(short) as host:
        await host.group("family")
        allow(host.config.home, docs)
        await give(host, "family", Mount(str(docs), "docs"))
        for n, opened in enumerate((1, 1, 2)):
            await host.channel.say("family", f"turn {n}")
            await host.channel.until(n + 1)
            assert len(host.sandbox.opened) == opened
            if n == 1:
                (docs / "new").write_text("KEY=other")
                (docs / "new").rename(docs / ".env")


async def test_whatever_lies_in_a_folder_the_run_starts(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link in a circle is nothing; a fault of ours costs that folder, not the turn."""
    docs = short / "docs"
    docs.mkdir()
    (docs / ".env").symlink_to(".env")
    async with hosting(short) as host:
        await host.group("family")
        allow(host.config.home, docs)
        await give(host, "family", Mount(str(docs), "docs"))
        await host.channel.say("family", "one")
        await host.channel.until(1)
        assert set(seen(host)) == {"docs"}
        monkeypatch.setattr(extras, "look", lambda *a, **k: {}["no such thing"])
        (host.config.home / "mounts.toml").write_text((host.config.home / "mounts.toml").read_text() + "\n")
        await host.channel.say("family", "two")
        await host.channel.until(2)
        assert host.channel.texts == ["echo: one", "echo: two"]
        assert seen(host) == {}
        (told,) = await heard(host, "goes without it")
        assert "KeyError" in told


async def test_nobody_writes_where_another_start_looks(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that writes waits: what is renamed after the look would not be hidden."""
    docs = short / "docs"
    (docs / "sub").mkdir(parents=True)
    (docs / "sub/.env").write_text("KEY=fake")
    looked, go_on, really = threading.Event(), threading.Event(), extras.look

    def slow(source: Path, *args: Any, **more: Any) -> Any:
        found = really(source, *args, **more)
        if not more["read_write"]:
            looked.set()
            go_on.wait(2 * LIMIT)
        return found

    waits, busy_there = asyncio.Event(), extras._looks

    def looks(*args: Any) -> bool:
        if found := busy_there(*args):
            waits.set()
        return found

    monkeypatch.setattr(extras, "look", slow)
    monkeypatch.setattr(extras, "_looks", looks)
    async with hosting(short, max_runs=5) as host:
        await host.group("family")
        await host.group("work")
        allow(host.config.home, docs, more="non_main_read_only = false")
        await give(host, "family", Mount(str(docs), "docs", read_write=True))
        await give(host, "work", Mount(str(docs), "docs"))
        try:
            await host.channel.say("work", "first")
            await asyncio.to_thread(looked.wait, LIMIT)
            await host.channel.say("family", "second")
            async with asyncio.timeout(LIMIT):
                await waits.wait()
            assert host.sandbox.opened == []
        finally:
            go_on.set()
        await host.channel.until(lambda: host.channel.to("work") and host.channel.to("family"))
        assert [set(seen(host, n)) for n in (0, 1)] == [{"docs", "docs/sub/.env"}] * 2
        assert [seen(host, n)["docs"].read_write for n in (0, 1)] == [False, True]


async def test_a_swap_after_the_grant_is_caught_at_the_start(short: Path) -> None:
    """The run starts without that folder, answers, and main is told why; the other folder is there."""
    (short / "docs").mkdir()
    (short / "more").mkdir()
    async with hosting(short) as host:
        await host.group("family")
        allow(host.config.home, short / "docs", short / "more")
        await give(host, "family", Mount(f"{short}/docs", "docs"), Mount(f"{short}/more", "more"))
        (short / "docs").rmdir()
        (short / "docs").symlink_to("/etc")
        await host.channel.say("family", "hello")
        await host.channel.until(1)
        assert host.channel.texts == ["echo: hello"]
        assert set(seen(host)) == {"more"}
        (told,) = await host.rows("SELECT payload FROM outgoing WHERE payload LIKE '%goes without it%'")
        assert "/etc" in told["payload"]


async def test_the_allowlist_counts_at_every_start(short: Path) -> None:
    """Taken off the list, it is gone for the next turn, in a new container; broken, the list gives nothing."""
    docs = short / "docs"
    docs.mkdir()
    async with hosting(short) as host:
        await host.group("family")
        allow(host.config.home, docs)
        await give(host, "family", Mount(str(docs), "docs", read_write=True))
        for n, (text, names) in enumerate(
            [(None, {"docs"}), ("", set()), ("[[", set()), (f'[[allowed_roots]]\npath = "{docs}"', {"docs"})]
        ):
            if text is not None:
                (host.config.home / "mounts.toml").write_text(text)
            await host.channel.say("family", f"turn {n}")
            await host.channel.until(n + 1)
            assert set(seen(host)) == names
            assert not any(b.read_write for b in seen(host).values())  # this group never may


async def test_a_folder_that_is_being_written_is_in_one_container(short: Path) -> None:
    """While an agent can rename in it, no other starts with it; an idle one makes way."""
    docs = short / "docs"
    (docs / "inner").mkdir(parents=True)
    async with hosting(short, max_runs=5) as host:
        await host.group("family")
        await host.group("work")
        allow(host.config.home, docs, more="non_main_read_only = false")
        await give(host, "family", Mount(str(docs), "docs", read_write=True))
        await give(host, "work", Mount(f"{docs}/inner", "inner"))
        go = await busy(host, "family")
        await host.channel.say("work", "first")
        await host.channel.until(lambda: host.channel.to("work"))
        assert set(seen(host)) == set()
        (told,) = await host.rows("SELECT payload FROM outgoing WHERE payload LIKE '%goes without it%'")
        assert "a run of the group family may write there" in told["payload"]
        go.touch()
        await host.settled()
        await host.channel.say("work", "!die")
        await host.channel.until(lambda: len(host.channel.to("work")) > 1)
        await host.channel.say("work", "third")
        await host.channel.until(lambda: any("third" in t for t in host.channel.to("work")))
        assert set(seen(host)) == {"inner"}
        states = await host.rows("SELECT lane, state FROM runs WHERE state <> 'ended'")
        assert [r["lane"] for r in states] == ["work"]  # family's was idle, and made way


async def test_disks_that_never_answer_hold_up_nobody(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run starts without them after one time for all, others at once, and no disk is asked again meanwhile."""
    names = [f"d{n}" for n in range(16)]
    for name in (*names, "good"):
        (short / name).mkdir()
    answer, asked, really = threading.Event(), list[str](), extras.look

    def hangs(source: Path, *args: Any, **more: Any) -> Any:
        asked.append(source.name)
        if source.name != "good":
            answer.wait(2 * LIMIT)
        return really(source, *args, **more)

    monkeypatch.setattr(extras, "look", hangs)
    monkeypatch.setattr(extras, "LOOK_LIMIT", 3.0)
    async with hosting(short, max_runs=5) as host:
        await host.group("family")
        await host.group("work")
        allow(host.config.home, short)
        (host.config.home / "mounts.toml").write_text(
            "".join(f'[[allowed_roots]]\npath = "{short / name}"\n' for name in (*names, "good"))
        )
        await give(host, "family", *(Mount(f"{short}/{name}", name) for name in names))
        await give(host, "work", Mount(f"{short}/good", "good"), Mount(f"{short}/d0", "d0"))
        try:
            await host.channel.say("family", "hello")
            await host.channel.until(1)
            assert set(seen(host)) == set()
            assert len(await heard(host, "its disk does not answer")) == 16
            await host.channel.say("work", "hello")
            await host.channel.until(lambda: host.channel.to("work"))
            assert set(seen(host)) == {"good"}
            assert sorted(asked) == sorted([*names, "good"])
        finally:
            answer.set()


def test_the_rows_know_their_home(tx: Tx, world: Path) -> None:
    """The allowlist is read where the database lies."""
    assert rows.home(tx) == (world / "home").resolve()
