"""The settings while the host lives: a change comes into force at once, a broken file does not."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from loguru import logger

from nanoclaw.channels.control_sock import Frame, Stream
from nanoclaw.config import SETTINGS_FILE, Config, Current
from nanoclaw.config.reading import Source, load_home
from nanoclaw.config.schema import differing, needs_restart
from nanoclaw.errors import ConfigError, NanoClawError

Stamp = tuple[int, int, int]
BROKEN = "nanoclaw.toml is not right, so the settings from before it was changed stay in force. {}"
GONE = "is empty or gone: put it back (nanoclaw.toml.before may be it); with a restart the defaults count"
MENDED = "nanoclaw.toml is right again, and in force."
_NEVER: Stamp = (-1, -1, -1)


class Live:
    """Puts what nanoclaw.toml says now into force, as far as that needs no restart."""

    def __init__(
        self,
        current: Current,
        environ: Mapping[str, str],
        *,
        tell: Callable[[str], Awaitable[None]],
        apply: Callable[[frozenset[str]], Awaitable[None]],
    ) -> None:
        """`tell` tells main; `apply` does what a change of these settings asks for, once they are in force."""
        self._current = current
        self._environ = environ
        self._tell = tell
        self._apply = apply
        self._path = current().home / SETTINGS_FILE
        self._seen = _stamp(self._path)
        # Since `current` was read a file may have become another one; where there is none, nothing was.
        self._taken: Stamp | None = _NEVER if self._seen else None
        self._full = _is_full(self._seen)  # whether there was anything in it
        self._fault = ""
        self._due: frozenset[str] = frozenset()  # settings in force whose effect failed
        self._told = False  # whether main knows of it
        self._waiting: tuple[str, ...] = ()  # settings that count from the next start on

    async def look(self, *, now: bool = False) -> None:
        """Take the file over if it is another one, and whole: by hand it is written in pieces, so that it must look
        the same twice; `now` where a command of ours has written it."""
        stamp = _stamp(self._path)
        settled, self._seen = now or stamp == self._seen, stamp
        if settled and stamp != self._taken:
            self._taken = stamp
            await self._take(stamp)
        await self._do()

    async def _take(self, stamp: Stamp | None) -> None:
        before = self._current()
        try:
            if self._full and not _is_full(stamp):
                raise ConfigError(f"{self._path} {GONE}")
            loaded = load_home(before.home, self._environ)
        except ConfigError as e:
            logger.error("The settings stay as they were: {}", e.public)
            self._fault = e.public
            if not self._told:
                await self._tell(BROKEN.format(e))
                self._told = True
            return
        self._fault, self._full = "", _is_full(stamp)
        self._put(before, loaded.config)
        if self._told:
            await self._tell(MENDED)
            self._told = False

    def _put(self, before: Config, new: Config) -> None:
        changed = differing(before, new)
        self._waiting = tuple(sorted(filter(needs_restart, changed)))
        kept = {key: getattr(before, key) for key in self._waiting}
        self._current.put(new.model_copy(update=kept))
        if counting := changed.difference(self._waiting):
            logger.info("Settings that are in force now: {}", ", ".join(sorted(counting)))
            self._due |= counting

    async def _do(self) -> None:
        """What a change asks for; what fails is tried again with the next look."""
        due, self._due = self._due, frozenset()
        try:
            if due:
                await self._apply(due)
        except Exception as e:
            logger.opt(exception=not isinstance(e, NanoClawError)).error("Settings took no effect yet: {}", e)
            self._due |= due

    def _wrong(self) -> str:
        late = f"tried again, because it failed: {', '.join(sorted(self._due))}" if self._due else ""
        return self._fault or late

    def facts(self) -> dict[str, str]:
        """For `nanoclaw status`."""
        restart = "restart pending: " + ", ".join(self._waiting) if self._waiting else ""
        return {"settings": self._wrong() or restart or "in force"}

    async def verb(self, args: Frame, stream: Stream) -> Frame:
        """The `settings` verb: look now, and say what does not count, or not yet."""
        await self.look(now=True)
        sources = self._sources()
        by_environment = [key for key, source in sources.items() if source is Source.ENVIRONMENT]
        return {"restart": list(self._waiting), "environment": by_environment, "fault": self._wrong()}

    def _sources(self) -> Mapping[str, Source]:
        try:
            return load_home(self._current().home, self._environ).sources
        except ConfigError:
            return {}


def _is_full(stamp: Stamp | None) -> bool:
    return stamp is not None and stamp[1] > 0


def _stamp(path: Path) -> Stamp | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)
