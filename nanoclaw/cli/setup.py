"""nanoclaw setup: asks once for what is missing, checks it, and writes it down."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import typer

from nanoclaw.config import SECRETS_FILE, Config, load, read_credential
from nanoclaw.config.credential import VARIABLES
from nanoclaw.config.reading import Source, load_home, value_of
from nanoclaw.config.writing import set_settings, write_whole
from nanoclaw.control.network import STARTER
from nanoclaw.errors import ConfigError, NanoClawError
from nanoclaw.gateway import Credential, CredentialKind

EXIT_INCOMPLETE = 2
_PREFIXES = {"sk-ant-api": CredentialKind.API_KEY, "sk-ant-oat": CredentialKind.OAUTH}
_LIMIT = """How many tokens may each chat use a day? 5,000,000 are 15 to 25 dollars at the most at a Sonnet model's
list prices; an ordinary day costs far less. 0 is no limit."""
_NUMBERS = """Which WhatsApp number shall the assistant have?
  own     one of its own, as on a spare SIM (recommended): its messages ring on your phone, others can write to it
  shared  yours (quick to try): you talk to it in "message yourself". It reads all your chats along, though it keeps
          nothing of those that you do not add; WhatsApp does not notify you of your own account's messages, so its
          reminders are silent; and it never shows "typing", which would mute your phone
  off     none: only the terminal, for now"""

Number = Literal["own", "shared", "off"]


def setup(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the defaults.")] = False,
    key_stdin: Annotated[bool, typer.Option("--key-stdin", help="Read the API key or token from stdin.")] = False,
    key_file: Annotated[Path | None, typer.Option(help="Read the API key or token from this file.")] = None,
    replace_key: Annotated[bool, typer.Option("--replace-key", help="Ask for another API key or token.")] = False,
    kind: Annotated[CredentialKind | None, typer.Option(help="What it is, where it does not show.")] = None,
    whatsapp: Annotated[
        Number | None, typer.Option(help="The assistant's WhatsApp number, without a question.")
    ] = None,
) -> None:
    """Ask once for what is missing: API key or token, WhatsApp number, daily limit, time zone."""
    config = load(os.environ)  # a broken file is said before anything is asked
    asking = sys.stdin.isatty() and not yes
    home = config.home
    if secret := _given(key_stdin, key_file):
        _keep_credential(home, secret, kind, asking)
    elif replace_key or not read_credential(home, os.environ):
        if not asking:
            _incomplete("no API key or token: run `nanoclaw setup` in a terminal, or `nanoclaw setup --key-file PATH`")
        _keep_credential(home, typer.prompt("API key or OAuth token (not shown)", hide_input=True), kind, asking)
    if whatsapp is not None:
        set_settings(home, {"whatsapp": whatsapp})
    if missing := _missing(home, os.environ):
        if not (asking or yes):
            _incomplete(f"{' and '.join(missing)} not chosen yet: run `nanoclaw setup` in a terminal, or with --yes")
        set_settings(home, {key: _choose(key, asking) for key in missing})
        typer.echo(f"The agent of your own chat may reach, by https: {', '.join(STARTER)}.")
        typer.echo("Other chats' agents reach nothing. `nanoclaw network` shows and changes that.")
    typer.echo(f"Everything is set up in {home}.")


def _incomplete(message: str) -> None:
    typer.echo(f"nanoclaw: {message}", err=True)
    raise typer.Exit(EXIT_INCOMPLETE)


# --- the credential ----------------------------------------------------------------------------


def _given(key_stdin: bool, key_file: Path | None) -> str:
    if key_stdin:
        return sys.stdin.read(1 << 16) or " "
    if key_file is None:
        return ""
    try:
        return key_file.read_text("utf-8", "replace") or " "
    except OSError as e:
        raise NanoClawError(f"{key_file} cannot be read: {e.strerror}") from None


def _keep_credential(home: Path, text: str, kind: CredentialKind | None, asking: bool) -> None:
    secret = text.strip()
    if not re.fullmatch(r"[!-~]{8,4096}", secret):
        raise ConfigError("that is no API key or token: it is one word of letters, digits and signs")
    kind = kind or kind_of(secret)
    if kind is None:
        if not asking:
            _incomplete("is it an API key or an OAuth token? Say so with `--kind api_key` or `--kind oauth`")
        token = typer.confirm("Is it an OAuth token, as `claude setup-token` makes them? (No: an API key)")
        kind = CredentialKind.OAUTH if token else CredentialKind.API_KEY
    write_credential(home, Credential(kind, secret))
    if any(name in os.environ for name in VARIABLES.values()):
        typer.echo("Stored, but the environment has a key or token too, and that one is used.", err=True)


def kind_of(secret: str) -> CredentialKind | None:
    """What the prefix says that it is."""
    return next((kind for prefix, kind in _PREFIXES.items() if secret.startswith(prefix)), None)


def write_credential(home: Path, credential: Credential) -> None:
    """Put it into home/.env in place of the one before; other lines stay."""
    path = home / SECRETS_FILE
    kept = [line for line in _lines(path) if line.partition("=")[0].strip() not in VARIABLES.values()]
    lines = [*kept, f"{VARIABLES[credential.kind]}={credential.secret}"]
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())


# --- the settings ------------------------------------------------------------------------------


def _missing(home: Path, environ: Mapping[str, str]) -> list[str]:
    """The keys that are to be chosen once and stand nowhere yet."""
    sources = load_home(home, environ).sources
    return [key for key in ("whatsapp", "tokens_per_day", "zone") if sources[key] is Source.DEFAULT]


def _choose(key: str, asking: bool) -> int | str:
    if key == "whatsapp":
        return ask_number() if asking else "off"
    if key == "tokens_per_day":
        limit: int = Config.model_fields[key].default
        return typer.prompt(f"{_LIMIT}\nTokens a day", default=limit, type=int) if asking else limit
    zone = system_zone(Path("/"), os.environ)
    return str(typer.prompt("Time zone", default=zone)) if asking else zone


def ask_number() -> Number:
    """Which WhatsApp number, with what each choice means."""
    return cast(Number, typer.prompt(f"{_NUMBERS}\nNumber", default="own", value_proc=_number))


def _number(answer: str) -> str:
    if (word := answer.strip().lower()) not in get_args(Number):
        raise typer.BadParameter(f"one of {', '.join(get_args(Number))}")
    return word


def system_zone(root: Path, environ: Mapping[str, str]) -> str:
    """The machine's time zone by its name, as far as it says; else UTC."""
    candidates = [environ.get("TZ", "").removeprefix(":")]
    candidates += _lines(root / "etc/timezone")[:1]
    link = root / "etc/localtime"
    if link.is_symlink():
        candidates.append(str(link.readlink()).rpartition("zoneinfo/")[2])
    return next((zone for zone in map(str.strip, candidates) if _is_zone(zone)), "UTC")


def _is_zone(name: str) -> bool:
    try:
        value_of("zone", name)
    except ConfigError:
        return False
    return True


# --- files -------------------------------------------------------------------------------------


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} cannot be read: {e}") from None
