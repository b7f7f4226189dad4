"""The JSON of pydantic models, with sorted sets. pydantic itself writes them in the order of iteration."""

import json
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

# Kinds of schemas whose values may be sets. Any other set in a model is dumped by the model's own code.
_SETS = {"set", "frozenset", "any"}


def model_json(model: Any) -> bytes:
    """Return a model as JSON. Equal models have equal bytes."""
    kind: Any = type(model)
    if not _may_hold_sets(kind):
        return bytes(model.model_dump_json().encode())
    from pydantic_core import to_json  # noqa: PLC0415 - pydantic is optional

    return bytes(to_json(_with_sorted_sets(model, model.model_dump(mode="json")), inf_nan_mode="null"))


@cache
def _may_hold_sets(kind: Any) -> bool:
    return _mentions_sets(getattr(kind, "__pydantic_core_schema__", None))


def _mentions_sets(schema: object) -> bool:
    match schema:
        case Mapping():
            return schema.get("type") in _SETS or any(map(_mentions_sets, schema.values()))
        case list() | tuple():
            return any(map(_mentions_sets, schema))
    return False


def _with_sorted_sets(value: object, dumped: Any) -> Any:
    """Return what `value` was dumped to, with the elements of sets in one order.

    Both have the same structure, and the same order. Where a serializer of the model has made
    something else of a value, that is returned unchanged.
    """
    if getattr(type(value), "__pydantic_root_model__", False):
        value = value.root  # type: ignore[attr-defined] # every root model has it
    match dumped:
        case list() if isinstance(value, Collection) and not isinstance(value, Mapping):
            elements = list(value)
            if len(elements) != len(dumped):
                return dumped
            ordered = [_with_sorted_sets(*pair) for pair in zip(elements, dumped, strict=True)]
            return sorted(ordered, key=_sort_key) if isinstance(value, set | frozenset) else ordered
        case dict() if isinstance(value, Mapping):
            if len(value) != len(dumped):
                return dumped
            pairs = zip(value.values(), dumped.items(), strict=True)
            return {key: _with_sorted_sets(element, one) for element, (key, one) in pairs}
        case dict():
            fields = _fields(value)
            return {key: _with_sorted_sets(fields.get(key), one) for key, one in dumped.items()}
    return dumped


def _fields(value: object) -> dict[str, object]:
    """Return the values of a model or a dataclass, by each name that they may be dumped under."""
    kind = type(value)
    known = {
        **getattr(kind, "__dataclass_fields__", {}),
        **getattr(kind, "__pydantic_fields__", {}),
        **getattr(kind, "model_computed_fields", {}),
    }
    found = dict(getattr(value, "model_extra", None) or {})
    for name, field in known.items():
        for dumped_as in (name, getattr(field, "alias", None), getattr(field, "serialization_alias", None)):
            if dumped_as:
                found[dumped_as] = getattr(value, name, None)
    return found


def _sort_key(dumped: Any) -> str:
    return json.dumps(dumped, sort_keys=True)
