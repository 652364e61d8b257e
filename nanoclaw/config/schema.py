"""Config: every setting with its bounds, its meaning, and whether it counts without a restart."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator

DEFAULT_MODEL = "claude-sonnet-5-5"
HOME = "home"  # where all the others are: only NANOCLAW_HOME says it
_LONGEST = 36_500  # days that anything is kept


class Restart:
    """Marks a setting that counts only from the next start on: what is built from it cannot be rebuilt alive."""


Days = Annotated[int, Field(ge=1, le=_LONGEST)]
AtStart = Annotated[str, Restart()]


class Config(BaseModel):
    """One setting per field. In nanoclaw.toml by its name; in the environment as NANOCLAW_NAME."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    home: Annotated[Path, Restart()] = Field(description="the folder of everything; NANOCLAW_HOME alone says it")
    name: str = Field("Andy", min_length=1, max_length=40, description="what the assistant is called")
    model: str = Field(DEFAULT_MODEL, pattern=r"^\S+$", description="the Claude model of groups that name none")
    zone: str = Field("UTC", description="the time zone, as in Europe/Berlin")
    max_runs: int = Field(5, ge=1, le=100, description="containers that may live at once")
    idle_timeout: float = Field(900, ge=1, description="seconds that a container without work is kept")
    turn_silence: float = Field(600, ge=10, description="seconds without a sign after which a turn is stopped")
    turn_timeout: float = Field(7200, ge=60, description="seconds that one turn may take")
    tokens_per_day: int = Field(5_000_000, ge=0, description="tokens a group may use a day; 0 = no limit")
    budget_turn: float = Field(1, ge=0, description="dollars that one turn may cost; 0 = no limit")
    budget_group_day: float = Field(3, ge=0, description="dollars that a group may cost a day; 0 = no limit")
    budget_main_day: float = Field(10, ge=0, description="dollars that main may cost a day; 0 = no limit")
    budget_month: float = Field(
        30, ge=0, description="dollars that all may cost a month, a quarter of it main's alone; 0 = no limit"
    )
    base_url: str = Field("https://api.anthropic.com", description="the model's API, or one that speaks like it")
    engine: AtStart = Field("", description="the engine's address; empty = DOCKER_HOST or the usual socket")
    runtime: AtStart = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$",
        description="the engine's runtime, as runsc; empty = its default",
    )
    image: AtStart = Field("nanoclaw-agent", description="the agent image's name")
    base_image: AtStart = Field("", description="what the agent image is built on; empty = the Dockerfile's")
    run_dir: Annotated[Path | None, Restart()] = Field(None, description="folder of the sockets; empty = home/run")
    agent_uid: Annotated[int, Restart()] = Field(
        10001, ge=1, description="the agents' user id where the host itself is root"
    )
    whatsapp: Annotated[Literal["off", "own", "shared"], Restart()] = Field(
        "off", description="the number: off, own (one of its own), shared (yours; it reads along)"
    )
    owners: tuple[str, ...] = Field((), description="more owners' phone numbers, as in +4915112345678")
    late_after: float = Field(86400, ge=60, description="seconds after which a message that comes late is only context")
    reaction: str = Field("👀", max_length=16, description="the sign on a message that was taken up; empty = none")
    typing: bool | None = Field(
        None, description="show typing; on a shared number this makes you 'available', which mutes your phone"
    )
    keep_messages: Days = Field(180, description="days that messages, turns and sent texts are kept")
    keep_conversations: Days = Field(180, description="days of conversations as files; no longer than messages")
    keep_media: Days = Field(30, description="days that people's files are kept")
    keep_transcripts: Days = Field(30, description="days that closed sessions are kept")
    keep_audit: Days = Field(90, description="days that the owner's changes are on record")
    keep_usage: Days = Field(400, ge=32, description="days that counted tokens are kept")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="how much is logged; DEBUG holds words of people"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: Any, info: Any) -> Any:
        """`max_runs = true` is a slip, not a one."""
        if isinstance(value, bool) and info.field_name != "typing":
            raise ValueError("it is neither on nor off")
        return value

    @field_validator("name")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if re.search(r"[\x00-\x1f\x7f]", value) or value != value.strip():
            raise ValueError("write one line, without blanks around it")
        return value

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

    @field_validator("run_dir", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

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
    def conversation_days(self) -> int:
        """A conversation's file is made from messages, so it does not outlive them."""
        return min(self.keep_conversations, self.keep_messages)

    @property
    def shows_typing(self) -> bool:
        """Not said, it depends on the number: being available mutes the owner's own phone."""
        return self.whatsapp != "shared" if self.typing is None else self.typing

    @property
    def sockets(self) -> Path:
        """Where the runs' sockets are."""
        return self.run_dir or self.home / "run"


KEYS = tuple(key for key in Config.model_fields if key != HOME)  # what nanoclaw.toml may hold


def needs_restart(key: str) -> bool:
    """Whether a change of this setting counts only from the next start on."""
    return any(isinstance(mark, Restart) for mark in Config.model_fields[key].metadata)


def differing(one: Config, other: Config) -> frozenset[str]:
    """The settings whose values are not the same."""
    return frozenset(key for key in KEYS if getattr(one, key) != getattr(other, key))


class Current:
    """The settings in force. Asked each time they are needed and never kept, so that a change counts at once."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self) -> Config:
        """All of them, as of this moment."""
        return self._config

    def put(self, config: Config) -> None:
        """From now on these."""
        self._config = config
