"""Config: every setting, frozen, read once from nanoclaw.toml and the environment; and the credential."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nanoclaw.errors import ConfigError
from nanoclaw.gateway import Credential, CredentialKind

DEFAULT_MODEL = "claude-sonnet-5-5"
SETTINGS_FILE = "nanoclaw.toml"
SECRETS_FILE = ".env"
_PREFIX = "NANOCLAW_"
_SECRETS = {"ANTHROPIC_API_KEY": CredentialKind.API_KEY, "CLAUDE_CODE_OAUTH_TOKEN": CredentialKind.OAUTH}


class Config(BaseModel):
    """One setting per field. In nanoclaw.toml by its name; in the environment as NANOCLAW_NAME."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path
    name: str = Field("Andy", min_length=1, max_length=40, description="what the assistant is called")
    model: str = Field(DEFAULT_MODEL, min_length=1, description="the Claude model of groups that name none")
    zone: str = Field("UTC", description="the time zone, as in Europe/Berlin")
    max_runs: int = Field(5, ge=1, le=100, description="containers that may live at once")
    idle_timeout: float = Field(900, ge=1, description="seconds that a container without work is kept")
    turn_silence: float = Field(600, ge=10, description="seconds without a sign after which a turn is stopped")
    turn_timeout: float = Field(7200, ge=60, description="seconds that one turn may take")
    tokens_per_day: int = Field(5_000_000, ge=0, description="tokens a group may use a day; 0 = no limit")
    base_url: str = Field("https://api.anthropic.com", description="the model's API, or one that speaks like it")
    engine: str = Field("", description="the engine's address; empty = DOCKER_HOST or the usual socket")
    image: str = Field("nanoclaw-agent", description="the agent image's name")
    base_image: str = Field("", description="what the agent image is built on; empty = the Dockerfile's")
    run_dir: Path | None = Field(None, description="folder of the sockets; empty = home/run")
    agent_uid: int = Field(10001, ge=1, description="the agents' user id where the host itself is root")
    whatsapp: Literal["off", "own", "shared"] = Field(
        "off", description="the number: off, own (one of its own), shared (yours; it reads along)"
    )
    owners: tuple[str, ...] = Field((), description="more owners' phone numbers, as in +4915112345678")
    late_after: float = Field(86400, ge=60, description="seconds after which a message that comes late is only context")
    reaction: str = Field("👀", max_length=16, description="the sign on a message that was taken up; empty = none")
    typing: bool | None = Field(
        None, description="show typing; on a shared number this makes you 'available', which mutes your phone"
    )
    keep_messages: int = Field(180, ge=1, description="days that messages, turns and sent texts are kept")
    keep_conversations: int = Field(180, ge=1, description="days of conversations as files; no longer than messages")
    keep_media: int = Field(30, ge=1, description="days that people's files are kept")
    keep_transcripts: int = Field(30, ge=1, description="days that closed sessions are kept")
    keep_audit: int = Field(90, ge=1, description="days that the owner's changes are on record")
    keep_usage: int = Field(400, ge=1, description="days that counted tokens are kept")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{value!r} is no time zone; write it as in Europe/Berlin") from None
        return value

    @field_validator("base_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
            raise ValueError("write it as in https://api.anthropic.com")
        return value.rstrip("/")

    @field_validator("owners", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """A list; in the environment with commas between them."""
        numbers = value.split(",") if isinstance(value, str) else value
        if not isinstance(numbers, list | tuple) or not all(isinstance(x, str) for x in numbers):
            raise ValueError('write a list, as in ["+4915112345678"]')
        numbers = [re.sub(r"[\s()./-]", "", x) for x in numbers]
        if bad := [x for x in numbers if x and not re.fullmatch(r"\+[1-9][0-9]{6,14}", x)]:
            raise ValueError(f"{bad[0]!r} is no phone number; write it with its country, as in +4915112345678")
        return tuple(dict.fromkeys(x for x in numbers if x))

    @property
    def sockets(self) -> Path:
        """Where the runs' sockets are."""
        return self.run_dir or self.home / "run"


def home_of(environ: Mapping[str, str]) -> Path:
    """NANOCLAW_HOME, default ~/.nanoclaw, absolute."""
    return Path(environ.get("NANOCLAW_HOME") or Path.home() / ".nanoclaw").expanduser().absolute()


def load(environ: Mapping[str, str]) -> Config:
    """Read the settings; the environment wins over the file. Raises ConfigError, naming file and key."""
    home = home_of(environ)
    values = _read_toml(home / SETTINGS_FILE)
    for key in Config.model_fields:
        if (value := environ.get(_PREFIX + key.upper())) is not None:
            values[key] = value
    if "base_url" not in values and environ.get("ANTHROPIC_BASE_URL"):
        values["base_url"] = environ["ANTHROPIC_BASE_URL"]
    values["home"] = home
    try:
        return Config.model_validate(values)
    except ValidationError as e:
        raise ConfigError(_first_fault(e, home)) from None


def _first_fault(e: ValidationError, home: Path) -> str:
    fault = e.errors()[0]
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"{home / SETTINGS_FILE}: unknown setting {key!r}; known are {', '.join(sorted(Config.model_fields))}"
    told = fault["msg"].removeprefix("Value error, ")
    return f"setting {key!r}: {told} (in {home / SETTINGS_FILE} or {_PREFIX}{key.upper()})"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: {e}") from None
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {e.strerror}") from None


def read_credential(home: Path, environ: Mapping[str, str]) -> Credential | None:
    """The key or token: of the environment, else of home/.env; an API key wins over a token.

    Read anew whenever it is asked for, so that a new key counts without a restart.
    """
    stored: dict[str, str] = {}
    try:
        for line in (home / SECRETS_FILE).read_text("utf-8", "replace").splitlines():
            key, eq, value = line.partition("=")
            if eq:
                stored[key.strip()] = value.strip().strip("\"'")
    except OSError:
        stored = {}
    for source in (environ, stored):
        for key, kind in _SECRETS.items():
            if secret := source.get(key, "").strip():
                return Credential(kind, secret)
    return None
