"""Messages of the contract as plain values, for JSON and YAML.

Enums become their short names, times ISO 8601 in UTC, durations seconds, hashes hexadecimal
digits, payloads their decoded values. Fields that are not set are null.
"""

from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tcc.common.v1 import common_pb2 as common
from tccctl.formatting import enum_name, instant
from tccctl.payloads import PayloadReader


def record(message: Message, payloads: PayloadReader) -> dict[str, Any]:
    """Return the message as a dictionary with the contract's field names."""
    fields = {field.name: _value(message, field, payloads) for field in message.DESCRIPTOR.fields}
    if isinstance(message, common.Branch):
        fields |= _decoded(message, payloads)
    return fields


def branch_key(spec: common.BranchSpec) -> str:
    """Return the key under which the message types of a branch are configured."""
    return f"{spec.participant}/{spec.action}"


def _decoded(branch: common.Branch, payloads: PayloadReader) -> dict[str, Any]:
    spec = branch.spec
    payload = payloads.read(spec.payload, spec.content_type, key=branch_key(spec))
    result = payloads.read(branch.result, branch.result_content_type, key=f"{branch_key(spec)}/result")
    return {"spec": _plain_spec(spec, payloads) | {"payload": payload}, "result": result}


def _plain_spec(spec: common.BranchSpec, payloads: PayloadReader) -> dict[str, Any]:
    return {field.name: _value(spec, field, payloads) for field in spec.DESCRIPTOR.fields}


def _value(message: Message, field: Any, payloads: PayloadReader) -> Any:
    value = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return dict(sorted(value.items()))
    if field.is_repeated:
        return [_single(item, field, payloads) for item in value]
    if kind is not None and not message.HasField(field.name):
        return None
    return _single(value, field, payloads)


def _single(value: Any, field: Any, payloads: PayloadReader) -> Any:
    match value:
        case Timestamp():
            return instant(value)
        case Duration():
            return value.seconds + value.nanos / 1e9
        case Message():
            return record(value, payloads)
        case bytes():
            return value.hex()
    if field.enum_type is not None:
        return enum_name(field.enum_type, value) or None
    return value
