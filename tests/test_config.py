"""Settings: strict, named in their errors, the environment before the file; and the credential."""

from pathlib import Path

import pytest

from nanoclaw.config import DEFAULT_MODEL, SECRETS_FILE, SETTINGS_FILE, load, read_credential
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
    with pytest.raises(ConfigError, match=r"'max_run'.*known are.*max_runs"):
        load(written(tmp_path, "max_run = 3\n"))


BAD = [
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
