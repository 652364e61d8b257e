"""nanoclaw setup, through the command itself: what it asks, what it writes, what it refuses."""

import asyncio
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nanoclaw.cli.setup import kind_of, system_zone, write_credential
from nanoclaw.cli.setup.choices import costs_text
from nanoclaw.config import load, read_credential
from nanoclaw.config.writing import set_settings
from nanoclaw.errors import ConfigError
from nanoclaw.gateway import Credential, CredentialKind
from nanoclaw.groups import open_home
from nanoclaw.store import Store, chats

KEY = "sk-ant-api03-visibly-fake"
TOKEN = "sk-ant-oat01-visibly-fake"
_COMMAND = [sys.executable, "-m", "nanoclaw", "setup"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def environ(home: Path) -> dict[str, str]:
    """This process's, without settings of whoever runs the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NANOCLAW_", "ANTHROPIC_", "CLAUDE_", "TZ"))}
    return {**kept, "NANOCLAW_HOME": str(home), "TERM": "dumb"}


def run_setup(home: Path, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_COMMAND, *words], input=stdin, env=environ(home), capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("secret", "kind", "variable"),
    [
        (KEY, CredentialKind.API_KEY, "ANTHROPIC_API_KEY"),
        (TOKEN, CredentialKind.OAUTH, "CLAUDE_CODE_OAUTH_TOKEN"),
    ],
)
def test_key_from_stdin(home: Path, secret: str, kind: CredentialKind, variable: str) -> None:
    """A key is stored under the name of its kind, for the owner's eyes alone, and told to nobody."""
    done = run_setup(home, "--key-stdin", "--yes", stdin=f"{secret}\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert (home / ".env").read_text() == f"{variable}={secret}\n"
    assert secret not in done.stdout
    assert read_credential(home, {}) == Credential(kind, secret)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (home, home / ".env")] == [0o700, 0o600]


def test_defaults_are_settings_that_load(home: Path) -> None:
    """--yes writes limits, a name, a zone and no number, and nothing that was not to be chosen."""
    run_setup(home, "--key-stdin", "--yes", stdin=KEY)
    keys = [line.partition(" = ")[0] for line in (home / "nanoclaw.toml").read_text().splitlines()]
    assert keys == ["whatsapp", "name", "zone", "budget_month", "budget_main_day"]
    settings = load({"NANOCLAW_HOME": str(home)})
    assert (settings.budget_month, settings.whatsapp) == (30, "off")


@pytest.mark.parametrize("number", ["own", "shared"])
def test_the_number_without_a_question(home: Path, number: str) -> None:
    """A script says it in an option, which also changes it later; what is no choice is refused."""
    assert run_setup(home, "--key-stdin", "--yes", "--whatsapp", number, stdin=KEY).returncode == 0
    assert load({"NANOCLAW_HOME": str(home)}).whatsapp == number
    assert run_setup(home, "--whatsapp", "off").returncode == 0
    assert load({"NANOCLAW_HOME": str(home)}).whatsapp == "off"
    assert run_setup(home, "--whatsapp", "mine").returncode == 2


def test_second_time_asks_nothing(home: Path) -> None:
    """What is there stays as it is, without a terminal too."""
    run_setup(home, "--key-stdin", "--yes", stdin=KEY)
    before = {p: p.read_bytes() for p in home.iterdir()}
    assert run_setup(home).returncode == 0
    assert {p: p.read_bytes() for p in home.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "stdin", "told"),
    [
        ([], "", "--key-file"),
        (["--yes"], "", "--key-file"),
        (["--key-stdin"], KEY, "--yes"),
        (["--key-stdin", "--yes"], "no-known-prefix", "--kind"),
    ],
)
def test_without_a_terminal_it_says_what_to_do(home: Path, words: list[str], stdin: str, told: str) -> None:
    """One line on stderr that names the way out, exit code 2."""
    done = run_setup(home, *words, stdin=stdin)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert told in done.stderr


@pytest.mark.parametrize(
    "text", ["", "\n", "two words", "short", "sk-ant-api03-ümlaut-key", f"{KEY}\n{TOKEN}", "\x00" * 20]
)
def test_what_is_no_key_is_not_stored(home: Path, text: str) -> None:
    """An empty, broken or doubled key is refused before anything is written."""
    done = run_setup(home, "--key-stdin", "--yes", stdin=text)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not home.exists()


