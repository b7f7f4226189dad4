"""The filter language of operators: text in, `ListFilter` out. Pure; the grammar is in admin.proto.

filter := term*                      all must match; separated by spaces
term   := ["!"] flag | field "=" values | "age" comparison duration
flag   := "live" | "stuck" | "held" | "heuristic" | "quarantined"
field  := "state" | "participant" | "initiator" | "gid" | "label." key
values := value ("," value)*         several only for state
value  := plain | '"' text with backslash before " and backslash '"'
"""

import re
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from coordinator.core.errors import InvalidRequest
from coordinator.core.model import TransactionState
from coordinator.ports.log import ListFilter

FILTER_CHARACTERS_MAX = 2_000
FLAGS = ("live", "stuck", "held", "heuristic", "quarantined")
FIELDS = ("state", "participant", "initiator", "gid", "age", "label.KEY")
_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")
_SHAPE = re.compile(
    r"(?P<name>!?[A-Za-z_]+(?:\.[^=<>!\s\"]+)?)(?:(?P<operator><=|>=|!=|=|<|>)(?P<value>.*))?", re.DOTALL
)


class _FilterError(Exception):
    """A term is invalid. The message gives the reason."""


def parse(text: str, now: float) -> ListFilter:
    """Parse a filter. `now`: seconds since the Unix epoch, from which ages are subtracted.

    Raises:
        InvalidRequest: INVALID_FILTER, with the metadata "position" and "term".
    """
    if len(text) > FILTER_CHARACTERS_MAX:
        raise _invalid(f"a filter may have at most {FILTER_CHARACTERS_MAX} characters", 0, "")
    odd = [i for i, character in enumerate(text) if not (character.isprintable() or character.isspace())]
    if odd:
        raise _invalid(f"character {odd[0] + 1} is not printable", odd[0], "")
    chosen = ListFilter()
    for position, term in _terms(text):
        try:
            chosen = _with_term(chosen, term, now)
        except _FilterError as mistake:
            raise _invalid(f"{mistake} (at character {position + 1})", position, term) from None
    return chosen


def _terms(text: str) -> list[tuple[int, str]]:
    """Return the terms with their positions; spaces separate them, except inside double quotes."""
    terms: list[tuple[int, str]] = []
    start: int | None = None
    quoted = escaped = False
    for position, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        if character.isspace() and not quoted:
            if start is not None:
                terms.append((start, text[start:position]))
            start = None
        elif start is None:
            start = position
    if quoted:
        assert start is not None
        raise _invalid(f"a quote is not closed (at character {start + 1})", start, text[start:])
    if start is not None:
        terms.append((start, text[start:]))
    return terms


def _with_term(chosen: ListFilter, term: str, now: float) -> ListFilter:
    shape = _SHAPE.fullmatch(term)
    if shape is None:
        raise _FilterError(f"{term!r} is not a term: use FLAG, !FLAG or FIELD=VALUE")
    name, operator, value = shape["name"], shape["operator"], shape["value"]
    if operator is None:
        return _with_flag(chosen, name)
    if name == "age":
        return _with_age(chosen, operator, value, now)
    if operator != "=":
        raise _FilterError(f"{name} supports only =, not {operator}")
    if name.startswith("label."):
        return _with_label(chosen, name.removeprefix("label."), _one(name, value))
    field = _FIELDS.get(name)
    if field is None:
        known = "flags take no value" if name.lstrip("!") in FLAGS else f"known: {', '.join(FIELDS)}"
        raise _FilterError(f"unknown field {name!r}; {known}")
    return field(chosen, value)


def _with_flag(chosen: ListFilter, name: str) -> ListFilter:
    flag, wanted = name.removeprefix("!"), not name.startswith("!")
    if flag not in FLAGS:
        hint = f"{flag} requires a value" if flag in (*_FIELDS, "age") else f"known: {', '.join(FLAGS)}"
        raise _FilterError(f"unknown flag {flag!r}; {hint}")
    return _once(chosen, flag, wanted, nothing=None)


def _with_age(chosen: ListFilter, operator: str, value: str, now: float) -> ListFilter:
    moment = max(0.0, now - _duration_s(value))
    if operator in (">", ">="):
        return _once(chosen, "created_before", moment, nothing=None)
    if operator in ("<", "<="):
        return _once(chosen, "created_after", moment, nothing=None)
    raise _FilterError(f"age supports <, <=, > and >=, not {operator}")


def _with_label(chosen: ListFilter, key: str, value: str) -> ListFilter:
    if key in dict(chosen.labels):
        raise _FilterError(f"label.{key} is given twice")
    return replace(chosen, labels=tuple(sorted((*chosen.labels, (key, value)))))


def _with_states(chosen: ListFilter, value: str) -> ListFilter:
    names = [name.upper() for name in value.split(",")]
    for name in names:
        if name not in TransactionState.__members__:
            raise _FilterError(f"unknown state {name!r}; known: {', '.join(TransactionState.__members__)}")
    return _once(chosen, "states", tuple(TransactionState[name] for name in names), nothing=())


def _with_text(field: str) -> Callable[[ListFilter, str], ListFilter]:
    return lambda chosen, value: _once(chosen, field, _one(field, value), nothing="")


def _with_gid(chosen: ListFilter, value: str) -> ListFilter:
    return _once(chosen, "gids", (_one("gid", value),), nothing=())


def _once(chosen: ListFilter, field: str, value: Any, *, nothing: object) -> ListFilter:
    if getattr(chosen, field) != nothing:
        raise _FilterError("the same condition is given twice")
    return replace(chosen, **{field: value})


def _one(field: str, value: str) -> str:
    """Return a single value, without its quotes."""
    if not value:
        raise _FilterError(f"{field} requires a value")
    if not value.startswith('"'):
        if any(character in value for character in ',"\\'):
            raise _FilterError(f'{field} takes one value; put it in double quotes if it contains , or "')
        return value
    inside = re.fullmatch(r'"((?:[^"\\]|\\["\\])*)"', value, re.DOTALL)
    if inside is None or not inside[1]:
        raise _FilterError(f"{value} is not a quoted value")
    return re.sub(r"\\(.)", r"\1", inside[1])


def _duration_s(value: str) -> float:
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value or len(value) > 40:
        raise _FilterError(f"{value!r} is not a duration; use for example 5m, 1h30m or 500ms")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _invalid(message: str, position: int, term: str) -> InvalidRequest:
    error = InvalidRequest("INVALID_FILTER", message)
    error.metadata = {"position": str(position), "term": term[:200]}
    return error


_FIELDS: dict[str, Callable[[ListFilter, str], ListFilter]] = {
    "state": _with_states,
    "participant": _with_text("participant"),
    "initiator": _with_text("initiator"),
    "gid": _with_gid,
}
