"""Settings: strict, named in their errors, the environment before the file; and the credential."""

import os
from pathlib import Path

import pytest

from nanoclaw.config import DEFAULT_MODEL, SECRETS_FILE, SETTINGS_FILE, load, read_credential, reading
from nanoclaw.config.reading import misspelt
from nanoclaw.errors import ConfigError
from nanoclaw.gateway import Credential, CredentialKind


def written(home: Path, text: str) -> dict[str, str]:
    (home / SETTINGS_FILE).write_text(text)
    return {"NANOCLAW_HOME": str(home)}


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    """Nothing needs to be set."""
    config = load({"NANOCLAW_HOME": str(tmp_path)})
    assert (config.home, config.model, config.max_runs) == (tmp_path, DEFAULT_MODEL, 5)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """One setting from each place."""
    env = written(tmp_path, 'name = "Bea"\nmax_runs = 3\n')
    config = load({**env, "NANOCLAW_MAX_RUNS": "7"})
    assert (config.name, config.max_runs) == ("Bea", 7)


def test_an_unknown_setting_is_named(tmp_path: Path) -> None:
    """A slip of the pen is not ignored."""
    with pytest.raises(ConfigError, match=r"nanoclaw.toml, line 1: unknown setting 'max_run': do you mean max_runs\?"):
        load(written(tmp_path, "max_run = 3\n"))


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    """Unknown keys with the nearest known one, tables, values, and what the environment has wrong."""
    text = '# mine\nzoen = "UTC"\nmax_runs = 0\n\nhome = "/x"\nkeep_media = true\n[groups]\na = 1\n'
    path = tmp_path / SETTINGS_FILE
    found = reading.faults(path, text, tmp_path, {"NANOCLAW_ZONE": "Mars"})
    told = {fault.key: str(fault) for fault in found}
    assert told["zoen"] == f"{path}, line 2: unknown setting 'zoen': do you mean zone?"
    assert told["max_runs"].startswith(f"{path}, line 3: max_runs: it should be greater")
    assert told["home"] == f"{path}, line 5: the home is said by NANOCLAW_HOME alone"
    assert told["keep_media"].startswith(f"{path}, line 6: ")
    assert told["groups"].startswith(f"{path}, line 7: unknown setting 'groups': known are agent_uid")
    assert told["zone"].startswith("NANOCLAW_ZONE in the environment: 'Mars' is no time zone")
    assert len(told) == len(found) == 6
    with pytest.raises(ConfigError, match=r"\(and 4 more: nanoclaw config check\)$"):
        load(written(tmp_path, text))


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b'name = "A"\n name', "line 2"),
        (b'name = "A"\nname = "B"\n', "line 2"),
        (b'name = "A\n', "line 1"),
        (b'zone = "UTC"\nname = "\xff"\n', "line 2: this is not UTF-8"),
        (b"\xff\xfen\x00a\x00", "not UTF-8"),
        (b"\x00\x01\x02", "line 1"),
        (b"# " + b"x" * (1 << 20), "larger than 1 MiB"),
    ],
)
def test_what_is_no_toml_is_named_by_its_line(tmp_path: Path, data: bytes, named: str) -> None:
    """Also binary files and those of another program."""
    (tmp_path / SETTINGS_FILE).write_bytes(data)
    with pytest.raises(ConfigError, match=rf"nanoclaw\.toml.*{named}"):
        load({"NANOCLAW_HOME": str(tmp_path)})


@pytest.mark.parametrize("data", [b'\xef\xbb\xbfname = "Bea"\r\nmax_runs = 3\r\n', b'name = "Bea"\nmax_runs = 3'])
def test_files_of_other_systems_are_read(tmp_path: Path, data: bytes) -> None:
    """A mark at the beginning, the line ends of Windows, no end of the last line."""
    (tmp_path / SETTINGS_FILE).write_bytes(data)
    config = load({"NANOCLAW_HOME": str(tmp_path)})
    assert (config.name, config.max_runs) == ("Bea", 3)


def test_what_is_no_file_does_not_hang(tmp_path: Path) -> None:
    """A pipe in its place would never end, a folder cannot be read."""
    os.mkfifo(tmp_path / SETTINGS_FILE)
    with pytest.raises(ConfigError, match="no regular file"):
        load({"NANOCLAW_HOME": str(tmp_path)})
    (tmp_path / SETTINGS_FILE).unlink()
    (tmp_path / SETTINGS_FILE).mkdir()
    with pytest.raises(ConfigError, match=r"no regular file|directory"):
        load({"NANOCLAW_HOME": str(tmp_path)})


