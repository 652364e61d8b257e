"""When does it fire next: against a slow oracle that looks at every minute, over both changes of the clocks."""

import random
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanoclaw import schedule
from nanoclaw.errors import Refused
from nanoclaw.schedule import Cron, Every, Once, last_and_next, midnight, next_fire, parse

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Tokyo"]
BEGIN, END = 2026, 2028  # two years
MINUTE = 60_000
BERLIN = ZoneInfo("Europe/Berlin")
NAMES = {"jan": 1, "mar": 3, "dec": 12, "sun": 0, "mon": 1, "sat": 6}


# --- the oracle: fields as plain sets, and every minute looked at ---------------------------------


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()) * 1000


def values(field: str, low: int, high: int) -> set[int]:
    """Of plain cron alone: *, a number or name, a range, a step, and lists of these."""
    found: set[int] = set()
    for item in field.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        begin = low if first == "*" else NAMES.get(first) if first in NAMES else int(first)
        end = high if first == "*" or (step and not last) else begin
        if last:
            end = NAMES[last] if last in NAMES else int(last)
        assert begin is not None
        found.update(range(begin, end + 1, int(step or 1)))
    return found


@dataclass(frozen=True)
class Plain:
    """What five fields mean, said as slowly as can be."""

    text: str

    @property
    def fields(self) -> list[str]:
        return self.text.split()

    def day(self, wall: datetime) -> bool:
        _, _, days, months, weekdays = self.fields
        if wall.month not in values(months, 1, 12):
            return False
        by_date = wall.day in values(days, 1, 31)
        by_weekday = wall.isoweekday() % 7 in {d % 7 for d in values(weekdays, 0, 6)}
        if days == "*" or weekdays == "*":
            return by_date and by_weekday
        return by_date or by_weekday  # as cron has done since 1979

    def times(self) -> set[int]:
        minutes, hours, *_ = self.fields
        return {h * 60 + m for h in values(hours, 0, 23) for m in values(minutes, 0, 59)}

    @property
    def goes_by(self) -> bool:
        return "*" in self.fields[1] or "/" in self.fields[1]


def local_minute(now: datetime) -> int:
    """Minutes since the year 1 on the local clock, which can jump and go back."""
    return now.toordinal() * 1440 + now.hour * 60 + now.minute


def history(zone: str, begin: int, count: int) -> list[tuple[int, int]]:
    """So many minutes from the instant `begin` (seconds) on: each as its clock showed it, and its fold."""
    place = ZoneInfo(zone)
    walls = (datetime.fromtimestamp(begin + n * 60, place) for n in range(count))
    return [(local_minute(now), now.fold) for now in walls]


