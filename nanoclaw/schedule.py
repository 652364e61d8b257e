"""When: the only module that knows what a day is, in a time zone."""

from datetime import datetime
from zoneinfo import ZoneInfo


def midnight(now: int, zone: ZoneInfo) -> int:
    """The beginning of the day that `now` lies in (both milliseconds since 1970)."""
    today = datetime.fromtimestamp(now / 1000, zone)
    return int(today.replace(hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)
