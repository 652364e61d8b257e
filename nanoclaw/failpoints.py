"""Named instants at which a test can kill this process, or make a step fail; nothing unless the environment says so."""

import os
import signal
from pathlib import Path

_NAME, _, _COUNT = os.environ.get("NANOCLAW_FAIL_POINT", "").partition(":")
_left = int(_COUNT or 1)
_FAULTS = os.environ.get("NANOCLAW_FAULTS", "")


def hit(name: str) -> None:
    """Die here, at once, when NANOCLAW_FAIL_POINT is `name` (or at the n-th hit of `name:n`)."""
    global _left
    if name == _NAME:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def fails(name: str) -> bool:
    """Whether this step is to fail now: while the folder NANOCLAW_FAULTS holds a file of that name."""
    return bool(_FAULTS) and Path(_FAULTS, name).exists()
