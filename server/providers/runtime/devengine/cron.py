"""Cron expressions, by the rules of the engine's.

Five fields (minute hour day month weekday), six with seconds in front, or seven with the year behind. Days of the week
are names or 1 (Sunday) to 7. As in the engine, both the day and the weekday must match.
"""

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from server.providers.runtime.devengine.errors import InvalidArgument

MONTHS = {name.upper(): number for number, name in enumerate(calendar.month_abbr) if name}
WEEKDAYS = {name: number for number, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"), 1)}
Field = tuple[str, int, int, dict[str, int]]
FIELDS: tuple[Field, ...] = (
    ("second", 0, 59, {}),
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day", 1, 31, {}),
    ("month", 1, 12, MONTHS),
    ("weekday", 1, 7, WEEKDAYS),
    ("year", 1970, 2100, {}),
)
# A day such as the 29th of February comes again within 8 years.
MAX_DAYS = 8 * 366


@dataclass(frozen=True, kw_only=True, slots=True)
class Cron:
    """An expression that was read, in its zone: the values that each field may have."""

    values: tuple[frozenset[int], ...]
    zone: ZoneInfo

    def after(self, moment: float) -> float | None:
        """The first time after a moment, both in seconds since 1970. None: there is none within 8 years."""
        start = datetime.fromtimestamp(int(moment) + 1, UTC).astimezone(self.zone)
        for days in range(MAX_DAYS):
            day = (start + timedelta(days=days)).date()
            if not self._has_day(day.year, day.month, day.day):
                continue
            times = self._times((start.hour, start.minute, start.second) if days == 0 else (0, 0, 0))
            for hour, minute, second in times:
                # An hour that the change to summer time leaves out is the one after it.
                return datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=self.zone).timestamp()
        return None

    def _times(self, earliest: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
        """The times of a day from the earliest on."""
        for hour in sorted(value for value in self.values[2] if value >= earliest[0]):
            for minute in sorted(self.values[1]):
                if (hour, minute) < earliest[:2]:
                    continue
                for second in sorted(self.values[0]):
                    if (hour, minute, second) >= earliest:
                        yield hour, minute, second

    def _has_day(self, year: int, month: int, day: int) -> bool:
        weekday = (calendar.weekday(year, month, day) + 1) % 7 + 1
        return all(value in self.values[index] for index, value in ((6, year), (4, month), (3, day), (5, weekday)))


def parse(expression: str, zone: str) -> Cron:
    """Raises InvalidArgument."""
    fields = expression.split()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) == 6:
        fields = [*fields, "*"]
    if len(fields) != 7 or len(expression) > 256:
        raise InvalidArgument("invalid cron expression: it must have 5, 6 or 7 fields")
    try:
        return Cron(values=tuple(map(_values, FIELDS, fields)), zone=ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidArgument(f"invalid timezone: {zone}") from error


def _values(field: Field, text: str) -> frozenset[int]:
    return frozenset(value for part in text.split(",") for value in _part(field, part))


def _part(field: Field, text: str) -> range:
    name, least, most, names = field
    span, slash, step = text.partition("/")
    first, dash, last = span.partition("-")

    def number(word: str) -> int:
        value = names.get(word.upper(), int(word) if word.isdecimal() and len(word) < 5 else -1)
        if not least <= value <= most:
            raise InvalidArgument(f"invalid cron expression: {text!r} is no {name}")
        return value

    if slash and (not step.isdecimal() or not 1 <= int(step[:5]) <= most):
        raise InvalidArgument(f"invalid cron expression: {text!r} is no {name}")
    if span in ("*", "?"):
        begin, end = least, most
    else:
        begin = number(first)
        end = number(last) if dash else most if slash else begin
    return range(begin, end + 1, int(step) if slash else 1)
