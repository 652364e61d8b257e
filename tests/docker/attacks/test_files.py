"""A group's folder as an agent may leave it, planted from inside; then everything that the host does there."""

import asyncio
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from nanoclaw import app, groups, safefs
from nanoclaw.errors import SandboxError, UnsafePath
from nanoclaw.ops import files as file_ops
from nanoclaw.ops.backup import Wishes, back_up
from nanoclaw.ops.memory import Memories
from nanoclaw.sandbox.docker_sandbox import DockerSandbox
from nanoclaw.store import chats
from nanoclaw.tools import Tools
from tests.agent_harness import source
from tests.docker.attacks.conftest import Once, arm, plain_run
from tests.test_tools import Bench, benched, kit_of

pytestmark = pytest.mark.timeout(300)

SECRET = b"THE-SECRET-OF-SOMEBODY-ELSE"
DONE = frozenset({"done"})
REFUSED = frozenset({"EPERM", "EACCES"})
APART = frozenset({"EXDEV", "EPERM", "EBUSY", "EROFS", "EACCES"})  # another mount: no link leads over, nothing moves
# What an agent may do there at all; the others stand with what must be seen.
PLANTS = {
    "a name of 256 bytes": frozenset({"ENAMETOOLONG"}),
    "a device": REFUSED,
    "a file of root's": REFUSED,
    "a program as root": REFUSED,
    "a file for ever": REFUSED | {"ENOTTY", "EOPNOTSUPP"},
    "a hard link to the outbox": APART,
    "a hard link to what the host keeps": APART,
    "a hard link to the memory of all": APART,
    "a folder moved out": APART,
    "the folder itself moved": APART,
    "the folder itself removed": APART | {"ENOTEMPTY"},
    "three gigabytes": frozenset({"EFBIG"}),
}
LAID = (
    "the folder of notes", "an honest note", "a linked note", "a note linked to the credential",
    "a note linked to a device", "a note linked to itself", "a folder that leads up", "a folder that leads to others",
    "a folder that leads to itself", "a pipe", "a socket", "a folder for a note", "a hole of 64 megabytes",
    "a note of binary noise", "a note of one long line", "a note of nulls", "a note in half characters",
    "a line end in a name", "a name that is no text", "a name of 255 bytes", "a turn of the writing",
    "a name that is a command", "a name that is an option", "a huge memory", "closed folders",
    "a hundred thousand files", "two thousand folders below each other",
)  # fmt: skip
READ = ("link.md", "key.md", "zero.md", "self.md", "up/groups/friends/secret", "pipe.md", "socket.md", "folder.md")
READ += ("huge.md", "noise.md", "nulls.md", "half.md", "a\nwalrus.md", "loop/loop/honest.md", "swapped.md")


@dataclass
class Outcome:
    """All that came of it."""

    found: dict[str, str] = field(default_factory=dict)
    counted: str = ""  # what the host says of a tree that it cannot count
    room: str = ""  # and of the rest
    memory: str = ""
    search: tuple[bool, str] = (False, "")
    read: dict[str, tuple[bool, str]] = field(default_factory=dict)
    noted: tuple[bool, str] = (False, "")
    backed_up: dict[str, str] = field(default_factory=dict)  # members of the group, and their kinds
    leaked: list[str] = field(default_factory=list)
    secret: bytes = b""
    left: list[str] = field(default_factory=list)
    neighbour: tuple[bool, str] = (False, "")


async def plant(bench: Bench, image: str) -> dict[str, str]:
    """From inside, with what the host keeps as it would be there."""
    days = [time.strftime("%Y-%m-%d", time.gmtime(time.time() + d * 86400)) for d in (0, 1)]
    spec = plain_run(bench.home, image, "family", " ".join(["files.py", "files.json", *days]))
    own = source(spec, "/workspace/group")
    for path in (own, own / "CLAUDE.md", source(spec, "/home/agent/.claude/projects")):
        os.chown(path, spec.uid, spec.gid)
    arm(own)
    (source(spec, "/workspace/media") / "picture.jpg").write_bytes(b"x")
    (source(spec, "/workspace/global") / "CLAUDE.md").write_text("x")
    sandbox = DockerSandbox(install_id="attacks-files", environ={})
    container = await sandbox.open(replace(spec))
    try:
        async with asyncio.timeout(200):
            end = await sandbox.wait(container)
        assert (own / "files.json").exists(), end.log
        found: dict[str, str] = json.loads((own / "files.json").read_text())
        return found
    finally:
        await sandbox.close(container)
        await sandbox.stop()


async def attack(folder: Path, image: str) -> Outcome:
    out, over = Outcome(), threading.Event()
    async with benched(folder) as bench:
        home, own = bench.home, bench.home.group_dir("family")
        (home.group_dir("friends") / "secret").write_bytes(SECRET)
        (home.root / ".env").write_bytes(SECRET)
        out.found = await plant(bench, image)
        thread = threading.Thread(target=swap, args=(own / "memory", over))
        thread.start()
        try:
            await look(bench, out)
        finally:
            over.set()
            thread.join()
        out.secret = (home.group_dir("friends") / "secret").read_bytes()
        await asyncio.to_thread(safefs.remove_tree, own)
        out.left = [path.name for path in (home.root / "groups").iterdir() if path.name == "family"]
        out.neighbour = await bench.call(await bench.turn("friends"), "remember", text="all is well")
    return out


