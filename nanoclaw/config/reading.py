"""nanoclaw.toml and the environment -> Config; and everything that is wrong with them, by file, line and key."""

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nanoclaw.config.schema import HOME, KEYS, Config
from nanoclaw.errors import ConfigError

SETTINGS_FILE = "nanoclaw.toml"
MAX_FILE = 1 << 20  # bytes: what is larger was not written by a person
_PREFIX = "NANOCLAW_"
_OF_PEOPLE = ("owners", "name")


class Source(StrEnum):
    """Where a setting's value comes from; the later wins."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, in words that say what to do."""

    where: str  # "/home/me/.nanoclaw/nanoclaw.toml, line 3", or a variable's name
    told: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.told}"

    @property
    def public(self) -> str:
        """Without the value, where that is somebody's number or name: for what is shown to others."""
        return f"{self.where}: {self.key} is not right" if self.key in _OF_PEOPLE else str(self)


@dataclass(frozen=True)
class Loaded:
    """The settings and where each comes from."""

    config: Config
    sources: Mapping[str, Source]


def home_of(environ: Mapping[str, str]) -> Path:
    """NANOCLAW_HOME, default ~/.nanoclaw, absolute."""
    return Path(environ.get("NANOCLAW_HOME") or Path.home() / ".nanoclaw").expanduser().absolute()


def load(environ: Mapping[str, str]) -> Config:
    """Read the settings; the environment wins over the file. Raises ConfigError, naming file, line and key."""
    return load_home(home_of(environ), environ).config


def load_home(home: Path, environ: Mapping[str, str]) -> Loaded:
    """The settings of this home. Raises ConfigError."""
    path = home / SETTINGS_FILE
    return parsed(path, read_text(path), home, environ)


def parsed(path: Path, text: str, home: Path, environ: Mapping[str, str]) -> Loaded:
    """The settings that this text of a file gives with this environment. Raises ConfigError of the first fault."""
    found = _judged(path, text, home, environ)
    if isinstance(found, Loaded):
        return found
    more = f" (and {len(found) - 1} more: nanoclaw config check)" if len(found) > 1 else ""
    raise ConfigError(f"{found[0]}{more}", f"{found[0].public}{more}")


def faults(path: Path, text: str, home: Path, environ: Mapping[str, str]) -> list[Fault]:
    """Everything that is wrong with this text of a file; [] for nothing."""
    found = _judged(path, text, home, environ)
    return [] if isinstance(found, Loaded) else found


def misspelt(environ: Mapping[str, str]) -> list[Fault]:
    """Variables that are nearly those of a setting: they count for nothing."""
    known_ones = {_PREFIX + key.upper(): key for key in KEYS}
    mine = (name for name in sorted(environ) if name.startswith(_PREFIX) and name not in {*known_ones, "NANOCLAW_HOME"})
    close = ((name, difflib.get_close_matches(name, known_ones, 1, 0.85)) for name in mine)
    return [
        Fault(f"{name} in the environment", f"no such setting: do you mean {near[0]}?") for name, near in close if near
    ]


def read_text(path: Path) -> str:
    """A file of settings as text with plain line ends, "" where there is none. Raises ConfigError."""
    return decoded(path, read_bytes(path) or b"")


def read_bytes(path: Path) -> bytes | None:
    """The file as it is; None where there is none. Raises ConfigError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe there would wait for ever
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(f"{path} is no regular file")
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {e.strerror}") from None
    if len(data) > MAX_FILE:
        raise ConfigError(f"{path} is larger than {MAX_FILE >> 20} MiB: that is no file of settings")
    return data


def decoded(path: Path, data: bytes) -> str:
    """As some editors leave it: with a mark at the beginning, or with the line ends of Windows."""
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ConfigError(f"{path}, line {line}: this is not UTF-8 text; save it as UTF-8") from None


def known(key: str) -> str:
    """The key, if there is such a setting. Raises ConfigError with the nearest one."""
    if key == HOME:
        raise ConfigError("the home is said by NANOCLAW_HOME alone")
    if key not in KEYS:
        raise ConfigError(_unknown(key))
    return key


def value_of(key: str, given: Any) -> Any:
    """A value for a setting, also in a person's words: a number, yes or no, a list with commas. Raises ConfigError."""
    try:
        config = Config.model_validate({HOME: Path("/"), known(key): given})
    except ValidationError as e:
        raise ConfigError(f"{key}: {_told(e.errors()[0])}") from None
    return getattr(config, key)


# --- faults ------------------------------------------------------------------------------------


def _judged(path: Path, text: str, home: Path, environ: Mapping[str, str]) -> Loaded | list[Fault]:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        at = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", str(e))
        line = (at and at[1] and int(at[1])) or text.count("\n") + 1
        return [Fault(_line(path, line), f"this is no TOML: {str(e)[: at.start()] if at else e}")]
    except (ValueError, RecursionError):  # a number of thousands of digits, a thousand lists in each other
        return [Fault(str(path), "something in it is far too long, or too deep")]
    own = [Fault(_line(path, _line_of(text, HOME)), "the home is said by NANOCLAW_HOME alone", HOME)]
    found = own if values.pop(HOME, None) is not None else []
    variables = _variables(values, environ)
    sources = dict.fromkeys(KEYS, Source.DEFAULT) | dict.fromkeys(values, Source.FILE)
    sources |= dict.fromkeys(variables, Source.ENVIRONMENT)
    values |= {key: environ[variable] for key, variable in variables.items()}
    try:
        config = Config.model_validate({**values, HOME: home})
    except ValidationError as e:
        return found + [_fault(error, path, text, variables) for error in e.errors()]
    return found or Loaded(config, sources)


def _variables(values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that the environment gives, and by which variable."""
    # An empty one is one that a compose file left open; but no owners is something to say.
    names = {key: _PREFIX + key.upper() for key in KEYS}
    given = {key: name for key, name in names.items() if environ.get(name) or (key == "owners" and name in environ)}
    if "base_url" not in {*given, *values} and environ.get("ANTHROPIC_BASE_URL"):
        given["base_url"] = "ANTHROPIC_BASE_URL"
    return given


def _fault(error: Mapping[str, Any], path: Path, text: str, variables: Mapping[str, str]) -> Fault:
    key = str(error["loc"][0])
    if key in variables:
        return Fault(f"{variables[key]} in the environment", _told(error), key)
    told = _unknown(key) if error["type"] == "extra_forbidden" else f"{key}: {_told(error)}"
    return Fault(_line(path, _line_of(text, key)), told, key)


def _told(error: Mapping[str, Any]) -> str:
    return str(error["msg"]).removeprefix("Value error, ").replace("Input should", "it should")


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key.lower(), KEYS, 1)
    advice = f"do you mean {near[0]}?" if near else f"known are {', '.join(sorted(KEYS))}"
    return f"unknown setting {key[:80]!r}: {advice}"


def _line(path: Path, line: int) -> str:
    return f"{path}, line {line}" if line else str(path)


def _line_of(text: str, key: str) -> int:
    """Where a key stands, 0 where that cannot be seen: as a key of its own, or as the name of a table."""
    mine = re.compile(rf"""\s*\[{{0,2}}\s*["']?{re.escape(key)}["']?\s*[]=.]""")
    return next((n for n, line in enumerate(text.splitlines(), 1) if mine.match(line)), 0)
