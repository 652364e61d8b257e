"""What the turns do at this moment, for /status: known to the living process alone."""

import re

from nanoclaw.models import Progress, Show

_MANY = 1000  # turns that are remembered: each is forgotten when it ends
_NAME = re.compile(r"[\w-]{1,40}", re.ASCII)


class Doing:
    """By turn, the tool that its agent used last, until it is done. The store's thread reads it: whole values only."""

    def __init__(self) -> None:
        self._tools: dict[str, str] = {}

    def saw(self, progress: Progress) -> None:
        """Take in what is shown of a turn."""
        if progress.show is Show.TOOL and len(self._tools) < _MANY:
            name = _NAME.match(progress.text)  # an agent wrote it
            self._tools[progress.turn] = name[0] if name else "a tool"
        elif progress.show in (Show.TOOL_DONE, Show.TEXT, Show.THINKING, Show.LATER, Show.ENDED):
            self._tools.pop(progress.turn, None)

    def of(self, turn_id: str) -> str:
        """The tool's name, or ""."""
        return self._tools.get(turn_id, "")