def swap(memory: Path, over: threading.Event) -> None:
    """A note that is another thing each time that one looks."""
    note, kinds = memory / "swapped.md", 0
    while not over.is_set():
        part = memory / ".part"
        match kinds % 3:
            case 0:
                part.write_text("walrus")
            case 1:
                part.symlink_to("../../friends/secret")
            case 2:
                os.mkfifo(part)
        part.rename(note)
        kinds += 1
        time.sleep(0.002)


async def look(bench: Bench, out: Outcome) -> None:
    """Everything that a host does in a group's folder."""
    home, own = bench.home, bench.home.group_dir("family")

    def refusal(act: Callable[[], object]) -> str:
        try:
            act()
        except (SandboxError, UnsafePath) as e:
            return str(e)
        return ""

    apart = asyncio.to_thread
    out.counted = await apart(lambda: refusal(lambda: groups.check_room(home, "family", "family")))
    await apart(lambda: safefs.remove_tree(own / "deep"))
    out.room = await apart(lambda: refusal(lambda: groups.check_room(home, "family", "family")))
    await apart(lambda: safefs.remove_tree(own / "crowd"))
    out.memory = await apart(lambda: refusal(lambda: groups.memory_text(home, "family")))
    groups.read_memory(home, "family")
    memories = Memories(bench.store, home, app.now_ms)
    kit = replace(kit_of(bench.store, home, bench.tools._kit.outbox), bring_up=memories.bring_up)
    bench.tools = Tools(kit)
    await memories.tick()
    family = await bench.turn("family")
    out.search = await bench.call(family, "memory_search", query="Willy", limit=20)
    for path in READ:
        out.read[path] = await bench.call(family, "memory_get", path=f"memory/{path}")
    out.noted = await bench.call(family, "remember", text="a note of the agent's")
    made = await apart(lambda: back_up(home.root, home.root / "backups/b", Wishes(), version="1", now=1))
    with tarfile.open(made.path) as tar:
        for member in tar:
            if "/family/" in member.name:
                out.backed_up[member.name] = "file" if member.isfile() else "folder" if member.isdir() else "other"
                data = tar.extractfile(member)
                if data is not None and member.size < 1 << 20 and SECRET in data.read():
                    out.leaked.append(member.name)
    await asyncio.to_thread(file_ops.ages, own)
    assert (await bench.store.read(chats.group_by_folder, "family")) is not None


@pytest.fixture(scope="module")
def outcome(agent_image: str, once: Once[Outcome]) -> Outcome:
    """All of it, once."""
    return once("files", lambda folder: asyncio.run(attack(folder, agent_image)))


@pytest.mark.parametrize("case", [*LAID, *PLANTS])
def test_what_can_be_laid_there(outcome: Outcome, case: str) -> None:
    """Within its folder an agent may do as it likes; over the edge nothing leads."""
    assert outcome.found[case] in PLANTS.get(case, DONE)


def test_every_attempt_is_in_the_table(outcome: Outcome) -> None:
    """So that none is tried and not looked at."""
    assert set(outcome.found) == {*LAID, *PLANTS}


def test_what_cannot_be_counted_is_said(outcome: Outcome) -> None:
    """A tree too deep holds up its own group alone, until it is tidied; a crowd of files is counted."""
    assert "cannot be counted" in outcome.counted
    assert outcome.room == ""


def test_a_huge_memory_is_refused(outcome: Outcome) -> None:
    """It is not cut: half of a memory could mean its opposite."""
    assert "larger than" in outcome.memory


def test_what_is_honest_is_found_among_it(outcome: Outcome) -> None:
    """The search goes on, and says nothing of what stands elsewhere."""
    ok, told = outcome.search
    assert ok
    assert "Willy" in told
    assert SECRET.decode() not in told


@pytest.mark.parametrize("path", READ)
def test_no_note_leads_elsewhere(outcome: Outcome, path: str) -> None:
    """Read as what it is, or refused in words."""
    _, told = outcome.read[path]
    assert SECRET.decode() not in told
    assert "failed here" not in told
    assert len(told) < 100_000


def test_nothing_is_written_through_a_link(outcome: Outcome) -> None:
    """Today's note is a link to another group's file: that stays as it was."""
    assert not outcome.noted[0]
    assert "cannot be written" in outcome.noted[1]
    assert outcome.secret == SECRET


def test_a_backup_has_files_and_folders_alone(outcome: Outcome) -> None:
    """No link, pipe or socket is in it, and nothing that links led to."""
    assert any(name.endswith("honest.md") for name in outcome.backed_up)
    assert set(outcome.backed_up.values()) == {"file", "folder"}
    assert outcome.leaked == []


def test_it_can_be_removed_and_the_neighbour_goes_on(outcome: Outcome) -> None:
    """All of it, closed folders and two thousand levels included."""
    assert outcome.left == []
    assert outcome.neighbour[0]
