"""The key or token: where it may come from, what it is, and where it is kept."""

import os
import re
import sys
from pathlib import Path

import typer

from nanoclaw.config import SECRETS_FILE
from nanoclaw.config.credential import VARIABLES
from nanoclaw.config.writing import write_whole
from nanoclaw.errors import ConfigError, NanoClawError
from nanoclaw.gateway import Credential, CredentialKind

_LONGEST = 1 << 16  # characters that are read of what should be one word
_PREFIXES = {"sk-ant-api": CredentialKind.API_KEY, "sk-ant-oat": CredentialKind.OAUTH}


def given(key_stdin: bool, key_file: Path | None) -> str:
    """What standard input or the file holds; "" when neither was named, a blank when it is empty."""
    if key_stdin:
        return sys.stdin.read(_LONGEST) or " "
    if key_file is None:
        return ""
    try:
        with key_file.open(encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST) or " "
    except OSError as e:
        raise NanoClawError(f"{key_file} cannot be read: {e.strerror}") from None


def ask_credential(home: Path) -> None:
    """Ask in the terminal until it is one, and keep it."""
    while True:
        secret = typer.prompt("API key or OAuth token (not shown)", hide_input=True)
        try:
            return keep_credential(home, secret, None, asking=True)
        except ConfigError as e:
            typer.echo(f"{e}. Again, or Ctrl-C to leave.", err=True)


def keep_credential(home: Path, text: str, kind: CredentialKind | None, *, asking: bool) -> None:
    """Check and store it. Raises ConfigError when it cannot be one, or nobody is there to say what it is."""
    secret = text.strip()
    if not re.fullmatch(r"[!-~]{8,4096}", secret):
        raise ConfigError("that is no API key or token: it is one word of letters, digits and signs")
    kind = kind or kind_of(secret)
    if kind is None:
        if not asking:
            raise Unknown("is it an API key or an OAuth token? Say so with `--kind api_key` or `--kind oauth`")
        token = typer.confirm("Is it an OAuth token, as `claude setup-token` makes them? (No: an API key)")
        kind = CredentialKind.OAUTH if token else CredentialKind.API_KEY
    write_credential(home, Credential(kind, secret))
    if any(name in os.environ for name in VARIABLES.values()):
        typer.echo("Stored, but the environment has a key or token too, and that one is used.", err=True)


class Unknown(NanoClawError):
    """Something has to be said that nobody is there to be asked for."""


def kind_of(secret: str) -> CredentialKind | None:
    """What the prefix says that it is."""
    return next((kind for prefix, kind in _PREFIXES.items() if secret.startswith(prefix)), None)


def write_credential(home: Path, credential: Credential) -> None:
    """Put it into home/.env in place of the one before; other lines stay."""
    path = home / SECRETS_FILE
    kept = [line for line in lines_of(path) if line.partition("=")[0].strip() not in VARIABLES.values()]
    lines = [*kept, f"{VARIABLES[credential.kind]}={credential.secret}"]
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())


def lines_of(path: Path) -> list[str]:
    """The lines of a file, none when it is not there. Raises ConfigError when it cannot be read."""
    try:
        return path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} cannot be read: {e}") from None