def test_key_file(home: Path, tmp_path: Path) -> None:
    """A key may come from a file; one that is not there is named."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert run_setup(home, "--key-file", str(tmp_path / "key"), "--yes").returncode == 0
    done = run_setup(home, "--key-file", str(tmp_path / "absent"))
    assert (done.returncode, "absent cannot be read" in done.stderr) == (1, True)


@pytest.mark.parametrize("words", [["key"], ["--replace-key"], ["--replace-key", "--yes"]])
def test_a_key_that_was_given_is_not_asked_for(home: Path, words: list[str]) -> None:
    """Also where the step is named."""
    run_setup(home, "--key-stdin", "--yes", stdin=KEY)
    done = run_setup(home, *words, "--key-stdin", stdin=TOKEN)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_credential(home, {}) == Credential(CredentialKind.OAUTH, TOKEN)


def test_a_key_without_end_is_none(home: Path) -> None:
    """What is read is bounded, whatever is named."""
    done = run_setup(home, "--key-file", "/dev/zero", "--yes")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_home_that_is_not_writable(tmp_path: Path) -> None:
    """A home that cannot be is one line that names it."""
    (tmp_path / "file").write_text("")
    done = run_setup(tmp_path / "file" / "home", "--key-stdin", "--yes", stdin=KEY)
    assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (1, 1, False)


def test_questions_in_a_terminal(home: Path) -> None:
    """It asks step by step, the number again where the answer is none, says what it costs; the key is never seen."""
    dialogue = [
        # The last space comes when the answer is really read: what is typed sooner is thrown away.
        (b"(not shown): ", KEY),
        (b"[own]: ", "mine"),
        (b"[own]: ", "Shared"),
        (b"[Andy]: ", "Rosa"),
        (f"[{system_zone(Path('/'), os.environ)}]: ".encode(), "Mars/Base"),
        (f"[{system_zone(Path('/'), os.environ)}]: ".encode(), "Europe/Berlin"),
        (b"[30]: ", "12.50"),
        (b"[10]: ", ""),
        (b"[starter]: ", "none"),
    ]
    shown = talk(home, ["--chat-later"], dialogue)
    assert KEY.encode() not in shown
    settings = load({"NANOCLAW_HOME": str(home)})
    assert (settings.whatsapp, settings.name, settings.zone) == ("shared", "Rosa", "Europe/Berlin")
    assert (settings.budget_month, settings.budget_main_day) == (12.5, 10)
    for told in (b"reminders are silent", b"cents with claude-sonnet-5-5", b"container engine", b"pypi.org"):
        assert told in shown
    assert read_credential(home, {}) == Credential(CredentialKind.API_KEY, KEY)
    reach = subprocess.run(
        [sys.executable, "-m", "nanoclaw", "network", "show", "main"],
        env=environ(home), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert reach.stdout.startswith("main reaches nothing.")


def test_the_first_chat_is_made_of_commands(home: Path) -> None:
    """What is not wanted is left out; a seen chat gets an agent, and a reminder is scheduled, by command."""
    run_setup(home, "--key-stdin", "--yes", "--whatsapp", "own", "--network", "none", stdin=KEY)
    asyncio.run(a_chat(home))
    dialogue = [
        (b"now? Its phone has to be at hand [Y/n]: ", "n"),
        (b"first message costs [Y/n]: ", "n"),
        (b"(Enter: none) []: ", "2"),
        (b"(Enter: nothing) []: ", "drink water"),
        (b"[2]: ", "soon"),
        (b"[2]: ", "3"),
    ]
    shown = talk(home, ["link", "hello", "group", "reminder"], dialogue)
    assert b"The choir" in shown
    assert b"$ nanoclaw groups add 2" in shown
    told = [
        subprocess.run(
            [sys.executable, "-m", "nanoclaw", *words], env=environ(home), capture_output=True, text=True, timeout=60
        ).stdout
        for words in (("groups", "list"), ("tasks", "list"))
    ]
    assert "The choir" in told[0]
    assert "drink water" in told[1]


def test_one_step_again(home: Path) -> None:
    """A step by its name asks for that alone, and offers what is set."""
    run_setup(home, "--key-stdin", "--yes", "--name", "Rosa", stdin=KEY)
    before = (home / ".env").read_bytes()
    talk(home, ["name", "limits"], [(b"[Rosa]: ", "Ida"), (b"[30]: ", "20"), (b"[10]: ", "2.5")])
    settings = load({"NANOCLAW_HOME": str(home)})
    assert (settings.name, settings.budget_month, settings.budget_main_day) == ("Ida", 20, 2.5)
    assert (home / ".env").read_bytes() == before


def test_another_key(home: Path) -> None:
    """It takes the old one's place, once it is one."""
    run_setup(home, "--key-stdin", "--yes", stdin=KEY)
    talk(home, ["--replace-key"], [(b"(not shown): ", "no key"), (b"(not shown): ", TOKEN)])
    assert read_credential(home, {}) == Credential(CredentialKind.OAUTH, TOKEN)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["moon"], "no step is called 'moon'"),
        (["link"], "link needs a terminal"),
        (["key", "--yes"], "--key-file"),
        (["--zone", "Mars/Base"], "is no time zone"),
        (["--budget-month", "-1"], "budget_month"),
    ],
)
def test_what_cannot_be_is_one_line(home: Path, words: list[str], told: str) -> None:
    """On stderr, with a code, and nothing is changed."""
    run_setup(home, "--key-stdin", "--yes", stdin=KEY)
    before = {p: p.read_bytes() for p in home.iterdir()}
    done = run_setup(home, *words)
    assert (done.returncode in (1, 2), done.stderr.count("\n")) == (True, 1)
    assert told in done.stderr
    assert {p: p.read_bytes() for p in home.iterdir()} == before


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("claude-sonnet-5-5", "about 0.45 cents"),
        ("claude-opus-4", "about 4.2 cents"),
        ("another-model", "Nobody knows"),
    ],
)
def test_what_a_message_costs(model: str, told: str) -> None:
    """From the table of prices: the prompt is written to the cache by the first, and read from it by the next."""
    assert told in costs_text(model)


