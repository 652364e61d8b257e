"""Which groups are answered by their second model now, because the first one is overloaded. Seen at the gateway, where
the answers pass: what an agent says of it is not asked."""

from dataclasses import dataclass
from typing import Any

from loguru import logger

from nanoclaw.gateway import Ask


@dataclass(frozen=True)
class StandIn:
    """A group's second model, which answered last."""

    folder: str
    model: str
    instead_of: str
    since: int  # ms


class StandIns:
    """Kept in memory: after a restart the first answer tells it again. The store's thread reads it: whole values
    only."""

    def __init__(self) -> None:
        self._refused: set[int] = set()  # groups whose first model was overloaded when it was asked last
        self._now: dict[int, StandIn] = {}

    def settled(
        self, group_id: int, folder: str, models: tuple[str, str], ask: Ask, now: int, *, answered: bool | None
    ) -> None:
        """A request to one of a group's two models has ended; "" = it has no second one.

        `answered`: None for what says nothing of the model: a bad request, say, or a network that is gone.
        """
        if answered is None:
            return
        first, second = models
        if is_named(ask.model, first):
            self._of_first(group_id, first, answered=answered)
        elif answered and second and is_named(ask.model, second) and group_id in self._refused - self._now.keys():
            logger.warning("{} answers for {} while {} is overloaded", second, folder, first)
            self._now[group_id] = StandIn(folder, second, first, now)

    def _of_first(self, group_id: int, first: str, *, answered: bool) -> None:
        if not answered:
            self._refused.add(group_id)
            return
        self._refused.discard(group_id)
        if (was := self._now.pop(group_id, None)) is not None:
            logger.info("{} answers for {} again", first, was.folder)

    def of(self, group_id: int) -> StandIn | None:
        """The model that stands in for this group's own."""
        return self._now.get(group_id)

    def facts(self) -> list[dict[str, Any]]:
        """Every group's, for `nanoclaw status`; since when in milliseconds."""
        return [
            {"group": one.folder, "model": one.model, "instead_of": one.instead_of, "since": one.since}
            for one in self._now.values()
        ]


def is_named(asked: str, name: str) -> bool:
    """Whether the model that was asked is the one of this name, or of this family (sonnet)."""
    name, asked = name.partition("[")[0].lower(), asked.partition("[")[0].lower()
    return asked == name or (name.isalpha() and name in asked.split("-"))
