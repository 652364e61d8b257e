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
    "./nanoclaw.sh": "test_the_front_door_knows_its_words",
    "./nanoclaw.sh demo": "test_the_demo_holds",
    "./nanoclaw.sh chaos": "test_five_kills",
    "./nanoclaw.sh chat": "test_one_message_one_reply",
    "./nanoclaw.sh up": "test_up_and_stop",
    "./nanoclaw.sh logs": "test_logs_are_followed_over_a_new_file",
    "./nanoclaw.sh stop": "test_the_front_door_takes_it_away",
    "./nanoclaw.sh uninstall": "test_the_front_door_takes_it_away",
    "docker compose": "test_up_and_a_conversation",
    "docker compose -f": "test_the_files_are_right",
    "nanoclaw backup --with-credential": "test_key_and_session_come_when_asked_for",
    "nanoclaw chat": "test_one_message_one_reply",
    "nanoclaw doctor": "test_a_healthy_house_has_nothing",
    "nanoclaw doctor --sandbox": "test_the_proof_from_inside",
    "nanoclaw logout": "test_pair_and_logout",
    "nanoclaw pair": "test_pair_and_logout",
    "nanoclaw restore": "test_the_commands",
    "nanoclaw run": "test_run_serves_until_it_is_stopped",
    "nanoclaw run --no-backup": "test_without_room_nothing_begins",
    "nanoclaw service": "test_without_systemd_it_says_what_to_do",
    "nanoclaw setup limits": "test_one_step_again",
    "nanoclaw setup --replace-key": "test_another_key",
    "nanoclaw stop": "test_up_and_stop",
    "nanoclaw upgrade": "test_forward_and_back_while_a_host_lives",
}
CODES = {"nanoclaw status": 3, "nanoclaw status --health": 1}  # where nobody lives
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


def test_the_front_door_knows_its_words() -> None:
    """What stands behind ./nanoclaw.sh is a word of its own help, or a command."""
    shown = subprocess.run([ROOT / "nanoclaw.sh", "--help"], capture_output=True, text=True, timeout=60, check=True)
    own = set(re.findall(r"^  \./nanoclaw\.sh (\w+)", shown.stdout, re.M))
    words = {command.split()[1] for command in told() if re.match(r"\./nanoclaw\.sh \w", command)}
    assert words <= own
    assert {"up", "stop", "test", "setup"} <= own


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