async def a_chat(home: Path) -> None:
    """A group in which somebody wrote, as the router would keep it."""
    store = Store(open_home(home).db)
    await store.open()
    try:
        await store.write(chats.know_chat, "whatsapp", ("12345@g.us",), "The choir", True, 1_700_000_000_000)
    finally:
        await store.close()


def talk(home: Path, words: list[str], dialogue: list[tuple[bytes, str]]) -> bytes:
    """Answer each question in a terminal; all that was shown. The command has to end well."""
    leader, follower = pty.openpty()
    shown = b""
    with subprocess.Popen(
        [*_COMMAND, *words], env=environ(home), stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    ) as process:
        os.close(follower)
        try:
            for question, answer in [*dialogue, (b"All at a glance", "")]:
                at = shown.rfind(b"\0")  # what was answered already
                while question not in shown[at + 1 :]:
                    shown += os.read(leader, 4096)
                shown += b"\0"
                os.write(leader, f"{answer}\n".encode())
            assert process.wait(30) == 0
        finally:
            process.kill()
            os.close(leader)
    return shown


def test_new_credential_replaces_the_old_one(home: Path) -> None:
    """Other lines stay; a token takes the key's place, which would win over it."""
    home.mkdir()
    (home / ".env").write_text(f"# mine\nANTHROPIC_API_KEY={KEY}\nOTHER=1\n")
    write_credential(home, Credential(CredentialKind.OAUTH, TOKEN))
    assert (home / ".env").read_text() == f"# mine\nOTHER=1\nCLAUDE_CODE_OAUTH_TOKEN={TOKEN}\n"


def test_settings_keep_what_is_there(home: Path) -> None:
    """Other keys and comments stay; the same key is replaced."""
    home.mkdir()
    (home / "nanoclaw.toml").write_text('# mine\nname = "Rob"\n')
    set_settings(home, {"tokens_per_day": 5})
    set_settings(home, {"tokens_per_day": 6})
    assert (home / "nanoclaw.toml").read_text() == '# mine\nname = "Rob"\ntokens_per_day = 6\n'


@pytest.mark.parametrize("wrong", [{"tokens_per_day": -1}, {"zone": "Mars/Base"}, {"zone": 'UTC"\nname = "x'}])
def test_wrong_settings_are_not_written(home: Path, wrong: dict[str, int | str]) -> None:
    """A value that would not load again never gets into the file."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        set_settings(home, wrong)
    assert not home.exists()


@pytest.mark.parametrize(
    ("secret", "kind"), [(KEY, CredentialKind.API_KEY), (TOKEN, CredentialKind.OAUTH), ("sk-other", None)]
)
def test_kind_of(secret: str, kind: CredentialKind | None) -> None:
    """The prefix tells a key from a token."""
    assert kind_of(secret) is kind


@pytest.mark.parametrize(
    ("timezone", "localtime", "tz", "zone"),
    [
        ("Europe/Paris\n", "", "", "Europe/Paris"),
        ("", "/usr/share/zoneinfo/Asia/Tokyo", "", "Asia/Tokyo"),
        ("Europe/Paris\n", "", ":America/Lima", "America/Lima"),
        ("Nowhere/Land\n", "", "CET-1CEST", "UTC"),
        ("", "", "", "UTC"),
    ],
)
def test_system_zone(tmp_path: Path, timezone: str, localtime: str, tz: str, zone: str) -> None:
    """The machine's own zone is the default, as far as it can be known by name."""
    (tmp_path / "etc").mkdir()
    if timezone:
        (tmp_path / "etc/timezone").write_text(timezone)
    if localtime:
        (tmp_path / "etc/localtime").symlink_to(localtime)
    assert system_zone(tmp_path, {"TZ": tz} if tz else {}) == zone
