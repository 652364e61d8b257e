"""Every command that the documents and the help texts name is run: here, or by the test that the table names."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanoclaw.commands import COMMANDS
from tests.docs import PAGES, ROOT, commands_of, concrete, examples

# What needs a terminal, an engine, a link, a living host or minutes: how it begins, and the test that runs it.
ELSEWHERE = {
    "nanoclaw restore": "test_the_commands",
    "nanoclaw setup limits": "test_one_step_again",
    "nanoclaw setup --replace-key": "test_another_key",
}
CODES = {"nanoclaw status": 3}  # where nobody lives
_TESTS = {path.name: path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")}


def told() -> dict[str, set[str]]:
    """Each command as a person would type it, and where it stands."""
    found: dict[str, set[str]] = {}
    for page in PAGES:
        for command in commands_of(page.read_text("utf-8")):
            found.setdefault(concrete(command), set()).add(page.name)
    for command, place in examples():
        found.setdefault(concrete(command), set()).add(place)
    return found


def by_another(command: str) -> str:
    """The test that runs it; "" = this one."""
    fits = [words for words in ELSEWHERE if command == words or command.startswith(f"{words} ")]
    return ELSEWHERE[max(fits, key=len)] if fits else ""


def test_every_command_of_the_documents_works(tmp_path: Path) -> None:
    """In a home that has lived, each one for itself."""
    commands = [command for command in sorted(told()) if not by_another(command)]
    assert len(commands) > 50
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs", str(tmp_path)],
        input=json.dumps(commands), capture_output=True, text=True, timeout=110, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = dict(zip(commands, json.loads(done.stdout), strict=True))
    assert {command: outcome for command, outcome in outcomes.items() if outcome[0] != CODES.get(command, 0)} == {}


@pytest.mark.parametrize("words", ELSEWHERE)
def test_the_others_have_a_test(words: str) -> None:
    """The table names tests that are, for commands that stand somewhere."""
    assert f"def {ELSEWHERE[words]}(" in "".join(_TESTS.values())
    assert any(command == words or command.startswith(f"{words} ") for command in told())


def chat_words() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for span in re.findall(r"`(/[a-z][^`/\n]*)`", page.read_text("utf-8")):
            yield page.name, span


@pytest.mark.parametrize(("page", "span"), sorted({*chat_words()}))
def test_every_word_of_the_chat_is_one(page: str, span: str) -> None:
    """A document names no command of the chat that nobody understands."""
    assert re.match(r"/([a-z]+)", span)[1] in {word.split()[0] for word in COMMANDS}, page  # type: ignore[index]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file of this project, where it is one."""
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target
