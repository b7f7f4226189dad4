"""Hide values in payloads by path.

A path names keys from the outside in, separated by dots: `card.number`. `*` matches one key
or one list element, `**` any number of them: `items.*.price`, `**.email`.
"""

from collections.abc import Sequence
from typing import Any

REDACTED = "[redacted]"


def redacted(value: Any, paths: Sequence[str]) -> Any:
    """Return the JSON-like value with everything that a path matches replaced by "[redacted]"."""
    return _redacted(value, [path.split(".") for path in paths])


def _redacted(value: Any, ways: list[list[str]]) -> Any:
    # A path that ends here, or whose rest may match nothing, matches this value.
    if any(all(step == "**" for step in way) for way in ways):
        return REDACTED
    match value:
        case dict():
            return {key: _redacted(item, _below(ways, str(key))) for key, item in value.items()}
        case list():
            return [_redacted(item, _below(ways, str(index))) for index, item in enumerate(value)]
    return value


def _below(ways: list[list[str]], key: str) -> list[list[str]]:
    """Return the rest of each path that continues through this key."""
    found: list[list[str]] = []
    for way in ways:
        first, rest = way[0], way[1:]
        if first == "**":
            found.append(way)
            found.extend(_below([rest], key))
        elif first in {"*", key}:
            found.append(rest)
    return found
