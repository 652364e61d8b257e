"""The dead-man's switch: an agent whose host is gone ends itself."""

from pathlib import Path

BUSY, IDLE = 900.0, 120.0  # seconds that it outlives its host, with a turn running and without


class HostGone(Exception):
    """The host has not touched its file for too long."""


class Lifeline:
    """Notes when the host's file last changed, by our own clock: the two may disagree about the time."""

    def __init__(self, path: Path, now: float) -> None:
        self._path, self._stamp, self._changed = path, 0, now

    def check(self, now: float, *, busy: bool) -> None:
        """Raises HostGone."""
        try:
            stamp = self._path.stat().st_mtime_ns
        except OSError:
            stamp = self._stamp
        if stamp != self._stamp:
            self._stamp, self._changed = stamp, now
        elif now - self._changed > (BUSY if busy else IDLE):
            raise HostGone(f"the host has been gone for {now - self._changed:.0f} s")
