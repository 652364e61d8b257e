"""A crash loop does not hammer those whom we connect to: each start writes itself down, and may have to wait."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from loguru import logger

from nanoclaw import safefs
from nanoclaw.errors import UnsafePath

FILE = "starts.json"
WAITS = (0, 0, 10, 30, 120, 300)  # seconds before the channels connect, by crashes in a row
SETTLED = 600.0  # seconds of life after which an end, however hard, is no crash at the start
_MAX_FILE = 4096  # bytes


@dataclass(frozen=True)
class Start:
    """What the file says. `open`: the life has not ended in order, and has not lasted either."""

    at: int = 0
    crashes: int = 0
    open: bool = False


def read(home: Path) -> Start:
    """The last start; one without a past where the file says nothing."""
    try:
        told = json.loads(safefs.read_file(home, FILE, _MAX_FILE))
        return Start(int(told["at"]), max(0, int(told["crashes"])), bool(told["open"]))
    except (OSError, UnsafePath, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return Start()


class Life:
    """One life of the host, as a context: in order when it ends by nothing, or by being cancelled."""

    def __init__(
        self, home: Path, clock: Callable[[], int], sleep: Callable[[float], Awaitable[None]], *, patient: bool
    ) -> None:
        """`patient`: wait after crashes. A person who starts it by hand need not."""
        self._home = home
        self._clock = clock
        self._sleep = sleep
        self._patient = patient
        self._crashes = 0
        self._began = 0
        self.wait = 0  # seconds

    def __enter__(self) -> "Life":
        before = read(self._home)
        self._began = self._clock()
        self._crashes = before.crashes + 1 if before.open else 0
        if self._patient:
            self.wait = WAITS[min(self._crashes, len(WAITS) - 1)]
        self._write(open_=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # An Exception, or a group of them, is a crash like any other; a cancellation is a stop.
        if not isinstance(error, Exception):
            self._crashes = 0
            self._write(open_=False)

    @property
    def left(self) -> int:
        """Seconds until the channels connect."""
        return max(0, min(self.wait, self.wait - (self._clock() - self._began) // 1000))

    async def calm(self) -> None:
        """Return when the channels may connect."""
        if self.wait:
            await self._sleep(self.wait)
            self.wait = 0

    async def settle(self) -> None:
        """Having lasted, it is no crash at the start any more."""
        await self._sleep(self.wait + SETTLED)
        self._crashes = 0
        self._write(open_=False)

    def _write(self, *, open_: bool) -> None:
        told = {"at": self._began, "crashes": self._crashes, "open": open_}
        try:
            safefs.write_file(self._home, FILE, json.dumps(told).encode())
        except (OSError, UnsafePath) as e:  # a full disk must not keep the host from starting
            logger.warning("{} could not be written: {}", FILE, e)
