"""Cron expressions, by the engine's rules: five fields, with names or 1 (Sunday) to 7 for the days of the week."""

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
FIELDS: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, MONTHS),
    (1, 7, WEEKDAYS),
)


def is_cron(text: str) -> bool:
    """Whether the engine takes a text for a schedule: minute, hour, day, month, weekday."""
    given = text.split()
    return len(given) == len(FIELDS) and all(
        _is_part(part, *field) for field, value in zip(FIELDS, given, strict=True) for part in value.split(",")
    )


def _is_part(part: str, least: int, most: int, names: tuple[str, ...]) -> bool:
    span, slash, step = part.partition("/")
    first, dash, last = span.partition("-")
    if slash and _number(step, 1, most, ()) is None:
        return False
    if span == "*":
        return True
    begin, end = (_number(word, least, most, names) for word in (first, last if dash else first))
    return begin is not None and end is not None and begin <= end


def _number(word: str, least: int, most: int, names: tuple[str, ...]) -> int | None:
    if word.upper() in names:
        return least + names.index(word.upper())
    number = int(word) if word.isascii() and word.isdecimal() and len(word) <= 4 else -1
    return number if least <= number <= most else None
