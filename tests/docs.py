"""The commands that the documents and the help texts name, and a home in which they can be run.

`python -m tests.docs FOLDER` reads a JSON list of commands from standard input, runs each one in a copy of such a home
and prints a JSON list of [exit code, what was shown]: one process for all, because each start of Python costs more than
the command.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from nanoclaw.channels.terminal import CHAT, OWNER
from nanoclaw.cli import app
from nanoclaw.control import ensure_main, groups, heartbeat, network, pending, tasks
from nanoclaw.control.tasks import Maker
from nanoclaw.groups import open_home
from nanoclaw.models import By
from nanoclaw.store import Store, Tx, chats
from nanoclaw.store import memory as stored_memory
from nanoclaw.store import tasks as stored_tasks

KEY = "sk-ant-api03-visibly-fake"
ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
_PROGRAM = r"(?:\./nanoclaw\.sh|nanoclaw|docker compose)(?=\s|$)"
# What stands for something of the reader's own, and what is put there.
STAND_INS = {
    "KEY VALUE": "zone UTC",
    "KEY": "zone",
    "FILE": "mine.nanoclaw",
    "/data/today.tar.gz": "today.tar.gz",
    "PATH": "~/projects",
    "GROUP": "family",
    "PERSON": "+4915112345678",
    "TASK": "3",
    "N": "3",
    "STEP": "engine",
}


def commands_of(text: str) -> Iterator[str]:
    """Every command of a page, in a block or between backticks, without what is said beside it."""
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.S | re.M):
        for line in block.splitlines():
            found = line.strip().removeprefix("$ ")
            if re.match(_PROGRAM, found):
                yield re.split(r"\s{2,}|\s#| \| ", found)[0].rstrip()
    for span in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)):
        if re.match(_PROGRAM, found := " ".join(span.split())) and "…" not in found:
            yield found


def examples() -> Iterator[tuple[str, str]]:
    """The commands of all help texts' examples, each with the help that it stands in."""
    todo: list[tuple[str, Any]] = [("nanoclaw", typer.main.get_command(app))]
    while todo:
        name, command = todo.pop()
        todo += [(f"{name} {word}", inner) for word, inner in getattr(command, "commands", {}).items()]
        for line in (command.help or "").splitlines():
            if re.match(_PROGRAM, found := line.strip()):
                yield re.split(r"\s{2,}| \| ", found)[0], f"{name} --help"


def concrete(command: str) -> str:
    """As a person would type it: options that may be left out are, of choices the first is taken."""
    command = command.removeprefix("docker compose exec nanoclaw ")  # which is the same, in there
    command = re.sub(r"\s*\[[^\]]*\]", "", command)
    command = re.sub(r"(\w+)(\|\w+)+", r"\1", command)
    for name, value in STAND_INS.items():
        command = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w=])", value, command)
    return command


def furnish(folder: Path) -> None:
    """A home that has lived: groups, chats, a person, tasks, versions of memory, a wish; and what lies around it."""
    (folder / "projects").mkdir()
    (folder / "notes").mkdir()
    (folder / "key.txt").write_text(KEY)
    home = open_home(folder / "home")
    (home.root / "nanoclaw.toml").write_text(
        'whatsapp = "own"\nname = "Andy"\nzone = "Europe/Berlin"\nbudget_month = 30\n'
    )
    (home.root / ".env").write_text(f"ANTHROPIC_API_KEY={KEY}\n")
    roots = "".join(
        f'[[allowed_roots]]\npath = "{folder / name}"\nread_write = true\n' for name in ("projects", "notes")
    )
    (home.root / "mounts.toml").write_text(roots)
    for skill in ("memory", "invoices"):
        (home.skills / skill).mkdir(parents=True)
        (home.skills / skill / "SKILL.md").write_text(f"---\nname: {skill}\ndescription: x\n---\n")
    asyncio.run(_fill(home.db, time.time_ns() // 1_000_000))


async def _fill(db: Path, now: int) -> None:
    store = Store(db)
    await store.open()
    try:
        await store.write(_rows, now)
    finally:
        await store.close()


def _rows(tx: Tx, now: int) -> None:
    by = By("terminal")
    main = ensure_main(tx, CHAT, CHAT, OWNER.jids[0], "Andy", now)
    for n in range(2, 13):
        jid = f"{n}@s.whatsapp.net" if n in (5, 7) else f"{n}@g.us"
        chats.know_chat(tx, "whatsapp", (jid,), f"Chat {n}", jid.endswith("g.us"), now)
    for number, name in ((2, "family"), (3, "dev")):
        groups.add(tx, number, name, by, now)
    family = groups.find(tx, "family")
    chats.learn_person(tx, "whatsapp", ("4915112345678@s.whatsapp.net",), "Ann")
    for n in range(3):
        chat = stored_tasks.chat_of(tx, main.id) or 0
        tasks.add(tx, tasks.planned(main, chat, {"prompt": f"Task {n}", "every": "1h"}, "UTC", Maker(), now), by, now)
    heartbeat.turn_on(tx, family, "1h", "", "UTC", by, now)
    for folder in ("family", "main"):
        for n in range(1, 10):
            stored_memory.keep(tx, folder, f"Version {n}\n".encode(), now)
    network.allow_host(tx, family, "old.example.org", by, now)
    pending.propose(tx, "allow_host", {"group": "dev", "host": "example.net"}, by, "K7WQ2", now)


def run(commands: list[str], folder: Path) -> list[tuple[int, str]]:
    """Each in a copy of the home; with the clock and the zone of this process."""
    furnish(folder)
    os.environ |= {"HOME": str(folder), "EDITOR": "true", "NANOCLAW_HOME": str(folder / "home")}
    runner = CliRunner()
    notes = ["mounts", "add", "family", str(folder / "notes"), "--as", "notes"]
    runner.invoke(app, notes, catch_exceptions=False)
    outcomes = []
    for number, command in enumerate(commands):
        copy = folder / str(number) / "home"
        shutil.copytree(folder / "home", copy)
        os.environ["NANOCLAW_HOME"] = str(copy)
        shutil.copy(folder / "key.txt", copy.parent)
        os.chdir(copy.parent)
        words = [
            word.replace("~", str(folder), 1) if word.startswith("~") else word for word in shlex.split(command)[1:]
        ]
        done = runner.invoke(app, words, input=KEY if "--key-stdin" in words else None)
        why = "" if done.exception is None or isinstance(done.exception, SystemExit) else repr(done.exception)
        outcomes.append((done.exit_code, f"{done.output}{why}"))
    return outcomes


if __name__ == "__main__":
    print(json.dumps(run(json.load(sys.stdin), Path(sys.argv[1]))))