def firings(text: str, minutes: list[tuple[int, int]], begin: int) -> list[int]:
    """Every minute is looked at: does it fire?"""
    plain, found = Plain(text), list[int]()
    times, goes_by = plain.times(), plain.goes_by
    days = {day for day in {m // 1440 for m, _ in minutes} if plain.day(datetime.fromordinal(day))}
    before = minutes[0][0] - 1
    for n, (minute, fold) in enumerate(minutes):
        fires = minute % 1440 in times and minute // 1440 in days and (goes_by or not fold)
        if minute - before > 1 and not goes_by and not fires:  # what was skipped, the next one makes up for
            fires = any(m % 1440 in times and m // 1440 in days for m in range(before + 1, minute))
        if fires:
            found.append((begin + n * 60) * 1000)
        before = minute
    return found


# --- against it -----------------------------------------------------------------------------------

FIXED = [
    "30 2 * * *", "*/7 2 * * *", "0 0 * * *", "15,45 1-3 * * *", "0 2,3 * * *", "0 2 * * sun", "59 23 31 * *",
    "0 0 1,15 * mon", "30 0 * mar *", "10 2 */2 * 0-6/3", "5/20 0 * jan-mar,9-dec sat", "0 9 29 2 *",
]  # fmt: skip
GOING_BY = ["* * * * *", "*/15 * * * *", "30 */2 * * *", "0 1-3/1 * * *", "7 * * mar,10 sun", "0 * 1-7 * *"]


@pytest.mark.parametrize("zone", ZONES)
def test_every_firing_of_two_years(zone: str) -> None:
    """Times of day and time that goes by, over every change of the clocks: nothing is missed, nothing comes twice."""
    dice, place = random.Random(zone), ZoneInfo(zone)
    begin, end = (int(datetime(year, 1, 1, tzinfo=place).timestamp()) for year in (BEGIN, END))
    minutes = history(zone, begin, (end - begin) // 60)
    for text in [*dice.sample(FIXED, 2), dice.choice(GOING_BY), "*/30 0-3 * * *"]:
        expected = firings(text, minutes, begin)
        for after in _instants(dice, expected, minutes, begin):
            due = expected[bisect_right(expected, after) :][:1]
            assert due == [] or [next_fire(Cron(text), after, place)] == due, f"{text} after {after} in {zone}"


def _instants(dice: random.Random, expected: list[int], minutes: list[tuple[int, int]], begin: int) -> list[int]:
    """Hours around each change of the clocks, and samples of the rest, on and beside firings."""
    changes = [n for n in range(1, len(minutes)) if minutes[n][0] - minutes[n - 1][0] != 1]
    near = [(begin + (n + k) * 60) * 1000 for n in changes for k in range(-200, 200, 13)]
    rare = dice.sample(expected, min(40, len(expected)))
    return [*near, *rare, *(r - 1 for r in rare), *(r + 1 for r in rare), begin * 1000]


minute_field = st.sampled_from(["0", "30", "*/20", "5,50", "59", "10-12"])
hour_field = st.sampled_from(["*", "0", "1", "2", "3", "0-3", "2,23", "*/2", "1-3/2"])
day_fields = st.sampled_from(["* * *", "* * 0", "*/5 * *", "1-7 * 6", "* 3,10 *"])
CHANGES = {
    "Europe/Berlin": ["2026-03-29T01:00", "2026-10-25T01:00", "2027-03-28T01:00"],
    "America/New_York": ["2026-03-08T07:00", "2026-11-01T06:00"],
    "Australia/Lord_Howe": ["2026-04-04T15:00", "2026-10-03T15:30"],
    "America/Santiago": ["2026-04-05T03:00", "2026-09-06T04:00"],
    "Asia/Tokyo": ["2026-03-29T01:00"],
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ZONES), minute_field, hour_field, day_fields, st.integers(-300, 300), st.data())
def test_around_a_change(zone: str, minute: str, hour: str, days: str, shift: int, data: st.DataObject) -> None:
    """Wherever one stands before or behind a change, what fires in the next two days is what the rule names."""
    change = at(data.draw(st.sampled_from(CHANGES[zone])), ZoneInfo("UTC"))
    text, after = f"{minute} {hour} {days}", change + shift * MINUTE
    minutes = history(zone, after // 1000 + 60, 2 * 1440)
    expected = firings(text, minutes, after // 1000 + 60)
    found = schedule.next_times(Cron(text), after, ZoneInfo(zone), len(expected) + 1)
    assert [t for t in found if t <= after + 2 * 1440 * MINUTE] == expected


# --- the rule in words ----------------------------------------------------------------------------


def local(cron: str, after: str, count: int, zone: str = "Europe/Berlin", fold: int = 0) -> list[str]:
    place = ZoneInfo(zone)
    times = schedule.next_times(Cron(cron), at(after, place, fold), place, count)
    return [datetime.fromtimestamp(t / 1000, place).strftime("%d %H:%M %z") for t in times]


def test_a_time_that_is_skipped_fires_once_behind_the_gap() -> None:
    """Also when many of its times lie in the gap, and when midnight itself is skipped."""
    assert local("30 2 * * *", "2026-03-28T12:00", 2) == ["29 03:00 +0200", "30 02:30 +0200"]
    assert local("*/10 2 * * *", "2026-03-29T00:00", 2) == ["29 03:00 +0200", "30 02:00 +0200"]
    assert local("0 2,3 * * *", "2026-03-29T00:00", 2) == ["29 03:00 +0200", "30 02:00 +0200"]
    assert local("@daily", "2026-09-05T12:00", 2, "America/Santiago") == ["06 01:00 -0300", "07 00:00 -0300"]
    assert local("15 2 * * *", "2026-10-03T12:00", 1, "Australia/Lord_Howe") == ["04 02:30 +1100"]


def test_a_time_that_comes_twice_fires_at_its_first() -> None:
    """The library alone fires twice."""
    assert local("30 2 * * *", "2026-10-25T00:00", 2) == ["25 02:30 +0200", "26 02:30 +0100"]
    assert local("30 2 * * *", "2026-10-25T02:10", 1, fold=1) == ["26 02:30 +0100"]


def test_time_that_goes_by_takes_both_hours_and_adds_none() -> None:
    """Hourly work is done 23 times on one day and 25 times on the other."""
    assert local("0 * * * *", "2026-03-29T01:30", 1) == ["29 03:00 +0200"]
    assert local("30 */1 * * *", "2026-10-25T01:45", 3) == ["25 02:30 +0200", "25 02:30 +0100", "25 03:30 +0100"]
    for day, hours in (("2026-03-29", 23), ("2026-10-25", 25)):
        times = schedule.next_times(Cron("@hourly"), at(day) - 1, BERLIN, 30)
        assert sum(t < at(day) + hours * 3_600_000 for t in times) == hours
        assert len({datetime.fromtimestamp(t / 1000, BERLIN).date() for t in times[:hours]}) == 1


def test_the_last_day_and_the_second_monday() -> None:
    """What people ask for, and plain cron cannot say."""
    assert local("0 9 l * *", "2028-02-01T00:00", 2) == ["29 09:00 +0100", "31 09:00 +0200"]
    assert local("0 9 * * mon#2", "2026-06-01T00:00", 2) == ["08 09:00 +0200", "13 09:00 +0200"]


@given(st.integers(60, 10**6), st.integers(0, 2**41), st.integers(0, 2**41))
def test_every_keeps_to_its_grid(period: int, start: int, after: int) -> None:
    """However late it is looked at, nothing drifts."""
    due = next_fire(Every(period, start), after, BERLIN)
    assert due is not None
    assert due > max(after, start)
    assert (due - start) % (period * 1000) == 0
    assert due - max(after, start) <= period * 1000


@given(st.sampled_from(["* * * * *", "30 2 * * *", "0 9 * * mon", "0 * * * *", "0 0 29 2 *"]), st.integers(0, 2**36))
def test_of_what_was_missed_the_last_one_is_found(cron: str, gone: int) -> None:
    """Without counting a year of minutes one by one."""
    since = next_fire(Cron(cron), at("2026-01-01"), BERLIN)
    assert since is not None
    last, behind = last_and_next(Cron(cron), since, since + gone, BERLIN)
    assert behind == next_fire(Cron(cron), since + gone, BERLIN)
    assert behind is not None
    assert since <= last <= since + gone < behind
    assert last == since or next_fire(Cron(cron), last - 1, BERLIN) == last


# --- what is asked for ----------------------------------------------------------------------------

NOW = at("2026-03-28T12:00")
TAKEN: list[tuple[dict[str, object], schedule.Schedule]] = [
    ({"cron": " 0  9 * * MON-Fri "}, Cron("0 9 * * mon-fri")),
    ({"cron": "@Daily"}, Cron("@daily")),
    ({"cron": "0 22-2 * * *"}, Cron("0 22-2 * * *")),
    ({"every": "90m"}, Every(5400, NOW)),
    ({"every": "1h 30m"}, Every(5400, NOW)),
    ({"every": 60}, Every(60, NOW)),
    ({"once": "2026-03-28 12:01"}, Once(NOW + MINUTE)),
    ({"once": "2026-03-28T11:01:00Z"}, Once(NOW + MINUTE)),
    ({"once": "2026-03-29 02:30"}, Once(at("2026-03-29 03:00"))),  # skipped: behind the gap
    ({"once": "2026-10-25 02:30"}, Once(at("2026-10-25 02:30", fold=0))),
    ({"in_seconds": 90, "cron": ""}, Once(NOW + 90_000)),
]


@pytest.mark.parametrize(("given", "expected"), TAKEN, ids=str)
def test_what_is_understood(given: dict[str, object], expected: schedule.Schedule) -> None:
    """And it is the same again when it comes out of the store."""
    assert parse(given, BERLIN, NOW) == expected
    assert schedule.load(schedule.dump(expected)) == expected


REFUSED: list[tuple[dict[str, object], str]] = [
    ({}, "exactly one"),
    ({"cron": "@daily", "every": "1d"}, "exactly one"),
    ({"cron": "0 0 30 2 *"}, "no such date"),
    ({"cron": "0 0 31 4,6,9,11 *"}, "no such date"),
    ({"cron": "0 0 9 * * *"}, "five fields, not 6"),
    ({"cron": "0 9 * *"}, "five fields, not 4"),
    ({"cron": "60 * * * *"}, "out of range"),
    ({"cron": "0 24 * * *"}, "out of range"),
    ({"cron": "*/90 * * * *"}, "minute"),
    ({"cron": "*/0 * * * *"}, "minute"),
    ({"cron": "0 5-5 * * *"}, "hour"),  # the library reads "every hour"
    ({"cron": "0 9 * * mon-5"}, "day of the week"),
    ({"cron": "h h * * *"}, "minute"),
    ({"cron": "r * * * *"}, "minute"),
    ({"cron": "0 0 15w * *"}, "day of the month"),
    ({"cron": "0 0 ? * *"}, "day of the month"),
    ({"cron": "0 mon * * *"}, "not acceptable"),
    ({"cron": "@reboot"}, "five fields"),
    ({"cron": ["0 9 * * *"]}, "cron cannot be"),
    ({"every": "59s"}, "at least a minute"),
    ({"every": "2y"}, "at least a minute"),
    ({"every": "367d"}, "at most a year"),
    ({"every": True}, "every cannot be"),
    ({"every": -60}, "at least a minute"),
    ({"once": "2026-03-28 12:00"}, "is over (it is Sat 2026-03-28 12:00): give a time that is to come"),
    ({"once": "1999-01-01 09:00"}, "is over"),
    ({"once": "2026-04-01"}, "a date and a time"),
    ({"once": "tomorrow at 9"}, "a date and a time"),
    ({"once": "2026-02-30 09:00"}, "a date and a time"),
    ({"in_seconds": 0}, "in_seconds"),
    ({"in_seconds": 10**9}, "in_seconds"),
    ({"in_seconds": True}, "in_seconds"),
]


@pytest.mark.parametrize(("given", "word"), REFUSED, ids=str)
def test_what_is_refused(given: dict[str, object], word: str) -> None:
    """At once, in a sentence that says what to write."""
    with pytest.raises(Refused) as refused:
        parse(given, BERLIN, NOW)
    assert word in str(refused.value)


@given(st.text(max_size=40))
def test_nonsense_is_refused_or_comes_true(text: str) -> None:
    """No text breaks it, and none makes a schedule that never fires."""
    for key in ("cron", "every", "once"):
        try:
            found = parse({key: text}, BERLIN, NOW)
        except Refused:
            continue
        assert next_fire(found, NOW, BERLIN) is not None


@given(st.text("0123456789*/,-#lL monfrjaegbhwr@?", max_size=24))
def test_what_looks_like_cron_is_refused_or_comes_true(text: str) -> None:
    """The library knows more than five plain fields; none of that gets through."""
    try:
        found = parse({"cron": text}, BERLIN, NOW)
    except Refused:
        return
    assert next_fire(found, NOW, BERLIN) is not None


def test_a_zone_has_a_name() -> None:
    """Never an offset that forgets the changes of the clocks."""
    assert schedule.zone_of("Asia/Tokyo").key == "Asia/Tokyo"
    for name in ("", "../etc/passwd", "Mars/Base", "+02:00", "x" * 300):
        with pytest.raises(Refused):
            schedule.zone_of(name)


def test_what_people_are_shown() -> None:
    """A list says when in their own time."""
    assert schedule.describe(Cron("0 9 * * *"), BERLIN) == "cron 0 9 * * * (Europe/Berlin)"
    assert schedule.describe(Every(129_600, 0), BERLIN) == "every 1d12h"
    assert schedule.describe(Once(NOW), BERLIN) == "once, Sat 2026-03-28 12:00 (Europe/Berlin)"
    assert schedule.closest(Cron("0,5 9 * * *"), NOW, BERLIN) == 300
    assert schedule.closest(Once(NOW + 1), NOW, BERLIN) is None


def test_a_midnight_that_comes_twice_is_the_first() -> None:
    """Cuba's clocks go back at one to midnight: the hour that comes again is of the same day."""
    havana = ZoneInfo("America/Havana")
    first = datetime(2026, 11, 1, 0, 0, tzinfo=havana)
    for moment in (first.replace(minute=30), first.replace(minute=30, fold=1), first.replace(hour=2)):
        assert midnight(int(moment.timestamp() * 1000), havana) == int(first.timestamp() * 1000)
