"""Named instants at which a test can kill this process; nothing happens unless the environment names one."""

import os
import signal

_NAME, _, _COUNT = os.environ.get("NANOCLAW_FAIL_POINT", "").partition(":")
_left = int(_COUNT or 1)


def hit(name: str) -> None:
    """Die here, at once, when NANOCLAW_FAIL_POINT is `name` (or at the n-th hit of `name:n`)."""
    global _left
    if name == _NAME:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
