"""mounts.toml: read strictly, and anew whenever it is asked for; what is wrong with it allows nothing."""

import hashlib
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nanoclaw import safefs
from nanoclaw.errors import UnsafePath
from nanoclaw.mounts import Allowlist, Place, Root
from nanoclaw.mounts.names import fold

FILE = "mounts.toml"
_MAX_BYTES = 64 << 10
_HOW = "`nanoclaw mounts --help` shows how to write one"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Root(_Strict):
    path: str
    read_write: bool = False
    description: str = Field("", max_length=200)

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith(("/", "~/")) or ".." in value.split("/") or not value.isprintable():
            raise ValueError(f"{value!r} is no absolute path without '..'")
        return str(Path(value).expanduser())


class _File(_Strict):
    allowed_roots: list[_Root] = []
    blocked_names: list[str] = []
    non_main_read_only: bool = True

    @field_validator("allowed_roots")
    @classmethod
    def _once(cls, value: list[_Root]) -> list[_Root]:
        if len({root.path for root in value}) < len(value):
            raise ValueError("a path stands there twice")
        return value

    @field_validator("blocked_names")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        if bad := [name for name in value if "/" in name or not fold(name)]:
            raise ValueError(f"{bad[0]!r} is no part of a path")
        return value


def place(home: Path, run_dir: Path | None = None, engine: str = "") -> Place:
    """What verdicts depend on, as of now; `engine` is its address."""
    ours = (home, *([run_dir] if run_dir else []))
    return Place(read(home), ours, engine.removeprefix("unix://") if engine.startswith("unix://") else "")


def read(home: Path) -> Allowlist | str:
    """The owner's allowlist, or in words why nothing can be granted."""
    path = home / FILE
    try:
        data = safefs.read_file(home, FILE, _MAX_BYTES)
        found = _File.model_validate(tomllib.loads(data.decode()))
    except FileNotFoundError:
        return f"there is no {path}, so no folder can be granted: {_HOW}"
    except ValidationError as e:
        return f"{path} is not understood, so no folder can be granted: {_fault(e)}"
    except (UnsafePath, ValueError, OSError, RuntimeError) as e:  # also: too deep to be parsed; ~ without a HOME
        return f"{path} cannot be read, so no folder can be granted: {e}"
    roots = tuple(Root(r.path, r.read_write, r.description) for r in found.allowed_roots)
    return Allowlist(roots, frozenset(map(fold, found.blocked_names)), found.non_main_read_only)


def digest(home: Path) -> str:
    """Another one when the file is another."""
    try:
        return hashlib.sha256(safefs.read_file(home, FILE, _MAX_BYTES)).hexdigest()
    except (FileNotFoundError, UnsafePath, OSError):
        return ""


def _fault(e: ValidationError) -> str:
    fault = e.errors()[0]
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"{key!r} is unknown; known are allowed_roots (path, read_write, description), blocked_names, " + (
            "non_main_read_only"
        )
    return f"{key}: {fault['msg'].removeprefix('Value error, ')}"
