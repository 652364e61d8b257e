"""Conversations as Markdown, one file a day and group, written from the rows whenever they changed.

From our rows, not from the transcript: that one an agent can write, this nobody can forge. A day's file is
written whole each time, so that a crash leaves the old one, and a message that was deleted leaves no trace.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import groupby
from zoneinfo import ZoneInfo

from loguru import logger

from nanoclaw import safefs
from nanoclaw.config import Config
from nanoclaw.errors import NanoClawError
from nanoclaw.groups import Home, make_kept
from nanoclaw.models import Group, Media
from nanoclaw.ops import files
from nanoclaw.prompts import clean_name, plain
from nanoclaw.store import Store, archive, chats
from nanoclaw.store.archive import HOUR_MS, Line, Mark

MAX_DAY = 8 << 20  # characters of one day's file
_CUT = "[The rest of this day is too long to be shown here.]\n"


@dataclass(frozen=True)
class Archive:
    """Keeps kept/<folder>/conversations as the rows are."""

    store: Store
    home: Home
    config: Callable[[], Config]
    clock: Callable[[], int]

    async def tick(self) -> None:
        """Write what has changed. One group's trouble is not another's: it is tried again at the next tick."""
        for group_id, marks in groupby(await self.store.read(archive.marks), key=lambda m: m.group):
            mine = list(marks)
            try:
                if group_id:
                    await self._bring_up(await self.store.read(chats.group, group_id), mine)
                await self.store.write(archive.done, mine)
            except Exception as e:
                ours = isinstance(e, (OSError, NanoClawError))
                logger.opt(exception=not ours).error("The conversations of group {} cannot be written: {}", group_id, e)

    async def _bring_up(self, group: Group, marks: list[Mark]) -> None:
        make_kept(self.home, group.folder)
        zone = ZoneInfo(group.zone or self.config().zone)
        for day in sorted({d for m in marks for d in _days(m.hour, zone)}):
            await self._write(group, day, zone)
        if any(m.erased for m in marks):
            await files.remove_unnamed(self.store, self.home, group.folder)

    async def _write(self, group: Group, day: date, zone: ZoneInfo) -> None:
        folder, name = self.home.kept_dir(group.folder) / "conversations", f"{day}.md"
        days = self.config().conversation_days
        oldest = datetime.fromtimestamp(self.clock() / 1000, zone).date() - timedelta(days=days)
        if day < oldest and not (folder / name).is_file():
            return
        lines = await self._said(group, _midnight(day, zone), _midnight(day + timedelta(days=1), zone))
        if lines:
            several = await self.store.read(archive.chats_of, group.id) > 1
            text = await asyncio.to_thread(render, lines, day, zone, several=several)
            await asyncio.to_thread(safefs.write_file, folder, name, text.encode())
        else:
            safefs.remove_file(folder, name)

    async def _said(self, group: Group, since: int, until: int) -> list[Line]:
        """Hour by hour: others want to read too."""
        lines: list[Line] = []
        while since < until:
            lines += await self.store.read(archive.said, group.id, since, min(since + HOUR_MS, until))
            since += HOUR_MS
        return lines


def _days(hour: int, zone: ZoneInfo) -> set[date]:
    """An hour since 1970 may lie in two days where midnight is at a half hour of UTC."""
    ends = (hour * HOUR_MS, (hour + 1) * HOUR_MS - 1)
    return {datetime.fromtimestamp(at / 1000, zone).date() for at in ends}


def _midnight(day: date, zone: ZoneInfo) -> int:
    return int(datetime.combine(day, time(), zone).timestamp() * 1000)


# --- rows -> Markdown (pure) ---------------------------------------------------------------------


def render(lines: Iterable[Line], day: date, zone: ZoneInfo, *, several: bool) -> str:
    """Each text below a line that only we write: what people wrote stands behind "> ", whatever it looks like."""
    parts: list[str] = []
    room = MAX_DAY
    for line in lines:
        parts.append(_entry(line, day, zone, several=several))
        if (room := room - len(parts[-1])) < 0:
            parts[-1] = _CUT
            break
    return "\n".join([f"# {day:%A} {day} ({zone.key})\n", *parts]) if parts else ""


def _entry(line: Line, day: date, zone: ZoneInfo, *, several: bool) -> str:
    """The role stands before the name: a name cannot pretend to it."""
    at = datetime.fromtimestamp(min(max(line.at, 0), line.saved) / 1000, zone)
    said = f"{at:%H:%M}" if at.date() == day else f"{at:%Y-%m-%d %H:%M}"
    who = [line.role, *([f"message {line.id}", clean_name(line.name)] if line.id else [])]
    where = f", in {clean_name(line.chat)}" if several else ""
    body = [plain(line.text)] if line.text else []
    body += [_file(f) for f in line.media]
    return "\n".join([f"{said} {', '.join(who)}{where}:", *(f"> {x}" for b in body for x in b.split("\n")), ""])


def _file(file: Media) -> str:
    kind = clean_name(file.kind)
    return f"[{kind}: /workspace/media/{file.path}]" if file.path else f"[{kind}, not here]"
