"""A file that only takes room: it goes when the disk is full, so that the store can still commit."""

import os
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from nanoclaw import safefs
from nanoclaw.errors import UnsafePath

SIZE = 16 << 20  # bytes
_ROOM = 4 * SIZE  # bytes that must be free before it is made: it must not be what fills the disk
_FULL = 4 << 20  # bytes: with less, a commit may fail for want of room


@dataclass(frozen=True)
class Ballast:
    """home/ballast. All of it may be called in any thread."""

    home: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.home / "ballast"

    @property
    def there(self) -> bool:
        """Whether it can be dropped."""
        return self.path.exists()

    def make(self) -> bool:
        """Take the room if there is enough; whether it is there now."""
        if self.there or self._free() < _ROOM:
            return self.there
        try:
            # Truly allocated: a file of holes would give nothing back.
            safefs.reserve(self.home, self.path.name, SIZE)
        except (OSError, UnsafePath) as e:
            logger.warning("The ballast cannot be made: {}", e)
        return self.there

    def drop(self) -> bool:
        """A commit failed: give the room back if it was for want of room; whether that made any."""
        if not self.there or self._free() >= _FULL:
            return False
        try:
            safefs.remove_file(self.home, self.path.name)
        except UnsafePath:
            return False
        logger.error("The disk is full: dropped the ballast of {} MiB, so that rows can still be stored", SIZE >> 20)
        return True

    def _free(self) -> int:
        disk = os.statvfs(self.home)
        return disk.f_bavail * disk.f_frsize
