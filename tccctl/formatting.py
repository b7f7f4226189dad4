"""Times, durations and names in readable form."""

import re
from datetime import UTC, datetime

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

NONE = "-"

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
# More digits are beyond every bound, and Python may refuse to read them.
_DURATION_PART = re.compile(r"([0-9]{1,18})(ms|d|h|m|s)")


def duration(seconds: float) -> str:
    """Return the two largest units, as in the filter language: "1h30m", "3m12s", "40s", "250ms"."""
    milliseconds = max(0, round(seconds * 1000))
    if milliseconds >= 1_000:  # whole seconds are precise enough
        milliseconds -= milliseconds % 1_000
    parts: list[str] = []
    for unit, size in _UNITS:
        count, milliseconds = divmod(milliseconds, size)
        if parts and not count:
            break
        if count:
            parts.append(f"{count}{unit}")
        if len(parts) == 2:
            break
    return "".join(parts) or "0s"


def milliseconds_in(text: str) -> int | None:
    """Return a duration as `duration` writes it, in milliseconds. Return None if the text is no duration."""
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    sizes = dict(_UNITS)
    return sum(int(number) * sizes[unit] for number, unit in parts)


def counted(count: int, *, at_least: bool) -> str:
    """Return a number, or "10000+" if counting stopped there."""
    return f"{count}+" if at_least else str(count)


def seconds_of(moment: Timestamp) -> float:
    """Return the seconds since the Unix epoch."""
    return moment.seconds + moment.nanos / 1e9


def instant(moment: Timestamp) -> str:
    """Return UTC to the millisecond: "2026-11-21T11:30:54.120Z"; "-" if it is not set."""
    if not (moment.seconds or moment.nanos):
        return NONE
    try:
        at = datetime.fromtimestamp(moment.seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{moment.seconds} s after 1970"
    return f"{at:%Y-%m-%dT%H:%M:%S}.{moment.nanos // 1_000_000:03d}Z"


def ago(moment: Timestamp, now_s: float) -> str:
    """Return the distance from now: "3m12s ago", "in 4s"; "-" if it is not set."""
    if not (moment.seconds or moment.nanos):
        return NONE
    passed = now_s - seconds_of(moment)
    if passed > -0.001:
        return f"{duration(passed)} ago"
    return f"in {duration(-passed)}"


def due(moment: Timestamp, now_s: float) -> str:
    """Return when it is due: "in 4s", "now"; "-" if it is not set."""
    when = ago(moment, now_s)
    return "now" if when.endswith(" ago") else when


def enum_name(descriptor: EnumDescriptor, number: int) -> str:
    """Return the value's name without the enum's: "CONFIRMING". Empty for UNSPECIFIED.

    A number that is unknown to this version of the contract is shown as it is.
    """
    value = descriptor.values_by_number.get(number)
    if value is None:
        return str(number)
    name = value.name.removeprefix(f"{_upper_snake(descriptor.name)}_")
    return "" if name == "UNSPECIFIED" else name


def harmless(text: str) -> str:
    """Return the text on one line, with control characters escaped to protect the terminal."""
    return "".join(character if character.isprintable() else _spelled(character) for character in text)


def harmless_lines(text: str) -> str:
    """Return the text with control characters escaped, except newlines and tabs."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else _spelled(character)
        for character in text
    )


def _spelled(character: str) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character, f"\\u{ord(character):04x}")


def _upper_snake(camel: str) -> str:
    return "".join(f"_{letter}" if letter.isupper() else letter for letter in camel).lstrip("_").upper()