BAD = [
    ("max_runs = true", "max_runs"),
    ("late_after = inf", "late_after"),
    ("idle_timeout = nan", "idle_timeout"),
    ("keep_messages = 99999999999", "keep_messages"),
    ('name = "A\\nB"', "one line"),
    ('name = " A"', "one line"),
    ("max_runs = 0", "max_runs"),
    ("max_runs = 101", "max_runs"),
    ('max_runs = "many"', "max_runs"),
    ('zone = "Mars/Olympus"', "Europe/Berlin"),
    ('zone = "../etc/passwd"', "zone"),
    ('base_url = "ftp://x"', "base_url"),
    ('base_url = "https://user:secret@host"', "base_url"),
    ('log_level = "LOUD"', "log_level"),
    ("turn_silence = 1", "turn_silence"),
    ("agent_uid = 0", "agent_uid"),
    ("tokens_per_day = -1", "tokens_per_day"),
    ('name = ""', "name"),
    ('whatsapp = "mine"', "whatsapp"),
    ('owners = ["0151 123"]', "with its country"),
    ('owners = ["+1234567", "+0151123456"]', r"\+0151123456"),
    ("owners = [4915112345678]", "write a list"),
    ("owners = 4915112345678", "write a list"),
    ("name = ", SETTINGS_FILE),
]


@pytest.mark.parametrize(("line", "named"), BAD)
def test_a_bad_value_is_refused_by_name(tmp_path: Path, line: str, named: str) -> None:
    """The message says which setting, and where."""
    with pytest.raises(ConfigError, match=named):
        load(written(tmp_path, line + "\n"))


def test_a_bad_value_in_the_environment_is_named_too(tmp_path: Path) -> None:
    """NANOCLAW_MAX_RUNS is what has to be mended then."""
    with pytest.raises(ConfigError, match="NANOCLAW_MAX_RUNS"):
        load({"NANOCLAW_HOME": str(tmp_path), "NANOCLAW_MAX_RUNS": "x"})


@pytest.mark.parametrize("listed", ["+49 (151) 123-456.78", " +4915112345678 ,"])
def test_owners_are_written_as_people_write_numbers(tmp_path: Path, listed: str) -> None:
    """In the file a list, in the environment with commas; none twice."""
    file = written(tmp_path, f'owners = ["{listed.strip(" ,")}", "+12025550123"]\n')
    assert load(file).owners == ("+4915112345678", "+12025550123")
    env = {**file, "NANOCLAW_OWNERS": f"{listed},+4915112345678,+447700900123"}
    assert load(env).owners == ("+4915112345678", "+447700900123")
    assert load({**file, "NANOCLAW_OWNERS": ""}).owners == ()


@pytest.mark.parametrize(("value", "typing"), [("true", True), ("0", False)])
def test_typing_is_a_yes_or_no(tmp_path: Path, value: str, typing: bool) -> None:
    """Not said, it depends on the number."""
    env = {"NANOCLAW_HOME": str(tmp_path)}
    assert load(env).typing is None
    assert load({**env, "NANOCLAW_TYPING": value}).typing is typing


CREDENTIALS = [
    ({}, "", None),
    ({}, "ANTHROPIC_API_KEY=\n", None),
    ({}, "ANTHROPIC_API_KEY=a\n", Credential(CredentialKind.API_KEY, "a")),
    ({}, "# note\nCLAUDE_CODE_OAUTH_TOKEN = 'b'\n", Credential(CredentialKind.OAUTH, "b")),
    ({}, 'CLAUDE_CODE_OAUTH_TOKEN=b\nANTHROPIC_API_KEY="a=="\n', Credential(CredentialKind.API_KEY, "a==")),
    ({"CLAUDE_CODE_OAUTH_TOKEN": "c"}, "ANTHROPIC_API_KEY=a\n", Credential(CredentialKind.OAUTH, "c")),
    ({"ANTHROPIC_API_KEY": " "}, "ANTHROPIC_API_KEY=a\n", Credential(CredentialKind.API_KEY, "a")),
]


@pytest.mark.parametrize(("environ", "text", "found"), CREDENTIALS)
def test_the_credential(tmp_path: Path, environ: dict[str, str], text: str, found: Credential | None) -> None:
    """The environment before the file, a key before a token."""
    (tmp_path / SECRETS_FILE).write_text(text)
    assert read_credential(tmp_path, environ) == found


def test_a_credential_is_never_printed() -> None:
    """Not even by a slip of a log line."""
    assert "hush" not in repr(Credential(CredentialKind.API_KEY, "hush"))


@pytest.mark.parametrize("text", ["max_runs = " + "9" * 5000, "a = " + "[" * 5000, "a = " + "{b=" * 3000])
def test_what_no_parser_can_take_is_a_fault_like_another(tmp_path: Path, text: str) -> None:
    """It is named, and nothing else breaks."""
    (tmp_path / "nanoclaw.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"nanoclaw\.toml"):
        load({"NANOCLAW_HOME": str(tmp_path)})


def test_an_empty_variable_says_nothing(tmp_path: Path) -> None:
    """As a compose file leaves it that names one without a value."""
    (tmp_path / "nanoclaw.toml").write_text('zone = "Asia/Tokyo"')
    assert load({"NANOCLAW_HOME": str(tmp_path), "NANOCLAW_ZONE": ""}).zone == "Asia/Tokyo"


def test_a_misspelt_variable_is_named() -> None:
    """Only what is nearly a setting: others may be somebody else's."""
    (fault,) = misspelt({"NANOCLAW_BUDGET_MONHT": "5", "NANOCLAW_ZONE": "UTC", "NANOCLAW_HOME": "/x", "NANOCLAW_X": ""})
    assert str(fault) == "NANOCLAW_BUDGET_MONHT in the environment: no such setting: do you mean NANOCLAW_BUDGET_MONTH?"
