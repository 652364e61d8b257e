"""Changes nanoclaw.toml: the whole file as it would be is judged first, then takes the old one's place at once.

What the owner wrote (order, comments) stays, and the file that was there before stays beside it.
"""

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanoclaw.config.reading import SETTINGS_FILE, decoded, known, parsed, read_bytes, value_of
from nanoclaw.errors import ConfigError

BEFORE = ".before"  # what the previous file's name ends with


def set_settings(home: Path, values: Mapping[str, Any]) -> bool:
    """Put these settings into the file; None takes one out. Whether that changed it. Raises ConfigError: then nothing
    is written."""
    import tomlkit  # it takes longer to load than all the rest of a command, most of which change nothing
    from tomlkit.exceptions import TOMLKitError

    values = {key: None if value is None else value_of(key, value) for key, value in values.items()}
    path = home / SETTINGS_FILE
    with _alone(home):
        before = read_bytes(path)
        text = decoded(path, before or b"")
        try:
            document = tomlkit.parse(text)
        except (TOMLKitError, ValueError, RecursionError):
            parsed(path, text, home, {})  # says it with its line
            raise ConfigError(f"{path} is no TOML: nanoclaw config edit") from None
        for key, value in values.items():
            if value is not None:
                document[key] = _plain(value)
            elif key in document:
                del document[key]
            else:
                known(key)
        return _put(path, home, before, tomlkit.dumps(document))


def replace_settings(home: Path, old: bytes | None, new: bytes) -> None:
    """Put a whole file in the place of `old`. Raises ConfigError where it is not right, or not in place of that one."""
    path = home / SETTINGS_FILE
    text = decoded(path, new)
    with _alone(home):
        if (before := read_bytes(path)) != old:
            raise ConfigError(f"{path} was changed by somebody else meanwhile")
        _put(path, home, before, text)


def write_whole(path: Path, data: bytes, like: os.stat_result | None = None) -> None:
    """Write the whole file or nothing, for the owner's eyes alone, or with the owner and mode of another file.

    Raises ConfigError.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = _part(path, data, like)
        part.rename(path)
        _sync_folder(path.parent)
    except OSError as e:
        raise ConfigError(f"{path} cannot be written: {e.strerror}") from None


def _put(path: Path, home: Path, before: bytes | None, text: str) -> bool:
    parsed(path, text, home, {})
    # Never quite empty: a file that is was cut off, and the host does not go by it.
    data = (text or "\n").replace("\n", "\r\n" if before and b"\r\n" in before else "\n").encode()
    if data == (before or b""):
        return False
    path = path.resolve()  # where a link leads: the link stays
    like = _others(path) if before is not None else None
    if before is not None:
        write_whole(home / (SETTINGS_FILE + BEFORE), before, like)
    write_whole(path, data, like)
    return True


def _plain(value: Any) -> Any:
    """As TOML knows it, and as a person would write it."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Path):
        return str(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _others(path: Path) -> os.stat_result | None:
    """What root must not take away from whose file it is; None for a file of ours."""
    found = path.stat()
    return found if os.geteuid() == 0 and found.st_uid != 0 else None


def _part(path: Path, data: bytes, like: os.stat_result | None) -> Path:
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            if like is not None:
                os.fchown(file.fileno(), like.st_uid, like.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # a full disk: what is there of it would only take room
        part.unlink(missing_ok=True)
        raise
    return part


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One writer at a time: the others wait, for as long as it takes to write a small file."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise ConfigError(f"{home} cannot be used: {e.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
